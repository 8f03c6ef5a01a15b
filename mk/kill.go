package mk

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Interrupt, as the cause of a context's end, says how recipes learn of it.
type Interrupt struct {
	Signal    syscall.Signal // that recipes get
	Delivered bool           // recipes have got it already, as from a terminal
}

// Error is the signal in Plan 9's words: interrupt, hangup, quit, or kill.
func (i Interrupt) Error() string {
	switch i.Signal {
	case syscall.SIGINT:
		return "interrupt"
	case syscall.SIGHUP:
		return "hangup"
	case syscall.SIGQUIT:
		return "quit"
	}
	return "kill" // SIGTERM, in Plan 9's words
}

// grace is how long recipes may take to end when interrupted.
const grace = 5 * time.Second

// interrupt sends all processes the signal of cause, and kills those that
// have not ended in time.
func (ps *procs) interrupt(cause error) {
	i := Interrupt{Signal: syscall.SIGTERM}
	errors.As(cause, &i)
	ps.signal(i.Signal, i.Delivered)
	time.AfterFunc(grace, func() { ps.signal(syscall.SIGKILL, false) })
}

// signal sends a signal, unless it is there already, to all processes and
// their descendants, and lets no more be started. Parents come first, so that
// none goes on with its next command.
//
// Descendants are found by their parents in /proc. A process group of their own
// would hide them from terminals, and from programs that kill mk's group. They are
// held by descriptors, since they may outlive their parents. Where there is no
// /proc they are not found.
func (ps *procs) signal(sig syscall.Signal, delivered bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.released {
		return
	}
	ps.interrupted = true
	ps.hold()
	if delivered {
		return
	}
	for _, p := range ps.live {
		syscall.Kill(p.pid, sig)
	}
	for told := 0; told < len(ps.held); ps.hold() { // again for what was started meanwhile
		for _, d := range ps.held[told:] {
			unix.PidfdSendSignal(d.fd, sig, nil, 0)
			told++
		}
	}
}

// descendant is a process that one of ours has started, or another of them.
type descendant struct{ pid, fd int }

// hold adds the descendants that it has not met yet to held.
func (ps *procs) hold() {
	known := make(map[int]bool)
	var pids []int // of parents, and behind them of their children
	for _, p := range ps.live {
		pids = append(pids, p.pid)
	}
	for _, d := range ps.held {
		if unix.PidfdSendSignal(d.fd, 0, nil, 0) == nil { // it is still that one
			known[d.pid] = true
			pids = append(pids, d.pid)
		}
	}
	tree := processTree()
	for i := 0; i < len(pids); i++ {
		for _, pid := range tree[pids[i]] {
			if known[pid] {
				continue
			}
			known[pid] = true
			if fd, err := unix.PidfdOpen(pid, 0); err == nil {
				ps.held = append(ps.held, descendant{pid, fd})
				pids = append(pids, pid)
			}
		}
	}
}

// release ends what is left of an interrupted run: processes in the
// background, which ignore an interrupt.
func (ps *procs) release() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, d := range ps.held {
		unix.PidfdSendSignal(d.fd, syscall.SIGTERM, nil, 0)
		unix.Close(d.fd)
	}
	ps.held = nil
	ps.released = true
}

// processTree returns the children of each process.
func processTree() map[int][]int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	tree := make(map[int][]int)
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ...; the name may have anything in it
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(f) > 1 {
			if ppid, err := strconv.Atoi(string(f[1])); err == nil {
				tree[ppid] = append(tree[ppid], pid)
			}
		}
	}
	return tree
}
