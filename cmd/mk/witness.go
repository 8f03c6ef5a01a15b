package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A witness is a process of mk's process group that dies of any signal and does
// nothing else. By its death mk tells a signal that went to the whole group, and so
// to recipes too, from one that only mk has got; a handler of signals cannot.
//
// It costs a process, and so there is one only if such a signal is likely: if mk has
// a terminal, which sends signals to groups, as the shells do that people use there;
// if mk's parent leads the group, as timeout(1) does to end all of it; and if a recipe
// runs mk, since either may be true of the mk that runs the recipe.
type witness struct {
	pid, fd int  // fd is a pidfd
	led     bool // the group, by mk's parent or, of a mk in a recipe, perhaps
}

// startWitness returns nil if none is needed.
func startWitness() *witness {
	_, nested := os.LookupEnv("MKFLAGS")
	w := &witness{led: nested || syscall.Getppid() == syscall.Getpgrp()}
	tty, err := syscall.Open("/dev/tty", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err == nil {
		syscall.Close(tty)
	} else if !w.led {
		return nil
	}
	// It reads from a pipe that ends when mk does.
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		return nil
	}
	defer syscall.Close(pipe[0])
	w.pid, err = syscall.ForkExec("/bin/sh", []string{"sh", "-c", "read x"}, &syscall.ProcAttr{
		Files: []uintptr{uintptr(pipe[0])},
		Sys:   &syscall.SysProcAttr{PidFD: &w.fd},
	})
	if err != nil {
		syscall.Close(pipe[1])
		return nil
	}
	return w
}

// follow is how long a signal to the group may come after one to mk, as from
// timeout(1), which sends one right after the other.
const follow = 50 * time.Millisecond

// killed tells whether the group has got a signal. It waits until the witness is
// either ended or asleep with nothing to come, and if the group is led, for wait
// before.
func (w *witness) killed(wait time.Duration) bool {
	if w == nil {
		return false
	}
	if w.led {
		unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
	}
	// This takes the lock under which the kernel goes through a group, and so
	// returns when that is done; it changes nothing.
	syscall.Setpgid(0, syscall.Getpgrp())
	for range 1000 {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 1); n > 0 {
			return true
		}
		status, err := os.ReadFile("/proc/" + strconv.Itoa(w.pid) + "/status")
		if err != nil {
			return true
		}
		if strings.HasPrefix(field(status, "State"), "S") && strings.Trim(field(status, "SigPnd")+field(status, "ShdPnd"), "0") == "" {
			return false
		}
	}
	return false
}

// field returns a field of /proc/PID/status.
func field(status []byte, name string) string {
	_, s, _ := strings.Cut("\n"+string(status), "\n"+name+":")
	s, _, _ = strings.Cut(s, "\n")
	return strings.TrimSpace(s)
}
