package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/cmd/internal/config"
	"9ci/vm"
)

// A clock counts only while it runs, and from zero after a reset.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		rang := make(chan time.Duration, 1)
		c := newClock(time.Minute, func() { rang <- time.Since(begin) })
		defer c.stop()
		wait := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		c.start()
		wait(50 * time.Second)
		c.stop()
		wait(time.Hour)
		c.start()
		c.start()
		wait(9 * time.Second)
		c.reset()
		wait(59 * time.Second)
		select {
		case d := <-rang:
			t.Fatalf("it rang after %v", d)
		default:
		}
		if got, want := <-rang, time.Hour+119*time.Second; got != want {
			t.Errorf("it rang after %v, want %v", got, want)
		}
	})
	var none *clock
	none.start()
	none.reset()
	none.stop()
}

// A wild machine takes no notice of the end of a context. Its commands end when it is
// killed, or when what they write is not taken.
type wild struct {
	double
	mk     func(stdout io.Writer) error // what mk does first; after an error of it mk ends
	began  chan struct{}                // closed when mk goes on
	killed chan struct{}
	once   sync.Once
}

func (m *wild) Kill() { m.once.Do(func() { close(m.killed) }) }

func (m *wild) Run(_ context.Context, c vm.Cmd) (vm.Exit, error) {
	switch {
	case slices.Contains(c.Args, "mkquery"):
		io.WriteString(c.Stdout, `{"Targets":["test"]}`)
	case c.Args[0] == plan9Bin+"/mk":
		io.WriteString(c.Stderr, "half a line")
		if err := m.mk(c.Stdout); err != nil {
			return vm.Exit{Code: 137}, err
		}
		close(m.began)
		<-m.killed
		return vm.Exit{}, errors.New("the machine is gone")
	}
	return vm.Exit{}, nil
}

// Nothing that a machine does delays the end of its run: a cancel and each limit kill
// it, and what it wrote until then is kept. The reason is a line of its own.
func TestBounds(t *testing.T) {
	say := func(w io.Writer) error {
		_, err := io.WriteString(w, "said\n")
		return err
	}
	flood := func(w io.Writer) error {
		for {
			if _, err := io.WriteString(w, "flood\n"); err != nil {
				return err
			}
		}
	}
	for _, tt := range []struct {
		name   string
		config config.Config
		mk     func(io.Writer) error
		state  string
		stdout string // what the test had said by then, where that is certain
		why    string
	}{
		{"cancel", config.Config{}, say, "cancelled 130", "said\n", "cancelled by a message to ctl"},
		{"timeout", config.Config{Timeout: 100 * time.Millisecond}, say, "error 125", "", "the run took longer than 100ms: CI_TIMEOUT raises that"},
		{"idle", config.Config{Idle: 100 * time.Millisecond}, say, "error 125", "", "the run said nothing for 100ms: CI_IDLE raises that"},
		{"output", config.Config{Output: 20}, flood, "error 125", "flood\nflood\nflood\nfl", "the run wrote more than 20 bytes to stdout: say less, leave it as an artifact, or raise CI_OUTPUT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &wild{mk: tt.mk, began: make(chan struct{}), killed: make(chan struct{})}
			tt.config.Net = "all"
			e, req := newExecutor(t, t.TempDir(), &tt.config)
			e.Start = func(context.Context, vm.Config) (Machine, error) { return m, nil }
			id, err := e.Submit(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if tt.name == "cancel" {
				<-m.began
				if err := e.Cancel(id); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Wait(id); err != nil {
				t.Fatal(err)
			}
			run, err := e.Store.Get(id)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s %d", run.State, run.Code); got != tt.state {
				t.Errorf("the run is %s, want %s", got, tt.state)
			}
			// A limit of time may be passed in any step.
			logs, err := filepath.Glob(filepath.Join(run.Dir, "step", "*", "log"))
			if err != nil {
				t.Fatal(err)
			}
			var said []byte
			for _, name := range append(logs, filepath.Join(run.Dir, "stdout")) {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				said = append(said, b...)
			}
			if !strings.Contains(string(said), "stderr F 9ci: "+tt.why+"\n") || !strings.HasSuffix(string(said), tt.stdout) {
				t.Errorf("the run said %q, want %q and the stdout %q", said, tt.why, tt.stdout)
			}
		})
	}
}

// No variable of CI_ENV takes the place of CI=true, or of our programs.
func TestFixedEnv(t *testing.T) {
	r := &activeRun{e: &Executor{}, cfg: &config.Config{Env: []string{"CI=false", "PATH=/opt/bin:/usr/bin", "CONTAINERIMAGE=x"}},
		base: container{name: "image", path: "/bin", dir: "/src"}}
	last := make(map[string]string)
	for _, v := range r.env() {
		name, value, _ := strings.Cut(v, "=")
		last[name] = value
	}
	if last["CI"] != "true" || last["PATH"] != guestPath+":/opt/bin:/usr/bin" {
		t.Errorf("CI is %q and PATH %q in the core OS", last["CI"], last["PATH"])
	}
	for _, a := range r.podmanRun([]string{"test"}, false).Args {
		if v, ok := strings.CutPrefix(a, "--env="); ok {
			name, value, _ := strings.Cut(v, "=")
			last[name] = value
		}
	}
	if last["CI"] != "true" || last["PATH"] != "/bin:"+plan9Bin+":/opt/bin:/usr/bin" || last["CONTAINERIMAGE"] != "image" {
		t.Errorf("CI is %q, PATH %q and CONTAINERIMAGE %q in the container", last["CI"], last["PATH"], last["CONTAINERIMAGE"])
	}
}
