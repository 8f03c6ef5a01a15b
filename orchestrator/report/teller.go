package report

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"9ci/orchestrator/access"
)

const (
	tellTime = time.Minute // for a forge's answers to one status

	busyMin, busyMax           = 5 * time.Second, 10 * time.Minute // before a forge that is down is told again, doubled
	forbiddenMin, forbiddenMax = time.Minute, time.Hour            // the same of one that takes none
	absentMin, absentMax       = 5 * time.Second, time.Hour        // the same of a commit that is not there

	maxTold  = 100              // statuses of a namespace at once,
	toldEach = 10 * time.Second // and then one in this time: GitHub takes 500 an hour
)

// A teller tells the forge of a namespace, one status after the other.
type teller struct {
	*Reporter
	ns    string
	limit *rate.Limiter

	mu    sync.Mutex // guards what follows
	busy  bool       // a goroutine tells
	again bool       // and is to look once more
	timer *time.Timer

	// Of that goroutine.
	next  time.Time     // nothing is told before
	delay time.Duration // before what failed last is tried again
	said  string        // the error that was logged last
}

func newTeller(r *Reporter, ns string) *teller {
	return &teller{Reporter: r, ns: ns, limit: rate.NewLimiter(rate.Every(toldEach), maxTold)}
}

// wake has the teller of a namespace look what is to be told. There is one at a time.
func (r *Reporter) wake(ns string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tellers[ns]
	if t == nil {
		t = newTeller(r, ns)
		r.tellers[ns] = t
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.again = true; !t.busy && !r.closed {
		t.busy = true
		r.wg.Go(t.run)
	}
}

func (t *teller) run() {
	for t.goesOn() {
		at := t.tell()
		t.mu.Lock()
		if t.timer != nil {
			t.timer.Stop()
			t.timer = nil
		}
		if !at.IsZero() {
			t.timer = time.AfterFunc(time.Until(at), func() { t.wake(t.ns) })
		}
		t.mu.Unlock()
	}
}

// goesOn reports whether there may be something to tell.
func (t *teller) goesOn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy = t.again && t.ctx.Err() == nil
	t.again = false
	return t.busy
}

// stop ends the timer: nothing is told any more.
func (t *teller) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}

// idle reports whether a new teller would do the same.
func (t *teller) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.busy && t.timer == nil && t.limit.Tokens() >= maxTold
}

// tell tells what is to be told now, and returns when it is to be called again; zero:
// when there is news.
func (t *teller) tell() (again time.Time) {
	later := func(at time.Time) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	for _, e := range t.record.next(t.ns) {
		now := time.Now()
		switch {
		case t.ctx.Err() != nil:
			return time.Time{}
		case now.Before(t.next):
			later(t.next)
			return again
		case now.Before(e.next):
			later(e.next)
			continue
		case now.Sub(e.status.Time) >= toldFor:
			t.reject(e, fmt.Errorf("the forge has not taken it in %v: it is told no more", toldFor))
			continue
		case !t.Forge.Tells(t.ns): // no more; the operator may want it again
			later(now.Add(forbiddenMin))
			return again
		}
		if r := t.limit.ReserveN(now, 1); r.DelayFrom(now) > 0 {
			later(now.Add(r.DelayFrom(now)))
			r.CancelAt(now)
			return again
		}
		err := t.one(e)
		now = time.Now()
		var forbidden *access.ForbiddenError
		var rejection *access.RejectedError
		switch {
		case t.ctx.Err() != nil:
			return time.Time{}
		case err == nil:
			t.delay, t.said = 0, ""
		case errors.Is(err, access.ErrNoCommit): // it may be pushed in a moment, or never
			age := max(now.Sub(e.status.Time), 0)
			at := now.Add(jitter(min(max(age/8, absentMin), absentMax)))
			t.record.delay(e, at, noCommit)
			later(at)
		case errors.As(err, &rejection):
			t.reject(e, err)
		case errors.As(err, &forbidden):
			t.wait(e, err, now, forbiddenMin, forbiddenMax)
			t.record.delay(e, t.next, forbids)
			return t.next
		default:
			t.wait(e, err, now, busyMin, busyMax)
			t.record.delay(e, t.next, isBusy)
			return t.next
		}
	}
	return again
}

// wait has nothing told for a while.
func (t *teller) wait(e entry, err error, now time.Time, least, most time.Duration) {
	t.delay = min(max(2*t.delay, least), most)
	t.next = now.Add(jitter(t.delay))
	if t.said != err.Error() {
		t.said = err.Error()
		t.fail(e, err)
	}
}

func jitter(d time.Duration) time.Duration { return d - rand.N(d/4) }

func (t *teller) fail(e entry, err error) {
	t.Log.Warn("status", "namespace", e.ns, "commit", e.commit, "context", e.context, "state", e.status.State, "err", err)
}

// reject gives a status up.
func (t *teller) reject(e entry, err error) {
	t.fail(e, err)
	if _, err := t.record.mark(e, rejected); err != nil {
		t.Log.Error("statuses", "namespace", e.ns, "err", err)
	}
}

// one tells an entry. A status that may have been told before is asked for first.
func (t *teller) one(e entry) error {
	done, err := t.turn(t.ctx, t.ns)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(t.ctx, tellTime)
	defer cancel()
	s := access.NewCommitStatus(e.ns, e.commit, e.context, e.status, t.URL)
	has := false
	if e.mark == begun || e.status.Time.Before(t.began) {
		if has, err = t.Forge.Told(ctx, s); err != nil {
			return err
		}
	}
	if !has {
		if e.mark != begun {
			if ok, err := t.record.mark(e, begun); !ok {
				return err // a newer run has come, or the disk is full
			}
		}
		if err := t.Forge.Tell(ctx, s); err != nil {
			return err
		}
	}
	ok, err := t.record.mark(e, told)
	if ok {
		t.Log.Info("status", "namespace", e.ns, "commit", e.commit, "context", e.context, "state", e.status.State)
	}
	return err
}
