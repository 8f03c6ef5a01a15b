package fs

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// A signal wakes all who wait for a change. Those who wait hold no lock.
type signal struct {
	mu sync.Mutex
	c  chan struct{} // closed, and forgotten, at a change
}

// wait returns a channel that is closed at the next change.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// A feed is a text that grows at its end and is forgotten at its start.
type feed struct {
	change signal

	mu     sync.Mutex // guards what follows
	start  int64      // offset of text in all that was ever written
	text   []byte
	last   time.Time // when it was written
	closed bool
}

// maxFeed is how far a reader of a feed may fall behind.
const maxFeed = 1 << 20

var errBehind = errors.New("the reader fell too far behind")

func newFeed() *feed { return new(feed) }

func (f *feed) write(line string) {
	f.mu.Lock()
	if len(f.text)+len(line) > maxFeed {
		n := len(f.text) / 2
		f.start += int64(n)
		f.text = append([]byte(nil), f.text[n:]...)
	}
	f.text = append(f.text, line...)
	f.last = time.Now()
	f.mu.Unlock()
	f.change.changed()
}

func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.change.changed()
}

// end returns the offset behind all that was written.
func (f *feed) end() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start + int64(len(f.text))
}

func (f *feed) lastWrite() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// readAt reads at off, and blocks until there is something.
func (f *feed) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		wait := f.change.wait()
		f.mu.Lock()
		i := off - f.start
		switch {
		case i < 0:
			f.mu.Unlock()
			return 0, errBehind
		case i < int64(len(f.text)):
			n := copy(p, f.text[i:])
			f.mu.Unlock()
			return n, nil
		case f.closed:
			f.mu.Unlock()
			return 0, io.EOF
		}
		f.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
