package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// maxMembers is how many trees one connection may export.
const maxMembers = 4

// announce answers a wire.RequestAnnounce.
func (c *conn) announce(ctx context.Context, payload []byte) ([]byte, error) {
	a, err := wire.ParseAnnounce(payload)
	if err != nil {
		return nil, err
	}
	m, err := c.join(ctx, a, reverseExport{c})
	if err != nil {
		return nil, err
	}
	return wire.Joined{Generation: m.announced.Load().generation, Shown: m.name}.Text(), nil
}

// join exports what a announces, reached by way of e. If the connection exports
// a's name already, the namespaces of that export become those of a.
func (c *conn) join(ctx context.Context, a wire.Announce, e exporter) (*member, error) {
	if c.s.stopping() {
		return nil, errStopping
	}
	uses, err := c.publish(ctx, a.Namespaces)
	if err != nil {
		return nil, err
	}
	defer func() { releaseAll(uses) }()
	if c.login.Commit != "" {
		a.Adopts = false // of most runs, nobody would see that it has them
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[a.Name]
	if err := c.mayAnnounce(m, a.Namespaces); err != nil {
		return nil, err
	}
	if m == nil {
		if len(c.members) >= maxMembers {
			return nil, fmt.Errorf("a connection exports %d trees at most", maxMembers)
		}
		m = &member{announcedAs: a.Name, key: c.login.String(), commit: c.login.Commit, conn: c, exporter: e}
	}
	if len(a.Namespaces) > 1 {
		m.several.Store(true)
	}
	key, err := c.signer(a)
	if err != nil {
		return nil, err
	}
	signer := ""
	if key != nil {
		signer = wire.Fingerprint(key)
	}
	fresh, err := c.s.dir.join(ctx, m, a, signer)
	if err != nil {
		return nil, err
	}
	if c.members == nil {
		c.members = map[string]*member{}
	}
	c.members[a.Name] = m
	m.namespaces = a.Namespaces
	m.uses, uses = uses, m.uses
	if m.name != a.Name {
		c.tellSecond(m, fresh)
	}
	for _, sh := range fresh {
		context.AfterFunc(sh.ctx, func() { m.leave(sh.ns) })
		c.wg.Go(sh.follow)
	}
	return m, nil
}

// publish learns whether the client may publish in all of the namespaces, and enters
// them.
func (c *conn) publish(ctx context.Context, namespaces []string) (uses []func(), err error) {
	defer func() {
		if err != nil {
			releaseAll(uses)
		}
	}()
	c.login.LearnAll(ctx, namespaces, true)
	for _, ns := range namespaces {
		release, ok, err := c.admit(ctx, ns, true)
		var absent *access.AbsentError
		switch {
		case err != nil:
			return uses, err
		case !ok && errors.As(c.login.Absent(ns), &absent):
			return uses, &spaceError{ns, fmt.Errorf("%s %s: %s", wire.MayNotPublish, ns, absent.Words)}
		case !ok:
			return uses, &spaceError{ns, fmt.Errorf("%s %s", wire.MayNotPublish, ns)}
		}
		uses = append(uses, release)
	}
	return uses, nil
}

func releaseAll(uses []func()) {
	for _, release := range uses {
		release()
	}
}

// drop ends what the connection exports under name, as m. c.mu is held.
func (c *conn) drop(name string, m *member, lost bool) {
	delete(c.members, name)
	c.s.dir.leave(m, lost)
	releaseAll(m.uses)
	m.uses = nil
}

// signer returns the key that a proves to hold. The proof names one of the server's
// host keys, the one that the client was shown, and over TLS none.
func (c *conn) signer(a wire.Announce) (key ssh.PublicKey, err error) {
	if c.overTLS() {
		return a.Signer(c.ssh.SessionID(), nil)
	}
	for _, k := range c.s.hosts {
		if key, err = a.Signer(c.ssh.SessionID(), k.PublicKey()); err == nil {
			break
		}
	}
	return key, err
}

// mayAnnounce returns an error if the connection or its requester announces too
// often. Each namespace that comes or goes counts. M is what is exported under the
// name, or nil.
func (c *conn) mayAnnounce(m *member, namespaces []string) error {
	n := 1
	if m == nil {
		n = len(namespaces)
	} else {
		for _, ns := range namespaces {
			if !slices.Contains(m.namespaces, ns) {
				n++
			}
		}
		n += max(0, len(m.namespaces)+n-1-len(namespaces)) // those that go
	}
	now := time.Now()
	if !c.announces.AllowN(now, min(n, announcesOfConn)) || !c.requester.announces.AllowN(now, min(n, announcesOfKey)) {
		return fmt.Errorf("too many announcements of one key, wait before the next: %w", fs.ErrBusy)
	}
	return nil
}

// tellSecond tells the executors that have the name that m announced of m.
func (c *conn) tellSecond(m *member, fresh []*share) {
	told := map[*member]bool{m: true}
	for _, sh := range fresh {
		first := c.s.dir.share(sh.ns, m.announcedAs)
		if first == nil || told[first.m] {
			continue
		}
		told[first.m] = true
		c.wg.Go(func() {
			first.m.conn.ssh.SendRequest(wire.RequestSecond, false, wire.Second{Name: m.announcedAs, Shown: m.name}.Text())
		})
	}
}

// withdraw ends what the connection exports under name.
func (c *conn) withdraw(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[name]; m != nil {
		c.drop(name, m, false)
	}
}

// leave ends all that the connection exports: it is lost.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, m := range c.members {
		c.drop(name, m, true)
	}
}
