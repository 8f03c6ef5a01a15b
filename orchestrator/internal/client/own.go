package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// serveSSH serves one connection to the executor's own SSH server. Clients reach
// it end to end through the orchestrator (ssh -J), which carries what it cannot
// read. The host key is the key that signs the executor's runs. As for its own
// relay, the orchestrator decides which clients may read: msg has the key that
// logged in there, and the client has to prove it here again, with a certificate
// or without. What else the client may do is decided by that proof: an orchestrator
// cannot make anybody the owner.
func serveSSH(ctx context.Context, ch ssh.Channel, host ssh.Signer, msg wire.ExportMsg, serve ServeFunc, shell ShellFunc) {
	config := door.Config(host, func(_ net.Addr, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !holds(msg, wire.Fingerprint(key)) {
			return nil, errors.New("another key than the one at the orchestrator")
		}
		return &ssh.Permissions{}, nil
	})
	door.Serve(ctx, ChannelConn{Channel: ch}, config, door.LoginGrace, func(ctx context.Context) *door.Tree {
		return guestTree(ctx, requester(msg, host), msg, serve, shell)
	})
}

// A ShellFunc runs a shell in the machine of a held run, and returns its exit status, for
// a client that has proved to hold key, which is no certificate. An error says why there is
// none.
type ShellFunc func(ctx context.Context, key ssh.PublicKey, sh door.Shell) (status int, err error)

// shellOf returns the shell of a tree for msg's client, which has proved msg's key.
func shellOf(msg wire.ExportMsg, shell ShellFunc) func(context.Context, door.Shell) (int, error) {
	if shell == nil {
		return nil
	}
	return func(ctx context.Context, sh door.Shell) (int, error) {
		key, err := ssh.ParsePublicKey([]byte(msg.Key))
		if err != nil {
			return 0, err
		}
		if cert, ok := key.(*ssh.Certificate); ok {
			key = cert.Key
		}
		if sh.Namespace != "" && sh.Namespace != msg.Aname {
			return 0, fmt.Errorf("there is no namespace %.200s here", sh.Namespace)
		}
		return shell(ctx, key, sh)
	}
}

// guestTree returns the tree of one namespace of an executor, as serve shows it
// to user. It attaches the tree when it is first needed.
func guestTree(ctx context.Context, user fs.User, msg wire.ExportMsg, serve ServeFunc, shell ShellFunc) *door.Tree {
	namespace := msg.Aname
	g := &guest{ctx: ctx, user: user, namespace: namespace, serve: serve}
	return &door.Tree{
		User: user,
		Whoami: func(context.Context) ci.Attrs {
			return ci.Attrs{{Name: "key", Value: user.Name}, {Name: "namespaces", Value: namespace}, {Name: "rights", Value: "read"}}
		},
		Walk:  g.walk,
		Shell: shellOf(msg, shell),
		Serve9P: func(ctx context.Context, rwc io.ReadWriteCloser) error {
			serve(ctx, rwc, namespace, user)
			return nil
		},
		Close: g.close,
	}
}

// A guest is a session's own link to the tree.
type guest struct {
	ctx       context.Context // of the session
	user      fs.User
	namespace string
	serve     ServeFunc
	wg        sync.WaitGroup

	mu     sync.Mutex // guards client, and is held while it is made
	client *ninep.Client
}

func (g *guest) root() (fs.Dir, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		near, far := net.Pipe()
		g.wg.Go(func() { g.serve(g.ctx, far, g.namespace, g.user) })
		c, err := ninep.Import(g.ctx, near, ninep.ImportOptions{Uname: g.user.Name, Aname: g.namespace})
		if err != nil {
			return nil, err
		}
		g.client = c
	}
	return g.client.Root(), nil
}

// walk walks to a path in the namespace, before which the namespace may stand.
func (g *guest) walk(ctx context.Context, _, path string) (fs.Node, error) {
	root, err := g.root()
	if err != nil {
		return nil, err
	}
	path = strings.Trim(path, "/")
	if rest, ok := strings.CutPrefix(path+"/", g.namespace+"/"); ok {
		path = rest
	}
	return door.Walk(ctx, root, path)
}

func (g *guest) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		g.client.Close()
	}
	g.wg.Wait()
}

// A ChannelConn is a channel as the ssh package wants its connections. It has no
// deadlines; Close is the way to end an operation.
type ChannelConn struct{ ssh.Channel }

func (ChannelConn) LocalAddr() net.Addr              { return pipeAddr{} }
func (ChannelConn) RemoteAddr() net.Addr             { return pipeAddr{} }
func (ChannelConn) SetDeadline(time.Time) error      { return nil }
func (ChannelConn) SetReadDeadline(time.Time) error  { return nil }
func (ChannelConn) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "ssh" }
func (pipeAddr) String() string  { return "orchestrator" }
