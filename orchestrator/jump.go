package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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
		wire.Refuse(nc, err)
		return
	}
	sh, err := c.jumpTo(ctx, msg.Host)
	if err != nil {
		refuseUnknown(nc, err)
		return
	}
	c.carry(ctx, nc, sh, wire.ChannelSSH)
}

// reach answers a ChannelSSH or ChannelDoor of a client: it is jump for a client
// that names the namespace, too.
func (c *conn) reach(ctx context.Context, nc ssh.NewChannel) {
	var msg wire.ReachMsg
	if err := ssh.Unmarshal(nc.ExtraData(), &msg); err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	if err := c.learn(ctx, msg.Namespace, false); err != nil {
		refuseUnknown(nc, err)
		return
	}
	var sh *share
	if c.login.MayRead(msg.Namespace) {
		sh = c.s.dir.share(msg.Namespace, msg.Name)
	} else {
		c.mayNotRead(msg.Namespace)
	}
	if sh == nil {
		nc.Reject(ssh.ConnectionFailed, errNoExecutor(msg.Name).Error())
		return
	}
	c.carry(ctx, nc, sh, nc.ChannelType())
}

// carry splices a client's channel to one of that kind, ChannelSSH or ChannelDoor,
// to the executor. It ends with the share, and with either connection.
func (c *conn) carry(ctx context.Context, nc ssh.NewChannel, sh *share, kind string) {
	release, ok, err := c.admit(ctx, sh.ns, false)
	if err != nil || !ok { // it is lost since
		wire.Refuse(nc, cmp.Or(err, errNoExecutor(sh.m.name)))
		return
	}
	defer release()
	if c.login.Key == nil {
		wire.Refuse(nc, errors.New("a TLS certificate opens no way to an executor's own SSH server, which lets in the key that has logged in here"))
		return
	}
	out, err := sh.m.dialSSH(ctx, kind, sh.ns, c.login)
	if err != nil {
		wire.Refuse(nc, err)
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

// errNoExecutor is the error of an executor that is absent, or that the key may
// not read.
func errNoExecutor(name string) error { return fmt.Errorf("no executor %.80q is connected", name) }

// jumpTo returns the executor of that name in the namespaces that the key may
// read. The key's home namespace comes first; in the others the name must be of
// one key.
func (c *conn) jumpTo(ctx context.Context, name string) (*share, error) {
	g := c.login
	d := c.s.dir
	unknown := c.learnOf(ctx, name)
	if home := g.Home(); home != "" && g.MayRead(home) {
		if sh := d.share(home, name); sh != nil {
			return sh, nil
		}
	}
	var found *share
	for _, ns := range d.namespaces(g.Grant, "", math.MaxInt) {
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
		return nil, cmp.Or(unknown, errNoExecutor(name))
	}
	return found, nil
}

// learnOf learns of up to maxListed namespaces that an executor of that name exports
// whether the client may read them.
func (c *conn) learnOf(ctx context.Context, name string) error {
	var unknown []string
	if host := c.login.AskedHost(); host != "" {
		for _, ns := range c.s.dir.namespaces(everywhere, host, maxBelow) {
			if c.s.dir.share(ns, name) != nil && !c.login.Known(ns) && len(unknown) < maxListed {
				unknown = append(unknown, ns)
			}
		}
	}
	err := c.login.LearnAll(ctx, unknown, false)
	if err != nil && ctx.Err() == nil {
		c.unknown(c.login.AskedHost()+"/...", err)
	}
	return err
}

// dialSSH opens a ChannelSSH or ChannelDoor to the executor, whose own SSH server
// then lets in the key of l and no other.
func (m *member) dialSSH(ctx context.Context, kind, ns string, l *access.Login) (ssh.Channel, error) {
	if _, ok := m.exporter.(reverseExport); !ok {
		return nil, errors.New("the executor has no SSH server of its own")
	}
	release := func() {}
	if kind == wire.ChannelSSH {
		var err error
		if release, err = m.conn.carryFor(l); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	msg := m.message(ns, l)
	ch, err := m.conn.dialThen(ctx, kind, ssh.Marshal(&msg), release)
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
