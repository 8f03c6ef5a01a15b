package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// self is the requester when the orchestrator reads a tree for its directory.
const self = "orchestrator"

// An exporter is a way to reach an executor's 9P server.
type exporter interface {
	// attach attaches the namespace msg.Aname, on behalf of msg.Requester.
	attach(ctx context.Context, msg wire.ExportMsg) (*link, error)
}

// A link is an attached tree of an executor.
type link struct {
	root   fs.Dir
	done   <-chan struct{} // closed when the link is down
	hangup func()
}

// attach attaches the tree of namespace ns at the executor, on behalf of l; nil is
// the orchestrator itself.
func (m *member) attach(ctx context.Context, ns string, l *access.Login) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	k, err := m.exporter.attach(ctx, m.message(ns, l))
	return k, m.fail(err)
}

// message returns what a channel to the executor begins with.
func (m *member) message(ns string, l *access.Login) wire.ExportMsg {
	msg := wire.ExportMsg{
		Name:       m.announcedAs,
		Aname:      ns,
		Requester:  self,
		Generation: m.announced.Load().generation,
		Millis:     uint32(openTimeout.Milliseconds()),
	}
	if l != nil {
		msg.Requester = l.String()
		if l.Key != nil {
			msg.Key = string(l.Key.Marshal())
		}
	}
	return msg
}

// fail returns errSilent for a deadline that has passed, and has the executor
// probed.
func (m *member) fail(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		m.conn.suspect()
		return errSilent
	}
	return err
}

// importTree attaches a tree over a fresh connection. It closes the connection if
// that fails. With stock, the other end may be any 9P server: one that knows no
// namespaces has its root stand at the one that is asked for.
func importTree(ctx context.Context, rwc io.ReadWriteCloser, msg wire.ExportMsg, stock bool) (*link, error) {
	c, err := ninep.Import(ctx, rwc, ninep.ImportOptions{Uname: msg.Requester, Aname: msg.Aname, OrRoot: stock})
	if err != nil {
		rwc.Close()
		return nil, err
	}
	if c.Aname() != msg.Aname {
		if err := checkRoot(ctx, c.Root(), msg.Aname); err != nil {
			c.Close()
			return nil, err
		}
	}
	return &link{root: c.Root(), done: c.Done(), hangup: sync.OnceFunc(func() { c.Close() })}, nil
}

// checkRoot reports an error if the server of root, which refused the aname ns,
// knows namespaces: ns is not among them, and root would show others to those
// that may read ns. All trees that know namespaces have an event file there.
func checkRoot(ctx context.Context, root fs.Dir, ns string) error {
	switch _, err := root.Walk(ctx, "event"); {
	case err == nil:
		return fmt.Errorf("the 9P server does not have the namespace %s: %w", ns, iofs.ErrNotExist)
	case !errors.Is(err, iofs.ErrNotExist):
		return err
	}
	return nil
}

// A reverseExport is an executor that announced itself: each link is a channel
// that the orchestrator opens to it.
type reverseExport struct{ c *conn }

func (e reverseExport) attach(ctx context.Context, msg wire.ExportMsg) (*link, error) {
	ch, err := e.c.dial(ctx, wire.ChannelExport, ssh.Marshal(&msg))
	if err != nil {
		return nil, err
	}
	return importTree(ctx, ch, msg, false)
}

// A forwardExport is stock ssh -R: each link is a connection that ssh forwards to
// a 9P server, which does not learn the requester.
type forwardExport struct {
	c       *conn
	kind    string
	payload []byte
}

func (e forwardExport) attach(ctx context.Context, msg wire.ExportMsg) (*link, error) {
	ch, err := e.c.dial(ctx, e.kind, e.payload)
	if err != nil {
		return nil, err
	}
	return importTree(ctx, ch, msg, true)
}

// A stdioExport is a 9P server at the other end of one session channel. It has no
// second connection, so all requesters share its one link.
type stdioExport struct {
	once func() (*link, error)
}

func newStdioExport(ctx context.Context, ch io.ReadWriteCloser, ns string) *stdioExport {
	return &stdioExport{once: sync.OnceValues(func() (*link, error) {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		return importTree(ctx, ch, wire.ExportMsg{Aname: ns, Requester: self}, true)
	})}
}

func (e *stdioExport) attach(context.Context, wire.ExportMsg) (*link, error) {
	l, err := e.once()
	if err != nil {
		return nil, err
	}
	return &link{root: l.root, done: l.done, hangup: func() {}}, nil
}

// A hangupCloser closes done at its Close.
type hangupCloser struct {
	io.ReadWriteCloser
	once sync.Once
	done chan struct{}
}

func (h *hangupCloser) Close() error {
	h.once.Do(func() { close(h.done) })
	return h.ReadWriteCloser.Close()
}
