package orchestrator

import (
	"context"
	"strings"

	"9ci/fs"
)

// An eventFile is an open event file: the state at the open, then each line that
// comes. A reader that has fallen too far behind gets the present state again.
// Reads block; their offset means nothing, as in a pipe.
type eventFile struct {
	w    watch
	show func(line string) bool // nil: all lines

	turn chan struct{} // holds a token while nobody reads; guards what follows
	off  int64         // in w.lines
	text lineBuffer
	rest []byte
}

func newEventFile(w watch, show func(line string) bool) *eventFile {
	e := &eventFile{w: w, show: show, turn: make(chan struct{}, 1)}
	e.begin()
	e.turn <- struct{}{}
	return e
}

// begin makes the state what is read next.
func (e *eventFile) begin() {
	var state string
	state, e.off = e.w.state()
	e.text = nil
	e.take([]byte(state))
}

// take adds those lines of p that are to be shown to what is read next.
func (e *eventFile) take(p []byte) {
	for line := range e.text.lines(p) {
		if e.show == nil || e.show(line) {
			e.rest = append(append(e.rest, line...), '\n')
		}
	}
}

func (e *eventFile) ReadAt(ctx context.Context, p []byte, _ int64) (int, error) {
	select {
	case <-e.turn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { e.turn <- struct{}{} }()
	buf := make([]byte, 4096)
	for len(e.rest) == 0 {
		n, err := e.w.lines.ReadAt(ctx, buf, e.off)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil { // too far behind: these feeds have no end
			e.begin()
			continue
		}
		e.off += int64(n)
		e.take(buf[:n])
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *eventFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, fs.ErrReadOnly
}

func (e *eventFile) Close() error {
	e.w.close()
	return nil
}

// namespaceOf returns the namespace that a line of the root's event file is of:
// "/NAMESPACE/n/EXECUTOR join TIME".
func namespaceOf(line string) string {
	path, _, _ := strings.Cut(line, " ")
	return strings.TrimPrefix(path[:max(0, strings.LastIndex(path, "/n/"))], "/")
}
