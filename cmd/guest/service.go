//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endTime is how long the processes of a service have from SIGTERM to SIGKILL.
const endTime = 10 * time.Second

// cgroups is where the groups of services are made.
var cgroups = "/sys/fs/cgroup"

// service runs args[1:] in the cgroup service.NAME, NAME being args[0], and returns
// when no process is left in the group. It ends them if the program fails and on a
// SIGTERM. Then it exits with the program's status.
func service(args []string) error {
	if len(args) < 2 || args[0] == "" || strings.Contains(args[0], "/") {
		return errors.New("usage: guest service NAME PROGRAM [ARG...]")
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	g := group(filepath.Join(cgroups, "service."+args[0]))
	if err := os.Mkdir(string(g), 0o755); err != nil {
		return err
	}
	defer os.Remove(string(g))
	dir, err := os.Open(string(g))
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended, empty := make(chan error, 1), make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go func() { empty <- g.wait() }()
	var kill <-chan time.Time
	end := func() {
		if kill == nil {
			g.signal(syscall.SIGTERM)
			kill = time.After(endTime)
		}
	}
	for {
		select {
		case <-signals:
			end()
		case err := <-ended:
			ended = nil
			if err != nil {
				end()
			}
		case <-kill:
			g.kill()
		case err := <-empty:
			if ended != nil {
				<-ended
			}
			if err != nil {
				return err
			}
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return exitStatus(128 + int(status.Signal()))
			}
			return exitStatus(status.ExitStatus())
		}
	}
}

// An exitStatus is the error of a command that has another program's exit status.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("status %d", int(s)) }

// A group is the directory of a cgroup, of version 2.
type group string

// wait returns when the group has no process, or its error.
func (g group) wait() error {
	f, err := os.Open(filepath.Join(string(g), "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	var b [256]byte
	for {
		n, err := f.ReadAt(b[:], 0)
		if n == 0 {
			return err
		}
		if !strings.Contains(string(b[:n]), "populated 1") {
			return nil
		}
		// The kernel tells a change as an exceptional condition: cgroup-v2.rst.
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}

// signal sends a signal to each process of the group.
func (g group) signal(s syscall.Signal) {
	b, err := os.ReadFile(filepath.Join(string(g), "cgroup.procs"))
	if err != nil {
		return
	}
	for pid := range strings.FieldsSeq(string(b)) {
		var n int
		if fmt.Sscan(pid, &n); n > 1 {
			syscall.Kill(n, s)
		}
	}
}

// kill kills all processes of the group, and those that they make meanwhile.
func (g group) kill() { os.WriteFile(filepath.Join(string(g), "cgroup.kill"), []byte("1"), 0) }
