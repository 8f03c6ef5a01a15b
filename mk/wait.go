package mk

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// children are the processes that runs with Config.Orphans have started and not
// waited for. They are one list for the program, since waitid(2) of any child is.
var children struct {
	sync.Mutex // guards what follows; held over a fork, so that a child is known before it is waited for
	started    map[int]*process
	reaping    bool // reapAll runs
}

// waitAny waits until p or a process of slots has ended, and returns that one: the
// oldest, as from wait(2), if there are more.
func (ps *procs) waitAny(p *process, slots []*process) *process {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for {
		var first *process
		if p != nil && p.done {
			first = p
		}
		for _, q := range slots {
			if q != nil && q.done && (first == nil || q.order < first.order) {
				first = q
			}
		}
		if first != nil {
			ps.out.error(first.last)
			first.last = ""
			return first
		}
		ps.ended.Wait()
	}
}

// await reaps a process when it has ended. It waits for no other child: this
// program may have children of its own.
func (p *process) await() {
	for unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.collect()
}

// collect reaps a process that has ended.
func (p *process) collect() {
	ps := p.procs
	ps.mu.Lock() // so that nobody sends it a signal any more
	defer ps.mu.Unlock()
	if ps.cfg.Orphans {
		children.Lock()
		delete(children.started, p.pid)
		children.Unlock()
	}
	var ws syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(p.pid, &ws, 0, nil); err != syscall.EINTR {
			break
		}
	}
	ps.reaped(p, ws)
	ps.ended.Broadcast()
}

// reapAll reaps all children of this program as they end, those that it has not
// started too. It returns when there is none.
func reapAll() {
	for {
		pid, err := endedChild()
		children.Lock()
		if err == unix.ECHILD && len(children.started) == 0 {
			children.reaping = false
			children.Unlock()
			return
		}
		p := children.started[pid]
		if p == nil && pid > 0 {
			syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
		children.Unlock()
		if p != nil {
			p.collect()
		}
	}
}

// endedChild waits until any child has ended and returns its pid. The child stays
// a zombie.
func endedChild() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		// si_pid is the first of a union, which is aligned as a pointer is.
		const align = unsafe.Sizeof(uintptr(0))
		const offset = (3*unsafe.Sizeof(int32(0)) + align - 1) &^ (align - 1)
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), offset))), nil
	}
}
