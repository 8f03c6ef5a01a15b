package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/fs/store"
)

// busy is a tree that has no room for a walk yet.
type busy struct {
	fs.Dir
	left *atomic.Int64
}

func (b busy) Walk(ctx context.Context, name string) (fs.Node, error) {
	if b.left.Add(-1) >= 0 {
		return nil, fmt.Errorf("too many fids: %w", fs.ErrBusy)
	}
	return b.Dir.Walk(ctx, name)
}

// An orchestrator and an executor that are busy are asked again: busy is not
// absent.
func TestFindBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := newSigner(t)
		key := Key(conf, commit, tree, []string{"test"})
		good := newPeer(t, alice, key, "passed", time.Now())
		dir := t.TempDir()
		kept, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		asks := 3
		var walks atomic.Int64
		walks.Store(4)
		m := newMux(passed, map[string]peer{"a": {good.id, good.signer, busy{good.tree, &walks}}})
		var said bytes.Buffer
		r := &Replayer{Store: kept, Signers: trusting(alice),
			Mux: func(context.Context) (fs.Dir, error) { return m, nil },
			Ask: func(ctx context.Context, q []byte, within time.Duration) ([]byte, func(), error) {
				if asks--; asks >= 0 {
					return nil, nil, fmt.Errorf("refused: %w", fs.ErrBusy)
				}
				return m.ask(ctx, q, within)
			},
			Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
		run, ok := r.Find(t.Context(), key, conf)
		if !ok || said.Len() > 0 {
			t.Fatalf("Find = %v, %v, said %q; want a run and nothing said", run.ID, ok, said.String())
		}
		if _, err := os.Stat(run.Dir); err != nil {
			t.Error(err)
		}
	})
}

// What stays busy is given up in the end, and at once where the caller is.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := func() error { return fmt.Errorf("refused: %w", fs.ErrBusy) }
		began := time.Now()
		if err := again(t.Context(), refuse); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("again = %v, want %v", err, fs.ErrBusy)
		}
		if took := time.Since(began); took > busyFor || took < busyFor-busyMost {
			t.Errorf("it was asked again for %v, want almost %v", took, busyFor)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if err := again(ctx, refuse); !errors.Is(err, fs.ErrBusy) || time.Since(began) != time.Second {
			t.Errorf("again = %v after %v, want %v after a second", err, time.Since(began), fs.ErrBusy)
		}
		n := 0
		if err := again(t.Context(), func() error { n++; return os.ErrNotExist }); err != os.ErrNotExist || n != 1 {
			t.Errorf("again = %v after %d calls, want %v after one", err, n, os.ErrNotExist)
		}
	})
}
