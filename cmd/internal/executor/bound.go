package executor

import (
	"fmt"
	"sync"
	"time"
)

// A bound is the cause of the end of a run that passed a limit of its
// configuration: CI_TIMEOUT, CI_IDLE or CI_OUTPUT.
type bound struct{ text string }

func (b bound) Error() string { return b.text }

// A clock counts the time that passes between start and stop. When that is over
// the limit, the clock calls end, in a goroutine of its own. Several goroutines may
// use a clock. A nil clock has no limit.
type clock struct {
	limit time.Duration
	end   func()

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	runs  bool
	since time.Time     // when it was started or reset; counts while it runs
	used  time.Duration // before since
}

// newClock returns a clock that is stopped. A limit of 0 is none.
func newClock(limit time.Duration, end func()) *clock {
	if limit == 0 {
		return nil
	}
	return &clock{limit: limit, end: end}
}

// start makes the clock go on counting, if it is stopped.
func (c *clock) start() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs {
		return
	}
	c.runs, c.since = true, time.Now()
	if c.timer == nil {
		c.timer = time.AfterFunc(c.limit-c.used, c.ring)
	} else {
		c.timer.Reset(c.limit - c.used)
	}
}

// stop makes the clock count no more until start.
func (c *clock) stop() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs {
		c.runs = false
		c.used += time.Since(c.since)
		c.timer.Stop()
	}
}

// reset makes the clock count from zero.
func (c *clock) reset() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = 0
	if c.runs {
		c.since = time.Now()
		c.timer.Reset(c.limit)
	}
}

// ring is called by the timer, which a stop or a reset may have come just before.
func (c *clock) ring() {
	c.mu.Lock()
	over := c.runs && c.used+time.Since(c.since) >= c.limit
	c.mu.Unlock()
	if over {
		c.end()
	}
}

// A stream takes what the machine writes to one of the run's streams, in all steps,
// or to one of a service's, and ends a run that writes more than CI_OUTPUT there.
type stream struct {
	r    *activeRun
	name string // as errors call it
	to   *maskWriter
	said *int64 // how many bytes it took, in all steps
	idle *clock // what is written resets it; nil for a service, which may talk while its test hangs
}

func (s stream) Write(p []byte) (int, error) {
	s.idle.reset()
	var err error
	if most := s.r.cfg.Output; most > 0 && int64(len(p)) > most-*s.said {
		p = p[:most-*s.said]
		err = bound{fmt.Sprintf("the run wrote more than %d bytes to %s: say less, leave it as an artifact, or raise CI_OUTPUT", most, s.name)}
	}
	n, werr := s.to.Write(p)
	*s.said += int64(n)
	if n > 0 && s.name == "stderr" {
		s.r.inLine.Store(p[n-1] != '\n')
	}
	if werr != nil {
		return n, werr
	}
	if err != nil {
		s.r.end(err)
	}
	return n, err
}
