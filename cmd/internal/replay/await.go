package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

const (
	// intentTimeout is how long the orchestrator may take to answer a question
	// with an intent. It has answered a moment before, and is slow when many
	// executors ask at once: one that gave up would run what others run.
	intentTimeout = 20 * time.Second

	// Delays before an orchestrator that was lost is asked again: each is drawn
	// from zero up to a bound that doubles, so that those that lost it do not
	// come back together.
	lostFirst = 500 * time.Millisecond
	lostMost  = 10 * time.Second

	// comesBack is how long a waiter asks at least for an orchestrator that it
	// has lost: executors are back by then.
	comesBack = time.Minute
)

// Await announces that this executor is going to run the key as the run of that
// id. It waits while a trusted executor that announced the same key earlier runs
// it, and adopts that run. If the orchestrator is lost meanwhile, Await asks again
// as long as that run may go on: as long as c would let it. If ok is false, it is
// this executor's turn. Release, which is never nil, must be called when the run of
// that id has ended, or is there no more: until then others wait for it.
func (r *Replayer) Await(ctx context.Context, key ci.Attrs, c *config.Config, id string) (run store.Entry, ok bool, release func()) {
	release = func() {}
	if r.Mux == nil {
		return store.Entry{}, false, release
	}
	name, err := r.Name(ctx)
	if err != nil {
		return store.Entry{}, false, release
	}
	left := newPatience(c)
	var first ci.Offer // the run that is waited for
	for {
		signers, ok := r.signers(ctx)
		if !ok {
			return store.Entry{}, false, release
		}
		text := fmt.Appendf(question(key, signers), "intent=%s\n", id)
		var found []ci.Offer
		var next func()
		if first.ID == "" {
			found, next, err = r.ask(ctx, text, intentTimeout)
		} else {
			found, next, err = r.wait(ctx, text, first, mayLast(c, first))
		}
		if err != nil {
			r.complain(ctx, err)
			return store.Entry{}, false, release
		}
		release() // of the last question: the new one has kept our place
		release = next
		if offers := order(found, "passed", signers); len(offers) > 0 {
			var mux fs.Dir
			if mux, err = r.open(ctx); err != nil {
				r.complain(ctx, err)
				return store.Entry{}, false, release
			}
			if run, ok := r.adopt(ctx, mux, offers, key, c, left); ok {
				return run, true, release
			}
		}
		if ctx.Err() != nil || left.over() {
			return store.Entry{}, false, release
		}
		told := first.Path()
		if first, ok = before(found, signers, "n/"+name+"/ci/"+id); !ok {
			return store.Entry{}, false, release
		}
		if first.Path() != told {
			since := ""
			if first.Took >= 0 {
				since = " for " + ci.FormatSeconds(first.Took) + " s"
			}
			r.Say("waiting for %s: %s%s", first.Path(), first.State, since)
		}
	}
}

// mayLast returns how long the run may still take, as far as we know: its executor
// may have other limits than ours. 0 is for ever.
func mayLast(c *config.Config, run ci.Offer) time.Duration {
	limit := c.Timeout
	if limit == 0 {
		limit = c.MaxTimeout
	}
	if limit == 0 {
		return 0
	}
	return max(limit-max(run.Took, 0), comesBack)
}

// wait asks once more, and has the answer come when a run has ended. If the
// orchestrator is lost, wait asks again: for the time that the run may last, and for
// comesBack at least. An orchestrator that is new knows from the question for whom
// we waited.
func (r *Replayer) wait(ctx context.Context, question []byte, run ci.Offer, last time.Duration) (found []ci.Offer, release func(), err error) {
	question = fmt.Appendf(question, "wait=/%s\n", run.Path())
	until := time.Now().Add(last)
	bound := lostFirst
	told := false
	for {
		began := time.Now()
		found, release, err = r.ask(ctx, question, 0)
		if err == nil || ctx.Err() != nil {
			return found, release, err
		}
		now := time.Now()
		if now.Sub(began) > lostMost { // it was there
			bound, told = lostFirst, false
			if back := now.Add(comesBack); back.After(until) {
				until = back
			}
		}
		if last > 0 && now.After(until) {
			return nil, nil, fmt.Errorf("%w; %s has ended by now, as far as can be told", err, run.Path())
		}
		if !told {
			told = true
			text := strings.ReplaceAll(err.Error(), "\n", ": ")
			r.Say("orchestrator: %s: asking again, as %s may still go on", strings.TrimPrefix(text, "orchestrator: "), run.Path())
		}
		select {
		case <-time.After(rand.N(bound)):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		bound = min(2*bound, lostMost)
	}
}

// before returns the first offer of a run that goes on at a trusted executor,
// unless that is our own.
func before(found []ci.Offer, signers *sign.Signers, own string) (ci.Offer, bool) {
	for _, o := range found {
		switch {
		case o.Path() == own:
			return ci.Offer{}, false
		case !o.Finished() && signers.Trusts(o.Signer):
			return o, true
		}
	}
	return ci.Offer{}, false
}
