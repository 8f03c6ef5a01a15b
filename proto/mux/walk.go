package mux

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// A place is where a walk has come to.
type place struct {
	path  []string // in the local tree, or of the mount
	m     *mount   // of a backend, unless it is only known by its Backend
	b     *Backend // nil in the local tree
	a     *alias   // at an alias, which is in the local tree, or below it
	depth int      // names below the mount, or the alias
	below []string // of those below the mount the first maxLocal

	unresolved bool // a local one that may be at an alias of that version
	version    uint64
}

// maxLocal is how many names below a Backend's root Backend.Local is asked about.
const maxLocal = 3

func (f *fid) place() place {
	p := place{path: f.path, m: f.m, a: f.a, depth: f.depth, below: f.below}
	if f.m != nil {
		p.b = f.m.b
	}
	return p
}

// down returns the place of name below p, which is a backend's. local reports
// whether Backend.Local leaves it to the local tree.
func (p place) down(name string) (next place, local bool) {
	if above := p.a.depth(); above+p.depth < maxLocal {
		p.below = append(slices.Clip(p.below), name)
		if p.b.Local != nil && p.b.Local(p.below) {
			return place{path: slices.Concat(p.path, p.below[above:])}, true
		}
	}
	p.depth++
	return p, false
}

// salt returns what the qid.paths of the files below p are rewritten with.
func (p place) salt() uint64 {
	if p.a != nil && p.depth > 0 {
		return p.a.salt
	}
	return p.m.salt()
}

// step returns the place that name leads to from p, for a fid of root. crossed
// reports whether that is in another tree, or unresolved. c.mu is held.
func (c *client) step(p place, root *root, name string) (next place, crossed bool) {
	switch {
	case p.a != nil && p.depth == 0 && name != "..": // on through an alias
		next, local := place{path: p.path, m: p.a.m, b: p.a.m.b, a: p.a, below: p.a.below()}.down(name)
		if local {
			return c.localPlace(next.path, root)
		}
		return next, true
	case p.a != nil && p.depth == 1 && name == "..": // back to it
		next, _ = c.localPlace(p.path, root)
		return next, true
	case p.b != nil:
		switch {
		case name != "..":
			return p.down(name)
		case p.depth > 0:
			p.depth--
			p.below = p.below[:min(p.a.depth()+p.depth, len(p.below))]
		default:
			// Above a backend's root is what is above its directory.
			return place{path: p.path[:len(p.path)-1]}, true
		}
		return p, false
	}
	path := p.path
	if name != ".." {
		path = append(slices.Clip(path), name)
	} else if len(path) > len(root.base) {
		path = path[:len(path)-1]
	}
	return c.localPlace(path, root)
}

// walk forwards a Twalk if that is enough: if it stays in its tree, or enters a
// backend that the client has entered before.
func (c *client) walk(frame []byte, f *fid) {
	tag := le.Uint16(frame[5:])
	number, newfid := le.Uint32(frame[atFid:]), le.Uint32(frame[atNewfid:])
	if f.attr != 0 {
		c.fail(tag, wire.ErrOpen)
		return
	}
	d := wire.Decoder{B: frame[atNewfid+4:]}
	n := int(d.U16())
	if n > plan9.MAXWELEM {
		c.fail(tag, wire.ErrTooManyNames)
		return
	}
	names := make([]string, n)
	for i := range names {
		names[i] = d.Str()
	}
	old := c.fids[newfid]
	switch {
	case newfid == number:
	case old != nil && old.busy:
		c.hold(old, frame)
		return
	case old != nil || newfid == plan9.NOFID:
		c.fail(tag, wire.ErrFidInUse)
		return
	case len(c.fids) >= maxFids || c.srv.Quota.full():
		c.fail(tag, wire.ErrTooMuch)
		return
	}

	if f.atAlias() && !f.a.leads() {
		if a := c.aliases[mountKey{f.root, strings.Join(f.path, "/")}]; a != nil && a.m != nil {
			f.a = a
		}
	}
	p, crossings, entered := f.place(), 0, 0
	for i, name := range names {
		var crossed bool
		if p, crossed = c.step(p, f.root, name); crossed {
			crossings++
			entered = i + 1
			if p.a != nil { // the name is the first below it
				entered = i
			}
		}
	}
	w := &pending{typ: plan9.Twalk, c: c, epoch: c.epoch, ctag: tag, newfid: newfid}
	switch {
	case crossings == 0 && newfid == number:
		w.f, w.same = f, &fid{path: f.path, depth: f.depth, below: f.below, a: f.a}
		c.forwardWalk(w, f.s, f.n, names, p)
	case crossings == 0:
		w.f = &fid{root: f.root}
		c.forwardWalk(w, f.s, f.n, names, p)
	case crossings == 1 && p.b != nil && p.a != nil && p.a.leads() && newfid != number &&
		!slices.Contains(names[:entered], "..") && len(p.a.names)+len(names)-entered <= plan9.MAXWELEM:
		w.f = &fid{root: f.root}
		w.prefix = p.a.qids[qidSize*(len(f.path)-len(f.root.base)):]
		w.skip = len(p.a.names)
		c.forwardWalk(w, p.m.s, p.m.n, slices.Concat(p.a.names, names[entered:]), p)
	case crossings == 1 && p.b != nil && p.a == nil && newfid != number && !slices.Contains(names[:entered], "..") && c.mounted(&p, f.root):
		w.f = &fid{root: f.root}
		w.prefix = p.m.qids[qidSize*(len(f.path)-len(f.root.base)):]
		c.forwardWalk(w, p.m.s, p.m.n, names[entered:], p)
	default:
		c.walkSlowly(tag, f, newfid, names)
	}
}

// mounted sets p.m if the client has entered the backend there.
func (c *client) mounted(p *place, r *root) bool {
	m := c.mounts[mountKey{r, strings.Join(p.path, "/")}]
	if m == nil || m.b != p.b {
		return false
	}
	if m.s.ended() {
		return false
	}
	p.m = m
	return true
}

// forwardWalk sends a walk of names from the fid from of s. It puts w.f at p in
// advance of the answer, so that the requests that follow can be forwarded.
func (c *client) forwardWalk(w *pending, s *session, from uint32, names []string, p place) {
	n := w.f.n
	if w.same == nil {
		n = s.fids.New()
	}
	w.names = len(names)
	err := error(wire.ErrTooMuch)
	if !c.spent(p.m, s, w.same == nil) {
		err = s.add(w)
	}
	if err != nil {
		if w.same == nil {
			s.fids.Free(n)
		}
		c.fail(w.ctag, err)
		return
	}
	w.f.s, w.f.n, w.f.path, w.f.m, w.f.a, w.f.depth, w.f.below = s, n, p.path, p.m, p.a, p.depth, p.below
	c.fids[w.newfid] = w.f
	w.of.p = w
	c.tags[w.ctag] = &w.of
	c.scratch = appendWalk(c.scratch[:0], from, n, names)
	c.forward(w, c.scratch)
}

func walkFrame(from, to uint32, names []string) []byte { return appendWalk(nil, from, to, names) }

// appendWalk appends a Twalk to b, which is empty.
func appendWalk(b []byte, from, to uint32, names []string) []byte {
	b = wire.Begin(b, plan9.Twalk, 0)
	b = le.AppendUint32(b, from)
	b = le.AppendUint32(b, to)
	b = le.AppendUint16(b, uint16(len(names)))
	for _, name := range names {
		b = wire.AppendString(b, name)
	}
	return wire.End(b, 0)
}

// walked looks at the answer to a forwarded walk, and answers it itself where
// names before a boundary belong to it, or names of an alias's target do not.
func (c *client) walked(p *pending, frame []byte) (answered bool) {
	got := 0
	failed := frame == nil || isError(frame[4])
	if !failed {
		got = int(le.Uint16(frame[wire.HeaderSize:]))
	}
	if failed || got < p.names {
		c.unbind(p)
	}
	if frame == nil || len(p.prefix) == 0 && p.skip == 0 {
		return false
	}
	if p.skip > 0 && got < p.skip && (!failed || errors.Is(remoteError(frame), iofs.ErrNotExist)) {
		p.f.a.gone = true
		c.fail(p.ctag, errMoved)
		return true
	}
	if failed && !errors.Is(remoteError(frame), iofs.ErrNotExist) {
		return false // a walk that ends short would say that the name is not there
	}
	var qids []byte // of the client's names
	if !failed {
		saltQids(frame, false, p.salt())
		qids = frame[wire.HeaderSize+2+qidSize*p.skip:]
	}
	if len(p.prefix)+len(qids) == 0 && p.names > p.skip {
		c.fail(p.ctag, iofs.ErrNotExist) // as for every walk whose first name is not there
		return true
	}
	b := wire.Begin(nil, plan9.Rwalk, p.ctag)
	b = le.AppendUint16(b, uint16((len(p.prefix)+len(qids))/qidSize))
	b = append(append(b, p.prefix...), qids...)
	c.say(wire.End(b, 0))
	return true
}

// walkSlowly walks across boundaries, a tree at a time. The requests that follow on
// newfid wait for it. Those on f do not, since the walk starts from a clone of f.
func (c *client) walkSlowly(tag uint16, f *fid, newfid uint32, names []string) {
	from := &pending{typ: plan9.Twalk, answer: make(chan []byte, 1)}
	if err := f.s.add(from); err != nil {
		c.fail(tag, err)
		return
	}
	w := walker{c: c, root: f.root, place: f.place(), s: f.s, n: f.s.fids.New(), owned: true}
	c.forward(from, walkFrame(f.n, w.n, nil))
	nf := c.fids[newfid]
	same := nf == f
	if nf == nil {
		nf = &fid{root: f.root}
		c.fids[newfid] = nf
	}
	nf.busy = true
	c.background(tag, func(ctx context.Context, r *request) {
		err := w.start(from)
		if err == nil {
			err = w.walk(ctx, names)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		done := err == nil && len(w.qids) == qidSize*len(names)
		answer := c.settle(tag, r)
		if answer && done {
			if same {
				nf.s.clunk(nf.n)
			}
			nf.s, nf.n, nf.path, nf.m, nf.a = w.s, w.n, w.place.path, w.place.m, w.place.a
			nf.depth, nf.below, w.owned = w.place.depth, w.place.below, false
		}
		w.drop()
		switch {
		case !answer:
		case err != nil && (len(w.qids) == 0 || !errors.Is(err, iofs.ErrNotExist)):
			c.fail(tag, err) // a walk that ends short would say that the name is not there
		default:
			b := wire.Begin(nil, plan9.Rwalk, tag)
			b = le.AppendUint16(b, uint16(len(w.qids)/qidSize))
			c.say(wire.End(append(b, w.qids...), 0))
		}
		if c.fids != nil {
			c.drain(nf, newfid)
		}
	})
}

// A walker makes a walk that crosses boundaries.
type walker struct {
	c     *client
	root  *root
	place place
	s     *session
	n     uint32 // where the walk is, at s
	owned bool   // n is the walker's
	qids  []byte
}

// start waits for the clone that the walk starts from.
func (w *walker) start(p *pending) error {
	rx, ok := <-p.answer
	if !ok {
		w.owned = false
		return errLost
	}
	if isError(rx[4]) {
		w.owned = false
		w.s.fids.Free(w.n)
		return remoteError(rx)
	}
	return nil
}

func (w *walker) drop() {
	if w.owned {
		w.s.clunk(w.n)
		w.owned = false
	}
}

// move says where the walker is now.
func (w *walker) move(s *session, n uint32, owned bool) {
	w.drop()
	w.s, w.n, w.owned = s, n, owned
}

// walk walks as far as it can. Its error is that of the first name that has no
// qid.
func (w *walker) walk(ctx context.Context, names []string) error {
	if err := w.refresh(ctx); err != nil {
		return err
	}
	for len(names) > 0 {
		// As far as the tree goes.
		k, next, crossed := 0, w.place, false
		w.c.mu.Lock()
		for k < len(names) && !crossed {
			next, crossed = w.c.step(next, w.root, names[k])
			k++
		}
		w.c.mu.Unlock()
		part := names[:k]
		names = names[k:]
		switch {
		case crossed && next.b != nil && next.a != nil: // through an alias
			if err := w.hop(ctx, part[:k-1]); err != nil {
				return err
			}
			n, err := w.c.enter(ctx, next.a)
			if err != nil {
				return err
			}
			w.move(next.m.s, n, true)
			w.place = next
			if err := w.hop(ctx, part[k-1:]); err != nil {
				return err
			}
		case crossed && next.b == nil && w.place.b == nil: // to what may be an alias
			if err := w.hop(ctx, part); err != nil {
				return err
			}
			if err := w.resolve(ctx, &next); err != nil {
				return err
			}
		case crossed && next.b == nil: // out of a backend
			if err := w.hop(ctx, part[:k-1]); err != nil {
				return err
			}
			n, qids, err := w.c.call(ctx, w.c.localSession(), 0, w.root.n, next.path[len(w.root.base):])
			if err != nil {
				return err
			}
			q := qids[max(0, len(qids)-qidSize):]
			if len(q) == 0 { // the root itself
				if q, err = w.c.rootQid(ctx, w.root); err != nil {
					return err
				}
			}
			w.move(w.c.localSession(), n, true)
			w.qids = append(w.qids, q...)
			if next.unresolved {
				if err := w.resolve(ctx, &next); err != nil {
					return err
				}
			}
		case crossed: // into one: its directory must be there in the local tree
			if err := w.hop(ctx, part); err != nil {
				return err
			}
			w.qids = w.qids[:len(w.qids)-qidSize]
			m, err := w.c.mount(ctx, &next, w.root)
			if err != nil {
				return err
			}
			n, _, err := w.c.call(ctx, m.s, m.salt(), m.n, nil)
			if err != nil {
				return err
			}
			w.move(m.s, n, true)
			w.qids = append(w.qids, m.qids[len(m.qids)-qidSize:]...)
		default:
			if err := w.hop(ctx, part); err != nil {
				return err
			}
		}
		w.place = next
	}
	return nil
}

// hop walks within a tree.
func (w *walker) hop(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	n, qids, err := w.c.call(ctx, w.s, w.place.salt(), w.n, names)
	w.qids = append(w.qids, qids...)
	if err != nil {
		return err
	}
	w.move(w.s, n, true)
	return nil
}

// call walks from a fid of s to a new one. The qids, which it salts, are those of
// the names that were there; only if all were, n is the new fid.
func (c *client) call(ctx context.Context, s *session, salt uint64, from uint32, names []string) (n uint32, qids []byte, err error) {
	if s == nil {
		return 0, nil, errLost
	}
	n = s.fids.New()
	rx, err := s.ask(ctx, walkFrame(from, n, names))
	if err != nil {
		if ctx.Err() != nil {
			s.clunk(n) // whatever became of it
		} else {
			s.fids.Free(n)
		}
		return 0, nil, err
	}
	saltQids(rx, false, salt)
	qids = rx[wire.HeaderSize+2:]
	if len(qids) < qidSize*len(names) {
		s.fids.Free(n)
		return 0, qids, iofs.ErrNotExist
	}
	return n, qids[:qidSize*len(names)], nil
}

func (c *client) localSession() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.local
}

// rootQid asks for the qid of an attach's root, which no walk tells.
func (c *client) rootQid(ctx context.Context, r *root) ([]byte, error) {
	s := c.localSession()
	if s == nil {
		return nil, errLost
	}
	typ, at := uint8(plan9.Tstat), 10
	if s.dialect == ninep.DotL {
		typ, at = wire.Tgetattr, 8
	}
	b := le.AppendUint32(wire.Begin(nil, typ, 0), r.n)
	if s.dialect == ninep.DotL {
		b = le.AppendUint64(b, 0x7ff)
	}
	rx, err := s.ask(ctx, wire.End(b, 0))
	if err != nil || len(rx) < wire.HeaderSize+at+qidSize {
		return nil, fmt.Errorf("%w: %w", fs.ErrIO, err)
	}
	return rx[wire.HeaderSize+at:][:qidSize], nil
}

// mount enters the backend of p for the client, and sets p.m.
func (c *client) mount(ctx context.Context, p *place, r *root) (*mount, error) {
	c.mu.Lock()
	ok := c.mounts != nil && c.mounted(p, r)
	d, local := c.dialect, c.local
	c.mu.Unlock()
	if ok {
		return p.m, nil
	}
	s, err := p.b.session(ctx, d)
	if err != nil {
		return nil, err
	}
	// The qids of the way there, for walks that are only forwarded. From a root
	// that an alias leads out of no other way leads there.
	var qids []byte
	if len(p.path) > len(r.base) && slices.Equal(p.path[:len(r.base)], r.base) {
		var n uint32
		if n, qids, err = c.call(ctx, local, 0, r.n, p.path[len(r.base):]); err != nil {
			return nil, err
		}
		local.clunk(n)
		qids = qids[:len(qids)-qidSize]
	}
	m := &mount{b: p.b, s: s, n: s.fids.New()}
	rx, err := s.attach(ctx, m.n, r.uname, p.b.aname)
	if err != nil {
		if ctx.Err() != nil {
			s.clunk(m.n)
		} else {
			s.fids.Free(m.n)
		}
		return nil, err
	}
	saltQids(rx, false, m.salt())
	m.qids = append(slices.Clip(qids), rx[wire.HeaderSize:][:qidSize]...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mounts == nil {
		s.clunk(m.n)
		return nil, errLost
	}
	if c.mounted(p, r) { // another walk was faster
		s.clunk(m.n)
		return p.m, nil
	}
	key := mountKey{r, strings.Join(p.path, "/")}
	if old := c.mounts[key]; old != nil { // its session is over, or its backend another
		old.s.clunk(old.n)
	}
	c.mounts[key] = m
	p.m = m
	return m, nil
}

func attachFrame(d ninep.Dialect, n uint32, uname, aname string) []byte {
	b := wire.Begin(nil, plan9.Tattach, 0)
	b = le.AppendUint32(b, n)
	b = le.AppendUint32(b, plan9.NOFID)
	b = wire.AppendString(b, uname)
	b = wire.AppendString(b, aname)
	if d == ninep.DotL {
		b = le.AppendUint32(b, plan9.NOUID)
	}
	return wire.End(b, 0)
}

// attach attaches to the local tree, and keeps a fid of the root there for
// walks that come back from a backend.
func (c *client) attach(frame []byte) {
	tag, number := le.Uint16(frame[5:]), le.Uint32(frame[atFid:])
	d := wire.Decoder{B: frame[atFid+4:]}
	afid, uname, aname := d.U32(), d.Str(), d.Str()
	f := c.fids[number]
	switch {
	case afid != plan9.NOFID:
		c.fail(tag, wire.ErrNoAuth)
		return
	case f != nil && f.busy:
		c.hold(f, frame)
		return
	case f != nil || number == plan9.NOFID:
		c.fail(tag, wire.ErrFidInUse)
		return
	case len(c.roots) >= maxRoots || len(c.fids) >= maxFids:
		c.fail(tag, wire.ErrTooMuch)
		return
	}
	r := &root{uname: uname, base: strings.FieldsFunc(aname, func(r rune) bool { return r == '/' })}
	if c.peer.Name != "" {
		r.uname = c.peer.Name
	}
	c.roots = append(c.roots, r)
	f = &fid{root: r, busy: true}
	c.fids[number] = f
	s := c.local
	c.background(tag, func(ctx context.Context, req *request) {
		r.n = s.fids.New()
		rx, err := s.attach(ctx, r.n, uname, aname)
		n := uint32(0)
		if err == nil {
			n, _, err = c.call(ctx, s, 0, r.n, nil)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.settle(tag, req) {
			if err != nil {
				c.fail(tag, err)
			} else {
				f.s, f.n, f.path = s, n, r.base
				le.PutUint16(rx[5:], tag)
				c.say(rx)
			}
		}
		if f.s == nil {
			c.roots = slices.DeleteFunc(c.roots, func(x *root) bool { return x == r })
		}
		if c.fids != nil {
			c.drain(f, number)
		}
	})
}

// remoteError is the error that an R-message tells of.
func remoteError(rx []byte) error {
	d := wire.Decoder{B: rx[wire.HeaderSize:]}
	if rx[4] == wire.Rlerror {
		return wire.ErrnoError(d.U32())
	}
	return wire.EnameError(d.Str())
}
