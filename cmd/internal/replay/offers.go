package replay

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// order returns the offers of runs in that state, in the order in which they are
// tried: one of each executor, then the next of each, so that one that offers many
// does not keep the others back. Offers of signers that nobody trusts are left out.
// Where certificates may be trusted, an unknown signer may have one: those come
// last. The orchestrator was asked for the same, and is not trusted to do it.
func order(found []ci.Offer, state string, signers *sign.Signers) []ci.Offer {
	type ranked struct {
		ci.Offer
		unknown int // 1: the signer can only be trusted for a certificate
		nth     int // of those of its executor
	}
	named, certificates := signers.Fingerprints(), signers.Authorities()
	var list []ranked
	seen := [2]map[string]int{{}, {}} // by unknown
	for _, o := range found {
		r := ranked{Offer: o}
		if !slices.Contains(named, o.Signer) {
			r.unknown = 1
		}
		if o.State != state || o.Signer == "" || r.unknown > 0 && !certificates {
			continue
		}
		r.nth = seen[r.unknown][o.Executor]
		seen[r.unknown][o.Executor]++
		list = append(list, r)
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.unknown, b.unknown), cmp.Compare(a.nth, b.nth))
	})
	offers := make([]ci.Offer, len(list))
	for i, r := range list {
		offers[i] = r.Offer
	}
	return offers
}

// adopt fetches the first of the offers that can be verified, and seals it in the
// store under its maker's signature. Those whose peers are busy are tried again
// after the others. Those that came to nothing before are left out: Find and Await
// get the same answers.
func (r *Replayer) adopt(ctx context.Context, mux fs.Dir, offers []ci.Offer, key ci.Attrs, c *config.Config, left *patience) (run store.Entry, ok bool) {
	if r.refused == nil {
		r.refused = make(map[ci.Offer]bool)
	}
	offers = slices.DeleteFunc(offers, func(o ci.Offer) bool { return r.refused[o] })
	busy := make(map[ci.Offer]error)
	again(ctx, left, func() (berr error) {
		todo := offers
		offers = nil // those that are busy
		for i, o := range todo {
			if left.over() {
				r.Say("CI_REPLAY_TIMEOUT=%v has passed, with %d still to be looked at", c.ReplayTimeout, len(todo)-i)
				break
			}
			var err error
			if run, err = r.take(ctx, mux, o, wanted{key: key, state: o.State, score: o.Score}, c, left); err == nil {
				ok, offers = true, nil
				return nil
			}
			if ctx.Err() != nil {
				offers = nil
				return nil
			}
			if errors.Is(err, fs.ErrBusy) {
				offers, busy[o], berr = append(offers, o), err, err
				continue
			}
			r.refused[o] = true
			r.Say("%s is not replayed: %v", o.Path(), err)
			if errors.As(err, new(*keepError)) {
				offers = nil
				return nil
			}
		}
		return berr
	})
	for _, o := range offers {
		r.Say("%s is not replayed: %v", o.Path(), busy[o])
	}
	return run, ok
}

// take fetches the run of an offer, by the ladder.
func (r *Replayer) take(ctx context.Context, mux fs.Dir, o ci.Offer, w wanted, c *config.Config, left *patience) (store.Entry, error) {
	return r.climb(ctx, mux, o, c.Ladder, left, func(ctx context.Context, tree fs.Dir, path string) (store.Entry, error) {
		return r.fetch(ctx, tree, path, w, c, left)
	})
}
