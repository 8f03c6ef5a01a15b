package mux

import (
	"bytes"
	"context"
	iofs "io/fs"

	"9ci/fs"
	"9ci/proto/internal/linux"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// dispatch answers or forwards one T-message. It does not block: c.mu is held.
func (c *client) dispatch(frame []byte) {
	typ, tag := frame[4], le.Uint16(frame[5:])
	c.trace("<-", frame)
	l := wire.Layouts[c.dialect][typ]
	_, used := c.tags[tag]
	switch {
	case l == nil || typ&1 != 0:
		c.fail(tag, wire.ErrUnsupported)
	case !l.Fits(frame):
		c.fail(tag, wire.ErrMalformed)
	case typ == plan9.Tflush:
		c.flush(frame)
	case used:
		c.fail(tag, wire.ErrTag)
	case len(c.tags) >= maxRequests:
		c.fail(tag, wire.ErrTooMuch)
	default:
		c.request(frame)
	}
}

// opensToWrite reports whether a Topen or Tlopen, which has its layout, asks for
// more than to read.
func opensToWrite(frame []byte) bool {
	const atMode = atFid + 4
	if frame[4] == plan9.Topen {
		m := frame[atMode]
		return m&3 == plan9.OWRITE || m&3 == plan9.ORDWR || m&(plan9.OTRUNC|plan9.ORCLOSE) != 0
	}
	return linux.OpenMode(le.Uint32(frame[atMode:])) != fs.OpenRead
}

// request deals with a T-message that has its layout and a tag of its own.
func (c *client) request(frame []byte) {
	typ, tag := frame[4], le.Uint16(frame[5:])
	switch typ {
	case plan9.Tattach:
		c.attach(frame)
		return
	case plan9.Tauth:
		c.fail(tag, wire.ErrNoAuth)
		return
	}
	number := le.Uint32(frame[atFid:])
	f := c.fids[number]
	if f != nil && f.busy {
		c.hold(f, frame)
		return
	}
	if f == nil {
		c.fail(tag, wire.ErrUnknownFid)
		return
	}
	p := &pending{typ: typ, c: c, epoch: c.epoch, ctag: tag, f: f}
	s, n := f.s, f.n
	switch typ {
	case wire.Txattrwalk: // would make a fid
		c.fail(tag, wire.ErrUnsupported)
		return
	case plan9.Tcreate, wire.Tlcreate, wire.Tmkdir, wire.Tsymlink, wire.Tmknod, wire.Tunlinkat,
		wire.Trename, wire.Tlink, wire.Trenameat:
		c.fail(tag, fs.ErrReadOnly)
		return
	case plan9.Twalk:
		c.walk(frame, f)
		return
	case plan9.Tread, wire.Treaddir:
		p.credit = c.grant(frame, f.s)
	case plan9.Topen, wire.Tlopen:
		m := f.m
		moves := f.atAlias() && f.attr == 0
		if moves {
			m = f.a.m
		}
		switch {
		case m != nil && m.b.ReadOnly && opensToWrite(frame):
			c.fail(tag, iofs.ErrPermission)
			return
		case moves && c.spent(m, m.s, true):
			c.fail(tag, wire.ErrTooMuch)
			return
		case moves:
			c.openAlias(frame, f)
			return
		}
	case plan9.Tstat, wire.Tgetattr, wire.Treadlink:
		if f.attr != 0 {
			s, n = c.local, f.attr
		}
	case plan9.Twrite:
		if len(frame) > int(f.s.msize) { // more than its iounit
			c.fail(tag, fs.ErrIO)
			return
		}
	}
	clunks := typ == plan9.Tclunk || typ == plan9.Tremove
	if !clunks && c.spent(f.m, s, false) {
		c.fail(tag, wire.ErrTooMuch)
		return
	}
	if err := s.add(p); err != nil {
		if clunks && err == errLost {
			delete(c.fids, number)
			c.say(wire.End(wire.Begin(nil, typ+1, tag), 0))
			return
		}
		c.fail(tag, err)
		return
	}
	if clunks {
		delete(c.fids, number)
		f.clunking = true
		p.newfid = number
		if f.attr != 0 {
			c.clunk(c.local, f.attr)
		}
	}
	c.credit += p.credit
	p.of.p = p
	c.tags[tag] = &p.of
	le.PutUint32(frame[atFid:], n)
	c.forward(p, frame)
}

// clunk gives fid n of s back behind the requests of the burst.
func (c *client) clunk(s *session, n uint32) {
	p := &pending{typ: plan9.Tclunk, f: &fid{s: s, n: n}}
	if s.add(p) == nil {
		c.forward(p, wire.End(le.AppendUint32(wire.Begin(nil, plan9.Tclunk, 0), n), 0))
	}
}

// grant lowers the count of a read to what the client's credit, its requester's and
// the session's msize allow. If there are many, a large one is cut so that two fit the
// session's buffer: if the first few took all credit, the others would get next to
// nothing.
func (c *client) grant(frame []byte, s *session) int {
	at := frame[atCount:]
	n := min(le.Uint32(at), s.msize-wire.IOHeader, c.msize-wire.IOHeader)
	if n > largeBuffer/2 && len(c.tags) >= manyRequests {
		n = largeBuffer/2 - wire.IOHeader
	}
	if left := min(budget-c.credit, c.left()/readShare); int(n) > left {
		n = min(n, uint32(max(left, leastRead)))
	}
	le.PutUint32(at, n)
	return int(n)
}

// hold makes a request wait for the walk that makes f.
func (c *client) hold(f *fid, frame []byte) {
	tag := le.Uint16(frame[5:])
	if c.held+len(frame) > maxHeld || len(frame) > c.left() {
		c.fail(tag, wire.ErrTooMuch)
		return
	}
	c.held += len(frame)
	r := &request{cancel: func() {}}
	c.tags[tag] = r
	f.queue = append(f.queue, held{r, bytes.Clone(frame)})
}

// drain ends the walk that makes f, as the client's fid number, and dispatches the
// requests that waited for it. No other request comes between: c.mu is held.
func (c *client) drain(f *fid, number uint32) {
	f.busy = false
	if f.s == nil && c.fids[number] == f {
		delete(c.fids, number)
	}
	q := f.queue
	f.queue = nil
	for _, h := range q {
		c.held -= len(h.frame)
		if h.r.flushed {
			continue
		}
		tag := le.Uint16(h.frame[5:])
		delete(c.tags, tag)
		c.request(h.frame)
	}
}

// flush passes Tflush on to where its request is.
func (c *client) flush(frame []byte) {
	tag, old := le.Uint16(frame[5:]), le.Uint16(frame[wire.HeaderSize:])
	r := c.tags[old]
	switch {
	case r != nil && r.p != nil && r.flushing:
		if len(r.also) < maxRequests {
			r.also = append(r.also, tag)
		}
		return
	case r != nil && r.p != nil:
		p := &pending{typ: plan9.Tflush, c: c, epoch: c.epoch, ctag: tag, old: r.p, req: r}
		if r.p.s.add(p) == nil {
			r.flushing = true
			le.PutUint16(frame[wire.HeaderSize:], r.p.tag)
			c.forward(p, frame)
			return
		}
		// The session is over, and will say so to the request.
	case r != nil:
		r.flushed = true
		r.cancel()
		delete(c.tags, old)
	}
	c.flushed(tag)
}

func (c *client) flushed(tag uint16) {
	c.say(wire.End(wire.Begin(nil, plan9.Rflush, tag), 0))
}

// answer hands the client an R-message, whose layout is right. A nil frame says
// that the session has ended.
func (c *client) answer(p *pending, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tags == nil || p.epoch != c.epoch {
		if p.typ == plan9.Tclunk || p.typ == plan9.Tremove { // reset left it alone
			p.f.s.fids.Free(p.f.n)
		}
		return
	}
	if r := c.tags[p.ctag]; p.old == nil {
		if r == nil || r.p != p {
			return
		}
		delete(c.tags, p.ctag)
		c.credit -= p.credit
	}
	failed := frame == nil || isError(frame[4])
	switch p.typ {
	case plan9.Tflush:
		// The request it names will not be answered any more.
		if r := c.tags[p.old.ctag]; r != nil && r.p == p.old {
			delete(c.tags, p.old.ctag)
			c.credit -= p.old.credit
			c.undo(p.old)
		}
		c.flushed(p.ctag)
		for _, tag := range p.req.also {
			c.flushed(tag)
		}
		return
	case plan9.Twalk:
		if c.walked(p, frame) {
			return
		}
	case plan9.Tclunk, plan9.Tremove:
		if !failed || p.f.unbound || p.typ == plan9.Tremove {
			p.f.s.fids.Free(p.f.n)
		}
	case plan9.Topen, wire.Tlopen:
		if !failed {
			p.f.dir = frame[wire.HeaderSize]&plan9.QTDIR != 0
			c.limit(frame, p.s)
		}
	}
	if frame == nil {
		c.fail(p.ctag, errLost)
		return
	}
	if len(frame) > int(c.msize) || p.f != nil && saltQids(frame, p.f.dir, p.salt()) != nil ||
		p.credit > 0 && !failed && len(frame) > p.credit+wire.IOHeader {
		c.fail(p.ctag, fs.ErrIO)
		return
	}
	le.PutUint16(frame[5:], p.ctag)
	c.pass(p.s, frame)
}

// limit lowers the iounit of an Ropen or Rlopen of s to what s can carry.
func (c *client) limit(frame []byte, s *session) {
	if at := frame[atIounit:]; s.msize < c.msize && le.Uint32(at) == 0 {
		le.PutUint32(at, s.msize-wire.IOHeader)
	}
}

// undo takes back the effect that a request was given in advance of its answer,
// which never came.
func (c *client) undo(p *pending) {
	switch p.typ {
	case plan9.Twalk:
		c.unbind(p)
	case plan9.Tclunk, plan9.Tremove:
		p.f.clunking = false
		if c.fids[p.newfid] == nil {
			c.fids[p.newfid] = p.f
		}
	}
}

// unbind gives up a fid that its walk did not make.
func (c *client) unbind(p *pending) {
	f := p.f
	if p.same != nil { // the walk was of a fid to itself, which stays as it was
		f.path, f.depth, f.below, f.a = p.same.path, p.same.depth, p.same.below, p.same.a
		return
	}
	f.unbound = true
	if !f.clunking {
		if c.fids[p.newfid] == f {
			delete(c.fids, p.newfid)
		}
		f.s.fids.Free(f.n)
	}
}

// background runs a request that waits for more than one answer. c.mu is held when
// it is called, and not when do is.
func (c *client) background(tag uint16, do func(ctx context.Context, r *request)) {
	ctx, cancel := context.WithCancel(c.ctx)
	r := &request{cancel: cancel}
	c.tags[tag] = r
	c.slow.Go(func() {
		defer cancel()
		do(ctx, r)
		c.flushBatches()
		c.send(nil, false)
	})
}

// settle frees the tag of a background request, and reports whether it is to
// be answered. c.mu is held.
func (c *client) settle(tag uint16, r *request) bool {
	if c.tags != nil && c.tags[tag] == r {
		delete(c.tags, tag)
	}
	return !r.flushed && c.tags != nil
}
