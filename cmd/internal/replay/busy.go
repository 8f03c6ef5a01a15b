package replay

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"9ci/fs"
)

// A peer that is busy is asked again after a moment, drawn from zero up to a bound
// that doubles: those that it refused together do not come back together.
const (
	busyFirst = 200 * time.Millisecond
	busyMost  = 5 * time.Second
	busyFor   = 30 * time.Second // for as long it is asked, within the deadline of ctx
)

// again calls do until it returns another error than fs.ErrBusy. It returns that
// of the last call. Between the calls the patience goes.
func again(ctx context.Context, left *patience, do func() error) error {
	end := time.Now().Add(busyFor)
	for bound := busyFirst; ; bound = min(2*bound, busyMost) {
		err := do()
		if !errors.Is(err, fs.ErrBusy) {
			return err
		}
		wait := bound/2 + rand.N(bound/2)
		if time.Now().Add(wait).After(end) || wait >= left.left {
			return err
		}
		left.left -= wait
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
