package replay

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
)

// Offers are tried one of each executor first, and those of signers that nobody
// trusts never.
func TestOrder(t *testing.T) {
	alice, mallory, ca := newSigner(t), newSigner(t), newSigner(t)
	a, m := sign.Fingerprint(alice.PublicKey()), sign.Fingerprint(mallory.PublicKey())
	found := []ci.Offer{
		{Executor: "m", ID: "1", State: "passed", Signer: m},
		{Executor: "m", ID: "2", State: "passed", Signer: a},
		{Executor: "m", ID: "3", State: "passed", Signer: a},
		{Executor: "m", ID: "4", State: "passed", Signer: a},
		{Executor: "a", ID: "1", State: "passed", Signer: a},
		{Executor: "b", ID: "1", State: "passed", Signer: a},
		{Executor: "a", ID: "2", State: "passed", Signer: a},
		{Executor: "a", ID: "3", State: "passed"},
		{Executor: "a", ID: "4", State: "test", Signer: a},
		{Executor: "a", ID: "5", State: "failed", Signer: a},
	}
	for _, tt := range []struct {
		name   string
		signer string // a line of allowed_signers besides that of alice
		want   []string
	}{
		{"keys", "", []string{"m/2", "a/1", "b/1", "m/3", "a/2", "m/4"}},
		{"certificates", "x cert-authority " + string(ssh.MarshalAuthorizedKey(ca.PublicKey())),
			[]string{"m/2", "a/1", "b/1", "m/3", "a/2", "m/4", "m/1"}},
	} {
		signers, err := trusting(alice)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		signers.AddText("signers", tt.signer, func(err error) { t.Error(err) })
		var got []string
		for _, o := range order(found, "passed", signers) {
			got = append(got, o.Executor+"/"+o.ID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: order = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A trickle is a peer that sends n bytes each time, forever or size in all.
type trickle struct {
	ctx   context.Context
	every time.Duration
	n     int
	size  int
}

func (r *trickle) Read(b []byte) (int, error) {
	select {
	case <-time.After(r.every):
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
	if r.size -= r.n; r.size == 0 {
		return r.n, io.EOF
	}
	return r.n, nil
}

// No peer holds a run for longer than CI_REPLAY_TIMEOUT, nor do ten; a large run
// may take its time.
func TestPatience(t *testing.T) {
	const never = 1000 * time.Hour
	for _, tt := range []struct {
		name    string
		peer    trickle
		vouched bool
		peers   int // how many such are tried
		want    time.Duration
		whole   bool // all of it comes
	}{
		{"silence", trickle{every: never, n: 1}, false, 1, 10 * time.Second, false},
		{"silence behind the signature", trickle{every: never, n: 1}, true, 1, 10 * time.Second, false},
		{"a byte in nine seconds", trickle{every: 9 * time.Second, n: 1}, true, 1, 10 * time.Second, false},
		{"a thousand bytes a second", trickle{every: time.Millisecond, n: 1}, true, 1, 10 * time.Second, false},
		{"ten of them", trickle{every: time.Millisecond, n: 1}, true, 10, time.Minute, false},
		{"a signature that never comes", trickle{every: time.Millisecond, n: 1 << 20}, false, 1, time.Minute, false},
		{"two in turn", trickle{every: 9 * time.Second, n: 9 * 64 << 10}, true, 2, time.Hour, true},
		{"a large run", trickle{every: time.Second, n: 64 << 10, size: 3600 * 64 << 10}, true, 1, time.Hour, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.whole && tt.peer.size == 0 {
					tt.peer.size = int(tt.want/time.Second) / tt.peers * 64 << 10
				}
				left := newPatience(&config.Config{ReplayTimeout: time.Minute})
				began := time.Now()
				for range tt.peers {
					if left.over() {
						break
					}
					ctx, cancel := context.WithCancelCause(t.Context())
					peer := tt.peer
					peer.ctx = ctx
					x := &transfer{Reader: &peer, vouched: tt.vouched, left: left, cancel: cancel}
					_, err := io.Copy(io.Discard, x)
					x.settle()
					if (err == nil) != tt.whole || errors.Is(err, context.Canceled) {
						t.Errorf("error %v, all of it: %v", err, tt.whole)
					}
					cancel(nil)
				}
				if took := time.Since(began).Round(time.Second); took != tt.want {
					t.Errorf("it took %v, want %v", took, tt.want)
				}
			})
		})
	}
}
