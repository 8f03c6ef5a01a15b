package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
	"golang.org/x/sync/semaphore"
)

// maxCalls bounds the requests a link has outstanding. Tags are 16 bits, and
// a peer's patience is finite.
const maxCalls = 8192

// A link is the client's end of one connection. It has any number of calls under
// way, each with its tag, and trusts nothing that the peer says.
type link struct {
	rwc     io.ReadWriteCloser
	out     *wire.Sender
	dialect Dialect
	msize   uint32
	slots   *semaphore.Weighted // of maxCalls
	serial  atomic.Bool         // the peer does not keep the order of a burst
	rtt     atomic.Int64        // least time a call took, in ns
	done    chan struct{}       // closed by read when the connection has ended
	wg      sync.WaitGroup      // of later
	fids    wire.Fids

	mu       sync.Mutex // guards what follows
	calls    map[uint16]*call
	tags     []uint16 // free ones, below nextTag
	nextTag  uint16
	closing  bool
	finalErr error // why the connection ended
}

// A call is a T-message and, once done is closed, its answer.
type call struct {
	typ  uint8
	body []byte // of the T-message, behind its tag
	dst  []byte // where the data of an Rread goes

	tag  uint16
	sent time.Time
	done chan struct{}

	// The answer.
	rx  []byte // fields of the R-message
	n   int    // bytes that came for dst
	err error

	after func() // runs in the reader when the call has ended
}

// errSkipped is the error of a call that an earlier one in its burst made
// pointless.
var errSkipped = errors.New("not sent")

func newLink(rwc io.ReadWriteCloser) *link {
	return &link{
		rwc: rwc, out: wire.NewSender(rwc), msize: wire.MaxVersion, done: make(chan struct{}),
		slots: semaphore.NewWeighted(maxCalls), calls: make(map[uint16]*call),
	}
}

// start sends the calls in one write.
func (l *link) start(ctx context.Context, calls ...*call) error {
	if err := l.slots.Acquire(ctx, int64(len(calls))); err != nil {
		return err
	}
	return l.send(calls...)
}

// send is start for calls that have their slots.
func (l *link) send(calls ...*call) error {
	b := wire.GetBuffer()
	now := time.Now()
	l.mu.Lock()
	if l.finalErr != nil {
		err := l.finalErr
		l.mu.Unlock()
		l.slots.Release(int64(len(calls)))
		return err
	}
	for _, c := range calls {
		if n := len(l.tags); n > 0 {
			c.tag = l.tags[n-1]
			l.tags = l.tags[:n-1]
		} else {
			c.tag = l.nextTag
			l.nextTag++
		}
		c.sent, c.done = now, make(chan struct{})
		l.calls[c.tag] = c
		tag := c.tag
		if c.typ == plan9.Tversion {
			tag = plan9.NOTAG
		}
		start := len(b)
		b = wire.Begin(b, c.typ, tag)
		b = wire.End(append(b, c.body...), start)
	}
	l.out.Put(b)
	l.mu.Unlock()
	if err := l.out.Flush(); err != nil {
		l.rwc.Close() // the reader tells everybody
	}
	return nil
}

// wait waits for the answers to calls. When ctx ends first it flushes those
// that are outstanding.
func (l *link) wait(ctx context.Context, calls ...*call) error {
	for i, c := range calls {
		select {
		case <-c.done:
			continue
		default:
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			for _, c := range calls[i:] {
				l.abandon(c)
			}
			return ctx.Err()
		}
	}
	return nil
}

// do sends the calls as one burst and waits for all answers. To a peer that
// does not keep order it sends one at a time, and leaves out what an error
// made pointless.
func (l *link) do(ctx context.Context, calls ...*call) error {
	if !l.serial.Load() {
		if err := l.start(ctx, calls...); err != nil {
			return err
		}
		return l.wait(ctx, calls...)
	}
	failed, walked := false, false
	for _, c := range calls {
		if failed && (c.typ != plan9.Tclunk || !walked) {
			c.err = errSkipped
			continue
		}
		if err := l.start(ctx, c); err != nil {
			return err
		}
		if err := l.wait(ctx, c); err != nil {
			return err
		}
		switch {
		case c.typ == wire.Treadlink: // asks of what may be no link
		case c.typ == plan9.Twalk && c.err == nil && walkedAll(c):
			walked = true
		default:
			failed = failed || c.err != nil || c.typ == plan9.Twalk
		}
	}
	return nil
}

func walkedAll(c *call) bool {
	return len(c.rx) >= 2 && le.Uint16(c.rx) == le.Uint16(c.body[8:])
}

// abandon asks the peer to forget a call. From then on neither its answer nor its
// dst is used.
func (l *link) abandon(c *call) {
	l.mu.Lock()
	waiting := l.calls[c.tag] == c
	if waiting {
		c.dst = nil
	}
	l.mu.Unlock()
	if !waiting {
		<-c.done // the reader has it in hand
		return
	}
	f := &call{typ: plan9.Tflush, body: le.AppendUint16(nil, c.tag)}
	f.after = func() { l.forget(c) }
	l.later(f)
}

// later sends a call from a goroutine of its own and does not wait for the answer.
// There will be a slot, since every call ends with the connection. Once close
// waits for these goroutines, later does nothing.
func (l *link) later(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return
	}
	l.wg.Go(func() {
		l.slots.Acquire(context.Background(), 1)
		l.send(c)
	})
}

// forget frees the tag of a call that was flushed and not answered.
func (l *link) forget(c *call) {
	l.mu.Lock()
	mine := l.calls[c.tag] == c
	if mine {
		l.retire(c)
	}
	l.mu.Unlock()
	if mine {
		l.finish(c, context.Canceled)
	}
}

// retire takes c's tag back. l.mu is held.
func (l *link) retire(c *call) {
	delete(l.calls, c.tag)
	l.tags = append(l.tags, c.tag)
}

func (l *link) finish(c *call, err error) {
	if c.err == nil {
		c.err = err
	}
	l.slots.Release(1)
	close(c.done)
	if c.after != nil {
		c.after()
	}
}

// discard sends a Tclunk and does not wait for the answer.
func (l *link) discard(fid uint32) {
	l.later(&call{typ: plan9.Tclunk, body: le.AppendUint32(nil, fid), after: func() { l.fids.Free(fid) }})
}

// read takes the answers until the connection ends. The calls that are outstanding
// then fail. It trusts no length, tag or type.
func (l *link) read() {
	l.lost(l.readAll(wire.NewReaderUpTo(l.rwc, 1<<10, 32<<10)))
}

// lost fails what is outstanding, for err. It is not read's own, so that read stands in
// a small frame while it waits: of idle links there are many.
func (l *link) lost(err error) {
	l.rwc.Close()
	l.mu.Lock()
	if l.closing || err == io.EOF {
		err = io.ErrUnexpectedEOF
		if l.closing {
			err = io.ErrClosedPipe
		}
	}
	l.finalErr = fmt.Errorf("9p: connection lost: %w", errors.Join(fs.ErrIO, err))
	calls := l.calls
	l.calls = make(map[uint16]*call)
	l.mu.Unlock()
	l.out.Fail(l.finalErr)
	for _, c := range calls {
		c.err = l.finalErr
		l.slots.Release(1)
		close(c.done)
	}
	close(l.done)
}

func (l *link) readAll(fr *wire.Reader) error {
	for {
		head, err := fr.Peek(wire.HeaderSize)
		if err != nil {
			return err
		}
		size, typ, tag := le.Uint32(head), head[4], le.Uint16(head[5:])
		if size < wire.HeaderSize {
			return wire.ErrFrame
		}
		l.mu.Lock()
		msize := max(l.msize, wire.MaxVersion)
		if typ == plan9.Rversion || tag == plan9.NOTAG {
			tag = 0 // Tversion is the first call
		}
		c := l.calls[tag]
		if c != nil {
			l.retire(c)
		}
		l.mu.Unlock()
		if c == nil {
			return fmt.Errorf("9p: answer of type %d to a tag %d that no request has", typ, tag)
		}
		if d := time.Since(c.sent); c.typ != plan9.Tread && c.typ != plan9.Twrite {
			if least := l.rtt.Load(); least == 0 || int64(d) < least {
				l.rtt.Store(int64(d))
			}
		}
		if typ == plan9.Rread && c.typ == plan9.Tread && c.dst != nil {
			c.n, err = fr.Data(size, msize, c.dst)
		} else {
			err = l.answer(fr, c, typ, msize)
		}
		if err != nil {
			c.err = fmt.Errorf("%w: %w", fs.ErrIO, err)
		}
		l.finish(c, nil)
		if err != nil {
			return err
		}
	}
}

// answer reads any other R-message. An error ends the connection.
func (l *link) answer(fr *wire.Reader, c *call, typ uint8, msize uint32) error {
	frame, err := fr.Next(msize)
	if err != nil {
		return err
	}
	d := l.dialect
	if c.typ == plan9.Tversion {
		d = Plan9
	}
	if typ != plan9.Rerror && typ != wire.Rlerror && typ != c.typ+1 {
		return fmt.Errorf("9p: answer of type %d to a request of type %d", typ, c.typ)
	}
	lay := wire.Layouts[d][typ]
	if lay == nil && typ == wire.Rlerror {
		lay = wire.Layouts[DotL][typ]
	}
	if lay == nil || !lay.Fits(frame) {
		return fmt.Errorf("9p: malformed answer of type %d", typ)
	}
	dec := wire.Decoder{B: frame[wire.HeaderSize:]}
	switch typ {
	case plan9.Rerror:
		c.err = wire.EnameError(dec.Str())
	case wire.Rlerror:
		c.err = wire.ErrnoError(dec.U32())
	default:
		c.rx = append([]byte(nil), dec.B...)
	}
	return nil
}
