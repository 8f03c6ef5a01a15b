package replay

import (
	"context"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// An offer is a line of the answer of find.
type offer struct {
	path    string // n/EXECUTOR/ci/ID
	state   string
	seconds string
	signer  string // of an unfinished run: the key of its executor
}

func (o offer) finished() bool { return ci.Status{State: o.state}.Finished() }

// adopt fetches the first passed run of the offers that can be verified, and
// seals it in the store under its maker's signature.
func (r *Replayer) adopt(ctx context.Context, mux fs.Dir, found []offer, key ci.Attrs, maxAge time.Duration) (store.Entry, bool) {
	for _, o := range found {
		if o.state != "passed" {
			continue
		}
		run, err := r.fetch(ctx, mux, o.path, key, maxAge)
		if err == nil {
			return run, true
		}
		if ctx.Err() != nil {
			break
		}
		r.Say("%s is not replayed: %v", o.path, err)
	}
	return store.Entry{}, false
}
