package ninep

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// A request is a T-message being answered. It is the context of its
// operation: most operations never ask for Done, so it makes no channel for
// those that do not.
type request struct {
	c       *conn
	typ     uint8
	tag     uint16
	dialect Dialect
	msize   uint32
	frame   []byte          // the reader's, until the operation ends; nil once not needed
	ctx     context.Context // the user's, from the attach; has the values

	fid    *fid // pinned
	elem   *elem
	file   fs.File
	newfid uint32
	makes  bool // binds newfid
	place  *fid // stands at newfid while an asynchronous operation makes it

	offset uint64 // of a read
	count  uint32

	out   []byte    // the reply grows at its end
	start int       // of the reply
	data  wire.Data // what the reply ends with, of a file on disk

	// Guarded by conn.mu.
	async     bool     // is in conn.tags
	flushed   bool     // must not be answered, nor have an effect from now on
	committed bool     // had its effect: must be answered before its Tflush is
	flushes   []uint16 // Tflushes that wait for that
	holds     []*fid   // busy until the operation ends

	mu    sync.Mutex // guards what follows
	done  chan struct{}
	err   error
	after []*afterFunc
}

type afterFunc struct{ f func() }

func (r *request) Deadline() (time.Time, bool) { return r.ctx.Deadline() }
func (r *request) Value(key any) any           { return r.ctx.Value(key) }

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.err != nil {
			close(r.done)
		}
	}
	return r.done
}

func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// AfterFunc is what package context looks for in a parent that is not its
// own, to do without a goroutine.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		go f()
		return func() bool { return false }
	}
	a := &afterFunc{f}
	r.after = append(r.after, a)
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.Index(r.after, a)
		if i >= 0 {
			r.after = slices.Delete(r.after, i, i+1)
		}
		return i >= 0
	}
}

func (r *request) cancel() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = context.Canceled
	if r.done != nil {
		close(r.done)
	}
	for _, a := range r.after {
		go a.f()
	}
	r.after = nil
}

// run performs the operation and appends its reply to out.
func (r *request) run() {
	r.start = len(r.out)
	err := r.do()
	if err == nil && len(r.out)-r.start > int(r.msize) {
		err = syscall.ENAMETOOLONG // of a link, say
	}
	if err != nil {
		r.fail(err)
	} else {
		le.PutUint32(r.out[r.start:], uint32(len(r.out)-r.start+r.data.N))
		r.c.traceFrame("->", r.dialect, r.out[r.start:])
	}
	r.unpin()
}

// reply begins an R-message.
func (r *request) reply(typ uint8) { r.out = wire.Begin(r.out[:r.start], typ, r.tag) }

// fail replaces the reply by an error.
func (r *request) fail(err error) {
	r.out = wire.AppendError(r.out[:r.start], r.dialect, r.tag, err)
	r.c.traceFrame("->", r.dialect, r.out[r.start:])
}

// A verdict is what becomes of a request.
type verdict uint8

const (
	inline verdict = iota // the reader runs it
	wait                  // may block: on a goroutine of its own
	queued                // follows a slow operation on its fid
	refuse
)

// admit resolves and pins the fids of r, so that the requests that follow cannot
// change them meanwhile. If r was queued behind a fid, mine is that fid. c.mu is
// held.
func (c *conn) admit(r *request, mine *fid) (verdict, error) {
	if !r.async {
		if _, ok := c.tags[r.tag]; ok || r.tag == plan9.NOTAG {
			return refuse, wire.ErrTag
		}
	}
	l := wire.Layouts[r.dialect][r.typ]
	if l == nil || r.typ&1 != 0 {
		return refuse, wire.ErrUnsupported
	}
	if !l.Fits(r.frame) {
		return refuse, wire.ErrMalformed
	}
	d := wire.Decoder{B: r.frame[wire.HeaderSize:]}
	if r.dialect == Plan9 {
		c.marks.see(r.frame)
	}
	switch r.typ {
	case plan9.Tauth:
		return refuse, wire.ErrNoAuth
	case plan9.Tattach:
		r.makes, r.newfid = true, d.U32()
	case plan9.Twalk, wire.Txattrwalk:
		r.makes = r.typ == plan9.Twalk
		fallthrough
	default:
		fid := d.U32()
		f := c.fids[fid]
		if f != nil && f.busy && f != mine {
			return c.queue(r, f)
		}
		if f == nil || f.elem == nil {
			return refuse, wire.ErrUnknownFid
		}
		r.fid, r.elem, r.file, r.ctx = f, f.elem, f.file, f.ctx
		if r.makes {
			r.newfid = d.U32()
			r.makes = r.newfid != fid
		}
	}
	if r.makes {
		f := c.fids[r.newfid]
		switch {
		case f != nil && f.busy && f != mine:
			r.fid = nil
			return c.queue(r, f)
		case r.newfid == plan9.NOFID:
			return refuse, wire.ErrUnknownFid
		case f != nil && f.elem != nil:
			return refuse, wire.ErrFidInUse
		case f == nil && len(c.fids) >= maxFids:
			return refuse, wire.ErrTooMuch
		}
		r.place = f
	}
	if r.fid != nil {
		r.fid.users++
		if r.typ == plan9.Tread && r.fid.live {
			if !r.async {
				if len(c.tags) >= maxWaiting {
					r.fid.users--
					return refuse, wire.ErrTooMuch
				}
				r.async = true
				c.tags[r.tag] = r
			}
			d.U32()
			r.parseRead()
			return wait, nil
		}
	}
	return inline, nil
}

// queue makes r wait for the operation that keeps f busy. c.mu is held.
func (c *conn) queue(r *request, f *fid) (verdict, error) {
	if !r.async {
		if len(c.tags) >= maxWaiting || c.held+len(r.frame) > maxHeld {
			return refuse, wire.ErrTooMuch
		}
		r.frame = slices.Clone(r.frame)
		c.held += len(r.frame)
		r.async = true
		c.tags[r.tag] = r
	}
	f.queue = append(f.queue, r)
	return queued, nil
}

// hold makes the requests that follow on the fids that r changes wait for r,
// unless r has changed them already. c.mu is held.
func (c *conn) hold(r *request) {
	if r.committed {
		return
	}
	if r.makes {
		if r.place == nil {
			r.place = &fid{n: r.newfid}
			c.fids[r.newfid] = r.place
		}
		if !r.place.busy {
			r.place.busy = true
			r.holds = append(r.holds, r.place)
		}
	}
	if f := r.fid; f != nil && r.changesFid() && !f.busy {
		f.busy = true
		r.holds = append(r.holds, f)
	}
}

// changesFid reports whether the state of the request's fid, or of the open
// file behind it, depends on the order of this request and others.
func (r *request) changesFid() bool {
	switch r.typ {
	case plan9.Twalk:
		return !r.makes
	case plan9.Topen, wire.Tlopen, plan9.Twrite:
		return true
	case plan9.Tread:
		return r.file == nil
	}
	return false
}

// commit reports whether r may have its effect, and if so makes sure that r is
// answered. The caller makes the effect at once: c.mu is held.
func (r *request) commit() bool {
	r.committed = !r.flushed
	return r.committed
}

// finish answers an asynchronous request, frees its tag, and runs the requests
// that waited for it.
func (c *conn) finish(r *request) {
	c.mu.Lock()
	if c.tags[r.tag] == r {
		delete(c.tags, r.tag)
	}
	if r.flushed {
		wire.PutBuffer(r.out)
		defer r.data.Free()
	} else {
		c.out.PutData(r.out, r.data)
		for _, tag := range r.flushes {
			c.out.Put(c.appendFlushed(wire.GetBuffer(), tag))
		}
	}
	r.out = nil
	holds := r.holds
	r.holds = nil
	c.mu.Unlock()
	c.out.Flush()
	for _, f := range holds {
		c.drain(f)
	}
}

// drain runs, in order, the requests that were queued behind f's slow operation.
// After that f is no longer busy.
func (c *conn) drain(f *fid) {
	for {
		c.mu.Lock()
		for f.next != nil {
			f = f.next
		}
		if len(f.queue) == 0 {
			f.busy = false
			if f.elem == nil && c.fids[f.n] == f {
				delete(c.fids, f.n) // its walk failed, or it was clunked
			}
			c.mu.Unlock()
			return
		}
		r := f.queue[0]
		f.queue = f.queue[1:]
		c.held -= len(r.frame)
		var v verdict
		err := error(nil)
		if r.flushed {
			v = queued
		} else if v, err = c.admit(r, f); v == inline {
			c.hold(r)
		}
		if v == queued && !r.flushed {
			c.held += len(r.frame) // behind another fid now
		}
		c.mu.Unlock()
		switch v {
		case inline:
			r.run()
			c.finish(r)
		case wait:
			c.wg.Go(func() { r.run(); c.finish(r) })
		case refuse:
			r.fail(err)
			c.finish(r)
		}
	}
}

// flush answers Tflush. A request that has had no effect yet will have none, and
// is not answered, as flush(5) allows.
func (c *conn) flush(rd *reader, t *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks.see(t.frame)
	d := wire.Decoder{B: t.frame[wire.HeaderSize:]}
	oldtag := d.U16()
	// An oldtag that is unknown, its own, or missing has been answered.
	if r := c.tags[oldtag]; r != nil {
		r.cancel()
		if r.committed {
			r.flushes = append(r.flushes, t.tag)
			return
		}
		r.flushed = true
		delete(c.tags, oldtag)
	}
	rd.out = c.appendFlushed(rd.out, t.tag)
}

func (c *conn) appendFlushed(b []byte, tag uint16) []byte {
	start := len(b)
	b = wire.End(wire.Begin(b, plan9.Rflush, tag), start)
	c.traceFrame("->", c.dialect, b[start:])
	return b
}

// reset cancels all requests and clunks all fids, without answers. hangup says
// that no request will come after.
func (c *conn) reset(hangup bool) {
	c.mu.Lock()
	c.dead = c.dead || hangup
	for _, r := range c.tags {
		r.flushed = true
		r.cancel()
	}
	fids := c.fids
	c.tags = make(map[uint16]*request)
	c.fids = make(map[uint32]*fid)
	c.mu.Unlock()
	for _, f := range fids {
		c.unref(f)
	}
}
