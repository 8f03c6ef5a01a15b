package executor

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"9ci/cmd/internal/config"
	"9ci/fs/ci"
)

// A Queue lets runs go, several at once if their machines have room on this host: their
// memory, with that of held machines, is three quarters of the host's at most and, unless
// Jobs is set, their processors are no more than the host's. A run with a number of processors
// has these to itself; one with all of them shares them, and counts as one processor: so as
// many such runs go as there are processors. A run that is alone goes in any case.
//
// The runs of a repository begin in the order in which they came. Next is the first run of
// the repository that has the fewest going, and of several such repositories the one that
// has waited longest. If it has no room, nothing overtakes it. The zero Queue is ready
// for use.
type Queue struct {
	Jobs int // so many runs go at once at most; 0: as many as there are processors for

	mu      sync.Mutex // guards what follows
	waiting []*place   // in the order in which they came, and those of a repository by number
	going   []*place
	accel   string // what the last machine ran under, kvm or tcg

	holds holds // has a lock of its own
}

// A place is that of a run in a Queue.
type place struct {
	of     string        // the repository
	number uint64        // of the run there, which grows
	cpus   int           // that it counts for
	memory int64         // in bytes
	turn   chan struct{} // closed when the run goes
}

// Accel returns what the last machine ran under, kvm or tcg, or "-" if no
// machine has started.
func (q *Queue) Accel() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return ci.Dash(q.accel)
}

func (q *Queue) setAccel(accel string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accel = accel
}

// join puts a run of a repository into the line. The caller calls wait, whose answer says
// when to leave.
func (q *Queue) join(of string, number uint64, c *config.Config) *place {
	p := &place{of: of, number: number, cpus: max(c.CPUs, 1), memory: c.Memory, turn: make(chan struct{})}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, p)
	at := len(q.waiting) - 1
	for i, x := range slices.Backward(q.waiting[:at]) {
		if x.of == of && x.number > number { // p takes its place, and it that of p
			q.waiting[i], q.waiting[at] = p, x
			at = i
		}
	}
	q.next()
	return p
}

// wait waits until a run that has joined may go. The caller then calls leave, once, when
// the run's machine is gone. The error is the cause of the end of ctx.
func (q *Queue) wait(ctx context.Context, p *place) (leave func(), err error) {
	leave = func() { q.remove(p) }
	select {
	case <-p.turn:
		return leave, nil
	case <-ctx.Done():
		leave() // also if the turn came meanwhile
		return nil, context.Cause(ctx)
	}
}

func (q *Queue) remove(p *place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	is := func(x *place) bool { return x == p }
	q.waiting = slices.DeleteFunc(q.waiting, is)
	q.going = slices.DeleteFunc(q.going, is)
	q.next()
}

// wake lets those go for which a machine has made room that had no place.
func (q *Queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next()
}

// next lets those go whose turn it is. q.mu is held.
func (q *Queue) next() {
	for {
		var first *place
		least := 0
		for _, p := range q.waiting {
			if n := q.count(p.of); first == nil || n < least {
				first, least = p, n
			}
		}
		if first == nil || !q.fits(first) {
			return
		}
		q.waiting = slices.DeleteFunc(q.waiting, func(x *place) bool { return x == first })
		q.going = append(q.going, first)
		close(first.turn)
	}
}

// count returns how many runs of a repository go. q.mu is held.
func (q *Queue) count(of string) (n int) {
	for _, p := range q.going {
		if p.of == of {
			n++
		}
	}
	return n
}

// fits reports whether there is room for a run. q.mu is held.
func (q *Queue) fits(p *place) bool {
	if len(q.going) == 0 {
		return true
	}
	cpus, memory := p.cpus, p.memory+q.holds.memory()
	for _, g := range q.going {
		cpus, memory = cpus+g.cpus, memory+g.memory
	}
	if q.Jobs > 0 && len(q.going) >= q.Jobs || q.Jobs == 0 && cpus > runtime.NumCPU() {
		return false
	}
	host, err := config.HostMemory()
	return err == nil && memory <= host/4*3
}
