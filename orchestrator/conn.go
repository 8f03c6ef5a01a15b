package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
)

// Limits on one connection.
const (
	maxChannels     = 64               // that a side may open: unread data can hold 2 MiB in each
	openTimeout     = 5 * time.Second  // for the peer to take a channel
	keepaliveEvery  = 60 * time.Second // and up to five more, so that connections do not beat together
	keepaliveSpread = 5 * time.Second
	keepaliveAnswer = 15 * time.Second
)

// errBusy is what a channel over the limit gets.
var errBusy = errors.New("too many channels on this connection")

// A login is a key that has shown itself, and what it may do.
type login struct {
	key   ssh.PublicKey
	grant *grant
}

// fingerprint names the key. A certificate is known by its principal and
// authority: the key below it may be another one every hour.
func (l *login) fingerprint() string {
	if cert, ok := l.key.(*ssh.Certificate); ok {
		return l.grant.name + "@" + ssh.FingerprintSHA256(cert.SignatureKey)
	}
	return ssh.FingerprintSHA256(l.key)
}

func (l *login) user() fs.User {
	return fs.User{Name: l.fingerprint(), UID: -1}
}

// A conn is one client's connection.
type conn struct {
	s     *Server
	ssh   *ssh.ServerConn
	log   *slog.Logger
	wg    sync.WaitGroup // of all that the connection started
	in    slots          // channels that the client opened
	out   slots          // channels that we opened
	login *login

	suspects chan struct{} // asks keepalive for a probe out of turn

	mu      sync.Mutex         // guards members
	members map[string]*member // what the connection exports, by name
}

func newConn(s *Server, sc *ssh.ServerConn, log *slog.Logger) *conn {
	return &conn{
		s: s, ssh: sc, log: log, login: sc.Permissions.ExtraData[grantKey{}].(*login),
		in: newSlots(maxChannels), out: newSlots(maxChannels), suspects: make(chan struct{}, 1),
	}
}

// serve answers channels and requests until the connection ends, and returns
// when all that they started has.
func (c *conn) serve(ctx context.Context, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer c.wg.Wait()
	defer cancel()
	defer c.leave()
	defer c.ssh.Close()
	c.wg.Go(func() { c.keepalive(ctx) })
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			c.open(ctx, nc)
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			c.request(ctx, r)
		case <-ctx.Done():
			return
		}
	}
}

// keepalive probes the client now and then. It is apart from serve, which a
// client that does not read its answers can hold up.
func (c *conn) keepalive(ctx context.Context) {
	for {
		select {
		case <-time.After(keepaliveEvery + rand.N(keepaliveSpread)):
		case <-c.suspects:
		case <-ctx.Done():
			return
		}
		c.probe()
	}
}

// probe closes the connection unless the client answers and its key may still
// enter.
func (c *conn) probe() {
	if err := c.check(); err != nil {
		c.log.Info("login ends", "err", err)
		c.ssh.Close()
		return
	}
	t := time.AfterFunc(keepaliveAnswer, func() {
		c.log.Info("keepalive", "err", errors.New("no answer"))
		c.ssh.Close()
	})
	defer t.Stop()
	c.ssh.SendRequest("keepalive@openssh.com", true, nil)
}

// suspect has the client probed at once: an operation that it should have
// answered has timed out.
func (c *conn) suspect() {
	select {
	case c.suspects <- struct{}{}:
	default: // it is being probed, or will be
	}
}

// errChanged ends a connection whose key may do something else now: what it has
// open was given to it by what it could do then.
var errChanged = errors.New("what this key may do has changed")

// check looks again at what the connection's key may do: authorized_keys may
// have changed, or a certificate have run out, since it logged in.
func (c *conn) check() error {
	l := c.login
	g, err := c.s.keys.authorize(l.key)
	if err == nil && !reflect.DeepEqual(g, l.grant) {
		err = errChanged
	}
	return err
}

// open takes a channel that the client opens, or refuses it.
func (c *conn) open(ctx context.Context, nc ssh.NewChannel) {
	if err := c.check(); err != nil {
		c.log.Info("login ends", "err", err)
		nc.Reject(ssh.Prohibited, err.Error())
		c.ssh.Close()
		return
	}
	var serve func(context.Context, ssh.NewChannel)
	switch nc.ChannelType() {
	case "session":
		serve = c.session
	case "direct-tcpip":
		serve = c.jump
	default:
		nc.Reject(ssh.UnknownChannelType, fmt.Sprintf("channel type %q is not known", nc.ChannelType()))
		return
	}
	if !c.in.take() {
		nc.Reject(ssh.ResourceShortage, errBusy.Error())
		return
	}
	c.wg.Go(func() {
		defer c.in.give()
		serve(ctx, nc)
	})
}

// session serves a session channel.
func (c *conn) session(ctx context.Context, nc ssh.NewChannel) {
	serveSession(ctx, nc, func(ctx context.Context) premises { return newView(ctx, c) })
}

// request answers a global request. They come in order and are answered so.
func (c *conn) request(ctx context.Context, r *ssh.Request) {
	reply, err := []byte(nil), c.check()
	if err == nil {
		switch r.Type {
		case requestAnnounce:
			reply, err = c.announce(ctx, r.Payload)
		case requestWithdraw:
			c.withdraw(string(r.Payload))
		case "tcpip-forward":
			err = c.forwardTCP(ctx, r.Payload)
		case "streamlocal-forward@openssh.com":
			err = c.forwardUnix(ctx, r.Payload)
		case "cancel-tcpip-forward", "cancel-streamlocal-forward@openssh.com":
			c.cancelForward(r.Type, r.Payload)
		default:
			err = fmt.Errorf("request %q is not known", r.Type)
		}
	}
	if err != nil {
		c.log.Debug("request", "type", r.Type, "err", err)
		reply = []byte(err.Error())
	}
	r.Reply(err == nil, reply)
}

// dial opens a channel to the client. It holds one of the connection's slots
// until the channel is closed, or, where the client never answers, until the
// connection ends.
func (c *conn) dial(ctx context.Context, kind string, payload []byte) (ssh.Channel, error) {
	if !c.out.take() {
		return nil, errBusy
	}
	return openChannel(ctx, c.ssh, kind, payload, c.out.give)
}

// errSilent is an executor that does not answer in time.
var errSilent = fmt.Errorf("the executor does not answer: %w", fs.ErrIO)

// slots counts channels.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) give() { <-s }
