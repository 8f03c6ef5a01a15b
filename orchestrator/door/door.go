// Package door is an SSH server over a tree: the subsystems 9p and sftp, and a
// few commands that read it. The mux of an orchestrator has one, and each
// executor has one, which is reached end to end through the orchestrator.
//
// Serve is a whole server of sessions. A server that takes other channels too,
// as the mux does, has Config for its handshake and Session for its sessions.
package door

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
)

// A Tree is what one session sees.
type Tree struct {
	User  fs.User   // of the session
	Trace io.Writer // 9P messages, one a line; nil: nowhere

	// Whoami returns what the command whoami prints.
	Whoami func(ctx context.Context) ci.Attrs

	// Logout is the command logout: the certificate of this login is good no more
	// when it returns. What it returns is printed. Nil: no certificates are made here.
	Logout func() (words string, err error)

	// Told returns what the command told prints, of a commit in the namespace, or if that
	// is "" in the key's own. Nil: there is no such command, nothing here tells forges.
	Told func(ctx context.Context, namespace, commit string) (string, error)

	// Walk returns what stands at a path as Walk of this package has it. The
	// path "" is the root. If namespace is not "", the names that a
	// namespace has are looked up in it.
	Walk func(ctx context.Context, namespace, path string) (fs.Node, error)

	// Await returns the path of the run that the command wait waits for, of a
	// revision in the namespace, or if that is "" in the key's own. It blocks
	// until there is one. Nil: Walk's tree is that of an executor, whose files
	// tell.
	Await func(ctx context.Context, namespace, rev string) (path string, err error)

	// Shell runs a shell in the machine of a held run, and returns its exit status.
	// An error says why there is none. Nil: there are no machines here.
	Shell func(ctx context.Context, sh Shell) (status int, err error)

	// Serve9P serves the tree on rwc until it hangs up, and closes it.
	Serve9P func(ctx context.Context, rwc io.ReadWriteCloser) error

	// Export makes rwc the 9P server of an executor, at a path
	// 9p[/NAMESPACE[/n/NAME]], until it hangs up or ctx is done. Nil: no
	// exports are taken here.
	Export func(ctx context.Context, rwc io.ReadWriteCloser, path string) error

	// Close ends what the session holds. It is called once all programs of
	// the session have been told to end.
	Close func()
}

const (
	// LoginGrace is how long a client may take to authenticate, and maxAuthTries
	// how many keys it may show, as of OpenSSH: people type passphrases, and
	// agents hold several keys.
	LoginGrace = 120 * time.Second

	maxAuthTries = 6
)

// Config returns the configuration of a server with the host key host, where
// authenticate is asked for each key that a client at from offers. The user's name
// means nothing.
func Config(host ssh.Signer, authenticate func(from net.Addr, key ssh.PublicKey) (*ssh.Permissions, error)) *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		Config:        ssh.Config{Ciphers: wire.Ciphers()},
		MaxAuthTries:  maxAuthTries,
		ServerVersion: wire.Version,
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return authenticate(m.RemoteAddr(), key)
		},
	}
	c.AddHostKey(host)
	return c
}

// Serve serves sessions on one connection until it hangs up or ctx is done. It
// closes nc, and returns when all that it started has ended. The client has to
// authenticate within grace. Enter returns the tree of a session; ctx is the
// session's.
func Serve(ctx context.Context, nc net.Conn, config *ssh.ServerConfig, grace time.Duration, enter func(ctx context.Context) *Tree) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	late := time.AfterFunc(grace, func() { nc.Close() }) // nc may have no deadlines
	sc, chans, reqs, err := ssh.NewServerConn(nc, config)
	if !late.Stop() || err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer sc.Close()
	wg.Go(func() { ssh.DiscardRequests(reqs) })
	slots := wire.NewSlots(wire.MaxChannels)
	for ch := range chans {
		if ch.ChannelType() != "session" {
			ch.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		if !slots.Take() {
			wire.Refuse(ch, wire.ErrBusy)
			continue
		}
		wg.Go(func() {
			defer slots.Give()
			Session(ctx, ch, enter)
		})
	}
}
