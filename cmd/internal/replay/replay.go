package replay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/proto/ninep"
)

// A Replayer finds runs for one clone. Its fields do not change while it is used.
type Replayer struct {
	Store   *store.Store
	Signers *sign.Signers

	// Mux returns the namespace's tree at the orchestrator. Without an
	// orchestrator Mux is nil.
	Mux func(ctx context.Context) (fs.Dir, error)

	// Name returns the name of this executor below n at the orchestrator. It
	// waits until the tree is there.
	Name func(ctx context.Context) (string, error)

	// Say tells the user why a run was not replayed.
	Say func(format string, args ...any)
}

const (
	// findTimeout is how long the orchestrator may take to answer find.
	findTimeout = 2 * time.Second
	// stallTimeout is how long a peer may send nothing while a run is fetched.
	stallTimeout = 10 * time.Second
)

// Find returns a passed run with that key, trusted and no older than CI_MAXAGE:
// from the store, or else adopted from another executor. If there is none, ok is
// false.
func (r *Replayer) Find(ctx context.Context, key ci.Attrs, c *config.Config) (run store.Entry, ok bool) {
	if run, ok := r.own(key, c.MaxAge); ok || r.Mux == nil {
		return run, ok
	}
	q, found, err := r.ask(ctx, key, "")
	if err != nil {
		r.complain(ctx, err)
		return store.Entry{}, false
	}
	defer q.Close()
	return r.adopt(ctx, q.mux, found, key, c.MaxAge)
}

// complain tells the user that the orchestrator could not be asked.
func (r *Replayer) complain(ctx context.Context, err error) {
	if ctx.Err() == nil {
		r.Say("orchestrator: %v", err)
	}
}

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
	for {
		q, found, err := r.ask(ctx, key, id)
		if err != nil {
			r.complain(ctx, err)
			return store.Entry{}, false, release
		}
		release() // close the last question; the new one has kept our place
		release = func() { q.Close() }
		if run, ok := r.adopt(ctx, q.mux, found, key, c.MaxAge); ok || ctx.Err() != nil {
			return run, ok, release
		}
		first, ok := r.before(found, "n/"+name+"/ci/"+id)
		if !ok {
			return store.Entry{}, false, release
		}
		if first.path != told {
			told = first.path
			r.Say("waiting for %s: %s for %s s", first.path, first.state, first.seconds)
		}
		if err := q.wait(ctx, first.path); err != nil && ctx.Err() == nil {
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
func (r *Replayer) before(found []offer, own string) (offer, bool) {
	for _, o := range found {
		switch {
		case o.path == own:
			return offer{}, false
		case !o.finished() && r.Signers.Trusts(o.signer):
			return o, true
		}
	}
	return offer{}, false
}

// Look says where Find would take a run from, without adopting it, or returns "".
func (r *Replayer) Look(ctx context.Context, key ci.Attrs, c *config.Config) string {
	if run, ok := r.own(key, c.MaxAge); ok {
		return "ci/" + run.ID + " of the store"
	}
	if r.Mux == nil {
		return ""
	}
	q, found, err := r.ask(ctx, key, "")
	if err != nil {
		r.complain(ctx, err)
		return ""
	}
	defer q.Close()
	for _, o := range found {
		if o.state == "passed" {
			return o.path + " at the orchestrator, if its signature is trusted"
		}
	}
	return ""
}

// own returns the newest run of the store that Find may return.
func (r *Replayer) own(key ci.Attrs, maxAge time.Duration) (store.Entry, bool) {
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
	return store.Entry{}, false
}

// trusted checks the signature of a run in the store.
func (r *Replayer) trusted(run store.Entry) error {
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

// An offer is a line of the answer of find.
type offer struct {
	path    string // n/EXECUTOR/ci/ID
	state   string
	seconds string
	signer  string // of an unfinished run: the key of its executor
}

func (o offer) finished() bool { return ci.Status{State: o.state}.Finished() }

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

// ask writes the key to find, and reads which executors have runs of it. intent,
// if not empty, is the id of our run that is going to have that key: others know
// of it as long as the question is open.
func (r *Replayer) ask(ctx context.Context, key ci.Attrs, intent string) (*question, []offer, error) {
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

func converse(ctx context.Context, f fs.File, text []byte) ([]offer, error) {
	reply, err := ask.Reply(ctx, f, text)
	if err != nil {
		return nil, err
	}
	var found []offer
	for line := range strings.Lines(string(reply)) {
		w, err := ci.SplitWords(strings.TrimSuffix(line, "\n"))
		if err != nil || len(w) < 6 {
			return nil, fmt.Errorf("find answered %q", line)
		}
		found = append(found, offer{strings.TrimPrefix(w[0], "/"), w[1], w[2], w[4]})
	}
	return found, nil
}

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

func (r *Replayer) fetch(ctx context.Context, mux fs.Dir, path string, key ci.Attrs, maxAge time.Duration) (store.Entry, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("it sent nothing for %v", stallTimeout)) })
	defer stall.Stop()
	// Fetch only what has passed. The signed manifest is held against this
	// status below.
	status, err := ask.File(ctx, mux, path+"/status")
	if err != nil {
		return store.Entry{}, err
	}
	if st, err := ci.ParseStatus(string(status)); err != nil {
		return store.Entry{}, err
	} else if st.State != "passed" {
		return store.Entry{}, fmt.Errorf("it %s", st.State)
	}
	n, err := fs.Walk(ctx, mux, path+".tar")
	if err != nil {
		return store.Entry{}, err
	}
	s, err := ninep.Stream(ctx, n)
	if err != nil {
		return store.Entry{}, err
	}
	defer s.Close()
	run, err := r.Store.Adopt(ctx, &progress{s, stall}, func(manifest, sig []byte, info ci.Attrs) (string, error) {
		end, err := ci.End(info)
		switch {
		case err != nil:
			return "", err
		case !lists(manifest, "key", key.Text()):
			return "", errors.New("its key is another than the one asked for")
		case !lists(manifest, "status", status):
			return "", errors.New("its status is another than the one that was signed")
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
	return run, nil
}

// lists reports whether a manifest has the text's digest for the file name.
func lists(manifest []byte, name string, text []byte) bool {
	line := fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(text), name)
	return bytes.HasPrefix(manifest, line) || bytes.Contains(manifest, append([]byte("\n"), line...))
}

// A progress reads a peer's bytes. Each Read that gets some puts off the end of
// the transfer.
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
