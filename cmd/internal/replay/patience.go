package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"9ci/cmd/internal/config"
)

const (
	// leastRate is how many bytes a second a run has to come at.
	leastRate = 64 << 10
	// window is what the rate is averaged over, at least.
	window = time.Second
	// stallTimeout is how long an offer may be below that rate: then the next
	// is tried.
	stallTimeout = 10 * time.Second
)

// A patience is what is left of CI_REPLAY_TIMEOUT for all offers of a replay. It
// goes while a peer is waited for, but not while a run whose signature is good
// comes at leastRate: the run may be large.
type patience struct{ left time.Duration }

// newPatience returns a patience of CI_REPLAY_TIMEOUT; 0 is no limit.
func newPatience(c *config.Config) *patience {
	if c.ReplayTimeout == 0 {
		return &patience{math.MaxInt64}
	}
	return &patience{c.ReplayTimeout}
}

func (p *patience) over() bool { return p.left <= 0 }

// A transfer reads an offered run. It is cancelled when the patience is over, or
// the peer has been below the rate for stallTimeout. It counts the time in which
// the peer is waited for, and not that which the store takes to write.
type transfer struct {
	io.Reader
	vouched bool // the signature was found good
	failed  bool // an error came from the peer

	left   *patience
	cancel context.CancelCauseFunc
	timer  *time.Timer   // cancels it while the peer is waited for
	began  time.Time     // of what the peer is waited for
	waited time.Duration // since the window began
	got    int           // bytes since then
	slow   time.Duration // for how long it has been below the rate
}

func (t *transfer) Read(b []byte) (int, error) {
	t.begin()
	n, err := t.Reader.Read(b)
	t.end(n)
	t.failed = t.failed || err != nil && err != io.EOF
	return n, err
}

// begin is called before the peer is waited for.
func (t *transfer) begin() {
	t.began = time.Now()
	after, why := t.left.left, errors.New("CI_REPLAY_TIMEOUT has passed")
	if stall := stallTimeout - t.slow; stall < after {
		after, why = stall, fmt.Errorf("it sent nothing, or less than %d KiB/s, for %v", leastRate>>10, stallTimeout)
	}
	t.timer = time.AfterFunc(after-t.waited, func() { t.cancel(why) })
}

// end is called when the peer has sent n bytes, or an error.
func (t *transfer) end(n int) {
	t.timer.Stop()
	t.waited += time.Since(t.began)
	t.got += n
	if t.waited >= window {
		t.settle()
	}
}

// settle ends the window. It is called at the end of the transfer, too.
func (t *transfer) settle() {
	fast := float64(t.got) >= leastRate*t.waited.Seconds()
	if fast {
		t.slow = 0
	} else {
		t.slow += t.waited
	}
	if !fast || !t.vouched {
		t.left.left -= t.waited
	}
	t.waited, t.got = 0, 0
}
