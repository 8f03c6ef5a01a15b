package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// A run belongs to all who wait for it: the last that leaves cancels it, and nobody else. One
// that was asked for without waiting goes on to its end.
func TestWanted(t *testing.T) {
	e, req := newExecutor(t, t.TempDir(), &config.Config{Net: "all"})
	e.Start = func(context.Context, vm.Config) (Machine, error) {
		return &wild{mk: func(io.Writer) error { return nil }, began: make(chan struct{}), killed: make(chan struct{})}, nil
	}
	submit := func(wanted context.Context) string {
		t.Helper()
		req.Wanted = wanted
		id, err := e.Submit(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	ends := func(id string) {
		t.Helper()
		if err := e.Wait(id); err != nil {
			t.Error(err)
		}
		if run, err := e.Store.Get(id); err != nil || run.State != "cancelled" || run.Code != 130 {
			t.Errorf("the run is %v, %v, want it cancelled", run, err)
		}
	}
	goes := func(id string) {
		t.Helper()
		e.mu.Lock()
		u := e.unfinished[id]
		e.mu.Unlock()
		if u == nil || u.ctx.Err() != nil {
			t.Errorf("%s does not go on", id)
		}
	}

	a, leaveA := context.WithCancel(t.Context())
	defer leaveA()
	b, leaveB := context.WithCancel(t.Context())
	defer leaveB()
	id := submit(a)
	if again := submit(b); again != id {
		t.Errorf("the second got %s, want %s", again, id)
	}
	if others, ok := e.leave(id, a); !others || !ok {
		t.Errorf("the first leaves: %v, %v, want that others wait", others, ok)
	}
	if _, ok := e.leave(id, a); ok {
		t.Error("the first leaves twice")
	}
	goes(id)
	leaveB() // it hangs up
	ends(id)

	// One that does not wait, as run -b, wants the run to its end.
	c2, leaveC := context.WithCancel(t.Context())
	defer leaveC()
	id = submit(c2)
	submit(nil)
	if others, ok := e.leave(id, c2); !others || !ok {
		t.Errorf("it leaves a run of -b: %v, %v", others, ok)
	}
	goes(id)
	if err := e.Cancel(id); err != nil {
		t.Error(err)
	}
	ends(id)
	e.Close()
}

// A finder is a Seeker that finds a run at once.
type finder string

func (f finder) Replay(context.Context) (string, error) { return string(f), nil }
func (f finder) Await(context.Context, string) (string, func(), error) {
	return "", func() {}, nil
}

// newQueue is newExecutor with the configuration of the clone, which a queued run must have.
func newQueue(t *testing.T, dir string) (*Executor, Request) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	e, req := newExecutor(t, dir, nil)
	c, err := config.Load(t.Context(), req.Repo, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Config, req.Config = c, c
	return e, req
}

// A run that was queued by a process which has died, and stands for nothing now that another
// was found, is found by its id all the same: those that asked know that.
func TestResumeReplaced(t *testing.T) {
	dir := t.TempDir()
	e, req := newQueue(t, dir)
	queued, _, err := e.create(req, replay.Key(req.Config, req.Commit, req.Tree, req.Targets), true)
	if err != nil {
		t.Fatal(err)
	}
	found, err := e.Store.Create(req.Commit)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Seal(t.Context(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	e.Store.Close() // as after a kill

	for range 2 {
		e := openExecutor(t, dir, req.Repo, req.Config)
		e.Seek = func(*repo.Repo, ci.Attrs, *config.Config) Seeker { return finder(found.ID()) }
		if err := e.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.Close()
		run, err := e.Find(t.Context(), queued.ID())
		if err != nil || run.ID != found.ID() {
			t.Errorf("the id that was told leads to %v, %v, want %s", run, err, found.ID())
		}
		e.Store.Close()
	}

	// When that has gone, so has the name.
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(found.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup(queued.ID()); err == nil {
		t.Error("the name leads to a run that is gone")
	}
	s.Close()
	if s, err = store.Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Lookup(queued.ID()); err == nil || !strings.Contains(err.Error(), "file does not exist") {
		t.Errorf("then: %v", err)
	}
}

// A teller is a finder that tells when it is asked.
type teller struct {
	finder
	tell func()
}

func (f teller) Replay(ctx context.Context) (string, error) {
	f.tell()
	return f.finder.Replay(ctx)
}

// Runs that were queued by a process which has died are taken up one after the other, as
// they were asked for.
func TestResumeOrder(t *testing.T) {
	dir := t.TempDir()
	e, req := newQueue(t, dir)
	found, err := e.Store.Create(req.Commit)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Seal(t.Context(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 12 {
		req.Targets = []string{fmt.Sprintf("test%d", i)}
		if _, _, err := e.create(req, replay.Key(req.Config, req.Commit, req.Tree, req.Targets), true); err != nil {
			t.Fatal(err)
		}
		want = append(want, req.Targets[0])
	}
	e.Store.Close() // as after a kill
	e = openExecutor(t, dir, req.Repo, req.Config)
	taken := make(chan struct{})
	var mu sync.Mutex
	var got []string
	e.Seek = func(_ *repo.Repo, key ci.Attrs, _ *config.Config) Seeker {
		return teller{finder(found.ID()), func() {
			if key.Get("target") == want[0] {
				<-taken // the others could overtake it
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, key.Get("target"))
		}}
	}
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(taken)
	e.Close()
	if !slices.Equal(got, want) {
		t.Errorf("taken up were %q, want %q", got, want)
	}
}

// A daemon that ends, ends the runs that go on, waits until those that wait for them have
// left, and leaves to the next daemon what was queued.
func TestDrain(t *testing.T) {
	dir := t.TempDir()
	e, req := newQueue(t, dir)
	ctx, end := context.WithCancelCause(t.Context())
	e.Context, e.Mode, e.Queue.Jobs, req.Config.Net = ctx, "daemon", 1, "all"
	m := &wild{mk: func(io.Writer) error { return nil }, began: make(chan struct{}), killed: make(chan struct{})}
	e.Start = func(context.Context, vm.Config) (Machine, error) { return m, nil }
	waits, leave := context.WithCancel(t.Context())
	defer leave()
	req.Wanted, req.Force = waits, true
	submit := func() string {
		t.Helper()
		id, err := e.Submit(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	going := submit()
	<-m.began
	req.Wanted = nil
	queued := []string{submit(), submit()}
	end(Signalled{syscall.SIGTERM})
	drained := make(chan struct{})
	go func() { e.Drain(time.Hour); close(drained) }()
	if err := e.Wait(going); err != nil {
		t.Error(err)
	}
	if run, err := e.Store.Get(going); err != nil || run.State != "cancelled" || run.Code != 143 {
		t.Errorf("the run that went on is %v, %v, want cancelled 143", run.Status, err)
	}
	if id, err := e.Submit(t.Context(), req); !errors.Is(err, errEnds) {
		t.Errorf("Submit = %q, %v", id, err)
	}
	select {
	case <-drained:
		t.Error("Drain has not waited for the one that waits")
	default:
	}
	leave()
	<-drained
	e.Close()
	e.Store.Close()

	e = openExecutor(t, dir, req.Repo, req.Config)
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.Close()
	for _, id := range queued {
		if run, err := e.Store.Get(id); err != nil || run.Run != nil || run.State != "error" { // it has no machine
			t.Errorf("%s is %v, %v, want that it was begun", id, run.Status, err)
		}
	}
}

// A flag of run that is neither set nor unset is refused, and not taken for unset.
func TestRunFlags(t *testing.T) {
	e := &Executor{Log: slog.New(slog.DiscardHandler)}
	for _, a := range []ci.Attr{{Name: "force", Value: "yes"}, {Name: "wait", Value: ""}} {
		_, err := e.Command(t.Context(), ci.Command{Verb: "run", Attrs: ci.Attrs{a}, Rev: "HEAD"})
		if err == nil || !strings.HasSuffix(err.Error(), "want 0 or 1") {
			t.Errorf("%s=%q: %v", a.Name, a.Value, err)
		}
	}
}
