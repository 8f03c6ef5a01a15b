package executor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"9ci/cmd/internal/config"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// A player is a machine whose commands do what a test says, by their last argument. It
// notes what is asked of it.
type player struct {
	double
	do map[string]func(ctx context.Context, c vm.Cmd) int // an exit status

	mu    sync.Mutex // guards asked
	asked []string
}

func (m *player) Run(ctx context.Context, c vm.Cmd) (vm.Exit, error) {
	last := c.Args[len(c.Args)-1]
	m.mu.Lock()
	m.asked = append(m.asked, last)
	m.mu.Unlock()
	code := 0
	if f := m.do[last]; f != nil {
		code = f(ctx, c)
	}
	if ctx.Err() != nil {
		return vm.Exit{}, context.Cause(ctx)
	}
	return vm.Exit{Code: code}, nil
}

// untilSignal is a service that ends when it is told to.
func untilSignal(ctx context.Context, c vm.Cmd) int {
	fmt.Fprintln(c.Stdout, "listening with hunter2hunter2")
	select {
	case s := <-c.Signals:
		fmt.Fprintln(c.Stderr, s)
		return 128 + int(s)
	case <-ctx.Done():
		return 0
	}
}

func exits(code int, say string) func(context.Context, vm.Cmd) int {
	return func(_ context.Context, c vm.Cmd) int {
		fmt.Fprintln(c.Stdout, say)
		return code
	}
}

// A test begins when its services are ready, and they end after it; a service that is not
// ready fails the run, and what it and mk said is in the log of the test.
func TestServices(t *testing.T) {
	tries, asked := 0, 0
	soon := func(context.Context, vm.Cmd) int { // the third time
		if tries++; tries < 3 {
			return 1
		}
		return 0
	}
	hang := func(ctx context.Context, c vm.Cmd) int { <-ctx.Done(); return 0 }
	stubborn := func(ctx context.Context, c vm.Cmd) int { <-c.Signals; <-ctx.Done(); return 0 }
	type do = map[string]func(context.Context, vm.Cmd) int
	for _, tt := range []struct {
		name    string
		targets []string
		do      do
		state   string // of the test
		took    time.Duration
		says    string // a part of the test's log
		logs    string // of the services
	}{
		{name: "none", targets: []string{"test", "service/db.o", "service/a/b/c", "service/x/ready"}, state: "passed"},
		{name: "ready at once", targets: []string{"service/db"}, do: do{"service/db": untilSignal}, state: "passed",
			logs: "db: stdout F listening with ***|stderr F terminated|"},
		{name: "ready after a while", targets: []string{"service/db", "service/db/ready"}, state: "passed", took: 2 * readyPoll,
			do:   do{"service/db": untilSignal, "service/db/ready": soon},
			logs: "db: stdout F listening with ***|stderr F terminated|"},
		{name: "never ready", targets: []string{"service/db", "service/db/ready", "service/web"}, state: "failed", took: readyTime,
			do:   do{"service/db": untilSignal, "service/db/ready": exits(1, "no socket"), "service/web": untilSignal},
			says: "9ci: service/db was not ready in 1m0s; its status is 143|ci/ID/service/db/log ends with|\tlistening with ***|\tterminated|mk service/db/ready ends with|\tno socket|",
			logs: "db: stdout F listening with ***|stderr F terminated|web: stdout F listening with ***|stderr F terminated|"},
		{name: "question hangs", targets: []string{"service/db", "service/db/ready"}, state: "failed", took: readyTime,
			do:   do{"service/db": untilSignal, "service/db/ready": hang},
			says: "9ci: service/db was not ready in 1m0s; its status is 143|ci/ID/service/db/log ends with|\tlistening with ***|\tterminated|mk service/db/ready says nothing|",
			logs: "db: stdout F listening with ***|stderr F terminated|"},
		{name: "fails at the start", targets: []string{"service/db", "service/db/ready"}, state: "failed",
			do:   do{"service/db": exits(3, "no such file"), "service/db/ready": hang},
			says: "9ci: service/db ended before it was ready; its status is 3|ci/ID/service/db/log ends with|\tno such file|mk service/db/ready says nothing|",
			logs: "db: stdout F no such file|"},
		{name: "fails as it is asked", targets: []string{"service/db", "service/db/ready"}, state: "failed", took: time.Second,
			do: do{"service/db": func(context.Context, vm.Cmd) int {
				time.Sleep(time.Second) // of the synctest bubble
				return 3
			}, "service/db/ready": func(ctx context.Context, c vm.Cmd) int {
				if asked++; asked > 1 {
					return hang(ctx, c)
				}
				return exits(1, "no socket")(ctx, c)
			}},
			says: "9ci: service/db ended before it was ready; its status is 3|ci/ID/service/db/log says nothing|mk service/db/ready ends with|\tno socket|",
			logs: "db: "},
		{name: "fails beside the test", targets: []string{"service/db"}, state: "passed",
			do: do{"service/db": exits(3, "out of memory"), "test": func(context.Context, vm.Cmd) int {
				time.Sleep(time.Second) // of the synctest bubble
				return 0
			}}, took: time.Second,
			says: "9ci: service/db ended while the test ran: its status is 3|ci/ID/service/db/log ends with|\tout of memory|",
			logs: "db: stdout F out of memory|"},
		{name: "does not end", targets: []string{"service/db"}, do: do{"service/db": stubborn}, state: "passed", took: endTime, logs: "db: "},
		{name: "test fails", targets: []string{"service/db"}, do: do{"service/db": untilSignal, "test": exits(1, "not ok")}, state: "failed",
			logs: "db: stdout F listening with ***|stderr F terminated|", says: "not ok|"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, m, log := newServed(t, tt.targets, tt.do)
				start := time.Now()
				state, _ := r.outcome(t.Context(), r.test(t.Context()))
				r.stderr.Flush()
				if took := time.Since(start); state != tt.state || took != tt.took {
					t.Errorf("%s in %v, want %s in %v", state, took, tt.state, tt.took)
				}
				if got := strings.ReplaceAll(strings.ReplaceAll(log.String(), "\n", "|"), r.run.ID(), "ID"); got != tt.says {
					t.Errorf("the test's log is\n%q, want\n%q", got, tt.says)
				}
				if err := r.run.Seal(t.Context(), state, 0, nil); err != nil {
					t.Error(err)
				}
				if got := serviceLogs(t, r); got != tt.logs {
					t.Errorf("the services' logs are\n%q, want\n%q", got, tt.logs)
				}
				if ran, want := slices.Contains(m.asked, "test"), tt.state == "passed" || tt.name == "test fails"; ran != want {
					t.Errorf("the machine was asked for %q", m.asked)
				}
			})
		})
	}
}

// When the run is cancelled its services do not hold it up.
func TestServicesCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		r, _, log := newServed(t, []string{"service/db"}, map[string]func(context.Context, vm.Cmd) int{
			"service/db": func(ctx context.Context, c vm.Cmd) int { <-ctx.Done(); return 0 },
			"test": func(ctx context.Context, c vm.Cmd) int {
				cancel(Signalled{syscall.SIGINT})
				synctest.Wait() // the service has ended
				return 0
			},
		})
		start := time.Now()
		state, code := r.outcome(ctx, r.test(ctx))
		if took := time.Since(start); state != "cancelled" || code != 130 || took != 0 {
			t.Errorf("%s %d in %v, want cancelled 130 at once", state, code, took)
		}
		r.stderr.Flush()
		if strings.Contains(log.String(), "service/db") {
			t.Errorf("the log is %q, and blames the service", log)
		}
		r.run.Seal(t.Context(), state, code, nil)
	})
}

// A service that floods its log ends the run as a test does that floods its output, and
// one that goes on talking does not keep a test that hangs.
func TestServiceBounds(t *testing.T) {
	hang := func(ctx context.Context, _ vm.Cmd) int { <-ctx.Done(); return 0 }
	for _, tt := range []struct {
		name   string
		config config.Config
		every  time.Duration // from one word of the service to the next
		why    string
		log    string
	}{
		{"flood", config.Config{Output: 16}, 0, "the run wrote more than 16 bytes to stdout of service/db: say less, leave it as an artifact, or raise CI_OUTPUT",
			"db: stdout F !!!!!|stdout F !!!!!|stdout P !!!!|"},
		{"idle", config.Config{Idle: 10 * time.Second}, 9 * time.Second, "idle", "db: stdout F !!!!!|stdout F !!!!!|"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				r, _, _ := newServed(t, []string{"service/db"}, map[string]func(context.Context, vm.Cmd) int{
					"service/db": func(ctx context.Context, c vm.Cmd) int {
						for ctx.Err() == nil {
							if _, err := fmt.Fprintln(c.Stdout, "!!!!!"); err != nil {
								return 137
							}
							select {
							case <-time.After(tt.every):
							case <-ctx.Done():
							}
						}
						return 0
					},
					"test": hang,
				})
				r.cfg.Output, r.end = tt.config.Output, cancel
				r.idle = newClock(tt.config.Idle, func() { cancel(bound{"idle"}) })
				r.idle.start()
				if state, code := r.outcome(ctx, r.test(ctx)); state != "error" || code != 125 || context.Cause(ctx).Error() != tt.why {
					t.Errorf("%s %d: %v, want error 125: %s", state, code, context.Cause(ctx), tt.why)
				}
				r.run.Seal(t.Context(), "error", 125, nil)
				if got := serviceLogs(t, r); got != tt.log {
					t.Errorf("the services' logs are\n%q, want\n%q", got, tt.log)
				}
			})
		})
	}
}

// There are no more services than a run may have.
func TestServicesMany(t *testing.T) {
	var targets []string
	for i := range ci.MaxServices + 1 {
		targets = append(targets, fmt.Sprint("service/s", i))
	}
	r, m, log := newServed(t, targets, nil)
	state, _ := r.outcome(t.Context(), r.test(t.Context()))
	r.stderr.Flush()
	if want := "9ci: the mkfile has 17 targets service/NAME: a test may have 16\n"; state != "failed" || log.String() != want || len(m.asked) > 0 {
		t.Errorf("%s, the log is %q, the machine was asked for %q; want failed, %q", state, log, m.asked, want)
	}
}

// newServed returns a run in its step test, of a mkfile with targets. Its log does not go
// into its store.
func newServed(t *testing.T, targets []string, do map[string]func(context.Context, vm.Cmd) int) (*activeRun, *player, *bytes.Buffer) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	run, err := s.Create("0123456789abcdef0123456789abcdef01234567")
	if err != nil {
		t.Fatal(err)
	}
	run.Enter("test")
	m := &player{do: do}
	r := &activeRun{e: &Executor{Store: s}, req: Request{Targets: []string{"test"}}, cfg: &config.Config{Net: "build"}, run: run, m: m,
		mkfile: &mkfile{Targets: targets}, mask: newMask([]string{"TOKEN=hunter2hunter2"})}
	log := new(bytes.Buffer)
	r.stdout, r.stderr = r.mask.writer(log), r.mask.writer(log)
	return r, m, log
}

// serviceLogs returns the lines of the logs of the sealed run's services.
func serviceLogs(t *testing.T, r *activeRun) string {
	t.Helper()
	var b strings.Builder
	e, err := r.e.Store.Get(r.run.ID())
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(e.Dir, "service", "*", "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(&b, filepath.Base(filepath.Dir(name))+": ")
		for line := range strings.Lines(string(text)) {
			_, said, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "Z ")
			b.WriteString(said + "|")
		}
	}
	return b.String()
}
