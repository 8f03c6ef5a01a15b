package orchestrator

import (
	"context"

	"golang.org/x/crypto/ssh"
)

// openChannel opens a channel to the peer of c. The ssh package waits for an
// answer for as long as the connection lives; openChannel waits until ctx is
// done. done is called once: when the channel is closed, when the peer refuses
// it, or when what it answered too late has been closed.
func openChannel(ctx context.Context, c ssh.Conn, kind string, payload []byte, done func()) (ssh.Channel, error) {
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
