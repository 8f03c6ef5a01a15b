package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"9ci/cmd/internal/executor"
	"9ci/vm"
)

// A hostMachine is a machine whose commands are processes of this host. What they
// name of a machine's files lies below a directory. It is for runs of recipes that
// write no file, and confines nothing.
type hostMachine struct {
	dir    string
	names  *strings.Replacer // from a machine's files to those below dir
	mk     string
	outbox *os.File

	// tests is told of each mk that makes targets of the repository: which, and at
	// what commit.
	tests func(commit, targets string)

	ctx  context.Context
	kill context.CancelFunc
}

// startHostMachine is the Start of an executor.
func startHostMachine(c vm.Config, tests func(commit, targets string)) (executor.Machine, error) {
	source := c.Shares[0]
	m := &hostMachine{dir: filepath.Join(filepath.Dir(source.Dir), "machine"), mk: c.Mk, tests: tests}
	m.names = strings.NewReplacer(
		"/usr/lib/plan9/bin/mk", c.Mk, vm.GuestPath, c.Guest, source.Target, source.Dir, m.OutboxDevice(), m.dir+"/outbox",
		"/src", m.dir+"/src", "/var/run/ci", m.dir+"/var/run/ci", "/var/lib/ci", m.dir+"/var/lib/ci", "/run/9ci", m.dir+"/run/9ci",
		"mount --bind", ": mount", // the directory is there, and empty
	)
	if err := os.MkdirAll(filepath.Join(m.dir, "src"), 0o700); err != nil {
		return nil, err
	}
	var err error
	if m.outbox, err = os.Create(filepath.Join(m.dir, "outbox")); err != nil {
		return nil, err
	}
	m.ctx, m.kill = context.WithCancel(context.Background())
	return m, nil
}

func (m *hostMachine) Run(ctx context.Context, c vm.Cmd) (vm.Exit, error) {
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = m.names.Replace(a)
	}
	if args[0] == "nsenter" { // as with SetNet: the recipes need no network
		args = args[2:]
	}
	if args[0] == m.mk {
		head, err := os.ReadFile(filepath.Join(m.dir, "src/.git/HEAD")) // detached
		if err != nil {
			return vm.Exit{}, err
		}
		m.tests(strings.TrimSpace(string(head)), strings.Join(args[1:], " "))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	var turn sync.Mutex // as a machine's output comes from one goroutine
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = m.names.Replace(c.Dir)
	cmd.Env = append(c.Env, "HOME="+m.dir)
	cmd.Stdin = c.Stdin
	cmd.Stdout, cmd.Stderr = oneAtATime(&turn, c.Stdout), oneAtATime(&turn, c.Stderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	if ctx.Err() != nil {
		return vm.Exit{}, fmt.Errorf("%s: %w", args[0], context.Cause(ctx))
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return vm.Exit{Code: exit.ExitCode()}, nil
	case errors.As(err, &exit):
		return vm.Exit{Code: 128 + int(exit.Sys().(syscall.WaitStatus).Signal())}, nil
	}
	return vm.Exit{}, err
}

func oneAtATime(turn *sync.Mutex, w io.Writer) io.Writer {
	if w == nil {
		return nil
	}
	return writer(func(p []byte) (int, error) {
		turn.Lock()
		defer turn.Unlock()
		return w.Write(p)
	})
}

// SetNet does nothing: the recipes need no network.
func (m *hostMachine) SetNet(context.Context, bool) error { return nil }

func (m *hostMachine) OutboxDevice() string { return "/dev/outbox" }
func (m *hostMachine) Outbox() *io.SectionReader {
	return io.NewSectionReader(m.outbox, 0, math.MaxInt64)
}
func (m *hostMachine) Accel() string         { return "-" }
func (m *hostMachine) OutOfMemory() string   { return "" }
func (m *hostMachine) Done() <-chan struct{} { return m.ctx.Done() }
func (m *hostMachine) Kill()                 { m.kill(); m.outbox.Close() }
