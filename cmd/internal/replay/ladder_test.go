package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/orchestrator/dial"
)

// A rungTest says how a rung behaves.
type rungTest struct {
	opens  time.Duration // until its tree is open
	comes  time.Duration // then, until its first bytes are there
	err    error         // of its opening
	forged bool          // what comes is not what was signed
}

// never is longer than anybody waits.
const never = time.Hour

// run returns the directory of a run, of whose files the first is the status.
func (b rungTest) run(id, rung string) fs.Dir {
	return fs.NewDir(id,
		fs.TextFile("status", func(ctx context.Context) ([]byte, error) {
			return []byte("passed 0 1.000 2026-11-24T21:00:00Z\n"), wait(ctx, b.comes)
		}),
		fs.TextFile("by", func(context.Context) ([]byte, error) { return []byte(rung), nil }))
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The rung whose first bytes come first is the one that a run is fetched by. A rung
// that is first in the ladder has a head start, and one that fails, hangs or lies
// costs no more than that.
func TestClimb(t *testing.T) {
	const ms = time.Millisecond
	refused, key := errors.New("connection refused"), fmt.Errorf("x: %w", dial.ErrHostKeyChanged)
	for _, tt := range []struct {
		name               string
		ladder             string
		noAddress          bool
		direct, e2e, relay rungTest
		by                 string // "": no run
		said               string // or the error
		within             time.Duration
	}{
		{name: "all are quick", by: "direct", within: 100 * ms, direct: rungTest{opens: 50 * ms, comes: 40 * ms}},
		{name: "no address", noAddress: true, by: "e2e", within: 60 * ms, e2e: rungTest{opens: 60 * ms}},
		{name: "no SSH server", noAddress: true, by: "relay", within: 20 * ms, e2e: rungTest{err: refused, opens: 20 * ms}},
		{name: "the order is the ladder's", ladder: "relay,e2e,direct", by: "relay", within: 10 * ms, relay: rungTest{comes: 10 * ms}},
		{name: "far from everything", by: "relay", within: 1100 * ms,
			direct: rungTest{opens: 3000 * ms}, e2e: rungTest{opens: 3000 * ms}, relay: rungTest{comes: 600 * ms}},
		{name: "direct refuses", by: "e2e", within: 5 * ms, direct: rungTest{err: refused, opens: 5 * ms}},
		{name: "direct is a black hole", by: "e2e", within: 250 * ms, direct: rungTest{opens: never}},
		{name: "direct is open and silent", by: "e2e", within: 250 * ms, direct: rungTest{comes: never}},
		{name: "another host key", by: "e2e", said: "the host key has changed; the run came by another way", within: 0, direct: rungTest{err: key}},
		{name: "direct forges", by: "e2e", said: "direct: forged; the run came by another way", direct: rungTest{forged: true}},
		{name: "two forge", by: "relay", said: "e2e: forged;", direct: rungTest{forged: true}, e2e: rungTest{forged: true}},
		{name: "two forge and one refuses", said: "e2e: connection refused; direct: forged; relay: forged", direct: rungTest{comes: 300 * ms, forged: true}, e2e: rungTest{err: refused}, relay: rungTest{comes: 300 * ms, forged: true}, within: 900 * ms},
		{name: "all forge", said: "forged\n", direct: rungTest{forged: true}, e2e: rungTest{forged: true}, relay: rungTest{forged: true}},
		{name: "direct alone", ladder: "direct", said: "connection refused", direct: rungTest{err: refused}},
		{name: "direct alone hangs", ladder: "direct", said: "it sent nothing for 10s", direct: rungTest{opens: never}, within: stallTimeout},
		{name: "no way", ladder: "direct", noAddress: true, said: "CI_LADDER=direct has no way to it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const id = "0123456789ab.1"
				rungs := map[string]rungTest{"direct": tt.direct, "e2e": tt.e2e, "relay": tt.relay}
				trees := make(map[string]fs.Dir) // made now: NewDir asks each file for its name
				for rung, b := range rungs {
					trees[rung] = fs.NewDir("/", fs.NewDir("ci", b.run(id, rung)))
				}
				var open atomic.Int64
				var said bytes.Buffer
				var took string
				r := &Replayer{
					Way: func(ctx context.Context, rung, executor string) (fs.Dir, func(), error) {
						b := rungs[rung]
						if err := wait(ctx, b.opens); err != nil {
							return nil, nil, err
						}
						if b.err != nil {
							return nil, nil, b.err
						}
						open.Add(1)
						return trees[rung], func() { open.Add(-1) }, nil
					},
					Took: func(id, rung string) { took = rung },
					Say:  func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) },
				}
				mux := fs.NewDir("/", fs.NewDir("n", fs.NewDir("a", fs.NewDir("ci", tt.relay.run(id, relay)))))
				o := ci.Offer{Executor: "a", ID: id, State: "passed", Address: "10.0.0.1:22"}
				if tt.noAddress {
					o.Address = ""
				}
				var ladder []string
				if tt.ladder != "" {
					ladder = strings.Split(tt.ladder, ",")
				}
				began := time.Now()
				run, err := r.climb(t.Context(), mux, o, ladder, &patience{time.Minute}, func(ctx context.Context, tree fs.Dir, path string) (store.Entry, error) {
					b, err := ask.File(ctx, tree, path+"/by")
					if err == nil && rungs[string(b)].forged {
						err = errors.New("forged")
					}
					return store.Entry{ID: string(b)}, err
				})
				if d := time.Since(began); d > tt.within {
					t.Errorf("it took %v, want %v", d, tt.within)
				}
				if run.ID != tt.by && tt.by != "" || took != tt.by || (err == nil) != (tt.by != "") {
					t.Errorf("climb: by %s, told %s, %v, want %s", run.ID, took, err, tt.by)
				}
				if err != nil {
					fmt.Fprintln(&said, err)
				}
				if !strings.Contains(said.String(), tt.said) || tt.said == "" && said.Len() > 0 {
					t.Errorf("said %q, want %q", said.String(), tt.said)
				}
				if n := open.Load(); n != 0 {
					t.Errorf("%d ways are left open", n)
				}
			})
		})
	}
}

// A run that is given up by its asker is given up on every way.
func TestClimbEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("^C")
		time.AfterFunc(time.Second, func() { cancel(why) })
		r := &Replayer{Way: func(ctx context.Context, rung, _ string) (fs.Dir, func(), error) { return nil, nil, wait(ctx, never) }}
		mux := fs.NewDir("/", fs.NewDir("n", fs.NewDir("a", fs.NewDir("ci", rungTest{comes: never}.run("0123456789ab.1", relay)))))
		_, err := r.climb(ctx, mux, ci.Offer{Executor: "a", ID: "0123456789ab.1", Address: "10.0.0.1:22"}, nil, &patience{time.Minute}, nil)
		if !errors.Is(err, why) {
			t.Errorf("climb = %v, want %v", err, why)
		}
	})
}

// An executor that serves another run at its own address than the signed one gains
// nothing: the run comes by the relay.
func TestClimbForged(t *testing.T) {
	alice, mallory := newSigner(t), newSigner(t)
	key := Key(conf, commit, tree, []string{"test"})
	good, forged := newPeer(t, alice, key, "passed", time.Now()), newPeer(t, mallory, key, "passed", time.Now())
	for name, at := range map[string]peer{"another signer": forged, "a tar that ends": {good.id, good.signer, cut{good.tree}}} {
		t.Run(name, func(t *testing.T) {
			kept, err := store.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			m := newMux(func(name string, p peer) string {
				return ci.Offer{Executor: name, ID: p.id, State: "passed", Signer: p.signer, Address: "10.0.0.1:22"}.String() + "\n"
			}, map[string]peer{"a": good})
			var said bytes.Buffer
			var took string
			r := &Replayer{Store: kept, Signers: trusting(alice),
				Mux: func(context.Context) (fs.Dir, error) { return m, nil }, Ask: m.ask,
				Way: func(_ context.Context, rung, executor string) (fs.Dir, func(), error) {
					if rung != "direct" || executor != "a" {
						return nil, nil, errors.New("no SSH server")
					}
					return at.tree, func() {}, nil
				},
				Took: func(_, rung string) { took = rung },
				Say:  func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
			run, ok := r.Find(t.Context(), key, conf)
			if !ok || took != relay || run.Signer != good.signer {
				t.Errorf("Find = %v, %v by %s, want Alice's run by the relay", run.ID, ok, took)
			}
			if !strings.Contains(said.String(), "n/a/ci/"+good.id+": direct: ") || !strings.Contains(said.String(), "the run came by another way") {
				t.Errorf("said %q, want what came directly", said.String())
			}
		})
	}
}
