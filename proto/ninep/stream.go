package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"9ci/fs"
)

// What a stream may have under way. 16 MiB fill a link of 1 Gbit/s and 130 ms.
const (
	streamChunk = 128 << 10
	streamFirst = 8 // chunks
	streamMost  = 16 << 20
	streamLinks = 4
	longLink    = 5 * time.Millisecond // from here on one connection is not enough
)

// Stream opens n, which may be of any tree, and returns a reader of all of it.
// Stream keeps several reads under way: it starts with a few, and doubles their
// number as long as that makes the stream faster. A file of a Client with
// ImportOptions.More is read over several connections if the peer is far away;
// the stream waits for none of them but the first. A live file is read as it
// grows, and a Read blocks until there is more.
//
// The errors of Stream are those of Open and Stat. A Read ends with
// io.ErrUnexpectedEOF if the file is shorter than its Stat said, and with the
// error of ctx once that is done. The reader must be closed, which ends all
// reads; one goroutine at a time may use it.
func Stream(ctx context.Context, n fs.Node) (io.ReadCloser, error) {
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	var st fs.Stat
	if i, ok := f.(*importedFile); ok {
		st = i.st
	} else if st, err = n.Stat(ctx); err != nil {
		f.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{ctx: ctx, cancel: cancel, files: []fs.File{f}, size: st.Size, window: streamFirst}
	if st.Version == 0 || st.Size == 0 {
		s.window = 0 // one read after the other
		return s, nil
	}
	if i, ok := n.(*imported); ok && st.Size > streamFirst*streamChunk && i.c.RTT() >= longLink {
		s.more = make(chan fs.File, len(i.c.others))
		for _, o := range i.c.others {
			s.opens.Go(func() {
				if f := o.open(ctx, i); f != nil {
					s.more <- f
				}
			})
		}
	}
	return s, nil
}

// A stream is what Stream returns.
type stream struct {
	ctx    context.Context
	cancel func()
	files  []fs.File    // the same one, by several connections
	more   chan fs.File // it again, by those that were made meanwhile
	opens  sync.WaitGroup
	size   int64

	at     int64   // the next byte to be asked for
	turn   int     // which of files is asked next
	parts  []*part // under way, in order
	window int     // how many may be; 0: no part at all
	rest   []byte  // of the last part, not read yet
	buf    []byte  // of it, to be used again
	err    error

	round int // parts that came since start
	start time.Time
	rate  float64 // bytes a second in the last round
}

// A part is a read of a chunk.
type part struct {
	buf  []byte
	err  error
	done chan struct{}
}

func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.window == 0 {
		n, err := s.files[0].ReadAt(s.ctx, p, s.at)
		s.at += int64(n)
		return n, err
	}
	if len(s.rest) == 0 {
		if s.err == nil {
			s.err = s.next()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// next waits for the next part, and asks for more.
func (s *stream) next() error {
	for len(s.parts) < s.window && s.at < s.size {
		if s.start.IsZero() {
			s.start = time.Now()
		}
		p := &part{buf: s.buf, done: make(chan struct{})}
		s.buf = nil
		n := min(streamChunk, s.size-s.at)
		if int64(cap(p.buf)) < n {
			p.buf = make([]byte, n)
		}
		p.buf = p.buf[:n]
		select {
		case f := <-s.more:
			s.files = append(s.files, f)
			s.rate = 0 // the rate so far was of fewer
		default:
		}
		s.turn = (s.turn + 1) % len(s.files)
		go p.read(s.ctx, s.at, s.files[s.turn], s.files[0])
		s.at += n
		s.parts = append(s.parts, p)
	}
	if len(s.parts) == 0 {
		return io.EOF
	}
	p := s.parts[0]
	<-p.done
	s.parts = s.parts[1:]
	if p.err != nil {
		return p.err
	}
	s.rest, s.buf = p.buf, p.buf
	if s.round++; s.round >= s.window {
		s.measure()
	}
	return nil
}

// measure ends a round: more under way is worth it while it brings more.
func (s *stream) measure() {
	now := time.Now()
	rate := float64(s.round*streamChunk) / max(now.Sub(s.start).Seconds(), 1e-6)
	if rate > 1.1*s.rate {
		s.window = min(2*s.window, streamMost/streamChunk)
		s.rate = rate
	}
	s.round, s.start = 0, now
}

// read reads the part from f, or by the first connection where another fails.
func (p *part) read(ctx context.Context, off int64, f, first fs.File) {
	defer close(p.done)
	for at := 0; at < len(p.buf); {
		n, err := f.ReadAt(ctx, p.buf[at:], off+int64(at))
		at += n
		switch {
		case err == nil || at == len(p.buf):
		case errors.Is(err, io.EOF):
			p.err = fmt.Errorf("%d bytes are missing: %w", len(p.buf)-at, io.ErrUnexpectedEOF)
			return
		case f != first && ctx.Err() == nil:
			f = first
		default:
			p.err = err
			return
		}
	}
}

func (s *stream) Close() error {
	s.cancel()
	for _, p := range s.parts {
		<-p.done
	}
	s.opens.Wait()
	for len(s.more) > 0 {
		s.files = append(s.files, <-s.more)
	}
	for _, f := range s.files {
		f.Close()
	}
	return nil
}

// An elsewhere is the same tree by a further connection, which is made when
// it is first of use.
type elsewhere struct {
	client chan *Client // holds it, or nil if there is none, while no other goroutine uses it
}

func newElsewhere(n int) []elsewhere {
	list := make([]elsewhere, n)
	for i := range list {
		list[i].client = make(chan *Client, 1)
		list[i].client <- nil
	}
	return list
}

// open opens the file of n by this connection. It returns nil if that fails, which
// is no error.
func (e elsewhere) open(ctx context.Context, n *imported) fs.File {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.c.life, cancel)()
	var c *Client
	select {
	case c = <-e.client:
	case <-ctx.Done():
		return nil
	}
	if c != nil && c.ended() {
		c.Close()
		c = nil
	}
	if c == nil && n.c.life.Err() == nil {
		c = n.c.again(ctx)
	}
	e.client <- c
	if c == nil {
		return nil
	}
	f, err := (&imported{c: c, path: n.path}).Open(ctx, fs.OpenRead)
	if err != nil {
		return nil
	}
	return f
}

// again imports the same tree by a further connection, or returns nil.
func (c *Client) again(ctx context.Context) *Client {
	rwc, err := c.options.More(ctx)
	if err != nil {
		return nil
	}
	o := c.options
	o.More = nil
	other, err := Import(ctx, rwc, o)
	if err != nil {
		return nil
	}
	return other
}

// close is called when the Client that e is of is being closed. No other
// connection is made after.
func (e elsewhere) close() {
	if c := <-e.client; c != nil {
		c.Close()
	}
	e.client <- nil
}

func (c *Client) ended() bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}
