package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// maxDirect is how many connections a Direct has at once. One that does not log in
// is among them for directGrace: other executors connect there, which have their
// keys at hand.
const (
	maxDirect   = 256
	directGrace = 10 * time.Second
)

// maxDoorsOfOne is how many doors are open for one requester, so that it cannot have
// all wire.MaxDoors.
const maxDoorsOfOne = 32

// A Direct is an executor's own SSH server at an address of its own. It lets in
// those for whom an orchestrator holds a door open, each to one namespace, and
// nobody else: the executor itself cannot know who may read.
type Direct struct {
	host    ssh.Signer
	address string
	slots   wire.Slots

	mu     sync.Mutex // guards grants
	grants map[string]*grant
}

// A grant lets one key enter one namespace, as a user whose name nobody can guess.
type grant struct {
	ctx   context.Context // done when the door is closed
	msg   wire.ExportMsg
	serve ServeFunc
	shell ShellFunc
}

// NewDirect returns a Direct with the host key host, that others reach at address,
// host:port. Serve must be called. It reports an error if host is a certificate.
func NewDirect(host ssh.Signer, address string) (*Direct, error) {
	if _, ok := host.PublicKey().(*ssh.Certificate); ok {
		return nil, errors.New("the host key of an SSH server is a plain key, and no certificate")
	}
	return &Direct{host: host, address: address, slots: wire.NewSlots(maxDirect), grants: map[string]*grant{}}, nil
}

// Address returns where others reach d.
func (d *Direct) Address() string { return d.address }

// Is reports whether key is d's host key.
func (d *Direct) Is(key ssh.PublicKey) bool {
	return bytes.Equal(key.Marshal(), d.host.PublicKey().Marshal())
}

// Serve answers at l until ctx is done or l fails. It closes l, and returns when
// every connection has ended.
func (d *Direct) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for {
		nc, err := ninep.Accept(ctx, l, nil)
		if err != nil {
			return err
		}
		if !d.open() || !d.slots.Take() {
			nc.Close()
			continue
		}
		wg.Go(func() {
			defer d.slots.Give()
			d.serve(ctx, nc)
		})
	}
}

// open reports whether anybody may enter. If not, a connection costs no handshake.
func (d *Direct) open() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.grants) > 0
}

// serve serves one connection. It ends with the grant that let it in.
func (d *Direct) serve(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g *grant // of the connection: the callback is called by this goroutine alone
	stop := func() bool { return true }
	defer func() { stop() }()
	config := door.Config(d.host, nil)
	config.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		asked := d.grant(m.User(), key)
		if asked == nil || g != nil && g != asked {
			return nil, errors.New("nobody has opened the door for this user and key")
		}
		if g == nil {
			g = asked
			stop = context.AfterFunc(g.ctx, cancel)
		}
		return &ssh.Permissions{}, nil
	}
	door.Serve(ctx, nc, config, directGrace, func(ctx context.Context) *door.Tree {
		return guestTree(ctx, requester(g.msg, d.host), g.msg, g.serve, g.shell)
	})
}

// grant returns the grant by which key may enter as user, or nil.
func (d *Direct) grant(user string, key ssh.PublicKey) *grant {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.grants[user]; g != nil && g.ctx.Err() == nil && holds(g.msg, wire.Fingerprint(key)) {
		return g
	}
	return nil
}

// admit lets msg's key enter, until ctx is done, as the user that it returns.
func (d *Direct) admit(ctx context.Context, msg wire.ExportMsg, serve ServeFunc, shell ShellFunc) (user string) {
	user = rand.Text()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.grants[user] = &grant{ctx, msg, serve, shell}
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.grants, user)
	})
	return user
}

// door answers on ch, on which the orchestrator has asked, how msg's key may enter,
// and holds the door open until ch is closed or ctx is done. If the requester has too
// many doors already, the answer is empty.
func (l *Link) door(ctx context.Context, ch ssh.Channel, msg wire.ExportMsg, serve ServeFunc) {
	if !l.hold(msg.Requester) {
		return
	}
	defer l.letGo(msg.Requester)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { ch.Close() })()
	answer := wire.Door{Key: l.key.PublicKey()}
	if l.Direct != nil {
		answer.Address, answer.User = l.Direct.address, l.Direct.admit(ctx, msg, serve, l.Shell)
	}
	if _, err := ch.Write(answer.Text()); err != nil {
		return
	}
	ch.CloseWrite()
	io.Copy(io.Discard, ch)
}

// hold counts a door that is open for requester, and reports whether there are not
// too many.
func (l *Link) hold(requester string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[requester] >= maxDoorsOfOne {
		return false
	}
	l.held[requester]++
	return true
}

// letGo undoes hold.
func (l *Link) letGo(requester string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[requester]--; l.held[requester] == 0 {
		delete(l.held, requester)
	}
}
