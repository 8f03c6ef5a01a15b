package replay

import (
	"context"
	"fmt"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// Await announces that this executor is going to run the key as the run of that
// id. It waits while a trusted executor that announced the same key earlier runs
// it, and adopts that run. If ok is false, it is this executor's turn: release,
// which is never nil, must then be called when its run has ended.
func (r *Replayer) Await(ctx context.Context, key ci.Attrs, c *config.Config, id string) (run store.Entry, ok bool, release func()) {
	release = func() {}
	if r.Mux == nil {
		return store.Entry{}, false, release
	}
	name, err := r.Name(ctx)
	if err != nil {
		return store.Entry{}, false, release
	}
	var told string
	left := newPatience(c)
	for {
		signers, ok := r.signers(ctx)
		if !ok {
			return store.Entry{}, false, release
		}
		found, later, err := r.ask(ctx, fmt.Appendf(question(key, signers), "intent=%s\n", id), findTimeout)
		if err != nil {
			r.complain(ctx, err)
			return store.Entry{}, false, release
		}
		release() // of the last question; the new one has kept our place
		release = later
		mux, err := r.Mux(ctx)
		if err != nil {
			r.complain(ctx, err)
			return store.Entry{}, false, release
		}
		if run, ok := r.adopt(ctx, mux, order(found, signers), key, c, left); ok || ctx.Err() != nil {
			return run, ok, release
		}
		if left.over() {
			return store.Entry{}, false, release
		}
		first, ok := before(found, signers, "n/"+name+"/ci/"+id)
		if !ok {
			return store.Entry{}, false, release
		}
		if first.Path() != told {
			told = first.Path()
			r.Say("waiting for %s: %s for %s s", first.Path(), first.State, ci.FormatSeconds(first.Took))
		}
		if _, err := ask.File(ctx, mux, first.Path()+"/wait"); err != nil && ctx.Err() == nil {
			// The executor has gone: the next find will not have it.
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
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
