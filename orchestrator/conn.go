package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/wire"
)

// Limits on one connection.
const (
	openTimeout     = 5 * time.Second  // for the peer to accept a channel
	keepaliveEvery  = 60 * time.Second // plus up to keepaliveSpread, so that probes do not come in bursts
	keepaliveSpread = 5 * time.Second
	keepaliveAnswer = 15 * time.Second
)

// A conn is one client's connection.
type conn struct {
	s     *Server
	ssh   ssh.Conn
	wg    sync.WaitGroup // of all that the connection started
	in    wire.Slots     // channels that the client opened
	out   wire.Slots     // channels that the server opened
	doors wire.Slots     // those of them that are doors
	login *access.Login  // what the client logged in with

	enter  func(key ssh.PublicKey) (*access.Login, error) // what the login by key is at present
	latest atomic.Pointer[access.Login]                   // login, or what renewed it: the same but for the certificate
	ended  sync.Once                                      // of end

	loggedOut atomic.Bool // by its client, which need not be told

	requester *requester
	announces *rate.Limiter // of this connection

	asking chan struct{} // holds a token while ask waits for an answer

	heard atomic.Int64 // when the client last answered a probe, in Unix ns; 0 if never

	silent atomic.Bool // the connection was closed because the client did not answer

	keepalive keepalive

	readersMu  sync.Mutex     // guards what follows, and the readers of members
	seats      int            // readers that have channels of their own
	carriedAll int            // connections to the executor's own SSH server,
	carried    map[string]int // by requester

	usesMu sync.Mutex  // guards uses
	uses   map[use]int // of what it does by rights that it may lose

	proofs   int           // of host keys that it asked for
	renewals *rate.Limiter // of its certificate

	mu      sync.Mutex         // guards members
	members map[string]*member // what the connection exports, by name
}

// newConn returns a connection that has logged in as login. Enter returns what a login
// by a key is at a later time; over TLS, what login is.
func newConn(s *Server, sc ssh.Conn, login *access.Login, enter func(ssh.PublicKey) (*access.Login, error), r *requester) *conn {
	c := &conn{
		s: s, ssh: sc, login: login, enter: enter, requester: r, announces: rate.NewLimiter(announcesPer, announcesOfConn),
		renewals: rate.NewLimiter(renewalsPer, renewalsBurst),
		in:       wire.NewSlots(wire.MaxChannels), out: wire.NewSlots(wire.MaxChannels), doors: wire.NewSlots(wire.MaxDoors), asking: make(chan struct{}, 1),
	}
	c.keepalive.c = c
	c.latest.Store(login)
	return c
}

// overTLS reports whether the client has come by TLS, not SSH.
func (c *conn) overTLS() bool { return c.login.URI != "" }

// serve answers channels and requests until the connection ends. It returns when
// all that they started has ended. Over TLS, where there are no reqs, asks are the
// requests.
func (c *conn) serve(ctx context.Context, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, asks <-chan ask) {
	ctx, cancel := context.WithCancel(ctx)
	defer c.close(cancel)
	c.keepalive.begin()
	if !c.overTLS() {
		// Before a session is answered: stock ssh asks for proofs then, and does not
		// wait for them when its command has ended.
		c.ssh.SendRequest(requestHostKeys, false, c.s.hosts.payload())
	}
	c.wait(ctx, chans, reqs, asks)
}

// close ends the connection and all that it started, and waits for that.
func (c *conn) close(cancel context.CancelFunc) {
	c.keepalive.end()
	c.ssh.Close()
	c.leave()
	cancel()
	c.wg.Wait()
}

// wait does what comes until the connection ends. It is what an idle connection's
// goroutine stands in, and leaves all else to others: the stack is to fit 4 KiB.
func (c *conn) wait(ctx context.Context, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, asks <-chan ask) {
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
			} else {
				c.open(ctx, nc)
			}
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
			} else {
				c.apartRequest(ctx, r)
			}
		case a := <-asks:
			c.apartAsk(ctx, a)
		case <-ctx.Done():
			return
		}
	}
}

// A keepalive probes a client now and then. A probe has a goroutine of its own, for a
// client that does not read its answers blocks it; an idle connection has none.
type keepalive struct {
	c *conn

	mu    sync.Mutex // guards what follows
	due   *time.Timer
	now   bool // a probe is under way
	again bool // and another is asked for
	ended bool
}

func (k *keepalive) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.due = time.AfterFunc(probeDelay(), k.ask)
}

// probeDelay is the time from one probe to the next.
func probeDelay() time.Duration { return keepaliveEvery + rand.N(keepaliveSpread) }

// ask has the client probed at once, or again if a probe is under way.
func (k *keepalive) ask() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended || k.due == nil {
		return
	}
	if k.now {
		k.again = true
		return
	}
	k.now = true
	k.c.wg.Go(k.probe)
}

func (k *keepalive) probe() {
	for {
		k.c.probe()
		k.mu.Lock()
		if !k.again || k.ended {
			break
		}
		k.again = false
		k.mu.Unlock()
	}
	defer k.mu.Unlock()
	k.now = false
	if !k.ended {
		k.due.Reset(probeDelay())
	}
}

// end has no more probes begun.
func (k *keepalive) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.due.Stop()
}

// recheck closes the connection unless its key may still enter.
func (c *conn) recheck() {
	if err := c.check(); err != nil {
		c.end(err)
	}
}

// expire closes the connection if its login has ended at the time now, or a person's
// account says something else. That is in a file for each account, which is looked at
// only for those that are connected.
func (c *conn) expire(now time.Time) {
	l := c.latest.Load()
	if ends := l.Ends(); !ends.IsZero() && !now.Before(ends) {
		c.end(errEnded)
	} else if !l.Stands() {
		c.recheck()
	}
}

// errEnded ends a connection whose login was for a while.
var errEnded = errors.New("the certificate, token or line that let this key in has ended")

// farewell is how long a client may take to read why its connection ends.
const farewell = 200 * time.Millisecond

// end closes the connection of a key that may not enter any more, and tells the client
// why: a client of ours by a request, stock ssh on the standard error of its sessions.
func (c *conn) end(err error) {
	c.ended.Do(func() {
		if c.loggedOut.Load() {
			time.AfterFunc(farewell, func() { c.ssh.Close() })
			return
		}
		c.refused("login", err)
		if _, ok := c.ssh.(lone); ok {
			c.ssh.Close()
			return
		}
		time.AfterFunc(farewell, func() { c.ssh.Close() })
		go func() { // it blocks if the client does not read
			c.ssh.SendRequest(wire.RequestEnded, false, []byte(err.Error()))
			for m := range c.s.live.transfers() {
				if m.c == c && m.stderr != nil {
					m.stderr.Write([]byte("9ci: " + err.Error() + "\r\n"))
				}
			}
			c.ssh.Close()
		}()
	})
}

// probe closes the connection unless the client answers, and its key may still enter:
// a line or a certificate may have expired.
func (c *conn) probe() {
	if err := c.check(); err != nil {
		c.end(err)
		return
	}
	t := time.AfterFunc(keepaliveAnswer, c.stalled)
	defer t.Stop()
	c.ask()
}

// ask waits until the client has answered a request that means nothing, and reports
// true, or the connection has ended.
func (c *conn) ask() bool {
	c.asking <- struct{}{}
	defer func() { <-c.asking }()
	_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
	if err == nil {
		c.heard.Store(time.Now().UnixNano())
	}
	return err == nil
}

// stalled hangs up on a client that does not answer, or does not take its replies: to
// close a channel alone would wait for its answer.
func (c *conn) stalled() {
	c.audit(slog.LevelInfo, "silent")
	c.hangUp()
}

// hangUp closes the connection: the client does not answer.
func (c *conn) hangUp() {
	c.silent.Store(true)
	c.ssh.Close()
}

// askAll asks the clients that export members whether they are connected, and
// hangs up on those that do not answer in openTimeout. It returns the members whose
// connections have ended.
func askAll(members map[*member]bool) (ended []*member) {
	answered := map[*conn]*bool{}
	var wg sync.WaitGroup
	for m := range members {
		if o := m.conn; answered[o] == nil {
			answer := new(bool)
			answered[o] = answer
			wg.Go(func() {
				t := time.AfterFunc(openTimeout, o.hangUp)
				defer t.Stop()
				*answer = o.ask()
			})
		}
	}
	wg.Wait()
	for m := range members {
		if !*answered[m.conn] {
			ended = append(ended, m)
		}
	}
	return ended
}

// aliveFor is for how long a client that has answered counts as connected.
const aliveFor = 10 * time.Second

func (c *conn) alive(now time.Time) bool {
	heard := c.heard.Load()
	return heard != 0 && now.Sub(time.Unix(0, heard)) < aliveFor
}

// suspect has the client probed at once. It is called when an operation that the
// client should have answered has timed out.
func (c *conn) suspect() { c.keepalive.ask() }

// errChanged ends a connection whose key may do something else now: its open
// files and channels were granted by what the key could do before.
var errChanged = errors.New("what this key may do has changed")

// check returns an error unless the connection's key may still do what it could
// at the login: authorized_keys may have changed since, or a certificate expired.
func (c *conn) check() error {
	for {
		was := c.latest.Load()
		l, err := c.enter(was.Key)
		switch {
		case was != c.latest.Load(): // it was renewed meanwhile
			continue
		case err == nil && !reflect.DeepEqual(l, was):
			return errChanged
		case err == nil:
			err = c.lost()
		}
		return err
	}
}

// open accepts or refuses a channel that the client opens.
func (c *conn) open(ctx context.Context, nc ssh.NewChannel) {
	if err := c.check(); err != nil {
		nc.Reject(ssh.Prohibited, err.Error())
		c.end(err)
		return
	}
	var serve func(context.Context, ssh.NewChannel)
	switch nc.ChannelType() {
	case "session":
		serve = c.session
	case "direct-tcpip":
		serve = c.jump
	case wire.ChannelSSH, wire.ChannelDoor:
		serve = c.reach
	case wire.ChannelFind:
		serve = c.find
	case wire.ChannelTold:
		serve = c.told
	case wire.ChannelImport:
		serve = c.import9P
	default:
		nc.Reject(ssh.UnknownChannelType, fmt.Sprintf("channel type %q is not known", nc.ChannelType()))
		return
	}
	if c.s.stopping() {
		wire.Refuse(nc, errStopping)
		return
	}
	if err := c.takeChannel(); err != nil {
		c.s.metrics.busy.WithLabelValues("channel").Inc()
		wire.Refuse(nc, err)
		return
	}
	channel := &meteredChannel{NewChannel: nc, c: c}
	c.wg.Go(func() {
		defer c.requester.channels.Give()
		defer c.in.Give()
		serve(ctx, channel)
		c.s.live.close(channel.m)
	})
}

// takeChannel counts a channel that the client opens.
func (c *conn) takeChannel() error {
	if !c.in.Take() {
		return wire.ErrBusy
	}
	if !c.requester.channels.Take() {
		c.in.Give()
		return errChannels
	}
	return nil
}

// errChannels is the error of a channel over a requester's limit.
var errChannels = fmt.Errorf("too many channels of one key: %w", fs.ErrBusy)

// session serves a session channel.
func (c *conn) session(ctx context.Context, nc ssh.NewChannel) {
	door.Session(ctx, nc, func(ctx context.Context) *door.Tree { return newView(ctx, c).door() })
}

// import9P serves the mux's tree on a channel of its own.
func (c *conn) import9P(ctx context.Context, nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	c.wg.Go(func() { ssh.DiscardRequests(reqs) })
	c.serveView(ctx, func(ctx context.Context, v *view) error { return v.serve9P(ctx, ch) })
}

// serveView runs serve with a view of its own.
func (c *conn) serveView(ctx context.Context, serve func(context.Context, *view) error) error {
	v := newView(ctx, c)
	defer v.close()
	return serve(ctx, v)
}

// request answers a global request. SSH has no tags for these: answers go in the
// order of the requests (RFC 4254 §4).
func (c *conn) request(ctx context.Context, r *ssh.Request) {
	ok, reply := c.answer(ctx, r.Type, r.Payload)
	r.Reply(ok, reply)
}

// apartRequest is request on a goroutine of its own.
func (c *conn) apartRequest(ctx context.Context, r *ssh.Request) {
	apart(func() { c.request(ctx, r) })
}

// apartAsk is apartRequest for what a client asks over TLS.
func (c *conn) apartAsk(ctx context.Context, a ask) {
	apart(func() {
		ok, reply := c.answer(ctx, a.kind, a.payload)
		a.answer <- answer{ok, reply}
	})
}

// answer returns the answer to a global request of that kind.
func (c *conn) answer(ctx context.Context, kind string, payload []byte) (ok bool, reply []byte) {
	err := c.check()
	if err == nil {
		switch kind {
		case wire.RequestAnnounce:
			reply, err = c.announce(ctx, payload)
		case wire.RequestWithdraw:
			c.withdraw(string(payload))
		case wire.RequestRenew:
			reply, err = c.renew(payload)
		case requestHostKeysProve:
			reply, err = c.proveHostKeys(payload)
		case "tcpip-forward":
			err = c.explain(ctx, c.forwardTCP(ctx, payload))
		case "streamlocal-forward@openssh.com":
			err = c.explain(ctx, c.forwardUnix(ctx, payload))
		case "cancel-tcpip-forward", "cancel-streamlocal-forward@openssh.com":
			c.cancelForward(kind, payload)
		default:
			err = fmt.Errorf("request %q is not known", kind)
		}
	}
	if err != nil {
		c.refusedRequest(kind, err)
		reply = []byte(err.Error())
	}
	return err == nil, reply
}

// dial opens a channel to the client. It holds one of the connection's slots
// until the channel is closed or, if the client never answers, until the
// connection ends.
func (c *conn) dial(ctx context.Context, kind string, payload []byte) (ssh.Channel, error) {
	return c.dialThen(ctx, kind, payload, func() {})
}

// dialThen is dial that calls done when it gives the slot back.
func (c *conn) dialThen(ctx context.Context, kind string, payload []byte, done func()) (ssh.Channel, error) {
	slots := c.out
	if kind == wire.ChannelDoor {
		slots = c.doors
	}
	if !slots.Take() {
		done()
		c.s.metrics.busy.WithLabelValues("executor").Inc()
		return nil, wire.ErrBusy
	}
	ch, err := wire.OpenChannel(ctx, c.ssh, kind, payload, func() {
		slots.Give()
		done()
	})
	if err != nil {
		return nil, err
	}
	return metered{ch, &meter{traffic: c.s.metrics.executor}}, nil
}

// errSilent is the error of an executor that does not answer in time.
var errSilent = fmt.Errorf("the executor does not answer: %w", fs.ErrIO)
