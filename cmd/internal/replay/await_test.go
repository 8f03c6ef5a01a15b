package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

const space = "example.org/alice/hello"

// A fleet is an orchestrator on loopback and executors that trust each other, each
// with a key, a store and a connection of its own.
type fleet struct {
	t         *testing.T
	dir       string // of the orchestrator's state
	addr      string
	stop      func() // ends the orchestrator
	executors []*asker
	runs      atomic.Int32  // that were begun
	waiting   chan string   // gets the name of each that says whom it waits for
	asksAgain chan string   // gets the name of each that has lost the orchestrator
	passes    chan struct{} // closed: runs that go on pass
}

// An asker is an executor whose runs need no machine.
type asker struct {
	f        *fleet
	name     string
	key      ssh.Signer
	store    *store.Store
	conn     *dial.Conn
	replayer Replayer
	end      context.CancelFunc // ends its export
	ended    chan struct{}

	mu     sync.Mutex // guards client
	client *ninep.Client
}

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: filepath.Join(t.TempDir(), "state"), waiting: make(chan string, 10*n), asksAgain: make(chan string, 10*n), passes: make(chan struct{})}
	f.start("127.0.0.1:0")
	t.Cleanup(func() { f.stop() })
	var lines strings.Builder
	for i := range n {
		a := &asker{f: f, name: fmt.Sprintf("box.%d", i), key: newSigner(t)}
		f.executors = append(f.executors, a)
		lines.Write(ssh.MarshalAuthorizedKey(a.key.PublicKey()))
	}
	if err := os.WriteFile(filepath.Join(f.dir, "authorized_keys"), []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var trusted sign.Signers
	for _, a := range f.executors {
		trusted.Add(a.name, a.key.PublicKey())
	}
	var wg sync.WaitGroup
	for _, a := range f.executors {
		wg.Go(func() { a.join(&trusted) })
	}
	wg.Wait()
	return f
}

// start starts an orchestrator with the fleet's state.
func (f *fleet) start(addr string) {
	f.t.Helper()
	s, err := orchestrator.New(f.dir, orchestrator.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.addr = l.Addr().String()
	line := knownhosts.Line([]string{f.addr}, s.HostKey())
	if err := os.WriteFile(filepath.Join(f.dir, "known_hosts"), []byte(line+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, l)
	}()
	f.stop = func() { cancel(); <-done }
}

// join connects an executor and shows its tree.
func (a *asker) join(trusted *sign.Signers) {
	t := a.f.t
	var err error
	if a.store, err = store.Open(t.TempDir()); err != nil {
		t.Error(err)
		return
	}
	a.conn, err = dial.Open("ssh://"+a.f.addr, dial.Options{Signers: []ssh.Signer{a.key}, KnownHosts: filepath.Join(a.f.dir, "known_hosts")})
	if err != nil {
		t.Error(err)
		return
	}
	a.replayer = Replayer{
		Store: a.store, Mux: a.root,
		Signers: func(context.Context) (*sign.Signers, error) { return trusted, nil },
		Ask: func(ctx context.Context, question []byte, within time.Duration) ([]byte, func(), error) {
			return a.conn.Find(ctx, space, question, within)
		},
		Name: func(context.Context) (string, error) { return a.name, nil },
		Say: func(format string, args ...any) {
			line := fmt.Sprintf(format, args...)
			t.Logf("%s: %s", a.name, line)
			if strings.HasPrefix(line, "waiting for ") {
				a.f.waiting <- a.name
			} else if strings.Contains(line, "asking again") {
				a.f.asksAgain <- a.name
			}
		},
	}
	tree := store.NewTree(a.store, nil)
	var ctx context.Context
	ctx, a.end = context.WithCancel(context.Background())
	joined := make(chan struct{})
	a.ended = make(chan struct{})
	go func() {
		defer close(a.ended)
		what := dial.Announce{Name: a.name, Namespaces: []string{space}, Joined: sync.OnceFunc(func() { close(joined) })}
		a.conn.Export(ctx, what, func(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User) {
			srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree, nil }}
			srv.Serve(ctx, rwc)
		})
	}()
	t.Cleanup(func() {
		a.end()
		a.conn.Close()
		<-a.ended
		a.store.Close()
	})
	<-joined
}

// root is the namespace at the orchestrator.
func (a *asker) root(ctx context.Context) (fs.Dir, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil {
		select {
		case <-a.client.Done():
		default:
			return a.client.Root(), nil
		}
	}
	rwc, err := a.conn.Import(ctx)
	if err != nil {
		return nil, err
	}
	a.client, err = ninep.Import(ctx, rwc, ninep.ImportOptions{Aname: space})
	if err != nil {
		return nil, err
	}
	return a.client.Root(), nil
}

// ask runs the key, or replays it, as an executor does. A run goes on until the
// fleet's runs pass.
func (a *asker) ask(ctx context.Context, state string) (ran bool, err error) {
	key := Key(conf, commit, tree, []string{"test"})
	run, err := a.store.Create(commit)
	if err != nil {
		return false, err
	}
	run.SetKey(key)
	run.SetInfo(ci.Attrs{{Name: "tree", Value: tree}})
	_, ok, release := a.replayer.Await(ctx, key, conf, run.ID())
	defer release()
	if ok || ctx.Err() != nil {
		return false, errors.Join(ctx.Err(), run.Discard())
	}
	a.f.runs.Add(1)
	for _, step := range ci.Steps {
		run.Enter(step)
		if step == "test" {
			select {
			case <-a.f.passes:
			case <-ctx.Done():
				return true, ctx.Err()
			}
			io.WriteString(run.Stdout(), "fine\n")
		}
		run.Leave(step, "passed", 0)
	}
	return true, run.Seal(ctx, state, 0, func(m []byte) ([]byte, error) { return sign.Manifest(a.key, m) })
}

// askAll has all executors ask at once, and returns when all but one wait. The
// result of each comes on the channel.
func (f *fleet) askAll() <-chan result {
	f.t.Helper()
	results := make(chan result, len(f.executors))
	for _, a := range f.executors {
		go func() {
			ran, err := a.ask(f.t.Context(), "passed")
			results <- result{a, ran, err}
		}()
	}
	f.await(f.waiting, len(f.executors)-1)
	return results
}

type result struct {
	a   *asker
	ran bool
	err error
}

// await takes n different names from a channel.
func (f *fleet) await(names <-chan string, n int) {
	f.t.Helper()
	seen := map[string]bool{}
	timeout := time.After(deadline)
	for len(seen) < n {
		select {
		case name := <-names:
			seen[name] = true
		case <-timeout:
			f.t.Fatalf("%d executors, want %d", len(seen), n)
		}
	}
}

// deadline is how long a test waits for what must come.
const deadline = 2 * time.Minute

// oneRun takes the results of all: one ran, and all others replayed its run.
func (f *fleet) oneRun(results <-chan result) {
	f.t.Helper()
	ran := 0
	for range f.executors {
		r := <-results
		if r.err != nil {
			f.t.Errorf("%s: %v", r.a.name, r.err)
		}
		if r.ran {
			ran++
		}
		n := 0
		for e := range r.a.store.Runs() {
			if n++; e.State != "passed" {
				f.t.Errorf("%s has a run that %s", r.a.name, e.State)
			}
		}
		if n != 1 {
			f.t.Errorf("%s has %d runs, want 1", r.a.name, n)
		}
	}
	if ran != 1 || f.runs.Load() != 1 {
		f.t.Errorf("%d runs for %d askers, want 1", ran, len(f.executors))
	}
}

// A hundred executors with a hundred keys that are asked for one revision at once
// make one run and 99 replays, though no connection has channels for so many.
func TestOneRun(t *testing.T) {
	f := newFleet(t, 100)
	results := f.askAll()
	close(f.passes)
	f.oneRun(results)
}

// Executors that ask as soon as an orchestrator has been restarted make one run: their
// connections are new, and export nothing yet.
func TestOneRunAfterRestart(t *testing.T) {
	f := newFleet(t, 8)
	f.stop()
	f.start(f.addr)
	results := f.askAll()
	close(f.passes)
	f.oneRun(results)
}

// An orchestrator that is restarted while four wait makes no further run.
func TestOneRunRestart(t *testing.T) {
	f := newFleet(t, 5)
	results := f.askAll()
	f.stop()
	f.await(f.asksAgain, 4)
	f.start(f.addr)
	close(f.passes)
	f.oneRun(results)
}

// An asker that finds no orchestrator, and did not wait, runs at once.
func TestNoOrchestratorRuns(t *testing.T) {
	f := newFleet(t, 1)
	f.stop()
	close(f.passes)
	if ran, err := f.executors[0].ask(t.Context(), "passed"); !ran || err != nil {
		t.Errorf("without an orchestrator: ran: %v, %v", ran, err)
	}
}

// What Find has refused, Await does not fetch and tell of again; what came after, it
// does.
func TestAwaitRefused(t *testing.T) {
	alice, mallory := newSigner(t), newSigner(t)
	key := Key(conf, commit, tree, []string{"test"})
	kept, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	forged := newPeer(t, mallory, key, "passed", time.Now())
	forged.signer = sign.Fingerprint(alice.PublicKey())
	good := newPeer(t, alice, key, "passed", time.Now())
	m := newMux(passed, map[string]peer{"a": forged, "b": good})
	both := m.answer
	m.answer = passed("a", forged)
	var said bytes.Buffer
	r := &Replayer{Store: kept, Signers: trusting(alice), Ask: m.ask,
		Mux:  func(context.Context) (fs.Dir, error) { return m, nil },
		Name: func(context.Context) (string, error) { return "me", nil },
		Say:  func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
	_, found := r.Find(t.Context(), key, conf)
	_, waited, release := r.Await(t.Context(), key, conf, "aaaaaaaaaaaa.1")
	release()
	if found || waited || strings.Count(said.String(), "\n") != 1 {
		t.Errorf("Find = %v, Await = %v, said %q, want no run and one line", found, waited, said.String())
	}
	m.answer = both
	if _, waited, release = r.Await(t.Context(), key, conf, "aaaaaaaaaaaa.1"); !waited {
		t.Errorf("Await = %v, said %q, want the run that came after", waited, said.String())
	}
	release()
}
