package vm_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"9ci/vm"
	"9ci/vm/guest"
)

// double is a machine that is a process: its qemu is this test binary,
// which answers QMP and runs the guest's side of the protocol itself.
func double(t testing.TB, mode string) vm.Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := vm.Needs()[0].Name
	if err := os.Symlink(exe, filepath.Join(dir, program)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(dir, "mode"), []byte(mode), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOKEN", "a qemu that knows this tells it")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("contents"), 0o644); err != nil {
		t.Fatal(err)
	}
	return vm.Config{
		Image: &vm.Image{Arch: runtime.GOARCH, Kernel: file, Root: file, Modules: file},
		Guest: file, Mk: file, Accel: "tcg", CPUs: 1, Cold: true, Log: slog.New(slog.DiscardHandler),
	}
}

// fakeQEMU is the double's main.
func fakeQEMU() int {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), "mode")) // what this one does
	if err != nil || os.Getenv("TOKEN") != "" {
		panic(fmt.Sprint("TOKEN=", os.Getenv("TOKEN"), err))
	}
	mode := string(b)
	args := strings.Join(os.Args, " ")
	if mode == "dies" {
		fmt.Fprintln(os.Stderr, "cannot set up guest memory: Cannot allocate memory")
		return 1
	}
	if !strings.Contains(args, "id=agent") { // it is KVM's probe
		return 0
	}
	fd := func(name string) net.Conn {
		m := regexp.MustCompile(`id=` + name + `,fd=(\d+)`).FindStringSubmatch(args)
		n, _ := strconv.Atoi(m[1])
		f := os.NewFile(uintptr(n), name)
		c, err := net.FileConn(f)
		if err != nil {
			panic(err)
		}
		f.Close()
		return c
	}
	agent, monitor := fd("agent"), fd("monitor")
	switch mode {
	case "panics":
		fmt.Println("[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs")
		return 0
	case "chats":
		fmt.Println("[    0.1] watchdog: BUG: soft lockup")
		go fakeQMP(monitor, mode)
	case "silent":
		fmt.Println("[    0.1] stuck here")
		io.Copy(io.Discard, monitor)
	case "no qmp":
		go io.Copy(io.Discard, monitor)
	default:
		go fakeQMP(monitor, mode)
	}
	switch mode {
	case "lies":
		io.WriteString(agent, "HTTP/1.1 400 Bad Request\r\n\r\n")
		select {}
	case "half":
		agent.Close()
		select {}
	}
	s := guest.Server{Env: []string{"PATH=" + os.Getenv("PATH"), "QEMU=" + strconv.Itoa(os.Getpid())}}
	switch mode {
	case "no boot":
		s.Boot = func(guest.Boot) error { return fmt.Errorf("boot: root: %w", syscall.ENODEV) }
	case "no halt":
		s.Halt = func() { select {} }
	}
	if err := s.Serve(agent); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeQMP answers every command, with all that confuses go-qemu: events
// before the first reply, many of them after, and long ones.
func fakeQMP(c net.Conn, mode string) {
	event := func(n int) string {
		return fmt.Sprintf(`{"timestamp":{"seconds":1,"microseconds":2},"event":"NIC_RX_FILTER_CHANGED","data":{"x":"%s"}}`, strings.Repeat("x", n)) + "\r\n"
	}
	io.WriteString(c, `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}`+"\r\n"+event(1))
	dec := json.NewDecoder(c)
	for {
		var command struct{ Execute string }
		if err := dec.Decode(&command); err != nil {
			return
		}
		for i := range 50 {
			io.WriteString(c, event(i*100))
		}
		switch {
		case mode == "qmp refuses" && command.Execute == "set_link":
			io.WriteString(c, `{"error":{"class":"DeviceNotFound","desc":"Device 'net' not found"}}`+"\r\n")
		default:
			io.WriteString(c, `{"return":{}}`+"\r\n")
		}
	}
}

// What a qemu or its guest can do wrong while a machine starts, and what
// is heard of it.
func TestStartFails(t *testing.T) {
	for _, test := range []struct {
		mode string
		want []string
	}{
		{"dies", []string{"qemu: exit status 1", "qemu: cannot set up guest memory"}},
		{"panics", []string{"guest panicked", "Unable to mount root fs"}},
		{"silent", []string{"too slow", "console: [    0.1] stuck here"}},
		{"lies", []string{"guest: message of"}},
		{"half", []string{"guest hung up"}},
		{"no boot", []string{"boot: root: no such device"}},
		{"qmp refuses", []string{"set_link: Device 'net' not found"}},
	} {
		t.Run(test.mode, func(t *testing.T) {
			before := resources(t)
			c := double(t, test.mode)
			ctx := t.Context()
			if test.mode == "silent" {
				var cancel context.CancelCauseFunc
				ctx, cancel = context.WithCancelCause(ctx)
				defer cancel(nil)
				c.Console = writerFunc(func(p []byte) (int, error) { cancel(errors.New("too slow")); return len(p), nil })
			}
			m, err := vm.Start(ctx, c)
			if err == nil {
				m.Kill()
				t.Fatal("Start: no error")
			}
			if got := errors.Is(err, syscall.ENOMEM); got != (test.mode == "dies") {
				t.Errorf("Start: %v: errors.Is %v is %v", err, syscall.ENOMEM, got)
			}
			for _, want := range append(test.want, "vm: start machine: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Start: %v\nwant %q", err, want)
				}
			}
			sameResources(t, before)
		})
	}
}

func TestNoQEMU(t *testing.T) {
	c := double(t, "")
	t.Setenv("PATH", t.TempDir())
	_, err := vm.Start(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "apt-get install qemu-system-") {
		t.Errorf("Start without qemu: %v", err)
	}
}

// A qemu that is killed under a command.
func TestQEMUKilled(t *testing.T) {
	before := resources(t)
	m := start(t, double(t, ""))
	_, err := m.Run(t.Context(), vm.Cmd{
		Args:   []string{"sh", "-c", "echo; exec sleep 60"},
		Stdout: writerFunc(func(p []byte) (int, error) { syscall.Kill(m.Process(), syscall.SIGKILL); return len(p), nil }),
	})
	if err == nil || !strings.Contains(err.Error(), "qemu: signal: killed") {
		t.Errorf("Run: %v, want qemu: signal: killed", err)
	}
	<-m.Done()
	if err := m.Err(); err == nil || !strings.Contains(err.Error(), "vm: machine ended: qemu: signal: killed") {
		t.Errorf("Err: %v", err)
	}
	if err := m.SetNet(t.Context(), true); err == nil {
		t.Error("SetNet of a dead machine: no error")
	}
	sameResources(t, before)
}

// A guest that freezes under a command is given up, with what its console said last.
func TestGuestFreezes(t *testing.T) {
	vm.SetIdleTime(t, 50*time.Millisecond)
	m := start(t, double(t, "chats"))
	_, err := m.Run(t.Context(), vm.Cmd{
		Args:   []string{"sh", "-c", "echo; exec sleep 60"},
		Stdout: writerFunc(func(p []byte) (int, error) { syscall.Kill(m.Process(), syscall.SIGSTOP); return len(p), nil }),
	})
	for _, want := range []string{"guest does not answer", "console: [    0.1] watchdog: BUG: soft lockup"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run: %v, want %q", err, want)
		}
	}
	<-m.Done()
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// holdMachine has this test binary start a machine and wait for its end.
const holdMachine = "9CI_TEST_HOLD"

// Our own death by kill -9 takes qemu along. The parent is this test
// binary once more, running TestHoldMachine.
func TestParentKilled(t *testing.T) {
	double(t, "")
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldMachine$", "-test.v")
	cmd.Env = append(os.Environ(), holdMachine+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	sc := bufio.NewScanner(out)
	for pid == 0 && sc.Scan() {
		fmt.Sscanf(sc.Text(), "qemu is %d", &pid)
	}
	if pid == 0 {
		t.Fatal("no machine started")
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("qemu lives on: %s", b)
		}
	}
}

func TestHoldMachine(t *testing.T) {
	if os.Getenv(holdMachine) == "" {
		t.Skip("it is TestParentKilled's")
	}
	m := start(t, double(t, ""))
	fmt.Printf("qemu is %d\n", m.Process())
	<-m.Done()
}

func TestShutdownFails(t *testing.T) {
	m := start(t, double(t, "no halt"))
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("too slow"))
	defer cancel()
	if err := m.Shutdown(ctx); err == nil || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("Shutdown: %v, want too slow", err)
	}
	<-m.Done()
}

// Many machines, one after another, leave no process, descriptor,
// goroutine or file.
func TestNothingLeft(t *testing.T) {
	c := double(t, "")
	c.Dir = t.TempDir()
	c.Disk, c.Outbox = 64<<20, 64<<20
	before := resources(t)
	for i := range 30 {
		m, err := vm.Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Run(t.Context(), vm.Cmd{Args: []string{"true"}}); err != nil {
			t.Fatal(err)
		}
		if err := m.SetNet(t.Context(), i%2 == 0); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			m.Kill()
		} else if err := m.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Err(); err != nil {
			t.Fatal(err)
		}
	}
	sameResources(t, before)
	if left, _ := os.ReadDir(c.Dir); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

// usage is what this process holds.
type usage struct{ files, goroutines, children int }

func resources(t testing.TB) usage {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	children := 0
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, name := range tasks {
		b, _ := os.ReadFile(name)
		children += len(strings.Fields(string(b)))
	}
	return usage{len(files), runtime.NumGoroutine(), children}
}

// sameResources waits until no more is held than before.
func sameResources(t testing.TB, before usage) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		now := resources(t)
		if now.files <= before.files && now.goroutines <= before.goroutines && now.children <= before.children {
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("held %+v, before %+v\n%s", now, before, buf[:runtime.Stack(buf, true)])
		}
	}
}
