package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// jump answers ssh -J: it splices the channel to the SSH server of the executor
// that the host names. The orchestrator carries what it cannot read.
func (c *conn) jump(ctx context.Context, nc ssh.NewChannel) {
	var msg directTCPMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &msg); err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	sh, err := c.jumpTo(msg.Host)
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	out, err := sh.m.dialSSH(ctx, sh.ns, c.login)
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer out.Close()
	in, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer in.Close()
	defer context.AfterFunc(sh.ctx, func() { in.Close() })()
	c.wg.Go(func() { ssh.DiscardRequests(reqs) })
	splice(in, out)
}

// jumpTo returns the executor of that name in the namespaces that the key may
// read. The key's home namespace comes first; in the others the name must be of
// one key.
func (c *conn) jumpTo(name string) (*share, error) {
	g := c.login
	d := c.s.dir
	if home := g.Home(); home != "" && g.MayRead(home) {
		if sh := d.share(home, name); sh != nil {
			return sh, nil
		}
	}
	var found *share
	for _, ns := range d.namespaces(g.MayRead) {
		sh := d.share(ns, name)
		if sh == nil {
			continue
		}
		if found != nil && found.m.key != sh.m.key {
			return nil, fmt.Errorf("%s is another in %s than in %s", name, found.ns, ns)
		}
		found = cmp.Or(found, sh)
	}
	if found == nil {
		return nil, fmt.Errorf("no executor %q is connected", name)
	}
	return found, nil
}

// dialSSH opens a channel to the executor's own SSH server, which lets in the key
// of l and no other.
func (m *member) dialSSH(ctx context.Context, ns string, l *access.Login) (ssh.Channel, error) {
	if _, ok := m.exporter.(reverseExport); !ok {
		return nil, errors.New("the executor has no SSH server of its own")
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	msg := m.message(ns, l.String())
	msg.Key = string(l.Key.Marshal())
	ch, err := m.conn.dial(ctx, wire.ChannelSSH, ssh.Marshal(&msg))
	return ch, m.fail(err)
}

// splice copies between two channels until both directions have ended, or one
// of the channels is closed.
func splice(a, b ssh.Channel) {
	var wg sync.WaitGroup
	one := func(dst, src ssh.Channel) {
		if _, err := io.Copy(dst, src); err != nil {
			dst.Close()
			src.Close()
			return
		}
		dst.CloseWrite()
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
}
