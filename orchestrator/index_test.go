package orchestrator

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// The index of a namespace tells of the runs of all its executors.
func TestIndex(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		for i := range 2 {
			tree := newTestTree()
			tree.add(fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), testCommit, "passed")
			if err := m.exportOn(l, wire.Announce{Name: fmt.Sprintf("box%d", i), Namespaces: []string{hello}}, tree.root()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		lines := strings.Split(read(t, m.treeOn(l, hello), "index"), "\n")
		if len(lines) != 3 || lines[2] != "" {
			t.Fatalf("the index: %q", lines)
		}
		for i := range 2 {
			want := fmt.Sprintf("/n/box%d/ci/3f2a9c1d0b7e.%d passed 0 ", i, i+1)
			if line := lines[0] + "\n" + lines[1]; !strings.Contains(line, want) || strings.Count(line, " "+testCommit+" 'alice 1' "+testScore) != 2 {
				t.Errorf("the index %q, want %q in it", lines, want)
			}
		}
	})
}

// newTestShares returns the shares of n executors in hello that no connection has.
func newTestShares(t testing.TB, d *localDirectory, n int) (all []*share) {
	t.Helper()
	for i := range n {
		name := fmt.Sprint("box", i)
		m := &member{announcedAs: name, conn: &conn{login: &access.Login{}}}
		fresh, err := d.join(t.Context(), m, wire.Announce{Name: name, Namespaces: []string{hello}}, "")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fresh...)
	}
	return all
}

// readIndexOf reads an open index to its end, in pieces of n bytes.
func readIndexOf(t testing.TB, f fs.File, n int) string {
	t.Helper()
	var all []byte
	for p := make([]byte, n); ; {
		n, err := f.ReadAt(t.Context(), p, int64(len(all)))
		all = append(all, p[:n]...)
		if err == io.EOF {
			return string(all)
		}
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
}

// Whatever executors tell, in whichever order, the index has each of their runs once, the
// newest first, and its length is what its Stat says.
func TestIndexOrder(t *testing.T) {
	d := newLocalDirectory(func(*share, string, uint64) {})
	shares := newTestShares(t, d, 5)
	rnd := rand.New(rand.NewPCG(1, 2))
	began := time.Now().Add(-time.Hour)
	status := func(state string) ci.Status {
		return ci.Status{State: state, Code: -1, Took: -1, Time: began.Add(time.Duration(rnd.IntN(50)) * time.Minute)}
	}
	node := indexNode{d, hello, hello + "/index"}
	for step := range 3000 {
		sh := shares[rnd.IntN(len(shares))]
		id := fmt.Sprintf("3f2a9c1d0b7e.%d", 1+rnd.IntN(40))
		switch rnd.IntN(12) {
		case 0:
			sh.forget(id)
		case 1:
			var runs []run
			for i := range rnd.IntN(30) {
				runs = append(runs, run{id: fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), status: status("passed"), listed: true})
			}
			sh.replace(runs)
		case 2:
			release, err := sh.intend(id, testKey(testCommit))
			if err != nil {
				t.Fatal(err)
			}
			release()
		case 3:
			sh.learnKey(id, testKey(testCommit))
		case 4, 5, 6:
			sh.describe(run{id: id, status: status("failed"), signer: strings.Repeat("s", rnd.IntN(9)), listed: true})
		default:
			sh.update(id, status("test"))
		}
		if step%1000 == 999 { // it leaves, and comes back with what had not ended
			d.leave(sh.m, step != 1999)
			fresh, err := d.join(t.Context(), sh.m, wire.Announce{Name: sh.m.announcedAs, Namespaces: []string{hello}}, "")
			if err != nil {
				t.Fatal(err)
			}
			shares[slices.Index(shares, sh)] = fresh[0]
		}
		if step%20 > 0 {
			continue
		}
		all := d.runs(hello, func(r *run) bool { return r.listed })
		slices.SortFunc(all, func(a, b run) int {
			if c := b.status.Time.Compare(a.status.Time); c != 0 {
				return c
			}
			return int(b.order) - int(a.order)
		})
		var want []byte
		for i := range all {
			want = all[i].indexLine(want)
		}
		f, err := node.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		if got := readIndexOf(t, f, 1+rnd.IntN(5000)); got != string(want) {
			t.Fatalf("step %d: the index\n%s\nwant\n%s", step, got, want)
		}
		if st, err := node.Stat(t.Context()); err != nil || st.Size != int64(len(want)) {
			t.Fatalf("step %d: Stat says %d bytes, %v, want %d", step, st.Size, err, len(want))
		}
	}
}

// An open index tells once of each run that there was when it was opened, however they
// change while it is read, and of a run that is gone no more.
func TestIndexWhileItChanges(t *testing.T) {
	d := newLocalDirectory(func(*share, string, uint64) {})
	shares := newTestShares(t, d, 2)
	at := time.Now().Add(-time.Hour)
	const n = 16_000 // their index is longer than what is kept
	var runs []run
	for i := range n {
		runs = append(runs, run{id: fmt.Sprintf("3f2a9c1d0b7e.%d", n-i), status: ci.Status{State: "test", Code: -1, Took: -1, Time: at}, listed: true})
	}
	shares[0].replace(runs)
	f, err := indexNode{d, hello, hello + "/index"}.Open(t.Context(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if _, err := f.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	first := string(p)
	for i := range n { // each moves to the front
		id := fmt.Sprintf("3f2a9c1d0b7e.%d", i+1)
		shares[0].describe(run{id: id, status: ci.Status{State: "passed", Took: 1, Time: at.Add(time.Minute)}, listed: true})
	}
	shares[1].update("3f2a9c1d0b7e.1", ci.Status{State: "test", Code: -1, Took: -1, Time: at}) // is new
	shares[0].forget("3f2a9c1d0b7e.7")                                                         // is gone
	text := readIndexOf(t, f, 3000)
	if !strings.HasPrefix(text, first) {
		t.Error("what was read has changed")
	}
	if n := cap(f.(*indexFile).text); n > 4*indexKept {
		t.Errorf("an open index holds %d bytes", n)
	}
	if _, err := f.ReadAt(t.Context(), p, 1<<40); err != io.EOF {
		t.Errorf("behind the end: %v", err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		path, _, _ := strings.Cut(line, " ")
		if seen[path] {
			t.Fatalf("%s is there twice", path)
		}
		seen[path] = true
	}
	if len(seen) != n-1 || seen["/n/box0/ci/3f2a9c1d0b7e.7"] || seen["/n/box1/ci/3f2a9c1d0b7e.1"] {
		t.Errorf("%d runs, want %d", len(seen), n-1)
	}
	if passed := strings.Count(text, " passed "); passed < n-1000 {
		t.Errorf("%d runs as they are by now", passed)
	}
}

// An executor that leaves while an index is read takes its own runs away, and not those
// behind them.
func TestIndexExecutorLeaves(t *testing.T) {
	d := newLocalDirectory(func(*share, string, uint64) {})
	shares := newTestShares(t, d, 2)
	at := time.Now().Add(-time.Hour)
	status := ci.Status{State: "passed", Took: 1, Time: at}
	shares[1].describe(run{id: "3f2a9c1d0b7e.1", status: status, listed: true})
	status.Time = at.Add(time.Minute)
	var runs []run
	for i := range 4 * indexAtOnce {
		runs = append(runs, run{id: fmt.Sprintf("3f2a9c1d0b7e.%d", i+1), status: status, listed: true})
	}
	shares[0].replace(runs)
	f, err := indexNode{d, hello, hello + "/index"}.Open(t.Context(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(t.Context(), make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	d.leave(shares[0].m, false)
	text := readIndexOf(t, f, 3000)
	if n := strings.Count(text, "\n"); n != indexAtOnce+1 || !strings.Contains(text, "\n/n/box1/ci/3f2a9c1d0b7e.1 ") {
		t.Errorf("%d lines were read, want %d and the one behind the others", n, indexAtOnce)
	}
}

// An executor whose clock is wrong, or that lies, does not stand before all others for
// ever.
func TestIndexFuture(t *testing.T) {
	d := newLocalDirectory(func(*share, string, uint64) {})
	shares := newTestShares(t, d, 2)
	tell := func(sh *share, id string, at time.Time) {
		sh.describe(run{id: id, status: ci.Status{State: "passed", Time: at}, listed: true})
	}
	now := time.Now()
	tell(shares[0], "3f2a9c1d0b7e.1", now.AddDate(7000, 0, 0))
	tell(shares[0], "3f2a9c1d0b7e.2", time.Time{})
	for !time.Now().Truncate(time.Microsecond).After(now) { // the clock goes on
	}
	tell(shares[1], "3f2a9c1d0b7e.3", time.Now().Add(time.Second))
	f, err := indexNode{d, hello, hello + "/index"}.Open(context.Background(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(readIndexOf(t, f, 100)) {
		path, _, _ := strings.Cut(line, " ")
		ids = append(ids, path[strings.LastIndexByte(path, '.'):])
	}
	if fmt.Sprint(ids) != "[.3 .1 .2]" {
		t.Errorf("the index is %v", ids)
	}
}
