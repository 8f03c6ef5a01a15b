package mux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	iofs "io/fs"
	"slices"
	"strings"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"
)

// An alias is where a link of the local tree leads, as this client sees it. A fid
// at the alias is the local tree's: its attributes are the link's own. What is
// below is the backend's, and so is the listing, for which the fid moves there when
// it is opened.
type alias struct {
	version uint64
	m       *mount   // nil if it leads to no backend: then all of it is the local tree's
	names   []string // from m to the target
	qids    []byte   // of the names below the base of the root it was found from; the last is the alias's own
	salt    uint64   // of what is below
	gone    bool     // the target is not there any more; guarded by the client's mu
}

// errMoved ends a walk through an alias whose target has gone. The next one may
// find another.
var errMoved = fmt.Errorf("what the link leads to has gone; try again: %w", fs.ErrBusy)

// depth returns how many names the target is below its mount; a is nil for what was
// not found through an alias.
func (a *alias) depth() int {
	if a == nil {
		return 0
	}
	return len(a.names)
}

// below returns the first maxLocal of these names.
func (a *alias) below() []string { return a.names[:min(len(a.names), maxLocal)] }

// leads reports whether a, which leads to a backend, still does. The client's mu is
// held.
func (a *alias) leads() bool {
	return !a.gone && !a.m.s.ended()
}

// qid returns the alias's own.
func (a *alias) qid() []byte { return a.qids[len(a.qids)-qidSize:] }

// atAlias reports whether f is at an alias that leads to a backend.
func (f *fid) atAlias() bool { return f.a != nil && f.depth == 0 }

// salt returns what the qids in the answer to p are salted with. In 9P2000, which
// has no links, the files below an alias are others than those below its target.
// The client's mu is held.
func (p *pending) salt() uint64 {
	switch {
	case p.s == p.c.local:
		return 0
	case p.f.a != nil:
		return p.f.a.salt
	}
	return p.f.m.salt()
}

// localPlace returns the place at a path of the local tree. crossed reports whether
// it is a backend's, or unresolved. c.mu is held.
func (c *client) localPlace(path []string, r *root) (p place, crossed bool) {
	p.path = path
	if c.srv.Find != nil {
		if p.b = c.srv.Find(path); p.b != nil {
			return p, true
		}
	}
	if c.srv.Alias == nil {
		return p, false
	}
	version, ok := c.srv.Alias(path)
	if !ok {
		return p, false
	}
	a := c.aliases[mountKey{r, strings.Join(path, "/")}]
	switch {
	case a == nil || a.version != version || a.m != nil && !a.leads():
		p.unresolved, p.version = true, version
		return p, true
	case a.m != nil:
		p.a = a
	}
	return p, false
}

// refresh resolves the alias that the walker starts at anew, if what it led to has
// gone.
func (w *walker) refresh(ctx context.Context) error {
	w.c.mu.Lock()
	at := w.place.a != nil && w.place.depth == 0 && !w.place.a.leads()
	w.c.mu.Unlock()
	if !at {
		return nil
	}
	p, n, err := w.c.again(ctx, w.root, w.place.path)
	if err != nil {
		return err
	}
	w.move(w.c.localSession(), n, true)
	w.place = p
	return nil
}

// again walks from the root to what may be an alias. n is a fid of the local tree
// there.
func (c *client) again(ctx context.Context, r *root, path []string) (p place, n uint32, err error) {
	c.mu.Lock()
	p, _ = c.localPlace(path, r)
	local := c.local
	c.mu.Unlock()
	n, qids, err := c.call(ctx, local, 0, r.n, path[len(r.base):])
	if err == nil && p.unresolved {
		if err = c.resolve(ctx, r, &p, local, n, qids[len(qids)-qidSize:]); err != nil {
			local.clunk(n)
		}
	}
	return p, n, err
}

// resolve looks where the alias leads that the walker has come to, if p, which is
// unresolved and where the walker is, is one.
func (w *walker) resolve(ctx context.Context, p *place) error {
	return w.c.resolve(ctx, w.root, p, w.s, w.n, w.qids[len(w.qids)-qidSize:])
}

// resolve sets p.a if fid n of the local tree, which is at p and has that qid, is
// an alias that leads to a backend.
func (c *client) resolve(ctx context.Context, r *root, p *place, local *session, n uint32, qid []byte) error {
	a := &alias{version: p.version}
	target, err := c.target(ctx, r, p.path, local, n)
	if err != nil {
		return err
	}
	if to, names := c.follow(p.path, target); to.b != nil {
		if a.m, err = c.mount(ctx, &to, r); err != nil {
			return err
		}
		dir, qids, err := c.call(ctx, local, 0, r.n, p.path[len(r.base):len(p.path)-1])
		if err != nil {
			return err
		}
		local.clunk(dir)
		a.names, a.qids, a.salt = names, slices.Concat(qids, qid), a.m.salt()
		if local.dialect == ninep.Plan9 {
			h := fnv.New64a()
			h.Write([]byte(strings.Join(p.path, "/")))
			a.salt ^= h.Sum64() & (1<<56 - 1)
		}
		p.a = a
	}
	p.unresolved = false
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aliases == nil {
		return errLost
	}
	if len(c.aliases) >= maxAliases {
		clear(c.aliases)
	}
	c.aliases[mountKey{r, strings.Join(p.path, "/")}] = a
	return nil
}

// target returns where the link leads that fid n of the local tree is at, or "" if
// it is none. 9P2000 has no links, so then another session with the local tree is
// asked.
func (c *client) target(ctx context.Context, r *root, path []string, local *session, n uint32) (string, error) {
	if local.dialect != ninep.DotL {
		s, gone, err := c.srv.local(ctx, ninep.DotL, local.msize, c.peer)
		if err != nil {
			return "", err
		}
		defer func() {
			s.close()
			<-gone
		}()
		if _, err := s.attach(ctx, 0, r.uname, strings.Join(r.base, "/")); err != nil {
			return "", err
		}
		if n, _, err = c.call(ctx, s, 0, 0, path[len(r.base):]); err != nil {
			return "", err
		}
		local = s
	}
	rx, err := local.ask(ctx, wire.End(le.AppendUint32(wire.Begin(nil, wire.Treadlink, 0), n), 0))
	if errors.Is(err, iofs.ErrInvalid) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	d := wire.Decoder{B: rx[wire.HeaderSize:]}
	return d.Str(), nil
}

// follow returns the place of a backend on the way that a link at a path leads, and
// the names from there. If there is none, the place has no backend.
func (c *client) follow(path []string, target string) (p place, names []string) {
	if target == "" || target[0] == '/' {
		return p, nil
	}
	at := slices.Clone(path[:len(path)-1])
	for name := range strings.SplitSeq(target, "/") {
		switch {
		case name == "" || name == ".":
		case name != "..":
			at = append(at, name)
		case len(at) == 0:
			return p, nil
		default:
			at = at[:len(at)-1]
		}
	}
	for i := range at {
		if b := c.srv.Find(at[:i+1]); b != nil {
			return place{path: at[: i+1 : i+1], b: b}, at[i+1:]
		}
	}
	return p, nil
}

// enter walks to the target of an alias. n is a fid of a.m's session.
func (c *client) enter(ctx context.Context, a *alias) (n uint32, err error) {
	n, _, err = c.call(ctx, a.m.s, a.m.salt(), a.m.n, a.names)
	if errors.Is(err, iofs.ErrNotExist) {
		c.mu.Lock()
		defer c.mu.Unlock()
		a.gone = true
		return 0, errMoved
	}
	return n, err
}

// openAlias opens the directory that the alias at f leads to: from then on f is that
// one, and keeps its number at the local tree for the alias's attributes. c.mu is
// held.
func (c *client) openAlias(frame []byte, f *fid) {
	typ, tag, number := frame[4], le.Uint16(frame[5:]), le.Uint32(frame[atFid:])
	mode := bytes.Clone(frame[atFid+4:])
	w := walker{c: c, root: f.root, place: f.place()}
	f.busy = true
	c.background(tag, func(ctx context.Context, r *request) {
		rx, err := w.open(ctx, typ, mode)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch answer := c.settle(tag, r); {
		case answer && err == nil:
			a := w.place.a
			f.a, f.m, f.s, f.n, f.attr, f.dir = a, a.m, w.s, w.n, f.n, true
			w.owned = false
			copy(rx[wire.HeaderSize:], a.qid())
			c.limit(rx, w.s)
			le.PutUint16(rx[5:], tag)
			c.say(rx)
		case answer:
			c.fail(tag, err)
		}
		w.drop()
		if c.fids != nil {
			c.drain(f, number)
		}
	})
}

// open opens the target of the alias that the walker is at.
func (w *walker) open(ctx context.Context, typ uint8, mode []byte) ([]byte, error) {
	if err := w.refresh(ctx); err != nil {
		return nil, err
	}
	a := w.place.a
	if a == nil {
		return nil, errMoved
	}
	n, err := w.c.enter(ctx, a)
	if err != nil {
		return nil, err
	}
	w.move(a.m.s, n, true)
	b := le.AppendUint32(wire.Begin(nil, typ, 0), n)
	return a.m.s.ask(ctx, wire.End(append(b, mode...), 0))
}
