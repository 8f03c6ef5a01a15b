package guest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// A Client is the host's side. It runs commands in a guest. Several goroutines
// may use it.
type Client struct {
	conn *conn
	idle time.Duration
	done chan struct{} // closed by read when the connection has ended

	hello  chan struct{} // closed when Rhello has come
	became chan error    // the outcome of Tprep or Tboot
	alive  chan struct{} // holds one value if a message has come since the last look

	mu       sync.Mutex // guards the rest
	err      error      // why done
	greeted  bool
	asked    byte // tPrep or tBoot, not yet answered; or 0
	pings    int  // sent and not answered
	commands map[uint32]*remote
	next     uint32
}

// ErrStalled is the reason of a connection that ended because the guest did not
// answer a ping, or did not end a command that was killed.
var ErrStalled = errors.New("guest does not answer")

// ErrHungUp is the reason of a connection that the guest closed.
var ErrHungUp = errors.New("guest hung up")

// ErrClosed is the reason of a connection that Close closed.
var ErrClosed = errors.New("closed")

// NewClient returns a Client of the guest at the other end of rwc, which the Client
// closes. After Boot it pings a guest that is silent for the time idle, and gives
// up one that does not answer for as long again.
func NewClient(rwc io.ReadWriteCloser, idle time.Duration) *Client {
	c := newClient(rwc, idle)
	go c.read()
	return c
}

// ResumeClient is NewClient for a guest that was saved after Prepare and
// has been resumed: Boot comes next.
func ResumeClient(rwc io.ReadWriteCloser, idle time.Duration) *Client {
	c := newClient(rwc, idle)
	c.greeted = true
	close(c.hello)
	go c.read()
	return c
}

func newClient(rwc io.ReadWriteCloser, idle time.Duration) *Client {
	return &Client{
		conn:     newConn(rwc),
		idle:     idle,
		done:     make(chan struct{}),
		hello:    make(chan struct{}),
		became:   make(chan error, 1),
		alive:    make(chan struct{}, 1),
		commands: make(map[uint32]*remote),
	}
}

// Done returns a channel that is closed when the connection has ended. Err then
// says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended. It is nil at first, and set just before
// Done. It wraps ErrHungUp, ErrStalled or ErrClosed, or says how the guest broke
// the protocol.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close hangs up, on which the guest kills its commands, and waits for Done. It
// returns nil.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// fail ends the connection with the first reason that was given.
func (c *Client) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = fmt.Errorf("guest: %w", err)
	}
	c.mu.Unlock()
	if first {
		c.conn.rwc.Close()
	}
}

// read is the connection's one reader. It never waits for anything else.
func (c *Client) read() {
	for {
		m, err := c.conn.read()
		if err == nil {
			select {
			case c.alive <- struct{}{}:
			default:
			}
			err = c.handle(m)
		} else if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
			err = ErrHungUp
		}
		if err != nil {
			c.fail(err)
			break
		}
	}
	c.mu.Lock()
	for _, r := range c.commands {
		r.end()
	}
	clear(c.commands)
	c.mu.Unlock()
	close(c.done)
}

// handle acts on a message, or returns which rule the guest broke with it.
func (c *Client) handle(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if own, err := c.handleOwn(m); own {
		return err
	}
	r := c.commands[m.id]
	if r == nil {
		return m.errorf("nothing like that was asked for")
	}
	gone, err := r.handle(m)
	if gone {
		delete(c.commands, m.id)
		r.end()
	}
	return err
}

// handleOwn acts on a message that is the connection's own and answers what
// was asked. It reports false for any other. c.mu is held.
func (c *Client) handleOwn(m message) (own bool, err error) {
	switch {
	case m.kind == rHello && !c.greeted:
		if string(m.data) != Version {
			return true, m.errorf("version %.20q, want %q", m.data, Version)
		}
		c.greeted = true
		close(c.hello)
	case m.kind == rPing && c.pings > 0:
		c.pings--
	case c.asked != 0 && m.id == 0 && m.kind == c.asked+1:
		c.asked = 0
		c.became <- nil
	case c.asked != 0 && m.id == 0 && m.kind == rError:
		e, err := asError(m)
		if err != nil {
			return true, err
		}
		c.asked = 0
		c.became <- e
	default:
		return false, nil
	}
	return true, nil
}

// handle acts on a message of the command, and reports whether it was the
// last one. The Client's mu is held.
func (r *remote) handle(m message) (gone bool, err error) {
	if (m.kind == rRun || m.kind == rError) == r.running {
		return false, m.errorf("out of order")
	}
	switch m.kind {
	case rRun:
		if _, err := m.words(1); err != nil {
			return false, err
		}
		r.running = true
		close(r.started)
	case rError:
		e, err := asError(m)
		if err != nil {
			return false, err
		}
		r.err = e
		return true, nil
	case rStdout, rStderr:
		if !r.output.put(m.kind, m.data) {
			return false, m.errorf("%d bytes where the window has no room for that", len(m.data))
		}
	case rTaken:
		w, err := m.words(1)
		if err != nil {
			return false, err
		}
		if !r.window.give(w[0]) {
			return false, m.errorf("%d bytes that were not sent", w[0])
		}
	case rExit:
		w, err := m.words(2)
		if err != nil {
			return false, err
		}
		if w[0] > 255 || w[1] > 64 {
			return false, m.errorf("status %d, signal %d", w[0], w[1])
		}
		r.exit = Exit{Code: int(w[0]), Signal: syscall.Signal(w[1])}
		r.ended = true
		return true, nil
	default:
		return false, m.errorf("not for a host")
	}
	return false, nil
}

// end wakes all goroutines that wait for the command: no more of it will come.
func (r *remote) end() {
	r.output.end()
	r.window.shutdown()
	close(r.gone)
}

// A RunError is the answer of a guest that could not prepare, boot, or start a
// command. Nothing of the text is checked but its length.
type RunError struct {
	Errno syscall.Errno // so errors.Is(err, fs.ErrNotExist) and the like hold
	Text  string        // the guest's words
}

// Error is the guest's words.
func (e *RunError) Error() string { return e.Text }

// Unwrap is the guest's errno.
func (e *RunError) Unwrap() error { return e.Errno }

func asError(m message) (*RunError, error) {
	if len(m.data) < 4 || len(m.data) > 4+maxText {
		return nil, m.errorf("%d bytes of data, want 4 to %d", len(m.data), 4+maxText)
	}
	return &RunError{syscall.Errno(binary.LittleEndian.Uint32(m.data)), string(m.data[4:])}, nil
}

// Hello waits for the guest to say hello. Its error is ctx's cause or that of Err.
func (c *Client) Hello(ctx context.Context) error {
	select {
	case <-c.hello:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("guest did not say hello: %w", context.Cause(ctx))
	}
}

// Prepare makes a guest that said hello put its system together, and waits for it.
// It is called once. Its error is a *RunError, ctx's cause, or that of Err.
func (c *Client) Prepare(ctx context.Context, p Prepare) error {
	return c.become(ctx, tPrep, p)
}

// Boot makes a guest that is prepared a machine for commands, and waits for it. It
// is called once. Its errors are those of Prepare, and syscall.E2BIG for files and
// an environment that do not fit into a message.
func (c *Client) Boot(ctx context.Context, b Boot) error {
	if err := c.become(ctx, tBoot, b); err != nil {
		return err
	}
	go c.keepalive()
	return nil
}

// become asks for a Tprep or Tboot. The answer's type is the next one.
func (c *Client) become(ctx context.Context, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > MaxSize-headerSize {
		return fmt.Errorf("guest: files and environment of %d bytes: %w", len(b), syscall.E2BIG)
	}
	c.mu.Lock()
	c.asked = kind
	c.mu.Unlock()
	if err := c.conn.write(kind, 0, b...); err != nil {
		return c.lost(err)
	}
	select {
	case err := <-c.became:
		return err
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("guest did not boot: %w", context.Cause(ctx))
	}
}

// keepalive ends with the connection.
func (c *Client) keepalive() {
	t := time.NewTicker(c.idle)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		select {
		case <-c.alive:
			continue
		default:
		}
		c.mu.Lock()
		n := c.pings
		if n == 0 {
			c.pings = 1
		}
		c.mu.Unlock()
		if n != 0 {
			c.fail(fmt.Errorf("%w: silent for %v", ErrStalled, 2*c.idle))
			return
		}
		// A guest that stalls may hold up the write, and every other.
		go c.conn.write(tPing, 0)
	}
}

// lostTime is how long the reader of a connection that takes no more writes has to
// come to its end: what it reads on the way may say why.
const lostTime = time.Second

// lost returns the connection's error after a write that failed with err.
func (c *Client) lost(err error) error {
	t := time.NewTimer(lostTime)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		c.fail(fmt.Errorf("%w: %w", ErrHungUp, err))
	}
	return c.Err()
}

// Halt asks the guest to power itself off, which ends the connection. It does not
// wait for that, but blocks while the guest reads nothing.
func (c *Client) Halt() error { return c.conn.write(tHalt, 0) }
