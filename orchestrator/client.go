package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Import opens a connection to the mux's tree for ninep.Import, on a channel of
// its own. Several at once go further than one where the way is long: a channel
// has two MiB under way at most.
func (c *Conn) Import(ctx context.Context) (io.ReadWriteCloser, error) {
	l, err := c.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	ch, err := openChannel(ctx, l.ssh, "session", nil, func() {})
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: open a session: %w", c.addr, err)
	}
	// The answer is not waited for: a subsystem that is refused hangs up.
	if _, err := ch.SendRequest("subsystem", false, ssh.Marshal(&struct{ Name string }{"9p"})); err != nil {
		ch.Close()
		return nil, fmt.Errorf("orchestrator: %s: subsystem 9p: %w", c.addr, err)
	}
	return ch, nil
}

// Backoff of reconnects: each delay is drawn from zero up to a bound that
// doubles, so that executors that lost the same orchestrator do not come back
// together.
const (
	backoffFirst = 500 * time.Millisecond
	backoffMost  = 30 * time.Second
)

// Export serves what a announces, by serve, until ctx is done, and returns when
// every connection that was served has ended. A connection that is lost, or
// cannot be made, is made again, for as long as it takes.
//
// It reports a RefusedError where the orchestrator does not take the
// announcement, unless it has taken it before: then it is tried again. It
// reports net.ErrClosed when the Conn is closed.
func (c *Conn) Export(ctx context.Context, a Announce, serve ServeFunc) error {
	if err := a.check(); err != nil {
		return fmt.Errorf("orchestrator: export: %w", err)
	}
	joined, told := false, a.Joined
	a.Joined = func() {
		joined = true
		if told != nil {
			told()
		}
	}
	bound := backoffFirst
	for {
		began := time.Now()
		l, err := c.connect(ctx)
		if err == nil {
			err = l.export(ctx, a, serve)
		}
		var refused *RefusedError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case c.ctx.Err() != nil:
			return fmt.Errorf("orchestrator: %s: %w", c.addr, net.ErrClosed)
		case !joined && errors.As(err, &refused):
			return fmt.Errorf("orchestrator: %s: %w", c.addr, err)
		}
		if time.Since(began) > backoffMost {
			bound = backoffFirst
		}
		if a.Lost != nil {
			a.Lost(fmt.Errorf("orchestrator: %s: %w", c.addr, err))
		}
		delay := rand.N(bound)
		c.log.Warn("reconnect", "addr", c.addr, "delay", delay, "err", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
		}
		bound = min(2*bound, backoffMost)
	}
}
