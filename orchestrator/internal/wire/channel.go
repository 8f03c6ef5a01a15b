package wire

import (
	"context"

	"golang.org/x/crypto/ssh"
)

// OpenChannel opens a channel to the peer of c. The ssh package waits for an
// answer as long as the connection lives; OpenChannel waits until ctx is done.
// It calls done once: when the channel is closed, when the peer refuses it, or
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
			return nil, o.err
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

// Wait takes a slot as soon as one is free.
func (s Slots) Wait() { s <- struct{}{} }

// Give gives a slot back.
func (s Slots) Give() { <-s }
