package replay

import (
	"context"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// adopt fetches the first passed run of the offers that can be verified, and
// seals it in the store under its maker's signature.
func (r *Replayer) adopt(ctx context.Context, mux fs.Dir, found []ci.Offer, key ci.Attrs, maxAge time.Duration) (store.Entry, bool) {
	for _, o := range found {
		if o.State != "passed" {
			continue
		}
		run, err := r.fetch(ctx, mux, o.Path(), key, maxAge)
		if err == nil {
			return run, true
		}
		if ctx.Err() != nil {
			break
		}
		r.Say("%s is not replayed: %v", o.Path(), err)
	}
	return store.Entry{}, false
}
