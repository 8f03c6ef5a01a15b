package replay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
)

// findTimeout is how long the orchestrator may take to answer find, beyond a round
// trip.
const findTimeout = 2 * time.Second

// maxSigners is how many bytes of a question may name signers. The orchestrator
// takes 64 KiB in all.
const maxSigners = 60 << 10

// question returns what asks find for runs with a key that were signed by signers.
// The signers of certificates are not known before: if some may count, or signers is
// nil, the question names none, and the answer has runs of all.
func question(key ci.Attrs, signers *sign.Signers) []byte {
	text := key.Text()
	if signers != nil && !signers.Authorities() {
		if named := strings.Join(signers.Fingerprints(), " signer="); named != "" && len(text)+len(named) < maxSigners {
			text = fmt.Appendf(text, "signer=%s\n", named)
		}
	}
	return text
}

// offers returns the runs with a key that executors have.
func (r *Replayer) offers(ctx context.Context, key ci.Attrs, signers *sign.Signers) ([]ci.Offer, error) {
	found, release, err := r.ask(ctx, question(key, signers), findTimeout)
	if err == nil {
		release()
	}
	return found, err
}

// ask asks find, and again while it is busy.
func (r *Replayer) ask(ctx context.Context, question []byte, within time.Duration) (found []ci.Offer, release func(), err error) {
	err = again(ctx, &patience{busyFor}, func() error {
		var answer []byte
		if answer, release, err = r.Ask(ctx, question, within); err != nil {
			return err
		}
		if found, err = parseOffers(answer); err != nil {
			release()
		}
		return err
	})
	return found, release, err
}

// openTimeout is how long an orchestrator that has answered find may take to open
// the namespace's tree. It is slow when many executors ask at once.
const openTimeout = 20 * time.Second

// open returns the namespace's tree at the orchestrator.
func (r *Replayer) open(ctx context.Context) (fs.Dir, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	mux, err := r.Mux(ctx)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("it did not open the namespace's tree within %v", openTimeout)
	}
	return mux, err
}

func parseOffers(answer []byte) ([]ci.Offer, error) {
	var found []ci.Offer
	for line := range strings.Lines(string(answer)) {
		o, err := ci.ParseOffer(line)
		if err != nil {
			return nil, fmt.Errorf("find answered %.200q: %w", line, err)
		}
		found = append(found, o)
	}
	return found, nil
}

// complain tells the user that the orchestrator could not be asked.
func (r *Replayer) complain(ctx context.Context, err error) {
	if ctx.Err() == nil {
		r.Say("orchestrator: %s", strings.TrimPrefix(err.Error(), "orchestrator: "))
	}
}
