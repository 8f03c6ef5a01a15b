package sh

import (
	"maps"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// traps are what a shell does at its end, condition 0, and on signals.
type traps struct {
	mu      sync.Mutex
	action  map[int]string // empty: ignored
	pending []int
	come    chan os.Signal
	wake    chan struct{} // has room for one
	synced  chan struct{}
}

// marker is a signal that the shell sends itself, to the process as others send theirs.
// The kernel delivers those that have come by their numbers, and so does Go: when this
// one, the last, is received, all before it have been.
const marker = syscall.Signal(64)

// sync waits until all signals that have come so far are noted.
func (t *traps) sync() {
	if unix.Kill(os.Getpid(), marker) == nil {
		<-t.synced
	}
}

// raise sends a signal to this thread, which gets it before it goes on.
func raise(sig syscall.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
}

// deadly are signals that end a process, and of which Go thinks otherwise.
var deadly = []syscall.Signal{syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM}

func newTraps() *traps {
	t := &traps{action: make(map[int]string), come: make(chan os.Signal, 16), wake: make(chan struct{}, 1), synced: make(chan struct{})}
	signal.Notify(t.come, marker)
	for _, sig := range deadly {
		if !signal.Ignored(sig) {
			signal.Notify(t.come, sig)
		}
	}
	go t.receive()
	return t
}

// receive notes the signals that are trapped, and lets the others end the shell.
func (t *traps) receive() {
	for sig := range t.come {
		if sig == marker {
			t.synced <- struct{}{}
			continue
		}
		n := int(sig.(syscall.Signal))
		t.mu.Lock()
		if _, ok := t.action[n]; !ok {
			os.Exit(128 + n)
		}
		t.pending = append(t.pending, n)
		t.mu.Unlock()
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// set sets the action of a condition.
func (t *traps) set(n int, action string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.action[n] = action
	switch sig := syscall.Signal(n); {
	case n == 0:
	case action == "":
		signal.Ignore(sig)
	default:
		signal.Notify(t.come, sig)
	}
}

// reset makes a condition do again what it does by itself.
func (t *traps) reset(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.action, n)
	if n == 0 {
		return
	}
	signal.Reset(syscall.Signal(n))
	for _, sig := range deadly {
		if int(sig) == n {
			signal.Notify(t.come, sig)
		}
	}
}

// none tells whether no signal is trapped.
func (t *traps) none() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := range t.action {
		if n != 0 {
			return false
		}
	}
	return true
}

func (t *traps) has(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.action[n]
	return ok
}

func (t *traps) ignored(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	action, ok := t.action[n]
	return ok && action == ""
}

func (t *traps) actions() map[int]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.action)
}

// take returns the action of a condition, which it resets.
func (t *traps) take(n int) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	action, ok := t.action[n]
	delete(t.action, n)
	return action, ok
}

// next returns the action of a signal that has come.
func (t *traps) next() (string, bool) {
	if t.none() {
		return "", false
	}
	t.sync()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.pending) > 0 {
		n := t.pending[0]
		t.pending = t.pending[1:]
		if action := t.action[n]; action != "" {
			return action, true
		}
	}
	return "", false
}

// signaled returns the number of the signal that came first and whose trap has not
// run.
func (t *traps) signaled() (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return 0, false
	}
	return t.pending[0], true
}

// signalName returns the name of a signal, without SIG.
func signalName(n int) string {
	if n == 0 {
		return "EXIT"
	}
	if name := unix.SignalName(syscall.Signal(n)); name != "" {
		return name[len("SIG"):]
	}
	return ""
}

// maxSignal is the last of the signals with names.
const maxSignal = 31
