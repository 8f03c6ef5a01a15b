package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
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
		if err := again(t.Context(), &patience{never}, refuse); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("again = %v, want %v", err, fs.ErrBusy)
		}
		if took := time.Since(began); took > busyFor || took < busyFor-busyMost {
			t.Errorf("it was asked again for %v, want almost %v", took, busyFor)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if err := again(ctx, &patience{never}, refuse); !errors.Is(err, fs.ErrBusy) || time.Since(began) != time.Second {
			t.Errorf("again = %v after %v, want %v after a second", err, time.Since(began), fs.ErrBusy)
		}
		n := 0
		if err := again(t.Context(), &patience{never}, func() error { n++; return os.ErrNotExist }); err != os.ErrNotExist || n != 1 {
			t.Errorf("again = %v after %d calls, want %v after one", err, n, os.ErrNotExist)
		}
	})
}

// What is busy keeps nobody from the run that another has too, and no longer than
// CI_REPLAY_TIMEOUT.
func TestFindStaysBusy(t *testing.T) {
	for _, other := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			alice := newSigner(t)
			c := *conf
			c.ReplayTimeout = 5 * time.Second
			key := Key(&c, commit, tree, []string{"test"})
			good := newPeer(t, alice, key, "passed", time.Now())
			kept, err := store.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			var walks atomic.Int64
			walks.Store(1 << 40)
			full := peer{good.id, good.signer, busy{good.tree, &walks}}
			peers := map[string]peer{"a": full, "b": full}
			if other {
				peers["c"] = good
			}
			m := newMux(passed, peers)
			var said bytes.Buffer
			r := &Replayer{Store: kept, Signers: trusting(alice), Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
				Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
			began := time.Now()
			_, ok := r.Find(t.Context(), key, &c)
			took := time.Since(began)
			lines := strings.Count(said.String(), "\n")
			switch {
			case ok != other:
				t.Errorf("Find = %v, said %q", ok, said.String())
			case other && (took > 0 || lines > 0):
				t.Errorf("with another: %v, said %q; want no delay, and nothing said", took, said.String())
			case !other && (took > c.ReplayTimeout || lines != 2 || strings.Count(said.String(), "temporarily unavailable\n") != 2):
				t.Errorf("alone: %v, said %q; want %v at most, and a line for each", took, said.String(), c.ReplayTimeout)
			}
		})
	}
}
