package fs

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"9ci/fs/internal/wake"
)

// A Feed is a text that grows at its end and is forgotten at its start. An
// offset counts from the first byte ever written. The zero Feed is empty. Its
// methods may be called from several goroutines.
type Feed struct {
	change wake.Signal

	mu     sync.Mutex // guards what follows
	start  int64      // offset of text in all that was ever written
	text   []byte
	last   time.Time // when it was written
	closed bool
}

// maxFeed is how many bytes a reader of a Feed may fall behind.
const maxFeed = 1 << 20

var errBehind = errors.New("the reader fell too far behind")

// Write appends a text and wakes the readers.
func (f *Feed) Write(text string) {
	f.mu.Lock()
	if len(f.text)+len(text) > maxFeed {
		n := len(f.text) / 2
		f.start += int64(n)
		f.text = append([]byte(nil), f.text[n:]...)
	}
	f.text = append(f.text, text...)
	f.last = time.Now()
	f.mu.Unlock()
	f.change.Broadcast()
}

// Close ends the feed: its readers get io.EOF behind the last byte.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.change.Broadcast()
}

// End returns the offset behind the last byte that was written.
func (f *Feed) End() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start + int64(len(f.text))
}

// LastWrite returns when Write was last called; zero if never.
func (f *Feed) LastWrite() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// ReadAt reads at off as [File.ReadAt] does: it blocks until there is
// something, the feed is closed, or ctx is done. A reader that is over 1 MiB
// behind may get an error: what it was to read is forgotten.
func (f *Feed) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		wait := f.change.Wait()
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
