package main

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"9ci/mk"
)

// signals are those that end mk with its recipes.
var signals = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGALRM}

// inheritIgnored has signals that were ignored where mk started stay so, for its
// children too. The Go runtime keeps SIGINT and SIGHUP ignored, but installs
// handlers for the others, and leaves no trace of what they were:
//
//   - SIGQUIT is taken to be ignored if SIGINT is. A shell without job control
//     ignores both in what it starts in the background.
//   - SIGTERM is taken to be ignored if the parent ignores it, as a shell after
//     trap "" TERM does, and not SIGTSTP too, as a shell with job control does,
//     whose children have the default.
func inheritIgnored() {
	if signal.Ignored(syscall.SIGINT) {
		signal.Ignore(syscall.SIGQUIT)
	}
	if set := ignoredBy(os.Getppid()); set&bit(syscall.SIGTERM) != 0 && set&bit(syscall.SIGTSTP) == 0 {
		signal.Ignore(syscall.SIGTERM)
	}
}

// ignoredBy returns the set of signals that a process ignores, empty where that
// cannot be told.
func ignoredBy(pid int) uint64 {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	set, _ := strconv.ParseUint(field(status, "SigIgn"), 16, 64)
	return set
}

func bit(sig syscall.Signal) uint64 { return 1 << (sig - 1) }

// twice is how long a second signal counts as the first one. Programs such as
// timeout(1) send it to mk and then to mk's group.
const twice = 200 * time.Millisecond

// last is how long mk may take to end after a signal: the grace that its recipes
// have, the time that it waits for those that it then kills, and a second. It takes
// longer only if something keeps it from ending, such as an output that nobody reads.
// After a second signal lastAgain is left.
const (
	last      = 11 * time.Second
	lastAgain = 2 * time.Second
)

// interruptible returns a context that ends at the first of signals that arrives
// and is not ignored. At a second one mk kills its recipes. An alarm leaves the
// recipes all the time they need; any other signal ends mk after last.
func interruptible(parent context.Context) (context.Context, *witness) {
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 1)
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
	w := startWitness()
	go func() {
		sig := (<-c).(syscall.Signal)
		first := time.Now()
		again := make(chan struct{})
		cancel(mk.Interrupt{Signal: sig, Delivered: w.killed(follow), Again: again})
		var end <-chan time.Time
		if sig != syscall.SIGALRM {
			end = time.After(last)
		}
		for killed := false; ; {
			select {
			case <-c:
				if !killed && time.Since(first) > twice {
					close(again)
					killed = true
					end = time.After(lastAgain)
				}
			case <-end:
				die(sig)
			}
		}
	}()
	return ctx, w
}

// die ends the process by a signal that was caught, so that its parent learns of
// the signal. PID 1 cannot die of one; it ends with the status that a shell gives
// to such an end.
func die(sig syscall.Signal) {
	if os.Getpid() != 1 {
		// Not signal.Reset, after which the runtime prints its goroutines at SIGQUIT.
		var action [4]uint64 // SIG_DFL, whatever the order of sigaction's fields is
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		syscall.Kill(os.Getpid(), sig)
		time.Sleep(time.Second) // another thread may take it
	}
	os.Exit(128 + int(sig))
}
