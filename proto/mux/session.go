package mux

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// A session is a connection to a backend or to the local tree, of one dialect.
// It has tags and fids of its own.
type session struct {
	rwc     io.ReadWriteCloser
	dialect ninep.Dialect
	msize   uint32
	in      *wire.Reader // read's
	out     *wire.Sender
	done    chan struct{} // closed by read when the session is over
	wake    chan struct{} // has a value when out has more to flush
	fids    wire.Fids

	mu      sync.Mutex // guards what follows; a client's is taken first
	pending []*pending // by tag
	tags    []uint16   // free ones below len(pending)
	sole    *client    // whose all requests in pending are; nil: of several, or the mux's own
	awaited *client    // the sole client, if read waits for it to take its replies
	closing bool
	over    bool

	goOn atomic.Bool // read is not to wait for awaited any more
}

// A pending is a request that a session has not answered.
type pending struct {
	s   *session
	tag uint16 // at the session
	typ uint8

	c      *client // that asked; nil for a request of the mux's own
	ctag   uint16  // the client's tag
	credit int     // bytes of data asked for
	f      *fid    // the client's, that it is about
	newfid uint32  // of a walk, the client's number for f
	prefix []byte  // of a walk, the qids of the names before the boundary
	names  int     // of a walk, those that are forwarded
	skip   int     // of these, the first that are an alias's target and not the client's
	same   *fid    // of a walk of f to itself, f as it was
	of     request // the client's, which is forwarded
	epoch  int     // the client's

	answer chan []byte // the mux's own: gets the R-message, or is closed
	old    *pending    // of a Tflush: what it is about
	req    *request    // of a client's Tflush: likewise

	// Guarded by s.mu.
	answered bool
	flushes  int // Tflushes that name the tag: until they are answered it is not free
}

// A session reads sessionBuffer bytes at a time or, while much comes, largeBuffer. An
// answer that is larger still has a buffer of its own. A client that does not take
// keepBuffer bytes at once gets the buffer that they are in.
const (
	sessionBuffer = 32 << 10
	largeBuffer   = 256 << 10 // an answer of 128 KiB, which most clients ask for, and some more
	keepBuffer    = 64 << 10
)

// Ahead is how many bytes of replies may wait for a client that is alone at a session
// while the session is read on. What a channel of SSH has to do for a write takes much
// longer than a socket's, and is done beside reading if there is enough to be written.
const (
	aheadOfSocket  = 64 << 10
	aheadOfChannel = 1 << 20
)

// maxPending leaves tags for the flushes of what is pending.
const maxPending = 30000

func openSession(ctx context.Context, rwc io.ReadWriteCloser, d ninep.Dialect, msize uint32) (*session, error) {
	s := &session{
		rwc: rwc, dialect: d, msize: wire.MaxVersion, out: wire.NewSender(rwc),
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	stop := context.AfterFunc(ctx, func() { rwc.Close() })
	defer stop()
	b := wire.Begin(nil, plan9.Tversion, plan9.NOTAG)
	b = le.AppendUint32(b, msize)
	b = wire.End(wire.AppendString(b, d.String()), 0)
	if _, err := rwc.Write(b); err != nil {
		rwc.Close()
		return nil, err
	}
	fr := wire.NewReaderUpTo(rwc, sessionBuffer, largeBuffer)
	frame, err := fr.Next(wire.MaxVersion)
	if err == nil && (frame[4] != plan9.Rversion || !wire.Layouts[d][plan9.Rversion].Fits(frame)) {
		err = fmt.Errorf("answered with %s", wire.Text(d, frame, 64))
	}
	if err != nil {
		rwc.Close()
		return nil, fmt.Errorf("backend: %w: %w", fs.ErrIO, err)
	}
	dec := wire.Decoder{B: frame[wire.HeaderSize:]}
	got, version := dec.U32(), dec.Str()
	if got > msize || got < wire.MinMsize || version != d.String() {
		rwc.Close()
		return nil, fmt.Errorf("backend does not speak %s but %q with messages of %d: %w", d, version, got, fs.ErrIO)
	}
	s.msize, s.in = got, fr
	go s.read()
	go s.write()
	return s, nil
}

// close hangs up. read then fails what is pending.
func (s *session) close() {
	s.mu.Lock()
	s.closing = true
	s.hurry()
	s.mu.Unlock()
	s.rwc.Close()
	<-s.done
}

// ended reports whether the session takes no more requests. A client whose request
// has failed because of that finds it so.
func (s *session) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// underWay returns how many requests have no answer.
func (s *session) underWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending) - len(s.tags)
}

// add gives p a tag. It refuses a client's request when the tags that are left are
// needed for Tflushes.
func (s *session) add(p *pending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errLost
	}
	if p.c != nil && p.typ != plan9.Tflush && len(s.pending)-len(s.tags) >= maxPending {
		return wire.ErrTooMuch
	}
	switch {
	case len(s.pending) == len(s.tags):
		s.sole = p.c
	case s.sole != p.c:
		s.sole = nil
		s.hurry()
	}
	p.s = s
	if n := len(s.tags); n > 0 {
		p.tag = s.tags[n-1]
		s.tags = s.tags[:n-1]
		s.pending[p.tag] = p
	} else if len(s.pending) == plan9.NOTAG {
		return wire.ErrTooMuch
	} else {
		p.tag = uint16(len(s.pending))
		s.pending = append(s.pending, p)
	}
	if p.old != nil {
		p.old.flushes++
	}
	return nil
}

// hurry has read go on, if it waits for a client. s.mu is held.
func (s *session) hurry() {
	if s.awaited != nil {
		s.goOn.Store(true)
		s.awaited.out.Wake()
	}
}

// await waits until c has taken its replies but for a few, as long as nobody else has
// requests under way at s. So a client that is slow slows the backend down, and what
// is on the way to it is little, and still in the processor's cache.
func (s *session) await(c *client) {
	s.mu.Lock()
	alone := s.sole == c && !s.closing
	if alone {
		s.awaited = c
		s.goOn.Store(false)
	}
	s.mu.Unlock()
	if !alone {
		return
	}
	ahead := aheadOfChannel
	if c.out.Socket() {
		ahead = aheadOfSocket
	}
	c.out.Wait(ahead, &s.goOn)
	s.mu.Lock()
	s.awaited = nil
	s.mu.Unlock()
}

// retire frees the tag of p once no Tflush names it any more.
func (s *session) retire(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.answered = true
	s.release(p)
	if old := p.old; old != nil {
		old.flushes--
		old.answered = true // or never will be
		s.release(old)
	}
}

func (s *session) release(p *pending) {
	if p.answered && p.flushes == 0 && s.pending[p.tag] == p {
		s.pending[p.tag] = nil
		s.tags = append(s.tags, p.tag)
	}
}

// send queues a whole T-message under p's tag, and has it written. It takes
// frame over.
func (s *session) send(p *pending, frame []byte) {
	le.PutUint16(frame[5:], p.tag)
	s.out.Put(frame)
	s.kick()
}

func (s *session) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write writes what is queued, so that no client waits for a backend that does not
// read.
func (s *session) write() {
	for {
		select {
		case <-s.wake:
			if s.out.Flush() != nil {
				s.rwc.Close()
				return
			}
		case <-s.done:
			return
		}
	}
}

// call makes a request of the mux's own. frame is a T-message. The R-message that
// it returns is the caller's. If ctx ends first, call flushes the request.
func (s *session) call(ctx context.Context, frame []byte) ([]byte, error) {
	p := &pending{typ: frame[4], answer: make(chan []byte, 1)}
	if err := s.add(p); err != nil {
		return nil, err
	}
	s.send(p, frame)
	select {
	case rx, ok := <-p.answer:
		if !ok {
			return nil, errLost
		}
		return rx, nil
	case <-ctx.Done():
		<-s.flush(p)
		return nil, ctx.Err()
	}
}

// ask is call that makes an error of an R-message that is one.
func (s *session) ask(ctx context.Context, frame []byte) ([]byte, error) {
	rx, err := s.call(ctx, frame)
	if err == nil && isError(rx[4]) {
		err = remoteError(rx)
	}
	return rx, err
}

// attach makes n a fid of the root of the tree aname.
func (s *session) attach(ctx context.Context, n uint32, uname, aname string) ([]byte, error) {
	return s.ask(ctx, attachFrame(s.dialect, n, uname, aname))
}

// flush asks the server to forget p. The channel is closed when it has.
func (s *session) flush(p *pending) <-chan []byte {
	f := &pending{typ: plan9.Tflush, old: p, answer: make(chan []byte, 1)}
	if s.add(f) != nil {
		close(f.answer)
		return f.answer
	}
	b := wire.Begin(nil, plan9.Tflush, 0)
	s.send(f, wire.End(le.AppendUint16(b, p.tag), 0))
	return f.answer
}

// clunk gives fid n back, and its number once that was answered.
func (s *session) clunk(n uint32) {
	p := &pending{typ: plan9.Tclunk, f: &fid{s: s, n: n}}
	if s.add(p) != nil {
		return
	}
	b := wire.Begin(nil, plan9.Tclunk, 0)
	s.send(p, wire.End(le.AppendUint32(b, n), 0))
}

// read hands each answer to the client or call that waits for it, until the
// session ends. It trusts no length, tag or type.
func (s *session) read() {
	fr := s.in
	var touched []*client // have replies that were not sent yet
	for {
		if !fr.Buffered() {
			for i, c := range touched {
				touched[i] = nil
				if !c.send(s, i == len(touched)-1) {
					s.await(c)
				}
			}
			touched = touched[:0]
		}
		frame, err := fr.Next(s.msize)
		if err == nil {
			var c *client
			if c, err = s.deliver(frame); c != nil && !slices.Contains(touched, c) {
				touched = append(touched, c)
			}
		}
		if err != nil {
			for _, c := range touched {
				c.send(s, false)
			}
			s.end()
			return
		}
	}
}

// deliver hands over one answer. An error ends the session.
func (s *session) deliver(frame []byte) (*client, error) {
	typ, tag := frame[4], le.Uint16(frame[5:])
	s.mu.Lock()
	var p *pending
	if int(tag) < len(s.pending) {
		p = s.pending[tag]
	}
	bad := p == nil || p.answered
	s.mu.Unlock()
	if bad || typ != p.typ+1 && (!isError(typ) || p.typ == plan9.Tflush) {
		return nil, fmt.Errorf("backend answers what was not asked: %s", wire.Text(s.dialect, frame, 64))
	}
	if l := wire.Layouts[s.dialect][typ]; l == nil || !l.Fits(frame) {
		return nil, fmt.Errorf("backend sent %s", wire.Text(s.dialect, frame, 64))
	}
	switch {
	case p.c != nil:
		p.c.answer(p, frame)
	case p.answer != nil:
		p.answer <- append([]byte(nil), frame...)
		close(p.answer)
	case p.typ == plan9.Tclunk:
		s.fids.Free(p.f.n)
	}
	s.retire(p)
	return p.c, nil
}

// end fails all that is pending.
func (s *session) end() {
	s.rwc.Close()
	s.out.Fail(io.ErrClosedPipe)
	s.mu.Lock()
	s.over = true
	all := s.pending
	s.pending = nil
	s.mu.Unlock()
	for _, p := range all {
		switch {
		case p == nil || p.answered:
		case p.c != nil:
			p.c.answer(p, nil)
			p.c.send(nil, false)
		case p.answer != nil:
			close(p.answer)
		}
	}
	close(s.done)
}
