package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator/dial"
)

// relay is the rung of CI_LADDER that needs no connection of its own.
const relay = "relay"

// headStart is for how long a rung is alone before the next one is tried beside it:
// the least connection attempt delay that RFC 8305 §8 recommends.
const headStart = 100 * time.Millisecond

// A way is a rung of the ladder to one run.
type way struct {
	rung string
	path string // of the run, in the tree
	// open returns a tree, which ends when ctx is done or close is called.
	open func(ctx context.Context) (tree fs.Dir, close func(), err error)
}

// ways returns the ways to an offer's run, in the order of the ladder. A rung that
// cannot lead there is left out. A nil ladder is that of all rungs.
func (r *Replayer) ways(mux fs.Dir, o ci.Offer, ladder []string) []way {
	if ladder == nil {
		ladder = config.Rungs
	}
	var ways []way
	for _, rung := range ladder {
		switch {
		case rung == relay:
			ways = append(ways, way{rung, o.Path(), func(context.Context) (fs.Dir, func(), error) { return mux, func() {}, nil }})
		case r.Way == nil, rung == "direct" && o.Address == "":
		default:
			ways = append(ways, way{rung, "ci/" + o.ID, func(ctx context.Context) (fs.Dir, func(), error) { return r.Way(ctx, rung, o.Executor) }})
		}
	}
	return ways
}

// climb fetches an offer's run by the first way that brings it. Ways are raced, the
// ladder's next against those before it: the way whose first bytes come first is
// fetched from, and the others are given up. If the run does not come by that way,
// or is not what was signed, those that are left are tried. The patience goes while
// no way has brought anything.
func (r *Replayer) climb(ctx context.Context, mux fs.Dir, o ci.Offer, ladder []string, left *patience,
	fetch func(ctx context.Context, tree fs.Dir, path string) (store.Entry, error)) (store.Entry, error) {
	ways := r.ways(mux, o, ladder)
	if len(ways) == 0 {
		return store.Entry{}, fmt.Errorf("CI_LADDER=%s has no way to it", strings.Join(ladder, ","))
	}
	var failed failures
	fail := func(rung string, err error) { failed = append(failed, failure{rung, err}) }
	var wg sync.WaitGroup // of ways that are given up
	defer wg.Wait()
	for len(ways) > 0 && ctx.Err() == nil && !left.over() {
		began := time.Now()
		won := race(ctx, &wg, &ways, min(stallTimeout, left.left), fail)
		left.left -= time.Since(began)
		if won == nil {
			break
		}
		run, err := fetch(ctx, won.tree, won.path)
		won.close()
		if err == nil {
			for _, f := range failed {
				if suspicious(f.err) {
					r.Say("%s: %s: %v; the run came by another way", o.Path(), f.rung, f.err)
				}
			}
			if r.Took != nil {
				r.Took(run.ID, won.rung)
			}
			return run, nil
		}
		if errors.As(err, new(*keepError)) {
			return store.Entry{}, err
		}
		fail(won.rung, &fetchError{err})
	}
	if err := context.Cause(ctx); err != nil {
		return store.Entry{}, err
	}
	return store.Entry{}, failed
}

// A fetchError is the error of a run that began to come.
type fetchError struct{ error }

func (e *fetchError) Unwrap() error { return e.error }

// suspicious reports whether a way failed in a manner that a user wants to know of,
// though the run came by another one: not that it is closed or slow, but that
// something else is there.
func suspicious(err error) bool {
	var fetch *fetchError
	return errors.Is(err, dial.ErrHostKeyChanged) || errors.As(err, &fetch)
}

// A failure is a way by which a run did not come.
type failure struct {
	rung string
	err  error
}

// failures are why no way led to a run, as one error of one line. What all say is
// said once.
type failures []failure

func (all failures) Error() string {
	same := true
	var text []string
	for _, f := range all {
		same = same && f.err.Error() == all[0].err.Error()
		text = append(text, f.rung+": "+f.err.Error())
	}
	switch {
	case len(all) == 0:
		return "CI_REPLAY_TIMEOUT has passed"
	case same:
		return all[0].err.Error()
	}
	return strings.Join(text, "; ")
}

func (all failures) Unwrap() []error {
	var errs []error
	for _, f := range all {
		errs = append(errs, f.err)
	}
	return errs
}

// An arrival is a way by which the first bytes of a run have come.
type arrival struct {
	way
	tree  fs.Dir
	close func()
}

// race tries the ways, each headStart after the one before it, or as soon as one has
// failed. It returns the first by which the run's status comes, or nil if none does.
// It takes that way and those that failed out of ways; the others are given up, which
// wg waits for. A way that is alone is not asked for the status. No way takes longer
// than within.
func race(ctx context.Context, wg *sync.WaitGroup, ways *[]way, within time.Duration, fail func(rung string, err error)) *arrival {
	type result struct {
		way
		won *arrival
		err error
	}
	results := make(chan result)
	over := make(chan struct{})
	defer close(over)
	lost := make(map[string]func()) // what gives a way up, by rung
	defer func() {
		for _, giveUp := range lost {
			giveUp()
		}
	}()
	probe := len(*ways) > 1
	todo := slices.Clone(*ways)
	var next <-chan time.Time
	start := func() {
		w := todo[0]
		todo = todo[1:]
		next = nil
		if len(todo) > 0 {
			next = time.After(headStart)
		}
		ctx, cancel := context.WithCancelCause(ctx)
		lost[w.rung] = func() { cancel(nil) }
		wg.Go(func() {
			won, err := arrive(ctx, cancel, w, within, probe)
			select {
			case results <- result{w, won, err}:
			case <-over:
				if won != nil {
					won.close()
				}
			}
		})
	}
	start()
	for {
		select {
		case got := <-results:
			*ways = slices.DeleteFunc(*ways, func(w way) bool { return w.rung == got.rung })
			if got.won != nil {
				delete(lost, got.rung)
				return got.won
			}
			fail(got.rung, got.err)
			lost[got.rung]()
			delete(lost, got.rung)
			if len(todo) > 0 {
				start()
			} else if len(lost) == 0 {
				return nil
			}
		case <-next:
			start()
		case <-ctx.Done():
			return nil
		}
	}
}

// arrive opens a way and, with probe, waits for the first bytes of the run, no
// longer than within. Cancel ends ctx.
func arrive(ctx context.Context, cancel context.CancelCauseFunc, w way, within time.Duration, probe bool) (*arrival, error) {
	late := time.AfterFunc(within, func() { cancel(fmt.Errorf("it sent nothing for %v", within.Round(time.Millisecond))) })
	defer late.Stop()
	tree, closeTree, err := w.open(ctx)
	if err == nil {
		if probe {
			_, err = ask.File(ctx, tree, w.path+"/status")
		}
		if err == nil && late.Stop() {
			return &arrival{w, tree, func() { closeTree(); cancel(nil) }}, nil
		}
		closeTree()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return nil, err
}
