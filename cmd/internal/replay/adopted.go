package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// adopterTimeout is how long an executor that leaves waits for an adopter.
const adopterTimeout = 30 * time.Second

// AwaitAdopter waits until an executor that adopts runs has this one, which ended
// here: it is the last chance, as we leave. It does not wait if no such executor is
// connected, and for 30 s at most, or until ctx is done.
func (r *Replayer) AwaitAdopter(ctx context.Context, run store.Entry) {
	if r.Mux == nil {
		return
	}
	own, err := r.Name(ctx)
	if err != nil {
		return // nobody sees our tree
	}
	adopters, err := r.adopters(ctx, own)
	if err != nil || len(adopters) == 0 {
		return
	}
	r.Say("waiting for an adopter of ci/%s, for %v at most", run.ID, adopterTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, adopterTimeout, fmt.Errorf("no adopter has taken ci/%s within %v", run.ID, adopterTimeout))
	defer cancel()
	for {
		if done, err := r.adopted(ctx, run, own); done || err == nil {
			return
		}
		// The orchestrator is lost.
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		if ctx.Err() == context.DeadlineExceeded {
			r.Say("%v", context.Cause(ctx))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// adopted waits until an executor that adopts has the run, which it reports by done,
// or there is none any more. It returns an error if the orchestrator cannot be asked.
func (r *Replayer) adopted(ctx context.Context, run store.Entry, own string) (done bool, err error) {
	_, events, err := r.events(ctx)
	if err != nil {
		return false, err
	}
	defer events.Close()
	// What happens from now on, the events tell.
	adopters, err := r.adopters(ctx, own)
	if err != nil {
		return false, err
	}
	if done, err = r.has(ctx, run, adopters); done || err != nil {
		return done, err
	}
	over := errors.New("no adopter is left")
	err = eachLine(ctx, events, func(line string) error {
		e, err := ci.ParseMuxEvent(line)
		if err != nil {
			return err
		}
		if e.What == "join" || e.What == "leave" {
			if adopters, err = r.adopters(ctx, own); err != nil {
				return err
			}
		}
		if len(adopters) == 0 {
			return over
		}
		if e.Status.State == "passed" && slices.Contains(adopters, e.Executor) {
			if done, err = r.has(ctx, run, adopters); done {
				return over
			}
		}
		return err
	})
	if err == over {
		err = nil
	}
	return done, err
}

// adopters returns the names of the executors that adopt, but for our own.
func (r *Replayer) adopters(ctx context.Context, own string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	mux, err := r.Mux(ctx)
	if err != nil {
		return nil, err
	}
	status, err := ask.File(ctx, mux, "status")
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(status)) { // of which several have one name
		words, err := ci.SplitWords(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("status: %w", err)
		}
		if name, ok := strings.CutPrefix(strings.Join(words, " "), "adopts="); ok && name != own {
			names = append(names, name)
		}
	}
	return names, nil
}

// has reports whether one of the executors has the run.
func (r *Replayer) has(ctx context.Context, run store.Entry, executors []string) (bool, error) {
	key, err := run.Key()
	if err != nil {
		return false, err
	}
	signers, ok := r.signers(ctx)
	if !ok {
		return false, nil
	}
	found, err := r.offers(ctx, key, signers)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(found, func(o ci.Offer) bool {
		return o.Score == run.Score && slices.Contains(executors, o.Executor)
	}), nil
}
