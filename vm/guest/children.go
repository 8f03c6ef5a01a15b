//go:build linux

package guest

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// children waits for all children of this process. As PID 1 it must wait for every
// orphan of the machine too, so no other code may wait. It is one for the process,
// since wait4(2) is.
var children = &reaper{}

type reaper struct {
	start sync.Once
	mu    sync.Mutex // guards wait; held over a fork, so that a child is known before it is waited for
	wait  map[int]chan syscall.WaitStatus
}

// fork starts a program. The channel gets its status, once.
func (r *reaper) fork(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	r.start.Do(func() {
		r.wait = make(map[int]chan syscall.WaitStatus)
		died := make(chan os.Signal, 1)
		signal.Notify(died, syscall.SIGCHLD)
		go r.reap(died) // for good: orphans outlive every Serve
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	c := make(chan syscall.WaitStatus, 1)
	r.wait[pid] = c
	return pid, c, nil
}

func (r *reaper) reap(died <-chan os.Signal) {
	for range died {
		for r.one() {
		}
	}
}

// one reaps one dead child, and reports false if there is none.
func (r *reaper) one() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if c := r.wait[pid]; c != nil {
		c <- status
		delete(r.wait, pid)
	}
	return true
}
