package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// A fakeControl writes down what it is told.
type fakeControl struct {
	mu    sync.Mutex
	told  []ci.Command
	held  string // the id of the run whose machine is held
	s     *Store
	head  [2]string
	older []string
}

func (c *fakeControl) Command(_ context.Context, cmd ci.Command) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, cmd)
	if cmd.Verb == "run" {
		r, err := c.s.Create(commitA)
		if err != nil {
			return "", err
		}
		return r.ID(), nil
	}
	return "", nil
}

// A fakeHolder can hold machines, too.
type fakeHolder struct{ *fakeControl }

func (c fakeHolder) Hold(_ context.Context, id string, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, ci.Command{Verb: "hold", Run: id, Duration: d})
	return nil
}

func (c fakeHolder) Held(id string) ci.Attrs {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != c.held {
		return nil
	}
	return ci.Attrs{{Name: "until", Value: "-"}, {Name: "by", Value: "alice"}}
}

func (c fakeHolder) LastHeld() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

func (c *fakeControl) Status() ci.Attrs {
	return ci.Attrs{{Name: "mode", Value: "daemon"}, {Name: "accel", Value: "tcg"}}
}

func (c *fakeControl) Head(context.Context) (string, string, []string, error) {
	return c.head[0], c.head[1], c.older, nil
}

func mustRead(t testing.TB, root fs.Dir, name string) string {
	t.Helper()
	n, err := fs.Walk(t.Context(), root, name)
	if err != nil {
		t.Fatalf("Walk(%q): %v", name, err)
	}
	b, err := fs.ReadAll(t.Context(), n)
	if err != nil {
		t.Fatalf("read %q: %v", name, err)
	}
	return string(b)
}

func mustOpen(t testing.TB, root fs.Dir, name string, mode fs.OpenMode) fs.File {
	t.Helper()
	n, err := fs.Walk(t.Context(), root, name)
	if err != nil {
		t.Fatalf("Walk(%q): %v", name, err)
	}
	f, err := n.Open(t.Context(), mode)
	if err != nil {
		t.Fatalf("Open(%q): %v", name, err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// say writes a command and reads the reply, and the end behind it.
func say(t testing.TB, f fs.File, line string) (reply string, werr error) {
	t.Helper()
	n, werr := f.WriteAt(t.Context(), []byte(line), 0)
	if werr == nil && n != len(line) {
		t.Errorf("WriteAt(%q) = %d", line, n)
	}
	var b []byte
	p := make([]byte, 7)
	for off := int64(len(line)); ; {
		n, err := f.ReadAt(t.Context(), p, off)
		b, off = append(b, p[:n]...), off+int64(n)
		if err == io.EOF {
			return string(b), werr
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCtl(t *testing.T) {
	s := newStore(t)
	c := &fakeControl{s: s}
	root := NewTree(s, fakeHolder{c})
	f := mustOpen(t, root, "ctl", fs.OpenRead|fs.OpenWrite)
	if b, err := io.ReadAll(fs.NewReader(t.Context(), f)); string(b) != ci.CtlManual || err != nil {
		t.Errorf("ctl reads %q, %v before a write", b, err)
	}
	id := commitA[:12] + ".1"
	if reply, err := say(t, f, "run force=1 net=all HEAD test lint"); reply != id+"\n" || err != nil {
		t.Errorf("run replies %q, %v, want %q", reply, err, id)
	}
	mustRead(t, root, "ci/"+id+"/status") // it can be walked when the reply comes
	for _, tt := range []struct{ file, line, err string }{
		{"ctl", "frobnicate", `"frobnicate" is not a command`},
		{"ctl", "run", "no revision"},
		{"ctl", "run force=1", "no revision"},
		{"ctl", "run 'HEAD", "a quote is not closed"},
		{"ctl", "cancel", "name one run"},
		{"ctl", "cancel " + id + " x", "name one run"},
		{"ctl", "cancel 000000000000.1", "file does not exist"},
		{"ctl", "keep 000000000000.1", "file does not exist"},
		{"ctl", "forget " + id, "has not ended"},
		{"ctl", "gc now", "no arguments"},
		{"ctl", strings.Repeat("x", 64<<10+1), "over 65536 bytes"},
		{"ci/" + id + "/ctl", "run HEAD", `"run" is not a command`},
		{"ci/" + id + "/ctl", "hold", "name a time"},
		{"ci/" + id + "/ctl", "hold forever", `"forever" is not a time`},
		{"ci/" + id + "/ctl", "forget", "has not ended"},
	} {
		f := mustOpen(t, root, tt.file, fs.OpenRead|fs.OpenWrite)
		reply, err := say(t, f, tt.line)
		if err == nil || !strings.Contains(err.Error(), tt.err) || reply != err.Error()+"\n" {
			t.Errorf("%.40q replies %q, %v, want the error %q", tt.line, reply, err, tt.err)
		}
	}
	rf := mustOpen(t, root, "ci/"+id+"/ctl", fs.OpenRead|fs.OpenWrite)
	if reply, err := say(t, rf, "hold 10m\n\ncancel\n"); reply != "" || err != nil {
		t.Errorf("hold and cancel reply %q, %v", reply, err)
	}
	say(t, f, "cancel "+id)
	// A newline between quotes does not end a line.
	if _, err := say(t, f, "run secrets='A=one''s\n\ncancel' HEAD\r\ncancel "+id+"\n"); err != nil {
		t.Errorf("run with a newline between quotes: %v", err)
	}
	cancel := ci.Command{Verb: "cancel", Run: id}
	want := []ci.Command{
		{Verb: "run", Attrs: ci.Attrs{{Name: "force", Value: "1"}, {Name: "net", Value: "all"}}, Rev: "HEAD", Targets: []string{"test", "lint"}},
		{Verb: "hold", Run: id, Duration: 10 * time.Minute}, cancel, cancel,
		{Verb: "run", Attrs: ci.Attrs{{Name: "secrets", Value: "A=one's\n\ncancel"}}, Rev: "HEAD", Targets: []string{}}, cancel,
	}
	if !reflect.DeepEqual(c.told, want) {
		t.Errorf("the executor was told %q, want %q", c.told, want)
	}
	sealed := quick(t, s, commitB)
	if _, err := say(t, f, "keep "+sealed); err != nil {
		t.Errorf("keep: %v", err)
	}
	s.SetKeep(Keep{Count: 1})
	quick(t, s, commitB)
	if reply, err := say(t, f, "gc"); reply != "0\n" || err != nil {
		t.Errorf("gc replies %q, %v", reply, err)
	}
	if _, err := say(t, f, "cancel "+sealed); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("cancel of a sealed run: %v", err)
	}
	if _, err := say(t, f, "forget "+sealed); err != nil {
		t.Errorf("forget: %v", err)
	}
	if _, err := s.Get(sealed); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Get after forget = %v", err)
	}
}

// The ctl of a run offers hold where the executor can hold a machine, and
// nowhere else.
func TestCtlHold(t *testing.T) {
	s := newStore(t)
	c := &fakeControl{s: s}
	id := quick(t, s, commitA)
	for _, tt := range []struct {
		c      Control
		manual string
		err    string
	}{
		{c, "cancel\nkeep\nforget\n", "cannot hold a machine"},
		{fakeHolder{c}, "cancel\nhold DURATION\nkeep\nforget\n", ""},
	} {
		f := mustOpen(t, NewTree(s, tt.c), "ci/"+id+"/ctl", fs.OpenRead|fs.OpenWrite)
		if b, err := io.ReadAll(fs.NewReader(t.Context(), f)); string(b) != tt.manual || err != nil {
			t.Errorf("ctl of %T reads %q, %v, want %q", tt.c, b, err, tt.manual)
		}
		if reply, _ := say(t, f, "hold 1m"); !strings.Contains(reply, tt.err) || tt.err == "" && reply != "" {
			t.Errorf("hold of %T replies %q, want %q", tt.c, reply, tt.err)
		}
	}
}

// A run whose machine is held says so in a file that is not listed, is what held
// stands for, and does not go.
func TestHeld(t *testing.T) {
	s := newStore(t)
	c := &fakeControl{s: s}
	id := quick(t, s, commitA)
	root := NewTree(s, fakeHolder{c})
	for _, name := range []string{"ci/held", "ci/" + id + "/hold"} {
		if _, err := fs.Walk(t.Context(), root, name); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s of a run that is not held: %v", name, err)
		}
	}
	c.held = id
	if got := mustRead(t, root, "ci/held/hold"); got != "until=-\nby=alice\n" {
		t.Errorf("hold reads %q", got)
	}
	dir, err := fs.WalkDir(t.Context(), root, "ci/"+id)
	if err != nil {
		t.Fatal(err)
	}
	for st := range fs.Entries(t.Context(), dir) {
		if st.Name == "hold" {
			t.Error("hold is listed: a copy of the run would not be the run")
		}
	}
	if _, err := fs.Walk(t.Context(), NewTree(s, c), "ci/held"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("held where nothing can be: %v", err)
	}
	f := mustOpen(t, root, "ci/"+id+"/ctl", fs.OpenRead|fs.OpenWrite)
	if _, err := say(t, f, "forget"); err == nil || !strings.Contains(err.Error(), "hold 0") {
		t.Errorf("forget of a held run: %v", err)
	}
	release, err := s.Use(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Evict(Keep{Count: -1}); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(id); err != nil {
		t.Errorf("a run in use was evicted: %v", err)
	}
	c.held = ""
	release()
	if _, err := say(t, f, "forget"); err != nil {
		t.Errorf("forget: %v", err)
	}
}

func TestCtlUsers(t *testing.T) {
	s := newStore(t)
	root := NewTree(s, &fakeControl{s: s})
	for _, tt := range []struct {
		user fs.User
		open error
	}{
		{fs.User{Name: "me", UID: int64(os.Getuid())}, nil},
		{fs.User{Name: "root", UID: 0}, nil},
		{fs.User{Name: "alice@ssh", UID: -1}, nil},
		{fs.User{Name: "other", UID: 4711}, iofs.ErrPermission},
		{fs.User{UID: -1, Anonymous: true}, iofs.ErrNotExist},
	} {
		ctx := fs.WithUser(t.Context(), tt.user)
		n, err := root.Walk(ctx, "ctl")
		if err == nil {
			_, err = n.Open(ctx, fs.OpenWrite)
		}
		if !errors.Is(err, tt.open) {
			t.Errorf("%+v opens ctl: %v, want %v", tt.user, err, tt.open)
		}
		listed := false
		for st := range fs.Entries(ctx, root) {
			listed = listed || st.Name == "ctl"
		}
		if listed == tt.user.Anonymous {
			t.Errorf("ctl is listed to %+v: %v", tt.user, listed)
		}
	}
	n, _ := fs.Walk(t.Context(), NewTree(s, nil), "ctl")
	if _, err := n.Open(t.Context(), fs.OpenWrite); !errors.Is(err, iofs.ErrPermission) {
		t.Errorf("without a Control: Open = %v, want %v", err, iofs.ErrPermission)
	}
}

func TestAliases(t *testing.T) {
	const commitC = "aaaabbb0000000000000000000000000000000000" // shares seven digits with commitB
	s := newStore(t)
	c := &fakeControl{s: s}
	root := NewTree(s, c)
	run := func(commit, tree, target, state string, ago time.Duration) string {
		t.Helper()
		r, err := s.Create(commit[:40])
		if err != nil {
			t.Fatal(err)
		}
		r.SetKey(ci.Attrs{{Name: "target", Value: target}})
		r.SetInfo(ci.Attrs{{Name: "tree", Value: tree}, {Name: "end", Value: ci.FormatTime(time.Now().Add(-ago))}})
		if err := r.Seal(t.Context(), state, 0, nil); err != nil {
			t.Fatal(err)
		}
		return r.ID()
	}
	is := func(name, want string) {
		t.Helper()
		n, err := fs.Walk(t.Context(), root, "ci/"+name)
		if want == "" {
			if !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("/ci/%s: %v, want %v", name, err, iofs.ErrNotExist)
			}
			return
		}
		if err != nil {
			t.Errorf("/ci/%s: %v", name, err)
			return
		}
		st, err := n.Stat(t.Context())
		if err != nil || st.Target != want || st.Mode&iofs.ModeSymlink == 0 || !st.IsDir() {
			t.Errorf("/ci/%s -> %q %v, %v, want %q", name, st.Target, st.Mode, err, want)
		}
	}
	is("last", "")
	h := time.Hour
	lint := run(commitA, treeA, "lint", "passed", h)
	is(commitA, lint)
	failed := run(commitA, treeA, "test", "failed", 2*h)
	is(commitA, failed) // default targets first
	passed := run(commitA, treeA, "test", "passed", 3*h)
	is(commitA, passed) // passed before failed
	newer := run(commitA, treeA, "", "passed", 2*h)
	is(commitA, newer) // then newest
	is(commitA[:7], newer)
	is(commitA[:39], newer)
	is(commitA[:6], "")
	is(strings.ToUpper(commitA), "")
	is(treeA, newer)
	is(treeA[:8], newer)
	is("last", newer) // made last, whenever it ended
	b := run(commitB, treeA, "test", "passed", 4*h)
	is(treeA, newer)
	is(commitB[:7], b)
	cc := run(commitC, "", "test", "failed", 5*h)
	is("aaaabbb", "") // of two commits
	is("aaaabbb0", cc)
	is("last", cc)
	is("head", "")

	c.head = [2]string{commitB, treeA}
	is("head", b)
	is("green", b)
	c.head = [2]string{"1111111111111111111111111111111111111111", treeA}
	is("head", newer) // by tree
	c.head = [2]string{commitC[:40], "2222222222222222222222222222222222222222"}
	c.older = []string{"1111111111111111111111111111111111111111", commitB, commitA}
	is("head", cc)
	is("green", b)
	c.older = nil
	is("green", "")

	r, err := s.Create("9999999999999999999999999999999999999999")
	if err != nil {
		t.Fatal(err)
	}
	is("last", r.ID())
	is("9999999", r.ID())
	r2, err := s.Create("9999999999999999999999999999999999999999")
	if err != nil {
		t.Fatal(err)
	}
	r2.SetKey(ci.Attrs{{Name: "target", Value: "lint"}})
	is("9999999", r.ID()) // default targets first
	r2.SetKey(ci.Attrs{{Name: "target", Value: "test"}})
	is("9999999", r2.ID()) // then newest
	is("last", r2.ID())

	// An alias is a directory with qids of its own.
	for _, dir := range []string{"ci/last", "ci/" + commitA[:7], "artifacts/" + newer} {
		n, err := fs.Walk(t.Context(), root, dir)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := n.Stat(t.Context())
		if own, err := stat(t, root, "ci/"+newer); err != nil || st.Path == own.Path {
			t.Errorf("%s has the qid.path of the run, or none: %v", dir, err)
		}
		if _, err := n.(fs.Dir).ReadDir(t.Context(), 0, 100); err != nil {
			t.Errorf("ReadDir(%s): %v", dir, err)
		}
	}
	n, err := fs.Walk(t.Context(), root, "artifacts/"+newer)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := n.Stat(t.Context()); st.Target != "../ci/"+newer+"/artifacts" {
		t.Errorf("/artifacts/%s -> %q", newer, st.Target)
	}
}

// A client without links gets the newest 40 runs listed, and can walk to all.
func TestLinklessListing(t *testing.T) {
	s := newStore(t)
	root := NewTree(s, nil)
	var all []string
	for range 45 {
		all = append(all, quick(t, s, commitA))
	}
	r, _ := s.Create(commitB)
	all = append(all, r.ID())
	ctx := fs.WithoutLinks(t.Context())
	ciDir, _ := root.Walk(ctx, "ci")
	var got []string
	for st, err := range fs.Entries(ctx, ciDir.(fs.Dir)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, st.Name)
	}
	if !slices.Equal(got, all[6:]) {
		t.Errorf("/ci lists %q, want %q", got, all[6:])
	}
	if _, err := fs.Walk(ctx, root, "ci/"+all[0]); err != nil {
		t.Errorf("Walk: %v", err)
	}
	if got := len(slices.Collect(names(t, root, "ci"))); got != 46 {
		t.Errorf("with links /ci lists %d", got)
	}
}

func names(t *testing.T, root fs.Dir, dir string) func(func(string) bool) {
	n, err := fs.Walk(t.Context(), root, dir)
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(string) bool) {
		for st, err := range fs.Entries(t.Context(), n.(fs.Dir)) {
			if err != nil {
				t.Fatal(err)
			}
			if !yield(st.Name) {
				return
			}
		}
	}
}

// A run is followed while it goes on: event, live, wait, stdout and status.
func TestFollow(t *testing.T) {
	s := newStore(t)
	root := NewTree(s, nil)
	event := mustOpen(t, root, "event", fs.OpenRead)
	r, err := s.Create(commitA)
	if err != nil {
		t.Fatal(err)
	}
	next := func(f fs.File, off *int64) string {
		t.Helper()
		p := make([]byte, 4096)
		n, err := f.ReadAt(t.Context(), p, *off)
		if err != nil {
			t.Fatal(err)
		}
		*off += int64(n)
		return string(p[:n])
	}
	var at int64
	if got := next(event, &at); !strings.HasPrefix(got, r.ID()+" queued - - ") {
		t.Errorf("event reads %q", got)
	}
	var late int64
	if got := next(mustOpen(t, root, "event", fs.OpenRead), &late); !strings.HasPrefix(got, r.ID()+" queued - - ") {
		t.Errorf("an event opened later reads %q first", got)
	}
	dir := "ci/" + r.ID()
	live, wait := mustOpen(t, root, dir+"/live", fs.OpenRead), mustOpen(t, root, dir+"/wait", fs.OpenRead)
	waited := make(chan string)
	go func() {
		b, err := io.ReadAll(fs.NewReader(context.Background(), wait))
		waited <- fmt.Sprint(string(b), err)
	}()
	r.Enter("boot")
	fmt.Fprintln(r.Stdout(), "not in the log")
	r.Leave("boot", "passed", 0)
	r.Leave("clone", "skipped", 0)
	r.Enter("test")
	events := next(event, &at)
	for strings.Count(events, "\n") < 2 {
		events += next(event, &at)
	}
	if lines := strings.Split(events, "\n"); !strings.HasPrefix(lines[0], r.ID()+" boot - 0.000 ") || !strings.HasPrefix(lines[1], r.ID()+" test - 0.") {
		t.Errorf("event reads %q", events)
	}
	fmt.Fprint(r.Stdout(), "one\ntw")
	if got := mustRead(t, root, dir+"/stdout"); got != "one\ntw" {
		t.Errorf("stdout reads %q", got)
	}
	var off int64
	got := next(live, &off)
	for got != "one\ntw" { // the part comes when it has waited for its rest
		got += next(live, &off)
	}
	fmt.Fprint(r.Stderr(), "err\n")
	fmt.Fprint(r.Stdout(), "o")
	st, err := stat(t, root, dir+"/live")
	if err != nil || st.Size != int64(len("one\ntwerr\n")) {
		t.Errorf("live has size %d, %v", st.Size, err)
	}
	if got := mustRead(t, root, dir+"/status"); !strings.HasPrefix(got, "test - ") {
		t.Errorf("status reads %q", got)
	}
	if got := mustRead(t, root, dir+"/step/test/status"); !strings.HasPrefix(got, "running - 0.000 ") {
		t.Errorf("step/test/status reads %q", got)
	}
	r.Leave("test", "failed", 3)
	if err := r.Seal(t.Context(), "failed", 3, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-waited; !strings.HasPrefix(got, "failed 3 ") || !strings.HasSuffix(got, "Z\n<nil>") {
		t.Errorf("wait read %q", got)
	}
	rest, err := io.ReadAll(fs.NewReader(t.Context(), offsetFile{live, off}))
	if err != nil || got+string(rest) != "one\ntwerr\no" {
		t.Errorf("live read %q and then %q, %v", got, rest, err)
	}
	if got := mustRead(t, root, dir+"/live"); got != "one\ntwerr\no" {
		t.Errorf("live of the sealed run reads %q", got)
	}
	if got := mustRead(t, root, dir+"/step/clone/status"); got[:len("skipped - - ")] != "skipped - - " {
		t.Errorf("step/clone/status reads %q", got)
	}
	for line := ""; !strings.Contains(line, " failed 3 "); {
		line = next(event, &at)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if n, err := event.ReadAt(ctx, make([]byte, 10), at); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read of event = %d, %v", n, err)
	}
}

func stat(t *testing.T, root fs.Dir, name string) (fs.Stat, error) {
	t.Helper()
	n, err := fs.Walk(t.Context(), root, name)
	if err != nil {
		return fs.Stat{}, err
	}
	return n.Stat(t.Context())
}

type offsetFile struct {
	fs.File
	off int64
}

func (f offsetFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.File.ReadAt(ctx, p, f.off+off)
}

// Ten thousand readers wait for a run's next line at once, for at most 6 KB
// each, and all get it.
func TestManyReaders(t *testing.T) {
	s := newStore(t)
	root := NewTree(s, nil)
	r, err := s.Create(commitA)
	if err != nil {
		t.Fatal(err)
	}
	r.Enter("test")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := heap()
	var begun, done sync.WaitGroup
	bad := make(chan string, readers)
	for range readers {
		n, err := fs.Walk(t.Context(), root, "ci/"+r.ID()+"/live")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		begun.Add(1)
		done.Go(func() {
			defer f.Close()
			begun.Done()
			p := make([]byte, 16)
			n, err := f.ReadAt(context.Background(), p, 0)
			if err != nil || string(p[:n]) != "hello\n" {
				bad <- fmt.Sprintf("%q, %v", p[:n], err)
			}
		})
	}
	begun.Wait()
	waiting := func() bool {
		buf := make([]byte, 64<<20)
		return bytes.Count(buf[:runtime.Stack(buf, true)], []byte("openLive")) >= readers
	}
	for range 100 {
		if runtime.Gosched(); waiting() {
			break
		}
	}
	each := (heap() - before) / readers
	t.Logf("%d bytes for each blocked reader", each)
	if each > 6<<10 && readers == 10000 {
		t.Errorf("a blocked reader costs %d bytes, want at most 6 KB", each)
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	if len(fds) > 200 {
		t.Errorf("%d descriptors are open for %d readers", len(fds), readers)
	}
	fmt.Fprintln(r.Stdout(), "hello")
	done.Wait()
	close(bad)
	for b := range bad {
		t.Errorf("a reader got %s", b)
		break
	}
}

func TestIOFS(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	root := NewTree(s, &fakeControl{s: s, head: [2]string{commitA, treeA}})
	fsys := fs.IOFS(t.Context(), root)
	// TestFS takes names without backslashes only.
	clean := quick(t, s, commitB)
	if err := s.Forget(id); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(fsys, "ci/"+clean+"/status", "index", "status", "ctl", "artifacts/"+clean); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"ci/last/status", "ci/head/../x", "ci/" + commitB[:7] + "/step/test/log"} {
		_, err := iofs.ReadFile(fsys, name)
		if iofs.ValidPath(name) != (err == nil) {
			t.Errorf("ReadFile(%q): %v", name, err)
		}
	}
	list, err := iofs.ReadDir(fsys, "artifacts/"+clean)
	if err != nil || len(list) != 0 {
		t.Errorf("ReadDir of an alias = %v, %v", list, err)
	}
	if to, err := iofs.ReadLink(fsys, "ci/last"); to != clean || err != nil {
		t.Errorf("ReadLink(ci/last) = %q, %v", to, err)
	}

	dir := filepath.Join(t.TempDir(), "d")
	os.MkdirAll(filepath.Join(dir, "a/b"), 0o755)
	os.WriteFile(filepath.Join(dir, "a/b/c"), []byte("text"), 0o600)
	os.Symlink("a/b/c", filepath.Join(dir, "in"))
	os.Symlink("../x", filepath.Join(dir, "out"))
	os.Symlink("loop", filepath.Join(dir, "loop"))
	disk, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	fsys = fs.IOFS(t.Context(), fs.DiskDir(disk, "d"))
	if b, err := iofs.ReadFile(fsys, "in"); string(b) != "text" || err != nil {
		t.Errorf("ReadFile through a link = %q, %v", b, err)
	}
	for _, name := range []string{"out", "loop"} {
		if _, err := iofs.ReadFile(fsys, name); err == nil {
			t.Errorf("ReadFile(%q) is no error", name)
		}
	}
	os.Remove(filepath.Join(dir, "out"))
	os.Remove(filepath.Join(dir, "loop"))
	if err := fstest.TestFS(fsys, "a/b/c"); err != nil {
		t.Error(err)
	}
}

// bsdtar reads artifacts.mtree, and makes of it and the artifacts what they
// are.
func TestMtreeIsRead(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	cmd := exec.Command("bsdtar", "-cf", "-", "--format=mtree", "--options=!all,type,mode,time,size,link,sha256", "@../artifacts.mtree")
	cmd.Dir = filepath.Join(s.runPath(id), "artifacts")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bsdtar: %v\n%s", err, &stderr)
	}
	ours, _ := os.ReadFile(filepath.Join(s.runPath(id), "artifacts.mtree"))
	if a, b := bytes.Count(out, []byte("\n")), bytes.Count(ours, []byte("\n")); a != b {
		t.Errorf("bsdtar read %d lines of %d:\n%s", a, b, out)
	}
	for _, want := range []string{
		"./bin/hello time=1700000000.123456789 mode=755 type=file size=21",
		"./size time=1700000000.123456789 mode=640 type=file size=3",
		"type=link link=bin/hello",
		"type=link link=/etc/passwd",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("bsdtar reads artifacts.mtree as\n%s, want %q in it", out, want)
		}
	}
}

// A link among the artifacts, or on any disk, is never followed: where it is
// opened all the same, it is a file that holds its target.
func TestLinksAreData(t *testing.T) {
	t.Run("openat2", testLinksAreData)
	defer func(have func() bool) { disk.HaveOpenat2 = have }(disk.HaveOpenat2)
	disk.HaveOpenat2 = func() bool { return false } // as on a kernel before 5.6
	t.Run("by name", testLinksAreData)
}

func testLinksAreData(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	dir := t.TempDir()
	makeArtifacts(t, dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	run, err := fs.Walk(t.Context(), NewTree(s, nil), "ci/"+id+"/artifacts")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []fs.Dir{run.(fs.Dir), fs.DiskDir(root, "d")} {
		for name, target := range map[string]string{"link": "bin/hello", "out": "/etc/passwd"} {
			if got := mustRead(t, d, name); got != target {
				t.Errorf("the link %s reads %q, want %q", name, got, target)
			}
			if got := mustRead(t, d, "bin/hello"); !strings.HasPrefix(got, "#!/bin/sh") {
				t.Errorf("bin/hello reads %q", got)
			}
			if _, err := fs.Walk(t.Context(), d, name+"/x"); err == nil {
				t.Errorf("a walk goes through the link %s", name)
			}
		}
	}
	if f, err := disk.OpenRegular(root, "link"); err == nil {
		f.Close()
		t.Errorf("openRegular follows a link")
	}
}
