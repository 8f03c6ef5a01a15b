package replay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
)

// findTimeout is how long the orchestrator may take to answer find.
const findTimeout = 2 * time.Second

// A question is an open file find.
type question struct {
	fs.File
	mux fs.Dir
}

// wait blocks until the run at path has ended.
func (q question) wait(ctx context.Context, path string) error {
	_, err := ask.File(ctx, q.mux, path+"/wait")
	return err
}

// maxQuestion is how many bytes of a question may name signers. The orchestrator
// takes 64 KiB in all.
const maxQuestion = 60 << 10

// ask writes the key to find, with the signers that count, and reads which
// executors have runs of it. The signers of certificates are not known before: if
// some may count, or signers is nil, the question names none, and the answer has
// runs of all. intent, if not empty, is the id of our run that is going to have that
// key: others know of it as long as the question is open.
func (r *Replayer) ask(ctx context.Context, key ci.Attrs, signers *sign.Signers, intent string) (*question, []ci.Offer, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	mux, err := r.Mux(ctx)
	if err != nil {
		return nil, nil, err
	}
	n, err := mux.Walk(ctx, "find")
	if err != nil {
		return nil, nil, err
	}
	f, err := n.Open(ctx, fs.OpenRead|fs.OpenWrite)
	if err != nil {
		return nil, nil, err
	}
	text := key.Text()
	if signers != nil && !signers.Authorities() {
		if named := strings.Join(signers.Fingerprints(), " signer="); named != "" && len(text)+len(named) < maxQuestion {
			text = fmt.Appendf(text, "signer=%s\n", named)
		}
	}
	if intent != "" {
		text = fmt.Appendf(text, "intent=%s\n", intent)
	}
	found, err := converse(ctx, f, text)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return &question{f, mux}, found, nil
}

func converse(ctx context.Context, f fs.File, text []byte) ([]ci.Offer, error) {
	reply, err := ask.Reply(ctx, f, text)
	if err != nil {
		return nil, err
	}
	var found []ci.Offer
	for line := range strings.Lines(string(reply)) {
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
		r.Say("orchestrator: %v", err)
	}
}
