package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own double: a machine that is a process.
const asGuest = "9CI_TEST_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(asGuest) == "" {
		os.Exit(m.Run())
	}
	c, err := net.FileConn(os.Stdin)
	if err == nil {
		s := Server{Env: []string{"PATH=" + os.Getenv("PATH"), "WHO=guest"}}
		err = s.Serve(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// newGuest starts a guest and a client of it, booted.
func newGuest(t testing.TB, idle time.Duration) (*Client, *os.Process) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), asGuest+"=1")
	cmd.Stdin, cmd.Stderr = theirs, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := NewClient(conn, idle)
	t.Cleanup(func() {
		c.Close()
		cmd.Process.Signal(syscall.SIGCONT)
		if err := cmd.Wait(); err != nil && !t.Failed() && cmd.ProcessState.Exited() {
			t.Errorf("guest: %v\n%s", err, &stderr)
		}
	})
	if err := errors.Join(c.Hello(t.Context()), c.Prepare(t.Context(), Prepare{})); err != nil {
		t.Fatal(err)
	}
	if err := c.Boot(t.Context(), Boot{Env: []string{"BOOT=yes"}}); err != nil {
		t.Fatal(err)
	}
	return c, cmd.Process
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestRun(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	dir := t.TempDir()
	for _, test := range []struct {
		name           string
		cmd            Cmd
		exit           Exit
		stdout, stderr string
	}{
		{"status", Cmd{Args: sh("exit 3")}, Exit{Code: 3}, "", ""},
		{"signal", Cmd{Args: sh("kill -TERM $$")}, Exit{Code: 128 + 15, Signal: 15}, "", ""},
		{"streams", Cmd{Args: sh("echo out; echo err >&2")}, Exit{}, "out\n", "err\n"},
		{"dir", Cmd{Args: sh("pwd"), Dir: dir}, Exit{}, dir + "\n", ""},
		{"no dir", Cmd{Args: sh("pwd")}, Exit{}, "/\n", ""},
		{"env", Cmd{Args: sh("echo $WHO $BOOT $A $B"), Env: []string{"A=1", "B=2", "A=3", "WHO=cmd"}}, Exit{}, "cmd yes 3 2\n", ""},
		{"no input", Cmd{Args: []string{"cat"}}, Exit{}, "", ""},
		{"input", Cmd{Args: []string{"cat"}, Stdin: strings.NewReader("in\n")}, Exit{}, "in\n", ""},
		{"input that nobody reads", Cmd{Args: sh("exec <&-; echo done"), Stdin: bytes.NewReader(make([]byte, 3*Window))}, Exit{}, "done\n", ""},
		{"background", Cmd{Args: sh("sleep 60 & echo gone")}, Exit{}, "gone\n", ""},
		{"not a terminal", Cmd{Args: sh("test -t 0 || test -t 1 || echo no")}, Exit{}, "no\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			test.cmd.Stdout, test.cmd.Stderr = &stdout, &stderr
			exit, err := c.Run(t.Context(), test.cmd)
			if err != nil || exit != test.exit || stdout.String() != test.stdout || stderr.String() != test.stderr {
				t.Errorf("Run = %+v, %v, stdout %q, stderr %q; want %+v, %q, %q",
					exit, err, &stdout, &stderr, test.exit, test.stdout, test.stderr)
			}
		})
	}
}

func TestRunErrors(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cmd  Cmd
		want error
	}{
		{Cmd{Args: []string{"no-such-program"}}, iofs.ErrNotExist},
		{Cmd{Args: []string{"/no/such/program"}}, iofs.ErrNotExist},
		{Cmd{Args: []string{file}}, iofs.ErrPermission},
		{Cmd{Args: []string{"true"}, Dir: "/no/such/dir"}, iofs.ErrNotExist},
		{Cmd{Args: []string{"true"}, Dir: file}, syscall.ENOTDIR},
		{Cmd{}, syscall.EINVAL},
		{Cmd{Args: []string{"true", strings.Repeat("x", MaxSize)}}, syscall.E2BIG},
		{Cmd{Args: []string{"true", strings.Repeat("x", 256<<10)}}, syscall.E2BIG}, // the kernel's own limit
		{Cmd{Args: []string{"/bin/true\x00"}}, syscall.EINVAL},
	} {
		if _, err := c.Run(t.Context(), test.cmd); !errors.Is(err, test.want) {
			t.Errorf("Run(%.40q in %q) = %v, want %v", test.cmd.Args, test.cmd.Dir, err, test.want)
		}
	}
	// None of these hurt the connection.
	if exit, err := c.Run(t.Context(), Cmd{Args: []string{"true"}}); err != nil || exit != (Exit{}) {
		t.Errorf("Run(true) = %+v, %v", exit, err)
	}
}

// A command whose output nobody takes holds up no other, and neither side
// keeps much of it; ended, it takes its process group along.
func TestSlowReader(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	ended := make(chan error)
	go func() {
		_, err := c.Run(ctx, Cmd{Args: sh("sh -c 'echo $$ >" + pids + "; exec yes' & wait"), Stdout: w})
		ended <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var out bytes.Buffer
		if _, err := c.Run(t.Context(), Cmd{Args: sh("echo hello"), Stdout: &out}); err != nil || out.String() != "hello\n" {
			t.Fatalf("beside a slow reader: %q, %v", &out, err)
		}
	}
	enough := errors.New("enough")
	cancel(enough)
	r.Close() // a Write that blocks is the caller's to end
	if err := <-ended; !errors.Is(err, enough) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Run = %v, want %v", err, enough)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	waitGone(t, strings.TrimSpace(string(b)))
}

// waitGone waits until a process of this system is gone.
func waitGone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s lives on: %s", pid, b)
		}
		runtime.Gosched()
	}
}

func TestGrace(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	for _, test := range []struct {
		grace time.Duration
		want  Exit
	}{
		{time.Minute, Exit{Code: 5}},
		{0, Exit{Code: 128 + 9, Signal: 9}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		exit, err := c.Run(ctx, Cmd{
			Args:   sh("trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"),
			Stdout: writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }),
			Grace:  test.grace,
		})
		if exit != test.want || !errors.Is(err, context.Canceled) {
			t.Errorf("grace %v: %+v, %v, want %+v, %v", test.grace, exit, err, test.want, context.Canceled)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestWriterFails(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	full := errors.New("full")
	exit, err := c.Run(t.Context(), Cmd{
		Args:   []string{"yes"},
		Stdout: writerFunc(func([]byte) (int, error) { return 0, full }),
	})
	if err != full || exit.Signal != syscall.SIGKILL {
		t.Errorf("Run = %+v, %v, want killed, %v", exit, err, full)
	}
}

func TestSignals(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	signals := make(chan syscall.Signal, 1)
	exit, err := c.Run(t.Context(), Cmd{
		Args:    sh("trap 'exit 6' USR1; echo ready; while :; do sleep 0.1; done"),
		Stdout:  writerFunc(func(p []byte) (int, error) { signals <- syscall.SIGUSR1; return len(p), nil }),
		Signals: signals,
	})
	if err != nil || exit.Code != 6 {
		t.Errorf("Run = %+v, %v, want 6", exit, err)
	}
}

func TestTTY(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	resize := make(chan Size, 1)
	resize <- Size{Rows: 30, Cols: 100}
	r, w := io.Pipe()
	var out bytes.Buffer
	changed := false
	exit, err := c.Run(t.Context(), Cmd{
		Args:   sh("stty size; stty -a | grep -ow '.\\?iutf8'; test -t 0 && test -t 2 && echo tty; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.1; done"),
		TTY:    true,
		Resize: resize,
		Stdin:  r,
		Stdout: writerFunc(func(p []byte) (int, error) {
			out.Write(p)
			if bytes.Contains(out.Bytes(), []byte("ready")) && !changed {
				changed = true
				resize <- Size{Rows: 40, Cols: 120}
			}
			return len(p), nil
		}),
	})
	w.Close()
	want := "30 100\r\niutf8\r\ntty\r\nready\r\n40 120\r\n"
	if err != nil || exit.Code != 4 || out.String() != want {
		t.Errorf("Run = %+v, %v, %q, want 4, %q", exit, err, &out, want)
	}

	// A ^C at the terminal, once cat has repeated a line: sh has its own
	// ideas of when a ^C is meant for it.
	r, w = io.Pipe()
	out.Reset()
	go io.WriteString(w, "x\n")
	exit, err = c.Run(t.Context(), Cmd{
		Args:  []string{"cat"},
		TTY:   true,
		Stdin: r,
		Stdout: writerFunc(func(p []byte) (int, error) {
			if out.Write(p); out.String() == "x\r\nx\r\n" {
				go io.WriteString(w, "\x03")
			}
			return len(p), nil
		}),
	})
	w.Close()
	if err != nil || exit.Signal != syscall.SIGINT {
		t.Errorf("^C: %+v, %v, want %v", exit, err, syscall.SIGINT)
	}
}

// As many at once as there may be, and one more.
func TestMaxCommands(t *testing.T) {
	c, _ := newGuest(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	var wg, ready sync.WaitGroup
	for range MaxCommands {
		ready.Add(1)
		wg.Go(func() {
			if _, err := c.Run(ctx, Cmd{
				Args:   sh("echo; exec sleep 60"),
				Stdout: writerFunc(func(p []byte) (int, error) { ready.Done(); return len(p), nil }),
			}); !errors.Is(err, context.Canceled) {
				t.Errorf("Run = %v, want %v", err, context.Canceled)
			}
		})
	}
	ready.Wait()
	if _, err := c.Run(t.Context(), Cmd{Args: []string{"true"}}); err == nil {
		t.Errorf("more than %d commands at once: no error", MaxCommands)
	}
	cancel()
	wg.Wait()
	if _, err := c.Run(t.Context(), Cmd{Args: []string{"true"}}); err != nil {
		t.Error(err)
	}
}

// A guest that dies or stalls under a command.
func TestGuestLost(t *testing.T) {
	for _, test := range []struct {
		signal syscall.Signal
		want   error
	}{
		{syscall.SIGKILL, ErrHungUp},
		{syscall.SIGSTOP, ErrStalled},
	} {
		c, p := newGuest(t, 50*time.Millisecond)
		_, err := c.Run(t.Context(), Cmd{
			Args:   sh("echo; sleep 60"),
			Stdout: writerFunc(func(b []byte) (int, error) { p.Signal(test.signal); return len(b), nil }),
		})
		if !errors.Is(err, test.want) || !errors.Is(c.Err(), test.want) {
			t.Errorf("%v: Run = %v, Err = %v, want %v", test.signal, err, c.Err(), test.want)
		}
		if _, err := c.Run(t.Context(), Cmd{Args: []string{"true"}}); !errors.Is(err, test.want) {
			t.Errorf("%v: Run later = %v, want %v", test.signal, err, test.want)
		}
	}
}

// A guest that is alive and silent is left alone.
func TestIdle(t *testing.T) {
	const idle = time.Second
	c, _ := newGuest(t, idle)
	if _, err := c.Run(t.Context(), Cmd{Args: []string{"sleep", "2.5"}}); err != nil {
		t.Error(err)
	}
}
