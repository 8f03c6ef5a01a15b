package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
)

// OpenChannel opens a channel to the peer of c. The ssh package waits for an
// answer as long as the connection lives; OpenChannel waits until ctx is done.
// The error of a channel that the peer refused is that of Refused. OpenChannel
// calls done once: when the channel is closed, when the peer refuses it, or
// when a channel that was answered too late has been closed.
func OpenChannel(ctx context.Context, c ssh.Conn, kind string, payload []byte, done func()) (ssh.Channel, error) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	answer := make(chan opened, 1)
	go func() {
		ch, reqs, err := c.OpenChannel(kind, payload)
		answer <- opened{ch, reqs, err}
	}()
	select {
	case o := <-answer:
		if o.err != nil {
			done()
			if _, ok := errors.AsType[*ssh.OpenChannelError](o.err); !ok {
				return nil, ErrEnded
			}
			return nil, Refused(o.err)
		}
		go func() {
			ssh.DiscardRequests(o.reqs) // ends when the channel is closed
			done()
		}()
		return o.ch, nil
	case <-ctx.Done():
		go func() {
			if o := <-answer; o.err == nil {
				o.ch.Close()
				ssh.DiscardRequests(o.reqs)
			}
			done()
		}()
		return nil, ctx.Err()
	}
}

// A Conn is a channel whose Close ends its Reads at once. The ssh package ends
// them when the peer has closed the channel too, and one that is silent never does.
type Conn struct {
	ssh.Channel
	r *io.PipeReader
}

// NewConn returns ch as a Conn. The goroutine that reads ch ends when the peer has
// closed the channel, or with the connection.
func NewConn(ch ssh.Channel) *Conn {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, ch)
		w.CloseWithError(err)
	}()
	return &Conn{ch, r}
}

func (c *Conn) Read(b []byte) (int, error) { return c.r.Read(b) }

func (c *Conn) Close() error {
	c.r.Close()
	return c.Channel.Close()
}

// Refused returns the error of a channel that the peer refused: it is fs.ErrBusy
// where a limit was reached, and names what the peer said. Any other err it
// returns as it is.
func Refused(err error) error {
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
		return err
	}
	return fmt.Errorf("refused with %.200q: %w", strings.TrimSuffix(refused.Message, ": "+fs.ErrBusy.Error()), fs.ErrBusy)
}

// ErrEnded is the error of a channel that is opened on a connection which has ended, or
// ends. The ssh package has other words for it, that depend on the moment.
var ErrEnded = errors.New("the connection is lost")

// Slots count channels up to a limit.
type Slots chan struct{}

// NewSlots returns n slots.
func NewSlots(n int) Slots { return make(Slots, n) }

// Take takes a slot, and reports whether one was free.
func (s Slots) Take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// Await takes a slot as soon as one is free. It reports false if ctx is done
// before.
func (s Slots) Await(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// Wait takes a slot as soon as one is free.
func (s Slots) Wait() { s <- struct{}{} }

// Give gives a slot back.
func (s Slots) Give() { <-s }
