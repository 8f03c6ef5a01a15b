package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// A double is a machine that notes what is asked of it.
type double struct {
	asked []string
	cut   error // the answer to SetNet
}

func (m *double) Run(_ context.Context, c vm.Cmd) (vm.Exit, error) {
	m.asked = append(m.asked, "run "+c.Args[len(c.Args)-1])
	return vm.Exit{}, nil
}

func (m *double) SetNet(_ context.Context, up bool) error {
	m.asked = append(m.asked, fmt.Sprintf("net %t", up))
	return m.cut
}

func (m *double) Outbox() *io.SectionReader { return nil }
func (m *double) OutboxDevice() string      { return "outbox" }
func (m *double) Accel() string             { return "-" }
func (m *double) OutOfMemory() string       { return "" }
func (m *double) Done() <-chan struct{}     { return nil }
func (m *double) Kill()                     {}

// The network is cut before the test begins, whatever the steps before it did;
// a run whose network cannot be cut does not go on.
func TestNet(t *testing.T) {
	for _, tt := range []struct {
		net   string
		cut   error
		want  []string
		state string
	}{
		{net: "build", want: []string{"net false", "run lint"}, state: "passed"},
		{net: "build", cut: errors.New("qemu does not answer"), want: []string{"net false"}, state: "error"},
		{net: "all", want: []string{"run lint"}, state: "passed"},
		{net: "none", want: []string{"run lint"}, state: "passed"},
	} {
		s, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		run, err := s.Create("0123456789abcdef0123456789abcdef01234567")
		if err != nil {
			t.Fatal(err)
		}
		m := &double{cut: tt.cut}
		c := &config.Config{Net: tt.net}
		r := &activeRun{e: &Executor{}, req: Request{Targets: []string{"lint"}}, cfg: c, run: run, m: m, mkfile: new(mkfile), mask: newMask(nil)}
		r.stdout, r.stderr = r.mask.writer(run.Stdout()), r.mask.writer(run.Stderr())
		run.Enter("base-image")
		if err := r.baseImage(t.Context()); !errors.Is(err, errSkipped) {
			t.Fatalf("baseImage: %v", err)
		}
		m.asked = nil
		run.Enter("test")
		state, _ := r.outcome(t.Context(), r.test(t.Context()))
		if state != tt.state || !slices.Equal(m.asked, tt.want) {
			t.Errorf("CI_NET=%s: the step %s, and the machine was asked %q, want %s, %q", tt.net, state, m.asked, tt.state, tt.want)
		}
	}
}

// What the host lends is for the steps that have the network: the test has it with
// CI_NET=all alone. A variable of CI_ENV goes before it.
func TestLend(t *testing.T) {
	t.Setenv("http_proxy", "http://bob:hunter2@127.0.0.1:1")
	for _, tt := range []struct {
		net          string
		before, test bool
	}{{"build", true, false}, {"all", true, true}, {"none", false, false}} {
		s, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		run, err := s.Create("0123456789abcdef0123456789abcdef01234567")
		if err != nil {
			t.Fatal(err)
		}
		c := &config.Config{Net: tt.net, Env: []string{"no_proxy=mine"}, Registries: []config.Registry{{Name: "docker.io"}}}
		m := new(double)
		r := &activeRun{e: &Executor{}, req: Request{Targets: []string{"lint"}}, cfg: c, run: run, m: m, mkfile: new(mkfile), mask: newMask(nil)}
		r.stdout, r.stderr = r.mask.writer(run.Stdout()), r.mask.writer(run.Stderr())
		machine := vm.Config{Net: tt.net != "none"}
		if err := r.lend(t.Context(), &machine); err != nil {
			t.Fatal(err)
		}
		if got := machine.Forwards[3128] != nil && machine.Forwards[5000] != nil && len(machine.Files) > 0; got != tt.before {
			t.Errorf("CI_NET=%s: the host answers at %v, want %v", tt.net, machine.Forwards, tt.before)
		}
		lent := func() bool {
			env := r.env()
			var last string // of a name the last counts
			for _, v := range env {
				if strings.HasPrefix(v, "no_proxy=") {
					last = v
				}
			}
			if last != "no_proxy=mine" {
				t.Errorf("the environment has %q", last)
			}
			if strings.Contains(strings.Join(env, " "), "hunter2") {
				t.Errorf("a password is in %q", env)
			}
			return slices.Contains(env, "http_proxy=http://10.0.2.2:3128")
		}
		if got := lent(); got != tt.before {
			t.Errorf("CI_NET=%s: before the test a proxy is lent: %v, want %v", tt.net, got, tt.before)
		}
		run.Enter("test")
		if err := r.test(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := lent(); got != tt.test {
			t.Errorf("CI_NET=%s: in the test a proxy is lent: %v, want %v", tt.net, got, tt.test)
		}
	}
}

// A run that another executor's makes needless is gone before others are told that
// it is, and one that is cancelled while it waits is not begun.
func TestSubmitWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		id   string // of the run that came from elsewhere
	}{{"replayed", "aaaaaaaaaaaa.1"}, {"cancelled", ""}} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := store.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			released := 0
			e := &Executor{Store: s, Context: t.Context(), Queue: new(Queue)}
			await := func(ctx context.Context, own string) (string, func(), error) {
				if tt.id == "" {
					if err := e.Cancel(own); err != nil {
						t.Error(err)
					}
					<-ctx.Done()
				}
				return tt.id, func() {
					released++
					if _, err := s.Get(own); err == nil {
						t.Errorf("%s is still there when it is released", own)
					}
				}, context.Cause(ctx)
			}
			e.Seek = func(*repo.Repo, ci.Attrs, *config.Config) Seeker { return waiter(await) }
			id, err := e.Submit(t.Context(), Request{Repo: new(repo.Repo), Commit: "0123456789abcdef0123456789abcdef01234567", Targets: []string{"test"}, Config: new(config.Config)})
			if id != tt.id || (err == nil) != (tt.id != "") || err != nil && !strings.Contains(err.Error(), "cancelled") {
				t.Errorf("Submit = %q, %v, want %q", id, err, tt.id)
			}
			if released != 1 {
				t.Errorf("released %d times, want 1", released)
			}
			for r := range s.Runs() {
				t.Errorf("a run %s %s was left", r.ID, r.Status)
			}
		})
	}
}

// A waiter is a Seeker that finds nothing at once.
type waiter func(ctx context.Context, own string) (string, func(), error)

func (w waiter) Replay(context.Context) (string, error)                        { return "", nil }
func (w waiter) Await(ctx context.Context, own string) (string, func(), error) { return w(ctx, own) }

// A run that was queued when its process died asks again whose turn it is, as the one
// that it waited for may still go on. One that is to run whatever others have does not.
func TestResumeWaits(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprintf("force=%v", force), func(t *testing.T) {
			dir := t.TempDir()
			old, req := newQueue(t, dir)
			req.Force = force
			run, _, err := old.create(req, replay.Key(req.Config, req.Commit, req.Tree, req.Targets), !force)
			if err != nil {
				t.Fatal(err)
			}
			old.Store.Close() // as after a kill

			var awaited []string
			released := 0
			e := openExecutor(t, dir, req.Repo, req.Config)
			e.Seek = func(*repo.Repo, ci.Attrs, *config.Config) Seeker {
				return waiter(func(_ context.Context, own string) (string, func(), error) {
					awaited = append(awaited, own)
					return "aaaaaaaaaaaa.1", func() { released++ }, nil
				})
			}
			if err := e.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			e.Close()
			var left []string
			for r := range e.Store.Runs() {
				left = append(left, r.ID+" "+r.State)
			}
			want, wantLeft := []string{run.ID()}, []string(nil)
			if force {
				want, wantLeft = nil, []string{run.ID() + " error"}
			}
			if !slices.Equal(awaited, want) || released != len(want) || !slices.Equal(left, wantLeft) {
				t.Errorf("%q asked for their turn, %d were released and %q are left, want %q, %d and %q", awaited, released, left, want, len(want), wantLeft)
			}
		})
	}
}

// Every step of a run has a function here, and no other name has.
func TestSteps(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(steps)), slices.Sorted(slices.Values(ci.Steps)); !slices.Equal(got, want) {
		t.Errorf("the executor has the steps %q, want %q", got, want)
	}
}

// A flood is a machine whose commands answer by what a test gives for their last
// argument, over and over again if there is a repeat.
type flood struct {
	double
	answers map[string]answer
}

type answer struct {
	text   string
	repeat int // how often the text comes
	code   int
}

func (m *flood) Run(_ context.Context, c vm.Cmd) (vm.Exit, error) {
	a := m.answers[c.Args[len(c.Args)-1]]
	for range max(a.repeat, 1) {
		if _, err := io.WriteString(c.Stdout, a.text); err != nil {
			return vm.Exit{}, err
		}
	}
	return vm.Exit{Code: a.code}, nil
}

// Every answer of a machine has a limit. A run whose machine passes one has failed, and
// a line of its log says what is too long.
func TestAnswers(t *testing.T) {
	image := func(path string) string {
		return `[{"Id":"` + strings.Repeat("0", 64) + `","Config":{"Env":["PATH=` + path + `"]}}]`
	}
	for _, tt := range []struct {
		name    string
		answers map[string]answer
		ask     func(*activeRun, context.Context) error
		want    string // the error; empty for none
	}{
		{"mkfile", map[string]answer{"ARTIFACTS": {"x", maxAnswer + 1, 0}}, (*activeRun).prepareRuntime,
			"what mk lists of the mkfile, its targets and $ARTIFACTS, is over 4194304 bytes"},
		{"mkfile, endless", map[string]answer{"ARTIFACTS": {strings.Repeat("x", 1<<16), 1 << 40, 0}}, (*activeRun).prepareRuntime,
			"what mk lists of the mkfile, its targets and $ARTIFACTS, is over 4194304 bytes"},
		{"mk has said it", map[string]answer{"ARTIFACTS": {"", 0, 1}}, (*activeRun).prepareRuntime, ""},
		{"mk was killed", map[string]answer{"ARTIFACTS": {"", 0, 137}}, (*activeRun).prepareRuntime,
			"mk was ended as it read the mkfile (status 137): it may need more than CI_MEMORY"},
		{"name of the image", map[string]answer{containerFile: {"x", 1025, 0}}, inspect, "CONTAINERIMAGE is over 1024 bytes"},
		{"image", map[string]answer{containerFile: {"x", 1, 0}, "x": {"[{},", 1 << 40, 0}}, inspect, "what podman says of the image x is over 4194304 bytes"},
		{"image's settings", map[string]answer{containerFile: {"x", 1, 0}, "x": {image(strings.Repeat("/x:", 1<<16)), 1, 0}}, inspect,
			"the PATH and the working directory of the image x are over 65536 bytes"},
		{"image for another machine", map[string]answer{containerFile: {"x", 1, 0}, "x": {`[{"Os":"linux","Architecture":"s390x"}]`, 1, 0}}, inspect,
			"the image x is for linux/s390x and the machine is linux/" + runtime.GOARCH + ": build or pull it with --platform=linux/" + runtime.GOARCH},
		{"relative directory", map[string]answer{containerFile: {"x", 1, 0}, "x": {`[{"Config":{"WorkingDir":"../srv"}}]`, 1, 0}}, inspect,
			"the working directory \"../srv\" of the image x is not absolute: set its WORKDIR to a path from /"},
		{"name of a socket", map[string]answer{"outbox": {"x", 8<<10 + 1, 3}}, (*activeRun).collect, "the name of a socket is over 8192 bytes"},
	} {
		m := &flood{answers: tt.answers}
		r := &activeRun{e: &Executor{}, cfg: &config.Config{}, m: m, mask: newMask(nil)}
		var log bytes.Buffer
		r.stdout, r.stderr = r.mask.writer(&log), r.mask.writer(&log)
		state, code := r.outcome(t.Context(), tt.ask(r, t.Context()))
		r.stderr.Flush()
		want := tt.want
		if want != "" {
			want = "9ci: " + want + "\n"
		}
		if state != "failed" || code != 1 || log.String() != want {
			t.Errorf("%s: %s %d, the log is %.200q, want failed 1, %q", tt.name, state, code, log.String(), want)
		}
	}
}

func inspect(r *activeRun, ctx context.Context) error {
	_, err := r.inspect(ctx)
	return err
}

// Of what podman says only the image that was asked for takes memory.
func TestImageMany(t *testing.T) {
	m := &flood{answers: map[string]answer{containerFile: {"x", 1, 0}, "x": {"[" + strings.Repeat("{},", maxAnswer/3-2) + "{}]", 1, 0}}}
	r := &activeRun{e: &Executor{}, cfg: &config.Config{}, m: m, mask: newMask(nil)}
	r.stdout, r.stderr = r.mask.writer(io.Discard), r.mask.writer(io.Discard)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := inspect(r, t.Context())
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; err == nil || n > 16*maxAnswer {
		t.Errorf("%v, and took %d bytes, want an error and less than %d", err, n, 16*maxAnswer)
	}
}
