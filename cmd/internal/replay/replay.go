// Package replay finds a finished run that can stand for one that was asked for.
// It computes the key, which is equal for runs that are interchangeable, looks for
// runs with that key in the store and at the orchestrator, and adopts one that a
// trusted signer has signed.
package replay

import (
	"context"
	"slices"
	"sync"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// A Replayer finds a run for one request. One goroutine uses it at a time.
type Replayer struct {
	Store *store.Store

	// Signers returns those whose runs are replayed. It is called anew for
	// each question and each run that is adopted, so that a key that is
	// revoked counts at once.
	Signers func(ctx context.Context) (*sign.Signers, error)

	// Mux returns the namespace's tree at the orchestrator. Without an
	// orchestrator Mux is nil.
	Mux func(ctx context.Context) (fs.Dir, error)

	// Ask asks find of that namespace. It waits so long beyond a round trip, or
	// with 0 as long as ctx lasts. An intent of the question lives until release
	// is called, which must be called unless there is an error. The error is
	// fs.ErrBusy where a limit was reached.
	Ask func(ctx context.Context, question []byte, within time.Duration) (answer []byte, release func(), err error)

	// Failed says that a failed run counts too if there is no passed one. A run
	// that was cancelled or ended in error says nothing of its revision.
	Failed bool

	// Name returns the name of this executor below n at the orchestrator. It
	// waits until the tree is there.
	Name func(ctx context.Context) (string, error)

	// Way returns the namespace's tree of the executor of that name, reached by a
	// rung of CI_LADDER other than relay. The tree ends with close. Nil: there is
	// no way but the relay.
	Way func(ctx context.Context, rung, executor string) (tree fs.Dir, close func(), err error)

	// Took, if not nil, is told by which rung a run came into the store.
	Took func(id, rung string)

	// Say tells the user why a run was not replayed.
	Say func(format string, args ...any)

	// Explain says that a replay is demanded: if there is none, Find asks
	// once more and tells of a run whose signer is not trusted.
	Explain bool

	refused map[ci.Offer]bool // offers that came to nothing: they are not tried again
}

// Find returns a passed run with that key, trusted and no older than CI_MAXAGE:
// from the store, or else adopted from another executor. With r.Failed it returns,
// if there is none, one that failed. If there is neither, ok is false.
func (r *Replayer) Find(ctx context.Context, key ci.Attrs, c *config.Config) (run store.Entry, ok bool) {
	signers, ok := r.signers(ctx)
	if !ok {
		return store.Entry{}, false
	}
	find := r.finder(ctx, key, signers)
	left := newPatience(c)
	explain := r.Explain && r.Mux != nil
	for _, state := range r.states() {
		if run, ok := r.own(signers, state, key, c.MaxAge); ok {
			return run, true
		}
		mux, offers, err := find(state)
		if err != nil {
			explain = false
			continue
		}
		explain = explain && len(offers) == 0
		if run, ok := r.adopt(ctx, mux, offers, key, c, left); ok || ctx.Err() != nil {
			return run, ok
		}
	}
	if explain {
		r.explain(ctx, key, signers)
	}
	return store.Entry{}, false
}

// finder returns a function that returns which runs with a key that ended in a state
// are to be tried, in that order, and the tree in which they are. The orchestrator is
// asked once, when the function is first called. If that fails the user is told.
func (r *Replayer) finder(ctx context.Context, key ci.Attrs, signers *sign.Signers) func(state string) (fs.Dir, []ci.Offer, error) {
	var mux fs.Dir
	ask := sync.OnceValues(func() (found []ci.Offer, err error) {
		if r.Mux == nil {
			return nil, nil
		}
		if found, err = r.offers(ctx, key, signers); err == nil && len(found) > 0 {
			mux, err = r.open(ctx)
		}
		if err != nil {
			r.complain(ctx, err)
		}
		return found, err
	})
	return func(state string) (fs.Dir, []ci.Offer, error) {
		found, err := ask()
		return mux, order(found, state, signers), err
	}
}

// signers returns those whose runs are replayed. If a list of them cannot be read,
// signers tells the user, and ok is false: then nothing is replayed.
func (r *Replayer) signers(ctx context.Context) (s *sign.Signers, ok bool) {
	s, err := r.Signers(ctx)
	if err != nil && ctx.Err() == nil {
		r.Say("nothing is replayed: %v", err)
	}
	return s, err == nil
}

// states are the states of the runs that count, the best first as ci.CompareBest
// has them.
func (r *Replayer) states() []string {
	if r.Failed {
		return []string{"passed", "failed"}
	}
	return []string{"passed"}
}

// Look says where Find would take a run from, without adopting it, or returns "".
func (r *Replayer) Look(ctx context.Context, key ci.Attrs, c *config.Config) string {
	signers, ok := r.signers(ctx)
	if !ok {
		return ""
	}
	find := r.finder(ctx, key, signers)
	for _, state := range r.states() {
		if run, ok := r.own(signers, state, key, c.MaxAge); ok {
			return "ci/" + run.ID + " of the store"
		}
		mux, offers, err := find(state)
		if err != nil {
			continue
		}
		if o, ok := firstOf(ctx, mux, offers, state, c.MaxAge); ok {
			return o.Path() + " at the orchestrator, if its signature is good"
		}
	}
	return ""
}

// firstOf returns the first of the offers whose run is in that state and no older
// than maxAge, as its executor says. It gives each findTimeout, and all of them
// nearestTimeout.
func firstOf(ctx context.Context, mux fs.Dir, offers []ci.Offer, state string, maxAge time.Duration) (ci.Offer, bool) {
	ctx, cancel := context.WithTimeout(ctx, nearestTimeout)
	defer cancel()
	for _, o := range offers[:min(len(offers), maxNeighbours)] {
		each, cancel := context.WithTimeout(ctx, findTimeout)
		st, err := ask.Status(each, mux, o.Path()+"/status")
		cancel()
		if err == nil && st.State == state && time.Since(st.Time) <= maxAge {
			return o, true
		}
	}
	return ci.Offer{}, false
}

// explain tells the user of a run with that key that is not replayed because nobody
// trusts who is said to have signed it.
func (r *Replayer) explain(ctx context.Context, key ci.Attrs, signers *sign.Signers) {
	found, err := r.offers(ctx, key, nil)
	if err != nil {
		return
	}
	for _, o := range found {
		if !slices.Contains(r.states(), o.State) || o.Signer == "" || signers.Trusts(o.Signer) {
			continue
		}
		why := "an allowed_signers file must name it"
		if signers.Names(o.Signer) {
			why = "its line of allowed_signers is for another time or use, or a file revoked has it"
		}
		r.Say("%s is not replayed: its signer %s is not trusted: %s", o.Path(), o.Signer, why)
		return
	}
}

// own returns the newest run of the store, in that state, that Find may return.
func (r *Replayer) own(signers *sign.Signers, state string, key ci.Attrs, maxAge time.Duration) (store.Entry, bool) {
	for run := range r.Store.WithKey(Digest(key)) {
		if run.State != state || time.Since(run.Time) > maxAge {
			continue
		}
		if err := trusted(signers, run); err != nil {
			r.Say("run %s in the store is not replayed: %v", run.ID, err)
			continue
		}
		return run, true
	}
	return store.Entry{}, false
}
