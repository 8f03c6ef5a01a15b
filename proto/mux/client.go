package mux

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// What one client may have.
const (
	maxFids     = 1 << 16
	maxRequests = 8192    // unanswered
	maxHeld     = 4 << 20 // bytes of requests that follow a walk across a boundary
	maxRoots    = 64      // attaches
	maxAliases  = 1024    // of which it is remembered where they lead

	// budget is the bytes of data that a client may have asked for. Beyond
	// it a read asks for no more than leastRead, which is never an error. One read
	// asks for no more than one readShare-th of what its requester has left.
	budget    = 8 << 20
	readShare = 8
	leastRead = 4096

	// manyRequests is how many requests of the greatest msize use up the budget.
	manyRequests = budget / wire.MaxMsize
)

// A client is one connection to the mux.
type client struct {
	srv   *Server
	rwc   io.ReadWriteCloser
	ctx   context.Context // ends with the connection
	peer  fs.User
	out   *wire.Sender
	wake  chan struct{}  // has a value when out has more to flush
	slow  sync.WaitGroup // requests that wait for more than one answer
	msize uint32         // of the client's session; only its reader sets it

	mu      sync.Mutex // guards what follows, and the fids; taken before a session's
	dialect ninep.Dialect
	epoch   int // counts Tversions
	local   *session
	gone    <-chan struct{} // closed when local's server has ended
	fids    map[uint32]*fid
	tags    map[uint16]*request
	roots   []*root
	mounts  map[mountKey]*mount
	aliases map[mountKey]*alias
	unsent  []byte // replies that are not in out yet
	lent    lent   // if its s is set, unsent is that part of its buffer
	closed  bool   // wake is
	batches []batch
	scratch []byte // of a frame that is being made
	credit  int
	held    int

	countedFids, countedTags, countedBytes int // what the Quota has of them
}

// A lent is a part of a session's buffer. The reader of the session sends it before it
// reads on.
type lent struct {
	s          *session
	start, end int
}

// A batch is what a burst has for one session.
type batch struct {
	s *session
	b []byte
}

// A request is a T-message of the client that is not answered.
type request struct {
	p        *pending           // forwarded, or nil
	cancel   context.CancelFunc // of one that has a goroutine
	flushed  bool               // of one that is not forwarded
	flushing bool               // of one that is: a Tflush was forwarded too
	also     []uint16           // tags of further Tflushes of it
}

// A held request follows a walk across a boundary.
type held struct {
	r     *request
	frame []byte
}

// A root is what a Tattach attached to: always the local tree's.
type root struct {
	n     uint32 // at the local session, for walks back over a boundary
	uname string
	base  []string // the aname
}

type mountKey struct {
	root *root
	path string
}

// A mount is a backend as this client sees it.
type mount struct {
	b    *Backend
	s    *session
	n    uint32 // its root at the session, attached for this client
	qids []byte // of the names below the base of the root it was found from; the last is the backend's own
}

// salt returns what the qid.paths of m are rewritten with; m is nil in the local
// tree.
func (m *mount) salt() uint64 {
	if m == nil {
		return 0
	}
	return m.b.salt
}

// A fid is a client's. It is forwarded as n of session s.
type fid struct {
	s    *session
	n    uint32
	root *root

	path  []string // in the local tree; of a backend's fid where that is bound
	m     *mount   // nil for a local one
	a     *alias   // nil unless it is at an alias, where it is a local one, or below
	depth int      // names below the mount, or the alias
	below []string // of those below the mount the first maxLocal
	attr  uint32   // of one at an alias that is open at the backend: its number at the local session

	dir      bool // open, and a directory
	unbound  bool // its walk failed or was flushed
	clunking bool

	busy  bool   // a walk across a boundary makes it
	queue []held // what follows that walk
}

func newClient(s *Server, rwc io.ReadWriteCloser) *client {
	c := &client{srv: s, rwc: rwc, out: wire.NewSender(rwc), wake: make(chan struct{}, 1)}
	if s.Quota != nil {
		c.out.Total = &s.Quota.bytes
	}
	return c
}

func (c *client) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx = ctx
	stop := context.AfterFunc(ctx, func() { c.rwc.Close() })
	defer stop()
	c.peer = c.srv.Local.User
	if u, ok := c.rwc.(*net.UnixConn); ok {
		peer, err := ninep.PeerUser(u)
		if err != nil {
			c.rwc.Close()
			return err
		}
		c.peer = peer
	}
	c.srv.Quota.enter(c)
	defer c.srv.Quota.leave(c)
	var writer sync.WaitGroup
	writer.Go(func() {
		for range c.wake {
			if c.out.Flush() != nil {
				c.rwc.Close()
			}
		}
	})
	err := c.read()
	c.rwc.Close()
	c.out.Fail(io.ErrClosedPipe)
	cancel()
	c.reset()
	c.mu.Lock()
	c.closed = true
	close(c.wake)
	c.mu.Unlock()
	writer.Wait()
	return err
}

// read takes the client's requests until it hangs up.
func (c *client) read() error {
	fr := wire.NewReader(c.rwc)
	fr.Stalled = func() { c.rwc.Close() }
	for {
		if !fr.Buffered() {
			c.flushBatches()
			c.send(nil, false)
			if err := c.room(); err != nil {
				return err
			}
		}
		max := c.msize
		if max == 0 {
			max = wire.MaxVersion
		}
		frame, err := fr.Next(max)
		if err != nil {
			return err
		}
		if frame[4] == plan9.Tversion {
			if err := c.version(frame); err != nil {
				return err
			}
			continue
		}
		if c.msize == 0 {
			return fmt.Errorf("9p: %s before Tversion", wire.Text(ninep.None, frame, 32))
		}
		c.mu.Lock()
		c.dispatch(frame)
		c.mu.Unlock()
	}
}

// room blocks until the client may send its next request, or has to go.
func (c *client) room() error {
	if c.srv.Quota.left() > 0 {
		return c.out.Room(wire.MaxQueued)
	}
	return c.out.Room(0)
}

// stalled hangs up on the client.
func (c *client) stalled() {
	if f := c.srv.Stalled; f != nil {
		f()
		return
	}
	c.rwc.Close()
}

// count keeps the Quota up to date. c.mu is held.
func (c *client) count() {
	if q := c.srv.Quota; q != nil {
		bytes := c.credit + c.held
		q.fids.Add(int64(len(c.fids) - c.countedFids))
		q.requests.Add(int64(len(c.tags) - c.countedTags))
		q.bytes.Add(int64(bytes - c.countedBytes))
		c.countedFids, c.countedTags, c.countedBytes = len(c.fids), len(c.tags), bytes
		q.watch()
	}
}

// left returns how many bytes of the Quota are left. c.mu is held.
func (c *client) left() int { return c.srv.Quota.left() - (c.credit + c.held - c.countedBytes) }

// spent reports whether the client's requester may have no more requests under way
// at s or, if fid is true, no more fids there. A nil m is the local tree. c.mu is held.
func (c *client) spent(m *mount, s *session, fid bool) bool {
	q := c.srv.Quota
	if q == nil {
		return false
	}
	fids, requests := q.fids.Load(), q.requests.Load()
	switch {
	case requests >= quotaRequests || c.left() <= -quotaRequests*leastRead:
		return true
	case m == nil || m.b.Own:
		return false
	}
	return fid && fids >= fairFids && s.fids.InUse() >= crowdedFids ||
		requests >= fairRequests && s.underWay() >= crowdedRequests
}

// send moves replies to out and has them written. by is the session whose reader
// calls it, which alone sends what is lent of its buffer, or nil. If last is set the
// buffer is lent to no other client, so that c may keep it. Send reports whether the
// client has taken all.
func (c *client) send(by *session, last bool) bool {
	c.mu.Lock()
	c.count()
	if c.closed {
		c.unsent, c.lent = nil, lent{}
		c.mu.Unlock()
		return true
	}
	b := c.unsent
	direct := false
	var take func() []byte
	switch {
	case c.lent.s == nil:
		if len(b) > 0 {
			c.out.Put(b)
		}
		c.unsent = nil
	case c.lent.s == by:
		if last && len(b) >= keepBuffer {
			take = by.in.Take
		}
		switch direct = c.out.Claim(); {
		case direct:
		case take != nil:
			c.out.PutPart(b, take())
		default:
			c.own()
			c.out.Put(c.unsent)
		}
		c.unsent, c.lent = nil, lent{}
	}
	c.mu.Unlock()
	if direct && c.out.WriteClaimed(b, take) || !direct && c.out.TryFlush() {
		return true
	}
	// It must be waited for, which is the writer's to do.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return true
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return false
}

// say queues a whole R-message. c.mu is held.
func (c *client) say(frame []byte) {
	c.trace("->", frame)
	c.own()
	c.unsent = append(c.unsent, frame...)
}

// own makes unsent the client's own.
func (c *client) own() {
	if c.unsent == nil || c.lent.s != nil {
		c.unsent = append(wire.GetBufferFor(len(c.unsent)), c.unsent...)
		c.lent = lent{}
	}
}

// pass queues the R-message that s has read last, in the buffer of s if nothing else
// is queued: what comes in one piece goes out so. c.mu is held.
func (c *client) pass(s *session, frame []byte) {
	start, end, ok := s.in.Place()
	switch {
	case !ok: // the frame is ours
		c.trace("->", frame)
		if len(c.unsent) > 0 {
			c.own()
			c.out.Put(c.unsent)
			c.unsent = nil
		}
		c.out.Put(frame)
	case c.unsent == nil:
		c.trace("->", frame)
		c.unsent, c.lent = frame, lent{s, start, end}
	case c.lent.s == s && c.lent.end == start:
		c.trace("->", frame)
		c.lent.end = end
		c.unsent = s.in.Bytes(c.lent.start, end)
	default:
		c.say(frame)
	}
}

func (c *client) fail(tag uint16, err error) {
	c.say(wire.AppendError(nil, c.dialect, tag, err))
}

// forward queues frame, which stays the caller's, for p's session. c.mu is
// held.
func (c *client) forward(p *pending, frame []byte) {
	s := p.s
	i := slices.IndexFunc(c.batches, func(b batch) bool { return b.s == s })
	if i < 0 {
		i = len(c.batches)
		c.batches = append(c.batches, batch{s, wire.GetBuffer()})
	}
	b := append(c.batches[i].b, frame...)
	le.PutUint16(b[len(b)-len(frame)+5:], p.tag)
	c.batches[i].b = b
}

// flushBatches sends the requests of a burst to their sessions.
func (c *client) flushBatches() {
	c.mu.Lock()
	all := c.batches
	c.batches = nil
	for _, b := range all {
		b.s.out.Put(b.b)
	}
	c.mu.Unlock()
	for _, b := range all {
		if b.s.out.Flush() != nil {
			b.s.rwc.Close() // its reader tells everybody
		}
	}
}

// version starts a session with the client: everything before it ends.
func (c *client) version(frame []byte) error {
	d := wire.Decoder{B: frame[wire.HeaderSize:]}
	msize, version := d.U32(), d.Str()
	tag := le.Uint16(frame[5:])
	dialect := ninep.None
	switch {
	case strings.HasPrefix(version, "9P2000.L"):
		dialect = ninep.DotL
	case version == "9P2000" || strings.HasPrefix(version, "9P2000."):
		dialect = ninep.Plan9
	}
	var err error
	switch {
	case !d.OK():
		err = wire.ErrMalformed
	case msize < wire.MinMsize:
		err = fmt.Errorf("msize %d is less than %d: %w", msize, wire.MinMsize, errInvalid)
	}
	if err != nil {
		c.mu.Lock()
		c.say(wire.AppendError(nil, dialect, tag, err))
		c.mu.Unlock()
		return nil
	}
	c.reset()
	msize = min(msize, wire.MaxMsize)
	c.msize = 0
	if dialect != ninep.None {
		local, gone, err := c.srv.local(c.ctx, dialect, msize, c.peer)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.local, c.gone, c.dialect = local, gone, dialect
		c.fids = make(map[uint32]*fid)
		c.tags = make(map[uint16]*request)
		c.mounts = make(map[mountKey]*mount)
		c.aliases = make(map[mountKey]*alias)
		c.mu.Unlock()
		c.msize = msize
	}
	b := wire.Begin(nil, plan9.Rversion, tag)
	b = le.AppendUint32(b, msize)
	c.mu.Lock()
	c.say(wire.End(wire.AppendString(b, dialect.String()), 0))
	c.mu.Unlock()
	return nil
}

// reset makes the sessions forget the client: what is pending is flushed, and
// only then its fids are clunked.
func (c *client) reset() {
	c.flushBatches()
	c.mu.Lock()
	fids, mounts, local, gone := c.fids, c.mounts, c.local, c.gone
	var flushes []<-chan []byte
	for _, r := range c.tags {
		if r.p == nil {
			r.flushed = true
			r.cancel()
		} else if r.p.s != local && r.p.typ != plan9.Tclunk && r.p.typ != plan9.Tremove {
			flushes = append(flushes, r.p.s.flush(r.p))
		}
	}
	c.fids, c.tags, c.mounts, c.aliases, c.local, c.roots = nil, nil, nil, nil, nil, nil
	c.credit, c.held, c.unsent, c.lent = 0, 0, nil, lent{}
	c.count()
	c.epoch++
	c.mu.Unlock()
	c.slow.Wait()
	for _, f := range flushes {
		<-f
	}
	for _, f := range fids {
		if f.s != nil && f.s != local && !f.clunking && !f.unbound {
			f.s.clunk(f.n)
		}
	}
	for _, m := range mounts {
		m.s.clunk(m.n)
	}
	if local != nil {
		local.close()
		<-gone
	}
}

// trace prints a message as the core does.
func (c *client) trace(dir string, frame []byte) {
	if t := c.srv.Local.Trace; t != nil {
		fmt.Fprintf(t, "%s %s\n", dir, wire.Text(c.dialect, frame, 64))
	}
}
