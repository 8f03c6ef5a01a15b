package orchestrator

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// What a person may do in a namespace is asked of a forge, and that takes time. So each
// place at which a client enters a namespace first learns it, before it takes a lock: the
// grant then tells, at once, what is known. What a client does by a right that it may lose
// without that its key's line changes, because a forge says so or a namespace is public no
// more, is a use: when it is lost, the connection ends, as after an edit of authorized_keys.

// A use is what a client does in one namespace: it reads there, or publishes.
type use struct {
	ns      string
	publish bool
}

// admit learns whether the client may read in ns, or publish there, and reports that.
// If so, release must be called when the client has done what it does there: until then
// the connection ends if it may no longer. The error is one of access.Grant's Learn, and
// says that nobody knows.
func (c *conn) admit(ctx context.Context, ns string, publish bool) (release func(), ok bool, err error) {
	if err := c.learn(ctx, ns, publish); err != nil {
		return nil, false, err
	}
	may := c.login.MayRead
	if publish {
		may = c.login.MayPublish
	}
	if !may(ns) {
		return nil, false, nil
	}
	if c.login.Owns(ns, publish) {
		return func() {}, true, nil
	}
	drop, err := c.login.Hold(ns)
	if err != nil {
		c.unknown(ns, err)
		return nil, false, err
	}
	u := use{ns, publish}
	c.usesMu.Lock()
	defer c.usesMu.Unlock()
	if c.uses == nil {
		c.uses = map[use]int{}
	}
	c.uses[u]++
	return func() {
		drop()
		c.usesMu.Lock()
		defer c.usesMu.Unlock()
		if c.uses[u]--; c.uses[u] == 0 {
			delete(c.uses, u)
		}
	}, true, nil
}

// learn is Learn of the client's grant, and writes the line of what cannot be learned.
func (c *conn) learn(ctx context.Context, ns string, publish bool) error {
	err := c.login.Learn(ctx, ns, publish)
	if err != nil && ctx.Err() == nil {
		c.unknown(ns, err)
	}
	return err
}

// unknown writes the line of a namespace of which it cannot be learned what the client
// may do there.
func (c *conn) unknown(ns string, err error) {
	if _, ok := c.s.audit.walks.Take(c.login.Owner()); !ok {
		return
	}
	var unknown *access.UnknownError
	if errors.As(err, &unknown) {
		err = unknown.Err
	}
	c.refused("namespace", &spaceError{ns, err})
}

// refuseUnknown refuses a channel because of what learn returned. What is not there is
// refused for another reason (RFC 4254 §5.1).
func refuseUnknown(nc ssh.NewChannel, err error) {
	var unknown *access.UnknownError
	if errors.As(err, &unknown) && !errors.Is(err, fs.ErrBusy) {
		nc.Reject(ssh.Prohibited, err.Error())
		return
	}
	wire.Refuse(nc, err)
}

// lost returns an error if the client may no longer do what it does.
func (c *conn) lost() error {
	c.usesMu.Lock()
	defer c.usesMu.Unlock()
	for u := range c.uses {
		may := c.login.MayRead
		if u.publish {
			may = c.login.MayPublish
		}
		switch {
		case may(u.ns):
		case c.login.Known(u.ns):
			return errChanged
		default:
			return fmt.Errorf("%s has not said for some time what this account may do in %s: connect again", c.login.AskedHost(), u.ns)
		}
	}
	return nil
}

// enter is the conn's admit to read in ns, until the session ends.
func (v *view) enter(ctx context.Context, ns string) (ok bool, err error) {
	if v.c.login.Owns(ns, false) {
		return true, nil
	}
	v.mu.Lock()
	entered := v.uses[ns] != nil
	v.mu.Unlock()
	if entered {
		err := v.c.learn(ctx, ns, false)
		return v.mayRead(ns), err
	}
	release, ok, err := v.c.admit(ctx, ns, false)
	if !ok {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.readers == nil || v.uses[ns] != nil { // the session has ended, or another walk was faster
		release()
		return true, nil
	}
	if v.uses == nil {
		v.uses = map[string]func(){}
	}
	v.uses[ns] = release
	return true, nil
}

// maxListed is how many namespaces a listing learns of.
const maxListed = 100

// learnBelow learns of up to maxListed namespaces that are exported at or below a path
// whether the session may read them. Its error says that nobody knows that of all.
func (v *view) learnBelow(ctx context.Context, path string) error {
	g, host := v.c.login, v.c.login.AskedHost()
	if path == "" {
		path = host
	}
	if !g.Asks(path) {
		return nil
	}
	var unknown []string
	for _, ns := range v.c.s.dir.namespaces(everywhere, path, maxBelow) {
		if !g.MayRead(ns) && !g.Known(ns) {
			unknown = append(unknown, ns)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	unknown = unknown[:min(len(unknown), maxListed)]
	err := g.LearnAll(ctx, unknown, false)
	if err != nil && ctx.Err() == nil {
		v.c.unknown(path+"/...", err)
	}
	return err
}

// everywhere is the grant that covers all namespaces but those of one executor alone.
var everywhere = access.Grant{Read: true}

// maxBelow is how many exported namespaces a listing looks at.
const maxBelow = 1 << 16

// leadsAfter reports whether a path is a namespace that the session sees, or leads to
// one. For that it learns what it can. Of the two elements before a repository's name,
// those at the account's forge lead on, whatever is there: to ask about all repositories
// below would take too long, and to tell of them too much.
func (v *view) leadsAfter(ctx context.Context, path string) (bool, error) {
	_, err := v.enter(ctx, path)
	if v.leads(path) {
		return true, nil
	}
	if !v.c.login.Asks(path) {
		return false, err
	}
	if strings.Count(path, "/") < 2 {
		return true, nil
	}
	if more := v.learnBelow(ctx, path); err == nil {
		err = more
	}
	if v.leads(path) {
		return true, nil
	}
	return false, err
}

// absent returns the error of a namespace that the session does not see.
func (v *view) absent(ns string) error {
	if v.mayRead(ns) {
		return iofs.ErrNotExist
	}
	return v.c.login.Absent(ns)
}
