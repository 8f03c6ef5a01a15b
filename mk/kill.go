package mk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Interrupt, as the cause of a context's end, says how recipes learn of it.
type Interrupt struct {
	Signal    syscall.Signal  // that recipes get
	Delivered bool            // this process's group has got it already, as from a terminal
	Again     <-chan struct{} // if it is closed, what still runs is killed at once; may be nil
}

// Error is the signal in Plan 9's words: interrupt, hangup, quit, alarm, or kill.
func (i Interrupt) Error() string {
	switch i.Signal {
	case syscall.SIGINT:
		return "interrupt"
	case syscall.SIGHUP:
		return "hangup"
	case syscall.SIGQUIT:
		return "quit"
	case syscall.SIGALRM:
		return "alarm"
	}
	return "kill" // SIGTERM, in Plan 9's words
}

// grace is how long recipes may take to end when interrupted.
const grace = 5 * time.Second

// interrupt sends all processes and their descendants the signal of cause, once,
// and returns when they have ended. It kills those that have not ended in time.
func (ps *procs) interrupt(cause error) {
	i := Interrupt{Signal: syscall.SIGTERM}
	errors.As(cause, &i)
	ps.signal(i)
	told := i.Signal == syscall.SIGTERM
	for end := time.Now().Add(grace); ; {
		left := ps.left()
		if len(left) == 0 || i.Signal == syscall.SIGALRM && !ps.running() {
			return
		}
		over := i.Signal != syscall.SIGALRM && time.Until(end) <= 0
		select {
		case <-i.Again:
			over = true
		default:
		}
		if over {
			ps.kill()
			if time.Until(end) < -grace {
				return // the kernel does not let it end
			}
		} else if !told && !ps.running() {
			ps.background(left, i.Signal)
			told = true
		}
		fds := make([]unix.PollFd, len(left))
		for i, d := range left {
			fds[i] = unix.PollFd{Fd: int32(d.fd), Events: unix.POLLIN}
		}
		unix.Poll(fds, 20) // ms, since Again and new descendants are not polled
	}
}

// running tells whether a process has not been waited for.
func (ps *procs) running() bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.live) > 0
}

// signal sends the signal of i to all processes and their descendants, and lets
// no more be started. What a process has started before it gets the signal gets it
// too. What it starts later does not if the process catches the signal, for that
// may be its cleaning. It takes a look at each just before, since what one starts
// after this look and before the signal counts as started later. Another mk passes
// the signal on to its own descendants.
//
// An alarm ends no recipe, as in the C mk.
func (ps *procs) signal(i Interrupt) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.interrupted = true
	if i.Signal == syscall.SIGALRM {
		return
	}
	group := syscall.Getpgrp()
	ps.hold()
	for told := 0; told < len(ps.held); ps.hold() { // again for what was started meanwhile
		again := told > 0
		for _, d := range ps.held[told:] {
			told++
			if again && d.parent != nil && d.parent.catches {
				continue
			}
			if d.relays = d.parent != nil && d.parent.relays; d.relays {
				continue
			}
			d.catches = signalMask(d.pid, "SigCgt")&bit(i.Signal) != 0
			if d.relays = ps.relays(d.pid); !d.relays {
				for _, s := range startedBy(d.pid) {
					ps.add(s, nil)
				}
			}
			if i.Delivered && d.group == group {
				continue
			}
			d.send(i.Signal)
			if d.stopped {
				d.send(syscall.SIGCONT)
			}
		}
	}
}

// relays tells whether a process is another mk: the same program with Config.Orphans,
// and not its built-in shell. The caller holds ps.mu.
func (ps *procs) relays(pid int) bool {
	if !ps.cfg.Orphans {
		return false
	}
	dir := "/proc/" + strconv.Itoa(pid)
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	exe, err := os.Stat(dir + "/exe")
	if err != nil || !os.SameFile(self, exe) {
		return false
	}
	args, err := os.ReadFile(dir + "/cmdline")
	return err == nil && (ps.shell == nil || !bytes.HasPrefix(args, []byte(strings.Join(ps.shell, "\x00")+"\x00")))
}

// background sends SIGTERM to those of left that have ignored sig, as what a shell
// starts in the background ignores interrupts.
func (ps *procs) background(left []*descendant, sig syscall.Signal) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, d := range left {
		if signalMask(d.pid, "SigIgn")&bit(sig) != 0 {
			d.send(syscall.SIGTERM)
		}
	}
}

// kill kills all processes and their descendants, and lets no more be started.
func (ps *procs) kill() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.interrupted = true
	ps.hold()
	for told := 0; told < len(ps.held); ps.hold() {
		for _, d := range ps.held[told:] {
			d.send(syscall.SIGKILL)
			told++
		}
	}
}

// left returns the processes and descendants that have not ended.
func (ps *procs) left() []*descendant {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.hold()
	var list []*descendant
	for _, d := range ps.held {
		if d.alive() {
			list = append(list, d)
		}
	}
	return list
}

// descendant is a process that mk has started, or that one of these has. It is
// held by a descriptor, since it may outlive its parent.
type descendant struct {
	stat
	fd      int         // -1 before Linux 5.3
	parent  *descendant // nil if that is mk
	catches bool        // the signal that it got
	relays  bool        // it, or an ancestor, is another mk
}

// send sends it a signal, unless it has been waited for.
func (d *descendant) send(sig syscall.Signal) {
	if d.fd < 0 {
		syscall.Kill(d.pid, sig)
	} else {
		unix.PidfdSendSignal(d.fd, sig, nil, 0)
	}
}

// alive tells whether it has not ended.
func (d *descendant) alive() bool {
	if d.fd < 0 {
		return syscall.Kill(d.pid, 0) != syscall.ESRCH
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, 0)
	return n == 0 || err == unix.EINTR
}

// hold adds the processes that it has not met yet to held, parents before their
// children, so that none goes on with its next command. The caller holds ps.mu.
//
// Descendants are found by their parents in /proc. A process group of their own
// would hide them from terminals, and from programs that kill mk's group. An orphan
// is found if Config.Orphans makes it ours. If it has a session of its own it is a
// daemon, which is to outlive mk; nothing outlives PID 1.
func (ps *procs) hold() {
	tree := processTree()
	live := make(map[int]bool)
	for _, p := range ps.live {
		live[p.pid] = true
	}
	self := os.Getpid()
	session, _ := unix.Getsid(0)
	for _, s := range tree[self] {
		if live[s.pid] || ps.cfg.Orphans && (s.session == session || self == 1) {
			ps.add(s, nil)
		}
	}
	for i := 0; i < len(ps.held); i++ {
		if d := ps.held[i]; d.alive() { // it is still that one
			for _, s := range tree[d.pid] {
				ps.add(s, d)
			}
		}
	}
}

// add adds a process to held, unless it is there. The caller holds ps.mu.
func (ps *procs) add(s stat, parent *descendant) {
	if slices.ContainsFunc(ps.held, func(d *descendant) bool { return d.pid == s.pid && d.alive() }) {
		return
	}
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil && err != unix.ENOSYS {
		return
	}
	if d := (&descendant{stat: s, fd: fd, parent: parent}); d.alive() {
		ps.held = append(ps.held, d)
	} else {
		unix.Close(fd)
	}
}

// stat is what /proc/PID/stat says of a process.
type stat struct {
	pid, parent, group, session int
	stopped                     bool
}

// readStat returns ok false if the process has been waited for.
func readStat(pid int) (s stat, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, false
	}
	// pid (name) state ppid pgrp session ...; the name may have anything in it
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(f) < 4 {
		return s, false
	}
	s = stat{pid: pid, stopped: f[0][0] == 'T'}
	for i, p := range []*int{&s.parent, &s.group, &s.session} {
		*p, _ = strconv.Atoi(string(f[1+i]))
	}
	return s, true
}

// processTree returns the children of each process.
func processTree() map[int][]stat {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	tree := make(map[int][]stat)
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if s, ok := readStat(pid); ok {
			tree[s.parent] = append(tree[s.parent], s)
		}
	}
	return tree
}

// startedBy returns the children of one process, in the time of a few system
// calls.
func startedBy(pid int) (list []stat) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	tasks, _ := os.ReadDir(dir)
	for _, t := range tasks {
		pids, err := os.ReadFile(dir + t.Name() + "/children")
		if err != nil { // a kernel without that file
			return processTree()[pid]
		}
		for _, f := range bytes.Fields(pids) {
			if child, err := strconv.Atoi(string(f)); err == nil {
				if s, ok := readStat(child); ok {
					list = append(list, s)
				}
			}
		}
	}
	return list
}

// signalMask returns a set of signals from /proc/PID/status, empty where the
// process has ended.
func signalMask(pid int, name string) uint64 {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	_, mask, _ := strings.Cut(string(text), "\n"+name+":")
	mask, _, _ = strings.Cut(mask, "\n")
	set, _ := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	return set
}

func bit(sig syscall.Signal) uint64 { return 1 << (sig - 1) }

// terminating are the signals that end a program and that a terminal or a shell
// sends to all of a group.
var terminating = []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM}

// settle waits for the end of ctx if q died of a signal that this program may
// have got too, as from a terminal, and not seen yet.
func settle(ctx context.Context, q *process) {
	if slices.ContainsFunc(terminating, func(sig syscall.Signal) bool { return q.status == "signal "+strconv.Itoa(int(sig)) }) {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
