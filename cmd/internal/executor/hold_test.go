package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"9ci/cmd/internal/config"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/vm"
)

// A mortal is a player that can be killed, or end by itself.
type mortal struct {
	player
	once  sync.Once
	ended chan struct{}
}

func newMortal(do map[string]func(context.Context, vm.Cmd) int) *mortal {
	m := &mortal{ended: make(chan struct{})}
	m.do = map[string]func(context.Context, vm.Cmd) int{"ARTIFACTS": exits(0, `{"Targets":["test"]}`), "outbox": exits(4, "")}
	for name, f := range do {
		m.do[name] = f
	}
	return m
}

func (m *mortal) Kill()                 { m.once.Do(func() { close(m.ended) }) }
func (m *mortal) Done() <-chan struct{} { return m.ended }

// A bench is an executor whose machines are those of a test.
type bench struct {
	*Executor
	t        *testing.T
	req      Request
	memory   int64 // of a machine
	machines chan *mortal
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, machines: make(chan *mortal, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	b.Executor, b.req = newExecutor(t, t.TempDir(), &config.Config{})
	b.Context = ctx
	b.Start = func(context.Context, vm.Config) (Machine, error) { return <-b.machines, nil }
	b.req.Force = true
	t.Cleanup(func() { cancel(); b.Close() })
	return b
}

// run makes a run on a machine, with CI_HOLD, to its end, and returns its id.
func (b *bench) run(m *mortal, hold time.Duration) string {
	b.t.Helper()
	b.machines <- m
	b.req.Config = &config.Config{Net: "none", Hold: hold, Memory: b.memory}
	id, err := b.Submit(b.t.Context(), b.req)
	if err == nil {
		err = b.Wait(id)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// say writes a line to the ctl of a run.
func (b *bench) say(id, line string) error {
	b.t.Helper()
	n, err := fs.Walk(b.t.Context(), b.Tree(), "ci/"+id+"/ctl")
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := n.Open(b.t.Context(), fs.OpenWrite)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	_, err = f.WriteAt(b.t.Context(), []byte(line), 0)
	return err
}

// held returns what /ci/held/hold has, or nil.
func (b *bench) held() ci.Attrs {
	n, err := fs.Walk(b.t.Context(), b.Tree(), "ci/held/hold")
	if err != nil {
		return nil
	}
	text, err := fs.ReadAll(b.t.Context(), n)
	if err != nil {
		b.t.Fatal(err)
	}
	a, err := ci.ParseAttrs(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// The machine of a run that failed is held for shells, until its time is over or somebody
// lets it go. The run is sealed as any other, and another run need not wait.
func TestHold(t *testing.T) {
	b := newBench(t)
	shell := func(ctx context.Context, c vm.Cmd) int {
		text, _ := io.ReadAll(c.Stdin)
		fmt.Fprintf(c.Stdout, "%s in %s, TERM=%s\n", text, c.Dir, c.Env[len(c.Env)-1])
		return 7
	}
	m := newMortal(map[string]func(context.Context, vm.Cmd) int{"test": exits(1, "not ok"), shellScript: shell})
	id := b.run(m, time.Hour)
	if run, err := b.Store.Get(id); err != nil || run.Run != nil || run.State != "failed" {
		t.Fatalf("the run is %v, %v, want one that is sealed and failed", run.State, err)
	}
	until, err := ci.ParseTime(b.held().Get("until"))
	if left := time.Until(until); err != nil || left < 50*time.Minute || left > time.Hour || b.held().Get("by") != processUser() || b.held().Get("shells") != "0" {
		t.Errorf("hold is %q, %v", b.held(), err)
	}

	var out, said strings.Builder
	exit, err := b.Shell(t.Context(), "held", false, vm.Cmd{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &said, Env: []string{"TERM=vt100"}})
	if err != nil || exit.Code != 7 || out.String() != "hello in /src, TERM=TERM=vt100\n" || !strings.Contains(said.String(), "no base image") {
		t.Errorf("the shell ended with %v, %v, and said %q and %q", exit, err, &out, &said)
	}

	// A shell is counted, and another run goes on meanwhile.
	in, hold := io.Pipe()
	ended := make(chan error)
	go func() {
		_, err := b.Shell(t.Context(), id, true, vm.Cmd{Stdin: in, Stdout: io.Discard, Stderr: io.Discard})
		ended <- err
	}()
	hold.Write([]byte("x")) // it is there
	if got := b.held().Get("shells"); got != "1" {
		t.Errorf("there are %s shells, want 1", got)
	}
	b.run(newMortal(nil), time.Hour)
	hold.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	// The other has passed and is the best of the commit, but this one is held.
	for _, rev := range []string{b.req.Commit, b.req.Commit[:9], b.req.Tree[:9]} {
		if exit, err := b.Shell(t.Context(), rev, true, vm.Cmd{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}); err != nil || exit.Code != 7 {
			t.Errorf("the shell in a run of %s ended with %v, %v", rev, exit, err)
		}
	}
	var none *NotHeldError
	if _, err := b.Shell(t.Context(), "last", true, vm.Cmd{}); !errors.As(err, &none) {
		t.Errorf("a shell in the run that passed: %v", err)
	}

	if err := b.say(id, "hold 3h"); err != nil {
		t.Error(err)
	}
	if until, err := ci.ParseTime(b.held().Get("until")); err != nil || time.Until(until) < 2*time.Hour {
		t.Errorf("prolonged, hold is %q, %v", b.held(), err)
	}
	if err := b.say(id, "forget"); err == nil {
		t.Error("a run was forgotten while its machine was held")
	}
	if err := b.say(id, "hold 0s"); err != nil {
		t.Error(err)
	}
	<-m.ended
	for _, rev := range []string{id, "held", "last", "0000000"} {
		if _, err := b.Shell(t.Context(), rev, false, vm.Cmd{}); !errors.As(err, &none) {
			t.Errorf("a shell in %s, which is not held: %v", rev, err)
		}
	}
	if err := b.say(id, "hold 1h"); err == nil || !strings.Contains(err.Error(), "has ended, and its machine with it") {
		t.Errorf("hold of a machine that is gone: %v", err)
	}
}

// What is said of a run that goes on counts when the run ends, and a machine is held for
// nothing but a failure.
func TestHoldWish(t *testing.T) {
	for _, tt := range []struct {
		name string
		hold time.Duration                            // CI_HOLD
		do   func(b *bench, id string, m *mortal) int // what the test does, and its status
		want bool
	}{
		{"passes", time.Hour, func(*bench, string, *mortal) int { return 0 }, false},
		{"fails", 0, func(*bench, string, *mortal) int { return 1 }, false},
		{"wished for", 0, func(b *bench, id string, _ *mortal) int {
			if err := b.say(id, "hold 1h"); err != nil {
				b.t.Error(err)
			}
			return 1
		}, true},
		{"not wanted", time.Hour, func(b *bench, id string, _ *mortal) int {
			if got := b.Held(id).Get("until"); got != "-" {
				b.t.Errorf("until is %q while the run goes on", got)
			}
			if err := b.say(id, "hold 0s"); err != nil {
				b.t.Error(err)
			}
			return 1
		}, false},
		{"cancelled", time.Hour, func(b *bench, id string, _ *mortal) int {
			if err := b.say(id, "cancel"); err != nil {
				b.t.Error(err)
			}
			return 1
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			var m *mortal
			m = newMortal(map[string]func(context.Context, vm.Cmd) int{"test": func(context.Context, vm.Cmd) int {
				for run := range b.Store.Runs() {
					return tt.do(b, run.ID, m)
				}
				return 1
			}})
			id := b.run(m, tt.hold)
			if got := b.Held(id) != nil; got != tt.want {
				t.Errorf("the machine is held: %v, want %v", got, tt.want)
			}
			if !tt.want {
				<-m.ended
				return
			}
			m.Kill() // as one that panics
			b.AwaitHold(t.Context(), id)
			if b.Held(id) != nil {
				t.Error("a machine that has ended is held")
			}
		})
	}
}

// A process holds so many machines and no more: one in which there is no shell goes.
func TestHoldMost(t *testing.T) {
	b := newBench(t)
	var all []*mortal
	fail := func() string {
		began := make(chan struct{})
		m := newMortal(map[string]func(context.Context, vm.Cmd) int{"test": exits(1, "not ok"), shellScript: func(ctx context.Context, c vm.Cmd) int {
			close(began)
			<-ctx.Done()
			return 0
		}})
		all = append(all, m)
		id := b.run(m, time.Hour)
		if b.Held(id) == nil {
			return ""
		}
		b.open(id, began)
		return id
	}
	// The first has no shell.
	first := newMortal(map[string]func(context.Context, vm.Cmd) int{"test": exits(1, "not ok")})
	b.run(first, time.Hour)
	for range maxHeld {
		if fail() == "" {
			t.Fatal("a run that failed is not held")
		}
	}
	<-first.ended
	if id := fail(); id != "" {
		t.Errorf("%s is held beside %d with shells", id, maxHeld)
	}
	<-all[maxHeld].ended
}

// Held machines leave half of the host's memory to others, but for one that is alone.
func TestHoldMemory(t *testing.T) {
	host, err := config.HostMemory()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.memory = host / 4
	var ids []string
	fail := func() {
		ids = append(ids, b.run(newMortal(map[string]func(context.Context, vm.Cmd) int{"test": exits(1, "not ok")}), time.Hour))
	}
	held := func(want ...bool) {
		t.Helper()
		for i, id := range ids {
			if got := b.Held(id) != nil; got != want[i] {
				t.Errorf("the machine of run %d of %d is held: %v, want %v", i, len(ids), got, want[i])
			}
		}
	}
	fail()
	fail()
	held(true, true)
	fail()
	held(false, true, true)
	b.memory = host
	fail()
	held(false, false, false, true)
}

// open opens a shell in the machine of a run, and returns when it has begun. The shell
// ends with the test.
func (b *bench) open(id string, began chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Shell(ctx, id, false, vm.Cmd{Stdout: io.Discard, Stderr: io.Discard})
	}()
	<-began
	b.t.Cleanup(func() { cancel(); <-done })
}

// A shell in a container is one as the test had, from what the test left there, and its
// secrets are in no argument.
func TestHoldContainer(t *testing.T) {
	for _, tt := range []struct {
		code  int // of podman commit
		image string
	}{{0, heldImage}, {3, "image"}, {125, ""}} {
		m := newMortal(map[string]func(context.Context, vm.Cmd) int{heldImage: func(context.Context, vm.Cmd) int { return tt.code }})
		var got []string
		m.do[shellScript] = func(_ context.Context, c vm.Cmd) int { got = c.Args; return 3 }
		c := &config.Config{Net: "build", Env: []string{"A=b"}, Secrets: []string{"TOKEN=hunter2hunter2"}}
		r := &activeRun{e: &Executor{}, cfg: c, m: m, base: container{name: "image", path: "/bin", dir: "/app"}}
		h := &hold{r: r}
		exit, err := h.shell(t.Context(), false, vm.Cmd{TTY: true, Stdout: io.Discard, Stderr: io.Discard, Env: []string{"TERM=vt100"}})
		if tt.image == "" {
			if err == nil || !strings.Contains(err.Error(), "podman commit: status 125") {
				t.Errorf("podman commit fails: %v", err)
			}
			continue
		}
		if err != nil || exit.Code != 3 {
			t.Fatalf("the shell ended with %v, %v", exit, err)
		}
		test := r.podmanRun([]string{"test"}, true).Args
		for _, a := range test {
			if strings.HasPrefix(a, "--mount=") || strings.HasPrefix(a, "--network=") || strings.HasPrefix(a, "--env=") || strings.HasPrefix(a, "--workdir=") {
				if !slices.Contains(got, a) {
					t.Errorf("the test has %s, and the shell has\n%q", a, got)
				}
			}
		}
		for _, want := range []string{"--interactive", "--tty", "--rm", "--env=TERM=vt100", tt.image} {
			if !slices.Contains(got, want) {
				t.Errorf("no %s in\n%q", want, got)
			}
		}
		if strings.Contains(strings.Join(got, " "), "hunter2") || !strings.Contains(got[2], `"TOKEN=$TOKEN"`) {
			t.Errorf("the secret goes by %q", got)
		}
	}
}
