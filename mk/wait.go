package mk

import (
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// setPidFD asks for a descriptor of the new process.
func setPidFD(sys *syscall.SysProcAttr, fd *int) { sys.PidFD = fd }

// waitAny waits until p or a process of slots has ended, and returns that one. It
// waits for no other child: this program may have children of its own.
func (ps *procs) waitAny(p *process, slots []*process) *process {
	var list []*process
	if p != nil {
		list = append(list, p)
	}
	for _, q := range slots {
		if q != nil {
			list = append(list, q)
		}
	}
	for _, q := range list {
		if q.done {
			ps.out.error(q.last)
			q.last = ""
			return q
		}
	}
	if len(list) == 1 {
		q := list[0]
		for unix.Waitid(unix.P_PID, q.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		ps.collect(q)
		return q
	}
	timeout := -1
	fds := make([]unix.PollFd, len(list))
	for i, q := range list {
		fds[i] = unix.PollFd{Fd: int32(q.pidfd), Events: unix.POLLIN}
		if q.pidfd < 0 {
			timeout = 10 // Linux before 5.3; look every 10 ms
		}
	}
	for {
		unix.Poll(fds, timeout)
		// The oldest comes first, as from wait(2).
		for _, q := range ps.live {
			if i := slices.Index(list, q); i >= 0 && (fds[i].Revents != 0 || q.pidfd < 0) && ps.collect(q) {
				return q
			}
		}
	}
}

// collect reaps a process if it has ended.
func (ps *procs) collect(p *process) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var ws syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(p.pid, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid != p.pid && err == nil {
			return false
		}
		ps.reaped(p, ws)
		return true
	}
}
