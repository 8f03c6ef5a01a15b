package replay

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
)

// A Replayer finds a run that can stand for one that was asked for.
type Replayer struct {
	Store   *fs.Store
	Signers *sign.Signers

	// Mux returns the namespace's tree at the orchestrator. It is nil where
	// there is no orchestrator.
	Mux func(ctx context.Context) (fs.Dir, error)

	// Say tells the user why a run was not replayed.
	Say func(format string, args ...any)
}

const (
	// findTimeout is how long executors elsewhere may take to be found.
	findTimeout = 2 * time.Second
	// stallTimeout is how long a peer may send nothing of a run.
	stallTimeout = 10 * time.Second
)

// Find returns a passed run with that key, trusted and no older than
// CI_MAXAGE, out of the store or adopted from another executor; ok is false
// where there is none to be had.
func (r *Replayer) Find(ctx context.Context, key fs.Attrs, c *config.Config) (run fs.Entry, ok bool) {
	if run, ok := r.own(key, c.MaxAge); ok {
		return run, true
	}
	if r.Mux == nil {
		return fs.Entry{}, false
	}
	find, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	mux, err := r.Mux(find)
	if err == nil {
		var found []offer
		if found, err = r.ask(find, mux, key); err == nil {
			cancel()
			return r.adopt(ctx, mux, found, key, c.MaxAge)
		}
	}
	if ctx.Err() == nil {
		r.Say("orchestrator: %v", err)
	}
	return fs.Entry{}, false
}

// Look returns what Find would return, without adopting it: HOST and how long
// ago, or where it is at the orchestrator; or "".
func (r *Replayer) Look(ctx context.Context, key fs.Attrs, c *config.Config) string {
	if run, ok := r.own(key, c.MaxAge); ok {
		return "ci/" + run.ID + " of the store"
	}
	if r.Mux == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	mux, err := r.Mux(ctx)
	if err != nil {
		r.Say("orchestrator: %v", err)
		return ""
	}
	found, err := r.ask(ctx, mux, key)
	if err != nil {
		r.Say("orchestrator: %v", err)
	}
	for _, o := range found {
		if o.state == "passed" {
			return o.path + " at the orchestrator, if its signature is trusted"
		}
	}
	return ""
}

// own looks in the store, newest run first.
func (r *Replayer) own(key fs.Attrs, maxAge time.Duration) (fs.Entry, bool) {
	for run := range r.Store.WithKey(Digest(key)) {
		if run.State != "passed" || time.Since(run.Time) > maxAge {
			continue
		}
		if err := r.trusted(run); err != nil {
			r.Say("run %s in the store is not replayed: %v", run.ID, err)
			continue
		}
		return run, true
	}
	return fs.Entry{}, false
}

// trusted checks the signature of a run in the store.
func (r *Replayer) trusted(run fs.Entry) error {
	var text [2][]byte
	for i, name := range []string{"manifest", "manifest.sig"} {
		b, err := os.ReadFile(filepath.Join(run.Dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		text[i] = b
	}
	_, err := r.Signers.Verify(text[0], text[1], run.Time)
	return err
}

// An offer is a line of find's answer.
type offer struct {
	path  string // n/EXECUTOR/ci/ID
	state string
}

// ask writes the key to find and reads who has such runs.
func (r *Replayer) ask(ctx context.Context, mux fs.Dir, key fs.Attrs) ([]offer, error) {
	n, err := mux.Walk(ctx, "find")
	if err != nil {
		return nil, err
	}
	f, err := n.Open(ctx, fs.OpenRead|fs.OpenWrite)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.WriteAt(ctx, key.Text(), 0); err != nil {
		return nil, err
	}
	reply, err := io.ReadAll(io.LimitReader(fs.NewReader(ctx, f), maxReply))
	if err != nil {
		return nil, err
	}
	var found []offer
	for line := range strings.Lines(string(reply)) {
		w := strings.Fields(line)
		if len(w) < 5 {
			return nil, fmt.Errorf("find answered %q", line)
		}
		found = append(found, offer{path: strings.TrimPrefix(w[0], "/"), state: w[1]})
	}
	return found, nil
}

// maxReply is the most that find's answer may hold.
const maxReply = 1 << 20

// adopt fetches the first run offered that holds what it promises, and seals
// it in the store under its maker's signature.
func (r *Replayer) adopt(ctx context.Context, mux fs.Dir, found []offer, key fs.Attrs, maxAge time.Duration) (fs.Entry, bool) {
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
	return fs.Entry{}, false
}

func (r *Replayer) fetch(ctx context.Context, mux fs.Dir, path string, key fs.Attrs, maxAge time.Duration) (fs.Entry, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("it sent nothing for %v", stallTimeout)) })
	defer stall.Stop()
	n, err := fs.Walk(ctx, mux, path+".tar")
	if err != nil {
		return fs.Entry{}, err
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return fs.Entry{}, err
	}
	defer f.Close()
	// A tar is read by headers of 512 bytes: each would be a round trip.
	tar := bufio.NewReaderSize(&progress{fs.NewReader(ctx, f), stall}, 1<<20)
	run, err := r.Store.Adopt(ctx, tar, func(manifest, sig []byte, info fs.Attrs) (string, error) {
		end, err := time.Parse(time.RFC3339, info.Get("end"))
		switch {
		case err != nil:
			return "", err
		case !bytes.Contains(append([]byte("\n"), manifest...), fmt.Appendf(nil, "\n%s  key\n", Digest(key))):
			return "", errors.New("its key is another than the one asked for")
		case time.Since(end) > maxAge:
			return "", fmt.Errorf("it ended at %s, and CI_MAXAGE is %v", info.Get("end"), maxAge)
		}
		if _, err := r.Signers.Verify(manifest, sig, end); err != nil {
			return "", err
		}
		return sign.Signer(sig)
	})
	if err != nil {
		return run, cmp.Or(context.Cause(ctx), err)
	}
	if run.State != "passed" {
		return run, fmt.Errorf("it %s", run.State)
	}
	return run, nil
}

// A progress is a peer's bytes; they keep its stall from ending the transfer.
type progress struct {
	io.Reader
	stall *time.Timer
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		p.stall.Reset(stallTimeout)
	}
	return n, err
}
