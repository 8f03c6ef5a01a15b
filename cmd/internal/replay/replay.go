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
	"9ci/proto/ninep"
)

// A Replayer finds a run that can stand for one that was asked for.
type Replayer struct {
	Store   *fs.Store
	Signers *sign.Signers

	// Mux returns the namespace's tree at the orchestrator. It is nil where
	// there is no orchestrator.
	Mux func(ctx context.Context) (fs.Dir, error)

	// Name returns ours below n at the orchestrator, once our tree is there.
	Name func(ctx context.Context) (string, error)

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
	if run, ok := r.own(key, c.MaxAge); ok || r.Mux == nil {
		return run, ok
	}
	q, found, err := r.ask(ctx, key, "")
	if err != nil {
		r.complain(ctx, err)
		return fs.Entry{}, false
	}
	defer q.Close()
	return r.adopt(ctx, q.mux, found, key, c.MaxAge)
}

// complain tells that the orchestrator is of no use: the run is made here.
func (r *Replayer) complain(ctx context.Context, err error) {
	if ctx.Err() == nil {
		r.Say("orchestrator: %v", err)
	}
}

// Await announces that this executor, whose run has that id, is going to run
// the key. It waits as long as a trusted executor that announced it earlier
// does, and then adopts what that made. With ok false it is this executor's
// turn; release, which is never nil, is to be called when its run has ended.
func (r *Replayer) Await(ctx context.Context, key fs.Attrs, c *config.Config, id string) (run fs.Entry, ok bool, release func()) {
	release = func() {}
	if r.Mux == nil {
		return fs.Entry{}, false, release
	}
	name, err := r.Name(ctx)
	if err != nil {
		return fs.Entry{}, false, release
	}
	var told string
	for {
		q, found, err := r.ask(ctx, key, id)
		if err != nil {
			r.complain(ctx, err)
			return fs.Entry{}, false, release
		}
		release() // what was asked before: our place among the askers is kept
		release = func() { q.Close() }
		if run, ok := r.adopt(ctx, q.mux, found, key, c.MaxAge); ok || ctx.Err() != nil {
			return run, ok, release
		}
		first, ok := r.before(found, "n/"+name+"/ci/"+id)
		if !ok {
			return fs.Entry{}, false, release
		}
		if first.path != told {
			told = first.path
			r.Say("waiting for %s: %s for %s s", first.path, first.state, first.seconds)
		}
		if err := q.wait(ctx, first.path); err != nil && ctx.Err() == nil {
			// It is gone, or will be when find is asked again.
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
}

// before returns the first run that goes on at a trusted executor, if it is
// not ours.
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

// Look returns what Find would return, without adopting it: HOST and how long
// ago, or where it is at the orchestrator; or "".
func (r *Replayer) Look(ctx context.Context, key fs.Attrs, c *config.Config) string {
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
	path    string // n/EXECUTOR/ci/ID
	state   string
	seconds string
	signer  string // of an unfinished run: the key of its executor
}

func (o offer) finished() bool { return fs.Status{State: o.state}.Finished() }

// A question is an open find.
type question struct {
	fs.File
	mux fs.Dir
}

// wait blocks until the run at path has ended.
func (q question) wait(ctx context.Context, path string) error {
	_, err := ask.File(ctx, q.mux, path+"/wait")
	return err
}

// ask writes the key, and which run of ours is going to be of it, to find and
// reads who has such runs. Our intent is known as long as the question is open.
func (r *Replayer) ask(ctx context.Context, key fs.Attrs, intent string) (*question, []offer, error) {
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
		w, err := fs.SplitWords(strings.TrimSuffix(line, "\n"))
		if err != nil || len(w) < 6 {
			return nil, fmt.Errorf("find answered %q", line)
		}
		found = append(found, offer{strings.TrimPrefix(w[0], "/"), w[1], w[2], w[4]})
	}
	return found, nil
}

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
	// What has not passed is not even fetched. The manifest will say whether
	// this is the status that was signed.
	status, err := ask.File(ctx, mux, path+"/status")
	if err != nil {
		return fs.Entry{}, err
	}
	if st, err := fs.ParseStatus(string(status)); err != nil {
		return fs.Entry{}, err
	} else if st.State != "passed" {
		return fs.Entry{}, fmt.Errorf("it %s", st.State)
	}
	n, err := fs.Walk(ctx, mux, path+".tar")
	if err != nil {
		return fs.Entry{}, err
	}
	s, err := ninep.Stream(ctx, n)
	if err != nil {
		return fs.Entry{}, err
	}
	defer s.Close()
	run, err := r.Store.Adopt(ctx, &progress{s, stall}, func(manifest, sig []byte, info fs.Attrs) (string, error) {
		end, err := time.Parse(time.RFC3339, info.Get("end"))
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

// lists reports whether a manifest says that the file of that name has the
// text.
func lists(manifest []byte, name string, text []byte) bool {
	line := fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(text), name)
	return bytes.HasPrefix(manifest, line) || bytes.Contains(manifest, append([]byte("\n"), line...))
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
