package ninep

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// What one connection may hold. The figures are far above what clients do.
const (
	maxFids    = 1 << 16
	maxWaiting = 4096    // requests that wait: live reads, slow operations and what follows them
	maxHeld    = 4 << 20 // bytes of requests that wait for a slow one
	flushAt    = 64 << 10
)

// patience is how long an operation may keep the connection's reader.
const patience = 10 * time.Millisecond

// A conn is one connection. One goroutine at a time has the role of its
// reader: it decodes requests and runs them in order.
type conn struct {
	srv    *Server
	rwc    io.ReadWriteCloser
	user   fs.User
	ctx    context.Context // ends with the connection
	cancel func()
	unhook func() bool // from cancel's closing of rwc
	out    *wire.Sender
	end    chan error     // the last reader's
	wg     sync.WaitGroup // every goroutine of the connection but serve's

	armed atomic.Bool // watch will be called
	timer *time.Timer

	mu      sync.Mutex // guards what follows; held over no operation of the tree
	rd      *reader    // the goroutine that has the role
	dialect Dialect
	msize   uint32
	marks   marks
	fids    map[uint32]*fid
	tags    map[uint16]*request // requests that can be flushed: all but the one the reader runs
	held    int                 // bytes of the frames of queued requests
	dead    bool                // hung up
}

// marks tell 9pfuse from other clients of 9P2000: it cannot flush a read, and a
// process that reads through it cannot die while the read is outstanding. On a Unix
// socket the kernel knows the client's program. Elsewhere 9pfuse is known by its
// first messages: a msize of 8192, no Tauth, and a lookup of one name at a time,
// each with its Tstat, before the first Topen. It never sends Tflush.
type marks struct {
	program string // the name of the executable, or "" if that is not known
	msize8k bool
	stat    bool // a Tstat has come
	other   bool // what 9pfuse does not do has come
}

func (m marks) pfuse() bool {
	if m.program != "" {
		return m.program == "9pfuse"
	}
	return m.msize8k && m.stat && !m.other
}

// see takes note of a request, which has its layout.
func (m *marks) see(frame []byte) {
	switch frame[4] {
	case plan9.Tauth, plan9.Tflush:
		m.other = true
	case plan9.Twalk:
		m.other = m.other || le.Uint16(frame[wire.HeaderSize+8:]) > 1
	case plan9.Tstat:
		m.stat = true
	case plan9.Topen:
		m.other = m.other || !m.stat
	}
}

// A reader is the state of the goroutine that has the reader's role.
type reader struct {
	fr  *wire.Reader
	out []byte // replies that are complete

	// op is odd while an operation runs, and grows with each. watch sets it to
	// 0 to take the role away; the operation then goes on by itself.
	op   atomic.Uint64
	cur  *request // the operation that runs; written before op
	seen uint64   // by watch: op at its last call
}

func newConn(s *Server, rwc io.ReadWriteCloser, user fs.User) *conn {
	c := &conn{srv: s, rwc: rwc, user: user, out: wire.NewSender(rwc), end: make(chan error, 1)}
	if u, ok := rwc.(*net.UnixConn); ok {
		c.marks.program = peerProgram(u)
	}
	return c
}

// serve reads on its caller's goroutine, so that an idle connection has no other,
// and has small frames, so that the goroutine's stack stays small.
func (c *conn) serve(ctx context.Context) error {
	c.begin(ctx)
	c.read(c.rd)
	err := <-c.end
	c.wg.Wait()
	return err
}

func (c *conn) begin(ctx context.Context) {
	ctx, c.cancel = context.WithCancel(ctx)
	c.ctx = fs.WithUser(ctx, c.user)
	c.unhook = context.AfterFunc(ctx, func() { c.rwc.Close() })
	c.timer = time.AfterFunc(time.Hour, c.watch)
	c.timer.Stop()
	c.rd = &reader{fr: wire.NewReader(c.rwc)}
	c.rd.fr.Stalled = func() { c.rwc.Close() }
}

// hangup ends the connection and all that goes on in it. The last reader
// calls it.
func (c *conn) hangup(err error) {
	c.unhook()
	c.rwc.Close()
	c.out.Fail(io.ErrClosedPipe)
	c.reset(true)
	c.cancel()
	c.timer.Stop()
	c.end <- err
}

// read runs requests until the connection ends or another goroutine takes the
// role; in the first case it hangs up.
func (c *conn) read(rd *reader) {
	for {
		if !rd.fr.Buffered() || len(rd.out) >= flushAt {
			if err := c.send(rd); err != nil {
				c.hangup(err)
				return
			}
		}
		c.mu.Lock()
		max := c.msize
		c.mu.Unlock()
		if max == 0 {
			max = wire.MaxVersion
		}
		frame, err := rd.fr.Next(max)
		if err != nil {
			c.send(rd) // a client that shut down only its sending side still reads
			c.hangup(err)
			return
		}
		mine, err := c.step(rd, frame)
		if err != nil {
			c.send(rd)
			c.hangup(err)
			return
		}
		if !mine {
			return
		}
	}
}

// send queues the replies of a burst and writes them.
func (c *conn) send(rd *reader) error {
	if len(rd.out) > 0 {
		c.out.Put(rd.out)
		rd.out = nil
	}
	return c.out.Flush()
}

// step answers one frame. It reports false if the reader's role went to
// another goroutine meanwhile.
func (c *conn) step(rd *reader, frame []byte) (mine bool, err error) {
	c.traceFrame("<-", c.dialect, frame)
	r := &request{
		c: c, typ: frame[4], tag: le.Uint16(frame[5:]), frame: frame,
		dialect: c.dialect, msize: c.msize, ctx: c.ctx,
	}
	if rd.out == nil {
		rd.out = wire.GetBuffer()
	}
	switch {
	case r.typ == plan9.Tversion:
		return true, c.version(rd, r)
	case c.msize == 0:
		return true, fmt.Errorf("9p: %s before Tversion", wire.Text(None, frame, 32))
	case r.typ == plan9.Tflush:
		c.flush(rd, r)
		return true, nil
	}

	c.mu.Lock()
	verdict, err := c.admit(r, nil)
	c.mu.Unlock()
	switch verdict {
	case refuse:
		r.out, r.start = rd.out, len(rd.out)
		r.fail(err)
		rd.out = r.out
		return true, nil
	case queued:
		return true, nil
	case wait:
		r.frame = nil
		c.wg.Go(func() { r.run(); c.finish(r) })
		return true, nil
	}

	r.out = rd.out
	rd.cur = r
	op := rd.op.Load() + 1
	rd.op.Store(op)
	c.arm()
	r.run()
	if rd.op.CompareAndSwap(op, op+1) {
		rd.out = r.out
		if r.data.N > 0 {
			rd.out = nil
			c.out.PutData(r.out, r.data)
			return true, c.out.Flush()
		}
		return true, nil
	}
	r.out = append(wire.GetBuffer(), r.out[r.start:]...)
	r.start = 0
	c.finish(r)
	return false, nil
}

// arm sees to it that watch is called.
func (c *conn) arm() {
	if !c.armed.Load() && c.armed.CompareAndSwap(false, true) {
		c.timer.Reset(patience)
	}
}

// watch takes the role from a reader whose operation has run since the last
// call, and gives it to a new goroutine.
func (c *conn) watch() {
	c.armed.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	rd := c.rd
	op := rd.op.Load()
	if op&1 == 0 || c.dead {
		return // the next operation arms again
	}
	if op != rd.seen {
		rd.seen = op
		c.arm()
		return
	}
	if len(c.tags) >= 2*maxWaiting {
		rd.cur.cancel() // so that the connection goes on all the same
		c.arm()
		return
	}
	if !rd.op.CompareAndSwap(op, 0) {
		return
	}
	r := rd.cur
	r.async = true
	c.tags[r.tag] = r
	c.hold(r)
	next := &reader{fr: rd.fr.Handoff(), out: append(wire.GetBuffer(), rd.out...)}
	c.rd = next
	c.wg.Go(func() { c.read(next) })
}
