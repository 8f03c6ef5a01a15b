// Package client is one connection of an executor, or of a client that only reads, to
// an orchestrator, over SSH or TLS. Dial makes such connections, and makes them anew.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

const (
	KeepaliveEvery = 15 * time.Second
	KeepaliveMiss  = 3 // keepalives without an answer end the connection
)

// A ServeFunc serves an executor's tree on one 9P connection, on behalf of user,
// and closes it. It returns when rwc hangs up or ctx is done. aname is what will
// be attached.
type ServeFunc func(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User)

// A Link is one connection.
type Link struct {
	ssh   ssh.Conn
	peer  ssh.PublicKey // the orchestrator's host key; nil over TLS
	key   ssh.Signer    // signs this executor's runs, and is the host key of its own SSH server; nil: it has neither
	done  chan struct{} // closed when the connection has ended
	slots wire.Slots    // channels that the orchestrator opened
	doors wire.Slots    // those of them that are doors
	wg    sync.WaitGroup

	// Direct, if not nil, is where clients may enter without the orchestrator. It
	// is set before Serve.
	Direct *Direct

	// Shell, if not nil, runs shells for those that enter this executor's own SSH
	// server. It is set before Serve.
	Shell ShellFunc

	// Identity is the client's own over TLS, in its certificate; "" over SSH. It is
	// set before Serve.
	Identity string

	// RTT is about how long the peer's answers took while the connection was
	// made. The package that dials sets it before the Link is used.
	RTT time.Duration

	stopping atomic.Bool            // the orchestrator has said so
	ended    atomic.Pointer[string] // why it ends the connection, as it says

	mu      sync.Mutex // guards what follows
	exports map[string]*served
	shown   map[string]chan struct{} // by namespace; closed while the orchestrator has an export in it
	held    map[string]int           // doors that are open, by requester
}

// served is what is exported under one name.
type served struct {
	ctx   context.Context
	serve ServeFunc
	told  Told
	wg    sync.WaitGroup // of connections that are served; grows under the link's mu
}

// Told is what the orchestrator says of an export.
type Told struct {
	// Joined is called with the name below n when the orchestrator has taken the
	// announcement.
	Joined func(shown string)

	// Second, if set, is called with the name of another executor that has
	// announced the same name with the same key. It must not block.
	Second func(shown string)
}

// New returns the link of a connection to the orchestrator of the host key peer, nil
// over TLS.
// Key signs the runs of what is exported, and is the host key of the executor's own
// SSH server; it is no certificate. If it is nil, what is exported has neither.
// Serve must be called.
func New(c ssh.Conn, peer ssh.PublicKey, key ssh.Signer) *Link {
	return &Link{ssh: c, peer: peer, key: key, done: make(chan struct{}), slots: wire.NewSlots(wire.MaxChannels), doors: wire.NewSlots(wire.MaxDoors), exports: map[string]*served{}, shown: map[string]chan struct{}{}, held: map[string]int{}}
}

// Done returns a channel that is closed when the connection has ended.
func (l *Link) Done() <-chan struct{} { return l.done }

// Close ends the connection.
func (l *Link) Close() error { return l.ssh.Close() }

// Serve takes the channels that the orchestrator opens and answers its requests,
// until the connection ends.
func (l *Link) Serve(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	defer l.wg.Wait()
	defer close(l.done)
	l.wg.Go(l.keepalive)
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			l.open(nc)
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			l.Request(r.Type, r.Payload)
			r.Reply(false, nil) // a keepalive is content with that
		}
	}
}

// Request takes a global request of the orchestrator's, which has no reply but a
// denial. Serve calls it for those that come as an ssh.Request.
func (l *Link) Request(kind string, payload []byte) {
	switch kind {
	case wire.RequestStopping:
		l.stopping.Store(true)
	case wire.RequestEnded:
		why := string(payload)
		l.ended.Store(&why)
	case wire.RequestSecond:
		l.second(payload)
	}
}

// second tells an export of a wire.RequestSecond.
func (l *Link) second(payload []byte) {
	s, err := wire.ParseSecond(payload)
	if err != nil {
		return
	}
	l.mu.Lock()
	e := l.exports[s.Name]
	l.mu.Unlock()
	if e != nil && e.told.Second != nil {
		e.told.Second(s.Shown)
	}
}

// keepalive ends the connection if the orchestrator does not answer.
func (l *Link) keepalive() {
	for {
		select {
		case <-time.After(KeepaliveEvery):
		case <-l.done:
			return
		}
		t := time.AfterFunc(KeepaliveMiss*KeepaliveEvery, func() { l.ssh.Close() })
		l.ssh.SendRequest("keepalive@openssh.com", true, nil)
		t.Stop()
	}
}

// Import opens a 9P connection to the mux's tree: over SSH, a session with the
// subsystem 9p.
func (l *Link) Import(ctx context.Context) (io.ReadWriteCloser, error) {
	if l.Identity != "" {
		ch, err := wire.OpenChannel(ctx, l.ssh, wire.ChannelImport, nil, func() {})
		if err != nil {
			return nil, err
		}
		return wire.NewConn(ch), nil
	}
	ch, err := wire.OpenChannel(ctx, l.ssh, "session", nil, func() {})
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	// The answer is not waited for: a subsystem that is refused hangs up.
	if _, err := ch.SendRequest("subsystem", false, ssh.Marshal(&struct{ Name string }{"9p"})); err != nil {
		ch.Close()
		return nil, fmt.Errorf("subsystem 9p: %w", err)
	}
	return wire.NewConn(ch), nil
}

// Session opens a session for one command. The caller closes it.
func (l *Link) Session(ctx context.Context) (*ssh.Session, error) {
	type opened struct {
		s   *ssh.Session
		err error
	}
	answer := make(chan opened, 1)
	go func() {
		s, err := (&ssh.Client{Conn: l.ssh}).NewSession()
		answer <- opened{s, err}
	}()
	select {
	case o := <-answer:
		if _, refused := errors.AsType[*ssh.OpenChannelError](o.err); refused {
			return nil, fmt.Errorf("open a session: %w", wire.Refused(o.err))
		} else if o.err != nil { // the ssh package has other words for it
			return nil, ErrLost
		}
		return o.s, nil
	case <-ctx.Done():
		go func() {
			if o := <-answer; o.err == nil {
				o.s.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Reach opens a channel of that kind, wire.ChannelSSH or wire.ChannelDoor, to the
// executor that msg names.
func (l *Link) Reach(ctx context.Context, kind string, msg wire.ReachMsg) (ssh.Channel, error) {
	return wire.OpenChannel(ctx, l.ssh, kind, ssh.Marshal(&msg), func() {})
}

// Find asks find of a namespace. The answer comes in one round trip. An intent
// of the question lives until release is called, which is nil only with an error.
// A namespace that is not there, or that the key may not read, is
// iofs.ErrNotExist.
func (l *Link) Find(ctx context.Context, q wire.FindMsg) (answer []byte, release func(), err error) {
	answer, conn, err := l.question(ctx, wire.ChannelFind, ssh.Marshal(&q))
	if err != nil {
		return nil, nil, err
	}
	return answer, func() { conn.Close() }, nil
}

// Told asks what the forge was told of a commit: the answer is a report.Answer as text. It
// reports iofs.ErrNotExist as Find does, and fs.ErrBusy if it may be asked again.
func (l *Link) Told(ctx context.Context, q wire.ToldMsg) (string, error) {
	answer, conn, err := l.question(ctx, wire.ChannelTold, ssh.Marshal(&q))
	if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok && refused.Reason == ssh.UnknownChannelType {
		return "", fmt.Errorf("it is older than this 9ci, and does not say what it tells forges: %w", err)
	} else if ok {
		return "", fmt.Errorf("it says %.200q", refused.Message)
	} else if err != nil {
		return "", err
	}
	conn.Close()
	return string(answer), nil
}

// question opens a channel of that kind, which carries a question about a namespace, and
// reads the answer, up to wire.AnswerEnd. The channel stays open.
func (l *Link) question(ctx context.Context, kind string, payload []byte) (answer []byte, conn *wire.Conn, err error) {
	ch, err := wire.OpenChannel(ctx, l.ssh, kind, payload, func() {})
	if err != nil {
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) && refused.Reason == ssh.ConnectionFailed {
			err = iofs.ErrNotExist
		} else if errors.Is(err, wire.ErrEnded) {
			err = ErrLost
		}
		return nil, nil, err
	}
	conn = wire.NewConn(ch)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	answer, err = io.ReadAll(io.LimitReader(conn, wire.MaxAnswer))
	if !stop() {
		return nil, nil, ctx.Err()
	}
	whole, ok := bytes.CutSuffix(answer, []byte(wire.AnswerEnd))
	ok = ok && (len(whole) == 0 || whole[len(whole)-1] == '\n')
	switch {
	case err != nil || ok:
	case len(answer) == wire.MaxAnswer:
		err = fmt.Errorf("its answer has over %d bytes", wire.MaxAnswer)
	default:
		err = ErrLost
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return whole, conn, nil
}

// open takes a channel to what is exported: to its tree, to the executor's own
// SSH server, or to ask for the way in there.
func (l *Link) open(nc ssh.NewChannel) {
	kind := nc.ChannelType()
	slots := l.slots
	if kind == wire.ChannelDoor {
		slots = l.doors
	}
	if kind != wire.ChannelExport && (kind != wire.ChannelSSH && kind != wire.ChannelDoor || l.key == nil) {
		nc.Reject(ssh.UnknownChannelType, fmt.Sprintf("channel type %q is not known", kind))
		return
	}
	var msg wire.ExportMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &msg); err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	if !slots.Take() {
		wire.Refuse(nc, wire.ErrBusy)
		return
	}
	l.mu.Lock()
	e := l.exports[msg.Name]
	if e != nil {
		e.wg.Add(1)
	}
	l.mu.Unlock()
	if e == nil {
		slots.Give()
		nc.Reject(ssh.Prohibited, fmt.Sprintf("%q is not exported", msg.Name))
		return
	}
	l.wg.Go(func() {
		defer e.wg.Done()
		defer slots.Give()
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { ssh.DiscardRequests(reqs) })
		switch kind {
		case wire.ChannelExport:
			user := requester(msg, l.key)
			if l.Identity != "" && msg.Requester == l.Identity {
				user.Anonymous = false // it is this executor's own
			}
			e.serve(e.ctx, ch, msg.Aname, user)
		case wire.ChannelSSH:
			serveSSH(e.ctx, ch, l.key, msg, e.serve, l.Shell)
		case wire.ChannelDoor:
			l.door(e.ctx, ch, msg, e.serve)
		}
		ch.Close()
	})
}

// requester returns the user on whose behalf the orchestrator opened a channel. An
// executor takes commands from the holder of its own key alone, whatever logged in,
// the key or a certificate of it: other users are anonymous, and a tree has no ctl
// for them.
func requester(msg wire.ExportMsg, own ssh.Signer) fs.User {
	return fs.User{Name: msg.Requester, UID: -1, Anonymous: own == nil || !holds(msg, wire.Fingerprint(own.PublicKey()))}
}

// holds reports whether the requester holds the key of that fingerprint.
func holds(msg wire.ExportMsg, fingerprint string) bool {
	key, err := ssh.ParsePublicKey([]byte(msg.Key))
	return err == nil && wire.Fingerprint(key) == fingerprint
}

// Export serves what a announces until ctx is done or the connection ends. It
// tells told what the orchestrator says of it, and reports a
// RefusedError if it does not, fs.ErrBusy if that may pass, or ErrLost.
func (l *Link) Export(ctx context.Context, a wire.Announce, told Told, serve ServeFunc) error {
	if err := a.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &served{ctx: ctx, serve: serve, told: told}
	l.mu.Lock()
	if l.exports[a.Name] != nil {
		l.mu.Unlock()
		cancel()
		return fmt.Errorf("%s is exported already", a.Name)
	}
	l.exports[a.Name] = e
	l.mu.Unlock()
	defer e.wg.Wait()
	defer cancel()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.exports, a.Name)
	}()

	if l.key != nil {
		if err := a.Prove(l.key, l.ssh.SessionID(), l.peer); err != nil {
			return err
		}
	}
	ok, reply, err := l.Ask(ctx, wire.RequestAnnounce, a.Text())
	if err != nil {
		return err
	}
	if why, busy := strings.CutSuffix(string(reply), ": "+fs.ErrBusy.Error()); !ok && busy {
		return fmt.Errorf("export refused: %.200s: %w", why, fs.ErrBusy)
	} else if !ok {
		return &RefusedError{Reason: string(reply)}
	}
	joined, err := wire.ParseJoined(reply, a.Name)
	if err != nil {
		return err
	}
	for _, ns := range a.Namespaces {
		defer l.show(ns)()
	}
	told.Joined(joined.Shown)
	select {
	case <-l.done:
		if why := l.ended.Load(); why != nil {
			return fmt.Errorf("%w: the orchestrator has ended it: %.200q", ErrLost, *why)
		}
		if l.stopping.Load() {
			return fmt.Errorf("the orchestrator is stopping: %w", ErrLost)
		}
		return ErrLost
	case <-ctx.Done():
		l.ssh.SendRequest(wire.RequestWithdraw, false, []byte(a.Name))
		return ctx.Err()
	}
}

// Renew has the orchestrator take cert for what this connection has logged in with, in
// the place of a certificate that ends. What is open stays as it is.
func (l *Link) Renew(ctx context.Context, cert *ssh.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	ok, reply, err := l.Ask(ctx, wire.RequestRenew, cert.Marshal())
	if err == nil && !ok {
		err = fmt.Errorf("the orchestrator does not take the next certificate on this connection: %.200q", reply)
	}
	return err
}

// RenewPerson has the orchestrator make the next certificate of the person whose
// certificate this connection has logged in with, and take it as Renew does. It reports a
// RenewalError if it does not, or fs.ErrBusy if that may pass.
func (l *Link) RenewPerson(ctx context.Context) (*ssh.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	ok, reply, err := l.Ask(ctx, wire.RequestRenew, nil)
	if err != nil {
		return nil, err
	}
	if why, busy := strings.CutSuffix(string(reply), ": "+fs.ErrBusy.Error()); !ok && busy {
		return nil, fmt.Errorf("renewal: %.200s: %w", why, fs.ErrBusy)
	} else if !ok {
		return nil, &RenewalError{Reason: string(reply)}
	}
	key, err := ssh.ParsePublicKey(reply)
	cert, isCert := key.(*ssh.Certificate)
	if err != nil || !isCert {
		return nil, errors.New("renewal: the orchestrator's answer is no certificate")
	}
	return cert, nil
}

// A RenewalError is a certificate that the orchestrator does not make.
type RenewalError struct{ Reason string }

func (e *RenewalError) Error() string { return fmt.Sprintf("the orchestrator says %.200q", e.Reason) }

// renewTimeout is how long an answer to Renew is waited for.
const renewTimeout = 30 * time.Second

// Shown returns a channel that is closed while the orchestrator has what this
// connection exports in a namespace.
func (l *Link) Shown(namespace string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shownIn(namespace)
}

func (l *Link) shownIn(namespace string) chan struct{} {
	c := l.shown[namespace]
	if c == nil {
		c = make(chan struct{})
		l.shown[namespace] = c
	}
	return c
}

// show notes that the orchestrator has an export in a namespace, until hide is
// called.
func (l *Link) show(namespace string) (hide func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.shownIn(namespace)
	select {
	case <-c: // another export did that
		return func() {}
	default:
	}
	close(c)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.shown, namespace)
	}
}

// ErrLost is the error of a connection that has ended.
var ErrLost = errors.New("the connection to the orchestrator is lost")

// A RefusedError is an announcement that the orchestrator did not take.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "export refused: " + e.Reason }

// Forbidden reports whether the key has no right to publish in the namespace.
func (e *RefusedError) Forbidden() bool { return strings.HasPrefix(e.Reason, wire.MayNotPublish) }

// Ask sends a global request and waits for its answer until ctx is done. An
// answer that comes later is dropped.
func (l *Link) Ask(ctx context.Context, name string, payload []byte) (ok bool, reply []byte, err error) {
	type answer struct {
		ok    bool
		reply []byte
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		ok, reply, err := l.ssh.SendRequest(name, true, payload)
		answered <- answer{ok, reply, err}
	}()
	select {
	case a := <-answered:
		if a.err == io.EOF {
			a.err = ErrLost
		}
		return a.ok, a.reply, a.err
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
}
