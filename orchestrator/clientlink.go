package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
)

const (
	clientKeepalive = 15 * time.Second
	clientMisses    = 3 // keepalives without an answer
)

// ServeFunc serves an executor's tree on one 9P connection, on behalf of user,
// and closes it. aname is what will be attached.
type ServeFunc func(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User)

// A clientLink is one SSH connection of a Conn.
type clientLink struct {
	ssh   ssh.Conn
	host  ssh.Signer    // of this executor's own SSH server; nil where it has none
	done  chan struct{} // closed when the connection has ended
	slots slots         // channels that the orchestrator opened
	wg    sync.WaitGroup

	mu      sync.Mutex // guards exports
	exports map[string]*served
}

// served is what is exported under one name.
type served struct {
	ctx   context.Context
	serve ServeFunc
	wg    sync.WaitGroup // of connections that are served; grows under the link's mu
}

// newClientLink returns the link of a connection on which one of keys logged in.
func newClientLink(c ssh.Conn, keys ...ssh.Signer) *clientLink {
	var host ssh.Signer
	for _, k := range keys {
		if _, ok := k.PublicKey().(*ssh.Certificate); !ok {
			host = k
			break
		}
	}
	return &clientLink{ssh: c, host: host, done: make(chan struct{}), slots: newSlots(maxChannels), exports: map[string]*served{}}
}

// serve takes what the orchestrator opens and asks, until the connection ends.
func (l *clientLink) serve(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
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
			r.Reply(false, nil) // a keepalive is content with that
		}
	}
}

// keepalive ends the connection where nobody answers.
func (l *clientLink) keepalive() {
	for {
		select {
		case <-time.After(clientKeepalive):
		case <-l.done:
			return
		}
		t := time.AfterFunc(clientMisses*clientKeepalive, func() { l.ssh.Close() })
		l.ssh.SendRequest("keepalive@openssh.com", true, nil)
		t.Stop()
	}
}

// open takes a channel to what is exported: to its tree, or to the SSH server of
// this executor's own.
func (l *clientLink) open(nc ssh.NewChannel) {
	kind := nc.ChannelType()
	if kind != channelExport && (kind != channelSSH || l.host == nil) {
		nc.Reject(ssh.UnknownChannelType, fmt.Sprintf("channel type %q is not known", kind))
		return
	}
	var msg exportMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &msg); err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	if !l.slots.take() {
		nc.Reject(ssh.ResourceShortage, errBusy.Error())
		return
	}
	l.mu.Lock()
	e := l.exports[msg.Name]
	if e != nil {
		e.wg.Add(1)
	}
	l.mu.Unlock()
	if e == nil {
		l.slots.give()
		nc.Reject(ssh.Prohibited, fmt.Sprintf("%q is not exported", msg.Name))
		return
	}
	l.wg.Go(func() {
		defer e.wg.Done()
		defer l.slots.give()
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { ssh.DiscardRequests(reqs) })
		if kind == channelSSH {
			own := ownServer{host: l.host, msg: msg, serve: e.serve}
			own.run(e.ctx, ch)
		} else {
			e.serve(e.ctx, ch, msg.Aname, requester(msg, l.host))
		}
		ch.Close()
	})
}

// requester returns on whose behalf the orchestrator opened a channel. An
// executor takes commands from its own key alone: to others it has no ctl.
func requester(msg exportMsg, host ssh.Signer) fs.User {
	return fs.User{
		Name:      msg.Requester,
		UID:       -1,
		Anonymous: host == nil || msg.Requester != ssh.FingerprintSHA256(host.PublicKey()),
	}
}

// export serves what a announces until ctx is done or the connection ends.
func (l *clientLink) export(ctx context.Context, a Announce, serve ServeFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	e := &served{ctx: ctx, serve: serve}
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

	ok, reply, err := l.ask(ctx, requestAnnounce, a.text())
	if err != nil {
		return err
	}
	if !ok {
		return &RefusedError{Reason: string(reply)}
	}
	if a.Joined != nil {
		a.Joined()
	}
	select {
	case <-l.done:
		return errLost
	case <-ctx.Done():
		l.ssh.SendRequest(requestWithdraw, false, []byte(a.Name))
		return ctx.Err()
	}
}

// errLost is a connection that has ended.
var errLost = errors.New("the connection to the orchestrator is lost")

// A RefusedError is an announcement that the orchestrator did not take.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "export refused: " + e.Reason }

// Forbidden reports whether the key's grant is not for the namespace.
func (e *RefusedError) Forbidden() bool { return strings.HasPrefix(e.Reason, mayNotPublish) }

// ask sends a global request and waits for its answer until ctx is done. What
// waits for an answer that comes later ends with the connection.
func (l *clientLink) ask(ctx context.Context, name string, payload []byte) (ok bool, reply []byte, err error) {
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
			a.err = errLost
		}
		return a.ok, a.reply, a.err
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
}
