package orchestrator

import (
	"context"

	"9ci/fs"
)

// maxFeed is how many lines a feed keeps. A reader that is further behind gets
// the present state again.
const maxFeed = 4096

// A feed is the lines that an event file tells. The directory's mutex guards
// it.
type feed struct {
	first   uint64 // number of lines[0]
	lines   []feedLine
	more    chan struct{} // closed when a line comes; nil while nobody waits
	readers int
}

type feedLine struct{ ns, text string }

func (f *feed) add(ns, text string) {
	if len(f.lines) == maxFeed {
		f.lines = append(f.lines[:0], f.lines[maxFeed/2:]...)
		f.first += maxFeed / 2
	}
	f.lines = append(f.lines, feedLine{ns, text})
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// end returns the number of the line that comes next.
func (f *feed) end() uint64 { return f.first + uint64(len(f.lines)) }

func (f *feed) wait() <-chan struct{} {
	if f.more == nil {
		f.more = make(chan struct{})
	}
	return f.more
}

// An eventFile is an open event file: the state at the open, then each line
// that comes. Reads block; their offset means nothing, as in a pipe.
type eventFile struct {
	d     *directory
	f     *feed
	state func() []byte // called with d.mu held
	text  func(feedLine) string
	close func() // called with d.mu held

	turn chan struct{} // holds a token while nobody reads; guards what follows
	next uint64
	rest []byte
}

func newEventFile(d *directory, f *feed, state func() []byte, text func(feedLine) string, close func()) *eventFile {
	f.readers++
	e := &eventFile{d: d, f: f, state: state, text: text, close: close, turn: make(chan struct{}, 1)}
	e.next, e.rest = f.end(), state()
	e.turn <- struct{}{}
	return e
}

func (e *eventFile) ReadAt(ctx context.Context, p []byte, _ int64) (int, error) {
	select {
	case <-e.turn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { e.turn <- struct{}{} }()
	for len(e.rest) == 0 {
		more := e.take()
		if len(e.rest) > 0 {
			break
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// take moves what has come since the last read to e.rest, and returns a channel
// that is closed when there is more.
func (e *eventFile) take() <-chan struct{} {
	e.d.mu.Lock()
	defer e.d.mu.Unlock()
	if e.next < e.f.first {
		e.rest = e.state()
	} else {
		for _, l := range e.f.lines[e.next-e.f.first:] {
			e.rest = append(e.rest, e.text(l)...)
		}
	}
	e.next = e.f.end()
	return e.f.wait()
}

func (e *eventFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, fs.ErrReadOnly
}

func (e *eventFile) Close() error {
	e.d.mu.Lock()
	defer e.d.mu.Unlock()
	e.f.readers--
	e.close()
	return nil
}

var _ fs.File = (*eventFile)(nil)
