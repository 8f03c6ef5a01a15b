package dial

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

// An Announce says what an executor exports.
type Announce struct {
	Name       string   // below n: HOST for a daemon, HOST.PID for others
	Namespaces []string // each is an aname that the export takes
	Address    string   // host:port where others reach the executor directly; "": that of Options.Direct, if any

	// Adopts says that it adopts the passed runs of others: one that is about
	// to leave waits for that.
	Adopts bool

	// Joined, if set, is called each time the orchestrator has taken the
	// announcement: from then on others see the executor.
	Joined func()

	// Named, if set, is called before Joined with the name that the executor has
	// below n: Name, or NAME+2 and so on if others of this name and key are
	// connected.
	Named func(shown string)

	// Second, if set, is called with the name of another executor that has come
	// with this name and key. It must not block.
	Second func(shown string)

	// Waits says that an announcement that is refused is made again, too: what
	// the key may do may change, and a name that belongs to another key may
	// become free.
	Waits bool

	// Lost, if set, is called with the reason each time a connection could not
	// be made or was lost. Export then connects again.
	Lost func(err error)
}

// A ServeFunc serves an executor's tree on one 9P connection, on behalf of user,
// and closes it. It returns when rwc hangs up or ctx is done. aname is what will
// be attached.
type ServeFunc = client.ServeFunc

// A RefusedError is an announcement that the orchestrator did not take.
type RefusedError = client.RefusedError

// Import opens a connection to the mux's tree for ninep.Import, on a channel of
// its own. A channel has at most 2 MiB under way, so several carry more than one
// over a long way.
func (c *Conn) Import(ctx context.Context) (io.ReadWriteCloser, error) {
	l, err := c.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	rwc, err := l.Import(ctx)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return rwc, nil
}

// Find asks find of a namespace, in one round trip once the connection is up. The
// question is what is written to the file. An intent in it lives until release is
// called, which must be called unless there is an error.
//
// Find waits 5 s for the connection, and then as long as within says beyond a round
// trip; 0 is no limit but ctx's.
// While Export goes on in the namespace, a question with an intent waits until the
// orchestrator has what is exported, as part of that time: the connection may be a
// new one.
// A namespace that is not there, or that no signer may read, is iofs.ErrNotExist.
// A limit that was reached is fs.ErrBusy: Find may be called again.
func (c *Conn) Find(ctx context.Context, namespace string, question []byte, within time.Duration) (answer []byte, release func(), err error) {
	answer, release, l, err := c.find(ctx, namespace, question, within)
	if within > 0 && errors.Is(err, client.ErrLost) {
		// It was up before the question, so a new one may do.
		select {
		case <-l.Done():
			answer, release, _, err = c.find(ctx, namespace, question, within)
		case <-ctx.Done():
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return answer, release, nil
}

// find asks once, on the connection l.
func (c *Conn) find(ctx context.Context, namespace string, question []byte, within time.Duration) (answer []byte, release func(), l *client.Link, err error) {
	if l, err = c.soon(ctx); err != nil {
		return nil, nil, nil, err
	}
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.RTT+within, fmt.Errorf("it did not answer find within a round trip and %v: %w", within, context.DeadlineExceeded))
		defer cancel()
	}
	if c.intends(namespace, question) {
		select {
		case <-l.Shown(namespace):
		case <-l.Done():
			return nil, nil, l, client.ErrLost
		case <-ctx.Done():
			return nil, nil, l, context.Cause(ctx)
		}
	}
	answer, release, err = l.Find(ctx, wire.FindMsg{Namespace: namespace, Question: string(question)})
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	return answer, release, l, err
}

// Told asks what the forge was told of how the runs of a commit in the namespace ended. The
// answer is a report.Answer as text. It reports errors as Find does, and waits for
// the orchestrator for 30 s at most.
func (c *Conn) Told(ctx context.Context, namespace, commit string) (answer string, err error) {
	answer, err = c.told(ctx, wire.ToldMsg{Namespace: namespace, Commit: commit})
	if err != nil {
		return "", fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return answer, nil
}

func (c *Conn) told(ctx context.Context, q wire.ToldMsg) (answer string, err error) {
	l, err := c.connect(ctx)
	if err != nil {
		return "", err
	}
	ctx, cancel := answerSoon(ctx)
	defer cancel()
	answer, err = l.Told(ctx, q)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return answer, err
}

// intends reports whether a question has an intent of what c exports in the namespace.
func (c *Conn) intends(namespace string, question []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exports[namespace] > 0 && bytes.Contains(append([]byte("\n"), question...), []byte("\nintent="))
}

// Connect makes the connection, unless it is up, as Find does.
func (c *Conn) Connect(ctx context.Context) error {
	if _, err := c.soon(ctx); err != nil {
		return fmt.Errorf("orchestrator: %s: %w", c.addr, err)
	}
	return nil
}

// soon is connect for one that has only so much time.
func (c *Conn) soon(ctx context.Context) (*client.Link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errConnect)
	defer cancel()
	l, err := c.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return l, nil
}

var errConnect = fmt.Errorf("it did not let this executor in within %v: %w", connectTimeout, context.DeadlineExceeded)

// boot returns a word for this start of the machine, or "".
var boot = sync.OnceValue(func() string {
	b, err := bootID()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(append(b, "9ci"...)) // machine-id(5): such an id is told to nobody as it is
	return hex.EncodeToString(sum[:16])
})

// Backoff of reconnects: each delay is drawn from zero up to a bound that
// doubles, so that executors that lost the same orchestrator do not come back
// together.
const (
	backoffFirst = 500 * time.Millisecond
	backoffMost  = 30 * time.Second
)

// Export serves what a announces, by serve, until ctx is done. It returns when
// every connection that it served has ended. If the connection to the
// orchestrator is lost or cannot be made, Export tries again, without end.
//
// It reports a RefusedError if the orchestrator does not take the announcement
// and has never taken it before, unless a.Waits; a refusal after that is tried
// again. It reports
// net.ErrClosed when the Conn is closed.
func (c *Conn) Export(ctx context.Context, a Announce, serve ServeFunc) error {
	what := wire.Announce{Name: a.Name, Namespaces: a.Namespaces, Address: a.Address, Adopts: a.Adopts, Instance: c.instance, Boot: boot()}
	if d := c.opts.Direct; d != nil && what.Address == "" {
		what.Address = d.Address()
	}
	if err := what.Check(); err != nil {
		return fmt.Errorf("orchestrator: export: %w", err)
	}
	c.mu.Lock()
	for _, ns := range a.Namespaces {
		c.exports[ns]++
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, ns := range a.Namespaces {
			c.exports[ns]--
		}
	}()
	joined := false
	join := func(shown string) {
		joined, what.Had = true, shown
		if a.Named != nil {
			a.Named(shown)
		}
		if a.Joined != nil {
			a.Joined()
		}
	}
	bound := backoffFirst
	for {
		began := time.Now()
		l, err := c.connect(ctx)
		next := c.next()
		if err == nil {
			err = l.Export(ctx, what, client.Told{Joined: join, Second: a.Second}, serve)
		}
		var refused *RefusedError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case c.ctx.Err() != nil:
			return fmt.Errorf("orchestrator: %s: %w", c.addr, net.ErrClosed)
		case !joined && !a.Waits && errors.As(err, &refused):
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
		case <-next: // another use of c has made it
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
		}
		bound = min(2*bound, backoffMost)
	}
}
