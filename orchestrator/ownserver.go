package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/proto/ninep"
)

// An ownServer is an executor's own SSH server, which others reach end to end
// through the orchestrator (ssh -J), so that it carries what it cannot read. Its
// host key is the key that the executor logged in with. The orchestrator says
// who may enter, as it does for its own relay: the key that logged in there, and
// has to show itself again here.
type ownServer struct {
	host  ssh.Signer
	msg   exportMsg
	serve ServeFunc
}

// run serves one connection, and returns when all of it has ended.
func (o *ownServer) run(ctx context.Context, ch ssh.Channel) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nc := channelConn{ch}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	config := &ssh.ServerConfig{
		Config:        ssh.Config{Ciphers: ciphers()},
		MaxAuthTries:  maxAuthTries,
		ServerVersion: "SSH-2.0-9ci",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), []byte(o.msg.Key)) {
				return nil, errors.New("another key than the one at the orchestrator")
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(o.host)
	grace := time.AfterFunc(loginGrace, func() { nc.Close() })
	sc, chans, reqs, err := ssh.NewServerConn(nc, config)
	if !grace.Stop() || err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer sc.Close()
	wg.Go(func() { ssh.DiscardRequests(reqs) })
	slots := newSlots(maxChannels)
	for nc := range chans {
		if nc.ChannelType() != "session" {
			nc.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		if !slots.take() {
			nc.Reject(ssh.ResourceShortage, errBusy.Error())
			continue
		}
		wg.Go(func() {
			defer slots.give()
			serveSession(ctx, nc, o.enter)
		})
	}
}

// A guestRoom is what a session at an executor's own server is in: the tree of
// one namespace.
type guestRoom struct {
	o   *ownServer
	ctx context.Context // of the session
	wg  sync.WaitGroup

	mu     sync.Mutex // guards client, and is held while it is made
	client *ninep.Client
}

func (o *ownServer) enter(ctx context.Context) premises { return &guestRoom{o: o, ctx: ctx} }

// root returns the tree, as this executor serves it to others.
func (g *guestRoom) root() (fs.Dir, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		near, far := net.Pipe()
		g.wg.Go(func() { g.o.serve(g.ctx, far, g.o.msg.Aname, g.user()) })
		c, err := ninep.Import(g.ctx, near, ninep.ImportOptions{Uname: g.o.msg.Requester, Aname: g.o.msg.Aname})
		if err != nil {
			return nil, err
		}
		g.client = c
	}
	return g.client.Root(), nil
}

func (g *guestRoom) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		g.client.Close()
	}
	g.wg.Wait()
}

func (g *guestRoom) attach(ctx context.Context, _, aname string) (fs.Dir, error) {
	return asDir(g.walk(ctx, "", aname))
}

func (g *guestRoom) walk(ctx context.Context, _, path string) (fs.Node, error) {
	root, err := g.root()
	if err != nil {
		return nil, err
	}
	path = strings.Trim(path, "/")
	if rest, ok := strings.CutPrefix(path+"/", g.o.msg.Aname+"/"); ok {
		path = rest
	}
	return walk(ctx, root, path)
}

// serve9P has the executor itself serve rwc, as it does the relay's.
func (g *guestRoom) serve9P(ctx context.Context, rwc io.ReadWriteCloser) error {
	g.o.serve(ctx, rwc, g.o.msg.Aname, g.user())
	return nil
}

func (g *guestRoom) export(context.Context, io.ReadWriteCloser, string) error {
	return errors.New("an executor takes no exports")
}

func (g *guestRoom) user() fs.User    { return requester(g.o.msg, g.o.host) }
func (g *guestRoom) trace() io.Writer { return nil }

func (g *guestRoom) whoami() fs.Attrs {
	return fs.Attrs{{Name: "key", Value: g.o.msg.Requester}, {Name: "namespaces", Value: g.o.msg.Aname}, {Name: "rights", Value: "read"}}
}

// A channelConn is a channel as the ssh package wants its connections. It has no
// deadlines: who needs one closes it.
type channelConn struct{ ssh.Channel }

func (channelConn) LocalAddr() net.Addr              { return pipeAddr{} }
func (channelConn) RemoteAddr() net.Addr             { return pipeAddr{} }
func (channelConn) SetDeadline(time.Time) error      { return nil }
func (channelConn) SetReadDeadline(time.Time) error  { return nil }
func (channelConn) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "ssh" }
func (pipeAddr) String() string  { return "orchestrator" }
