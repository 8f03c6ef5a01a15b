package replay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/proto/ninep"
)

// A wanted says which run is asked for: that of an offer, which may lie.
type wanted struct {
	key        ci.Attrs // or nil: any run of one of the namespaces
	namespaces []string
	state      string
	score      string    // "": any
	end        time.Time // zero: any
}

// fetch adopts the run at path, if it is the one that is wanted.
func (r *Replayer) fetch(ctx context.Context, mux fs.Dir, path string, w wanted, c *config.Config, left *patience) (store.Entry, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &transfer{left: left, cancel: cancel}
	defer t.settle()
	t.begin()
	status, tar, err := open(ctx, mux, path, w.state)
	t.end(0)
	if err != nil {
		return store.Entry{}, cmp.Or(context.Cause(ctx), err)
	}
	defer tar.Close()
	t.Reader = tar
	run, err := r.Store.Adopt(ctx, t, func(manifest, sig []byte, info ci.Attrs) (string, error) {
		signers, err := r.Signers(ctx)
		if err != nil {
			return "", err
		}
		if err := accept(signers, w, c.MaxAge, status, manifest, sig, info); err != nil {
			return "", err
		}
		t.vouched = true
		return sign.Signer(sig)
	})
	if err != nil {
		if _, file := errors.AsType[*iofs.PathError](err); file && t.vouched && !t.failed {
			err = &keepError{err}
		}
		return run, cmp.Or(context.Cause(ctx), err)
	}
	return run, nil
}

// A keepError is the error of a run that came, and that this machine could not keep,
// as when its disk is full. No other way and no other peer would help.
type keepError struct{ error }

func (e *keepError) Unwrap() error { return e.error }

// open asks at once for the status of a run and for its tar. The signed manifest is
// to be held against the status, which must be of that state.
func open(ctx context.Context, mux fs.Dir, path, state string) (status []byte, tar io.ReadCloser, err error) {
	var asked sync.WaitGroup
	var serr error
	asked.Go(func() { status, serr = ask.File(ctx, mux, path+"/status") })
	n, err := fs.FileAt(ctx, mux, path+".tar")
	if err == nil {
		tar, err = ninep.Stream(ctx, n)
	}
	asked.Wait()
	if serr == nil {
		var st ci.Status
		if st, serr = ci.ParseStatus(string(status)); serr == nil && st.State != state {
			serr = fmt.Errorf("it is %s, and was said to be %s", st.State, state)
		}
	}
	if serr != nil && err == nil {
		tar.Close()
	}
	return status, tar, cmp.Or(serr, err)
}

// accept returns why a run does not stand for the one that is wanted, or nil.
func accept(signers *sign.Signers, w wanted, maxAge time.Duration, status, manifest, sig []byte, info ci.Attrs) error {
	end, err := ci.End(info)
	switch {
	case err != nil:
		return err
	case w.score != "" && w.score != score(manifest):
		return errors.New("its score is another than the one that was told")
	case !w.end.IsZero() && !w.end.Equal(end):
		return fmt.Errorf("it ended at %s, and was said to have ended at %s", info.Get("end"), ci.FormatTime(w.end))
	case w.key == nil && !w.of(info.Get("repo")):
		return fmt.Errorf("it is a run of %.300q", info.Get("repo"))
	case w.key != nil && !ci.Lists(manifest, "key", w.key.Text()):
		return errors.New("its key is another than the one asked for")
	case w.key.Has("commit") && w.key.Get("commit") != info.Get("commit"):
		return fmt.Errorf("its key and its info are of two commits, %.12q and %.12q", w.key.Get("commit"), info.Get("commit"))
	case !ci.Lists(manifest, "status", status):
		return errors.New("its status is another than the one that was signed")
	case time.Since(end) > maxAge:
		return fmt.Errorf("it ended at %s, and CI_MAXAGE is %v", info.Get("end"), maxAge)
	}
	_, err = signers.Verify(manifest, sig, sign.Run{End: end, Commit: info.Get("commit")})
	return err
}

// of reports whether a run that says repo of itself is of one of the namespaces. A
// local namespace is one clone's, and says nothing to others.
func (w wanted) of(repo string) bool {
	return repo == "" || repo == "-" || ci.LocalNamespace(repo) || slices.Contains(w.namespaces, repo)
}

// score returns the score of the run with that manifest.
func score(manifest []byte) string { return fmt.Sprintf("%x", sha256.Sum256(manifest)) }

// trusted checks the signature of a run in the store.
func trusted(signers *sign.Signers, run store.Entry) error {
	var text [2][]byte
	for i, name := range []string{"manifest", "manifest.sig"} {
		b, err := os.ReadFile(filepath.Join(run.Dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		text[i] = b
	}
	_, err := signers.Verify(text[0], text[1], sign.Run{End: run.Time, Commit: run.Commit})
	return err
}
