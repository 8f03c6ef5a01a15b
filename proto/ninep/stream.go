package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"9ci/fs"
)

// What a stream may have under way. 16 MiB fill a link of 1 Gbit/s and 130 ms.
const (
	streamChunk = 128 << 10
	streamMost  = 16 << 20
	streamLinks = 4
	longLink    = 5 * time.Millisecond // from here on one connection is not enough
)

// Stream opens n and reads it from its start to its end, with as many reads
// under way as make it faster: it starts with a few, and doubles them as long
// as that brings more. A file of a Client with ImportOptions.More is read over
// several connections if the peer is far away. A live file is read as it grows.
//
// The reader ends with io.ErrUnexpectedEOF if the file is shorter than its
// Stat said. It must be closed; that ends all reads.
func Stream(ctx context.Context, n fs.Node) (io.ReadCloser, error) {
	st, err := n.Stat(ctx)
	if err != nil {
		return nil, err
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{ctx: ctx, cancel: cancel, files: []fs.File{f}, size: st.Size, window: 4}
	if st.Version == 0 || st.Size == 0 {
		s.window = 0 // one read after the other
		return s, nil
	}
	if i, ok := n.(*imported); ok && st.Size > streamChunk {
		s.files = append(s.files, i.c.openElsewhere(ctx, i)...)
	}
	return s, nil
}

// A stream is what Stream returns.
type stream struct {
	ctx    context.Context
	cancel func()
	files  []fs.File // the same one, by several connections
	size   int64

	at     int64   // the next byte to be asked for
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
		f := s.files[s.at/streamChunk%int64(len(s.files))]
		go p.read(s.ctx, f, s.at)
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

func (p *part) read(ctx context.Context, f fs.File, off int64) {
	defer close(p.done)
	for at := 0; at < len(p.buf); {
		n, err := f.ReadAt(ctx, p.buf[at:], off+int64(at))
		at += n
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%d bytes are missing: %w", len(p.buf)-at, io.ErrUnexpectedEOF)
		}
		if err != nil && at < len(p.buf) {
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
	for _, f := range s.files {
		f.Close()
	}
	return nil
}

// openElsewhere opens n by further connections, if the peer is far away and
// there is a way to have them. That it cannot is no error.
func (c *Client) openElsewhere(ctx context.Context, n *imported) (files []fs.File) {
	c.more.Lock()
	defer c.more.Unlock()
	if c.dial == nil || c.ended() || c.RTT() < longLink {
		return nil
	}
	for len(c.others) < streamLinks-1 {
		rwc, err := c.dial(ctx)
		if err != nil {
			break
		}
		o := c.options
		o.More = nil
		other, err := Import(ctx, rwc, o)
		if err != nil {
			break
		}
		c.others = append(c.others, other)
	}
	for _, o := range c.others {
		f, err := (&imported{c: o, path: n.path}).Open(ctx, fs.OpenRead)
		if err == nil {
			files = append(files, f)
		}
	}
	return files
}

func (c *Client) ended() bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}
