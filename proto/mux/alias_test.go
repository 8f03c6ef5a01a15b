package mux

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// newAliasMux is newMux with aliases in the local ci: last leads to the run of
// backend a or b that best names, and here to a directory of the local tree. Runs
// are ci/1 of each backend, with artifacts of that many files.
func newAliasMux(t testing.TB, files int) (m *Server, servers map[string]*server, best *aliases) {
	roots := map[string]fs.Dir{}
	best = &aliases{runs: map[string]*testtree.Dir{}}
	for _, name := range []string{"a", "b"} {
		root, ci, run, arts := testtree.NewDir("/", 100), testtree.NewDir("ci", 101), testtree.NewDir("1", 102), testtree.NewDir("artifacts", 103)
		root.Add(ci)
		ci.Add(run)
		run.Add(testtree.NewNode("stdout", 104, 0o444, "of "+name+"\n"))
		run.Add(arts)
		for i := range files {
			arts.Add(testtree.NewNode(fmt.Sprint(i), uint64(1000+i), 0o444, fmt.Sprintf("%s %d\n", name, i)))
		}
		roots[name], best.runs[name] = root, run
	}
	m, servers = newMux(t, roots)
	ci := testtree.NewDir("ci", 10)
	ci.Entries["here"] = testtree.NewAlias("here", 11, "../n", testtree.NewDir("here", 12))
	m.Local.Root.(*testtree.Dir).Add(aliasDir{ci, best})
	best.set("a")
	m.Alias = func(path []string) (uint64, bool) {
		return best.version.Load(), len(path) == 2 && path[0] == "ci"
	}
	return m, servers, best
}

// aliases is what ci/last leads to.
type aliases struct {
	runs    map[string]*testtree.Dir
	name    atomic.Pointer[string]
	version atomic.Uint64
	walks   atomic.Int64 // to last, in the local tree
}

func (a *aliases) set(name string) {
	a.name.Store(&name)
	a.version.Add(1)
}

type aliasDir struct {
	*testtree.Dir
	best *aliases
}

func (d aliasDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	if name != "last" {
		return d.Dir.Walk(ctx, name)
	}
	d.best.walks.Add(1)
	best := *d.best.name.Load()
	if best == "" {
		return nil, iofs.ErrNotExist
	}
	return testtree.NewAlias("last", 13, "../n/"+best+"/ci/1", d.best.runs[best]), nil
}

// What is below an alias is the backend's: the local tree is asked once. A walk
// through it, its listing and its attributes are as those of a link, or in 9P2000
// of a directory that has qids of its own.
func TestAlias(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		m, _, best := newAliasMux(t, 300)
		c := client9(t, m, d)
		for i := range 300 {
			want := fmt.Sprintf("a %d\n", i)
			if got, err := read(t.Context(), c.Root(), fmt.Sprintf("ci/last/artifacts/%d", i)); got != want || err != nil {
				t.Fatalf("artifacts/%d = %q, %v, want %q", i, got, err, want)
			}
		}
		n, err := fs.Walk(t.Context(), c.Root(), "ci/last/artifacts")
		if err != nil {
			t.Fatal(err)
		}
		before := best.walks.Load()
		for i := range 300 {
			if got, err := read(t.Context(), n.(fs.Dir), fmt.Sprint(i)); got != fmt.Sprintf("a %d\n", i) || err != nil {
				t.Fatalf("%d = %q, %v", i, got, err)
			}
		}
		if n := best.walks.Load() - before; n != 0 {
			t.Errorf("the local tree was asked %d times for what is below an alias", n)
		}

		stat := func(path string) fs.Stat {
			t.Helper()
			n, err := fs.Walk(t.Context(), c.Root(), path)
			if err != nil {
				t.Fatal(err)
			}
			st, err := n.Stat(t.Context())
			if name := path[strings.LastIndexByte(path, '/')+1:]; err != nil || st.Name != name {
				t.Errorf("%s has the name %q, %v", path, st.Name, err)
			}
			return st
		}
		for _, path := range []string{"", "/stdout", "/artifacts", "/artifacts/1"} {
			alias, own := stat("ci/last"+path), stat("n/a/ci/1"+path)
			if same := d == ninep.DotL && path != ""; (alias.Path == own.Path) != same {
				t.Errorf("ci/last%s has qid.path %x, and the file itself %x", path, alias.Path, own.Path)
			}
			if link := alias.Mode&iofs.ModeSymlink != 0; link != (path == "" && d == ninep.DotL) {
				t.Errorf("ci/last%s is a link: %t", path, link)
			}
		}

		for _, path := range []string{"ci/last", "ci/last/artifacts"} {
			dir, err := fs.WalkDir(t.Context(), c.Root(), path)
			if err != nil {
				t.Fatal(err)
			}
			entries := 0
			for e, err := range fs.Entries(t.Context(), dir) {
				if err != nil {
					t.Fatal(err)
				}
				n, err := dir.Walk(t.Context(), e.Name)
				if err != nil {
					t.Fatal(err)
				}
				if st, err := n.Stat(t.Context()); err != nil || st.Path != e.Path {
					t.Errorf("%s/%s has qid.path %x listed and %x walked to, %v", path, e.Name, e.Path, st.Path, err)
				}
				entries++
			}
			if want := map[string]int{"ci/last": 2, "ci/last/artifacts": 300}[path]; entries != want {
				t.Errorf("%s has %d entries, want %d", path, entries, want)
			}
		}
		for _, path := range []string{"ci/nothing", "ci/last/nothing", "ci/last/artifacts/nothing", "ci/nothing/x", "ci/last/nothing/x", "ci/here/x"} {
			if _, err := fs.Walk(t.Context(), c.Root(), path); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("Walk(%s) = %v, want %v", path, err, iofs.ErrNotExist)
			}
		}
	})
}

// What a Backend's Local names is the local tree's by way of an alias too.
func TestAliasLocal(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		m, _, best := newAliasMux(t, 1)
		near := testtree.NewDir("1", 202)
		near.Add(testtree.NewNode("stdout", 204, 0o444, "near\n"))
		near.Add(testtree.NewNode("live", 205, 0o444, "live\n"))
		best.runs["a"] = near
		m.Find([]string{"n", "a"}).Local = func(path []string) bool { return strings.Join(path, "/") == "ci/1/live" }
		c := dialTalk(t, m, d)
		for range 2 { // the second time the way is known
			for i, test := range []struct{ from, path, want string }{
				{"", "ci/last/live", "live\n"},
				{"", "ci/last/stdout", "of a\n"},
				{"ci/last", "live", "live\n"},
				{"ci/last", "artifacts/../live", "live\n"},
				{"ci/last/artifacts", "../live", "live\n"},
				{"ci/last/artifacts", "../stdout", "of a\n"},
				{"ci/last/artifacts", "live", "error"},
				{"ci", "last/artifacts/live", "2 qids"},
			} {
				if got := c.visit(uint32(i*2+10), test.from, test.path); got != test.want {
					t.Errorf("from %q to %q: %q, want %q", test.from, test.path, got, test.want)
				}
			}
		}
	})
}

// Names lead back over an alias as they lead there.
func TestAliasDotDot(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		m, _, _ := newAliasMux(t, 1)
		c := dialTalk(t, m, d)
		for range 2 { // the second time the way is known
			for i, test := range []struct{ from, path, want string }{
				{"", "ci/last/stdout", "of a\n"},
				{"ci/last", "stdout", "of a\n"},
				{"ci/last", "artifacts/0", "a 0\n"},
				{"ci/last", "nothing", "error"},
				{"ci", "last/nothing", "1 qids"},
				{"ci", "last/artifacts/nothing/x", "2 qids"},
				{"ci/last/artifacts", "0", "a 0\n"},
				{"ci/last/artifacts", "../stdout", "of a\n"},
				{"ci/last/artifacts", "../../../README", "hello\n"},
				{"ci/last/artifacts", "..", "13 is the qid"},
				{"ci/last/artifacts", "../..", "10 is the qid"},
				{"ci/last", "..", "10 is the qid"},
				{"ci/last", "../last/artifacts/../../../n/b/ci/1/stdout", "of b\n"},
				{"", "ci/last/../last/stdout", "of a\n"},
				{"", "ci/last", "13 is the qid"},
				{"n/b", "../../ci/last/stdout", "of a\n"},
				{"", "ci/here", "11 is the qid"},
				{"ci/here", "..", "10 is the qid"},
				{"", "ci/nothing", "1 qids"},
			} {
				if got := c.visit(uint32(i*2+10), test.from, test.path); got != test.want {
					t.Errorf("from %q to %q: %q, want %q", test.from, test.path, got, test.want)
				}
			}
		}
	})
}

// An alias leads elsewhere from the next walk on when its version has changed, or
// its target or the backend has gone. A fid that was walked to before stays where it
// was while that is there.
func TestAliasMoves(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		m, servers, best := newAliasMux(t, 1)
		c := client9(t, m, d)
		fid := dialTalk(t, m, d)
		fid.rpc(walkFrame(0, 1, []string{"ci", "last"}))
		text := func(from uint32, names ...string) string {
			t.Helper()
			fid.rpc(walkFrame(from, 2, names))
			defer fid.rpc(clunkFrame(2))
			return readFid(fid, 2)
		}
		check := func(want string) {
			t.Helper()
			if got, err := read(t.Context(), c.Root(), "ci/last/stdout"); got != want || err != nil {
				t.Errorf("ci/last/stdout = %q, %v, want %q", got, err, want)
			}
		}
		check("of a\n")
		if got := text(1, "stdout"); got != "of a\n" {
			t.Errorf("stdout = %q", got)
		}

		best.set("b")
		check("of b\n")
		if got := text(1, "stdout"); got != "of a\n" {
			t.Errorf("stdout = %q of a fid that was at the other", got)
		}
		if got := text(0, "ci", "last", "stdout"); got != "of b\n" {
			t.Errorf("ci/last/stdout = %q", got)
		}

		// The executor leaves: an error, and then another's.
		best.set("a")
		check("of a\n")
		n, err := fs.Walk(t.Context(), c.Root(), "ci/last/stdout")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		b := "b"
		best.name.Store(&b) // with the version as it was: only the loss of a tells
		servers["a"].hangup()
		if _, err := f.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, fs.ErrIO) {
			t.Errorf("what was open at a: %v, want %v", err, fs.ErrIO)
		}
		f.Close()
		check("of b\n")
		if got := text(1, "stdout"); got != "of b\n" {
			t.Errorf("stdout = %q of a fid whose executor has left", got)
		}

		// The run has gone from the executor.
		servers["b"].root.(*testtree.Dir).Entries["ci"].(*testtree.Dir).OnWalk = func(context.Context, string) error { return iofs.ErrNotExist }
		if _, err := read(t.Context(), c.Root(), "ci/last/stdout"); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("ci/last/stdout of a run that has gone: %v, want %v", err, fs.ErrBusy)
		}
		none := ""
		best.name.Store(&none)
		if _, err := read(t.Context(), c.Root(), "ci/last/stdout"); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("ci/last/stdout: %v, want %v", err, iofs.ErrNotExist)
		}
	})
}

// readFid opens a fid and reads it.
func readFid(w *talk, fid uint32) string {
	open := append(le.AppendUint32(wire.Begin(nil, plan9.Topen, 0), fid), plan9.OREAD)
	if w.d == ninep.DotL {
		open = le.AppendUint32(le.AppendUint32(wire.Begin(nil, wire.Tlopen, 0), fid), 0)
	}
	rd := le.AppendUint64(le.AppendUint32(wire.Begin(nil, plan9.Tread, 0), fid), 0)
	rx := w.rpc(wire.End(open, 0), wire.End(le.AppendUint32(rd, 100), 0))
	if isError(rx[4]) {
		return wire.Text(w.d, rx, 100)
	}
	return string(rx[wire.HeaderSize+4:])
}

// An alias that is open is a directory of the backend with the attributes of the
// link, and gives both fids back.
func TestAliasOpen(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		m, _, _ := newAliasMux(t, 1)
		w := dialTalk(t, m, d)
		w.rpc(walkFrame(0, 1, []string{"ci", "last"}))
		stat, open, read := le.AppendUint64(le.AppendUint32(wire.Begin(nil, wire.Tgetattr, 0), 1), 0x7ff), le.AppendUint32(le.AppendUint32(wire.Begin(nil, wire.Tlopen, 0), 1), 0), wire.Begin(nil, wire.Treaddir, 0)
		if d == ninep.Plan9 {
			stat, open, read = le.AppendUint32(wire.Begin(nil, plan9.Tstat, 0), 1), append(le.AppendUint32(wire.Begin(nil, plan9.Topen, 0), 1), plan9.OREAD), wire.Begin(nil, plan9.Tread, 0)
		}
		read = wire.End(le.AppendUint32(le.AppendUint64(le.AppendUint32(read, 1), 0), 4096), 0)
		stat, open = wire.End(stat, 0), wire.End(open, 0)
		before := wire.Text(d, w.rpc(stat), 1000)
		rx := w.rpc(open)
		if q := (&wire.Decoder{B: rx[wire.HeaderSize:]}).Qid(); rx[4] != open[4]+1 || q.Path != 13 || q.Type&plan9.QTDIR == 0 {
			t.Errorf("open: %s", wire.Text(d, rx, 100))
		}
		if got := wire.Text(d, w.rpc(stat), 1000); got != before {
			t.Errorf("an alias that is open has the attributes %s, want %s", got, before)
		}
		rx = w.rpc(read)
		if rx[4] != read[4]+1 || !strings.Contains(string(rx), "stdout") {
			t.Errorf("listing: %s", wire.Text(d, rx, 100))
		}
		if rx = w.rpc(walkFrame(1, 2, nil)); !isError(rx[4]) {
			t.Errorf("walk of a fid that is open: %s", wire.Text(d, rx, 100))
		}
		if rx = w.rpc(clunkFrame(1)); isError(rx[4]) {
			t.Errorf("clunk: %s", wire.Text(d, rx, 100))
		}
		if rx = w.rpc(stat); !isError(rx[4]) {
			t.Errorf("stat after the clunk: %s", wire.Text(d, rx, 100))
		}
	})
}
