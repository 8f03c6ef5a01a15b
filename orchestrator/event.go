package orchestrator

import (
	"context"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"9ci/fs"
)

// An eventFile is an open event file: the state at the open, then each line that
// comes. A reader that has fallen too far behind gets the present state again.
// Reads block; their offset means nothing, as in a pipe.
type eventFile struct {
	w    watch
	show *shown // which lines; nil: all

	turn chan struct{} // holds a token while nobody reads; guards what follows
	off  int64         // in w.lines
	come []byte        // of these, that nobody has looked at
	text lineBuffer
	rest []byte
}

func newEventFile(w watch, show *shown) *eventFile {
	e := &eventFile{w: w, show: show, turn: make(chan struct{}, 1)}
	e.begin()
	e.turn <- struct{}{}
	return e
}

// begin makes the state what is read next.
func (e *eventFile) begin() {
	var state string
	state, e.off = e.w.state()
	e.text, e.come = nil, []byte(state)
}

// take adds those lines of what has come that are to be shown to what is read next.
func (e *eventFile) take() {
	lines := slices.Collect(e.text.lines(e.come))
	e.come = nil
	if e.show != nil {
		lines = e.show.of(lines)
	}
	for _, line := range lines {
		e.rest = append(append(e.rest, line...), '\n')
	}
}

// A shown is which lines of the root's event file a session sees: those of namespaces
// that it may read.
type shown struct {
	v     *view
	learn *rate.Limiter // of namespaces of which it learns that
}

func newShown(v *view) *shown { return &shown{v, rate.NewLimiter(shownPer, maxListed)} }

// shownPer is how many namespaces a second one that reads the root's event file learns
// of, after maxListed at once.
const shownPer = 0.3

// of returns those of lines that are to be shown.
func (s *shown) of(lines []string) []string {
	g := s.v.c.login
	var unknown []string
	for _, line := range lines {
		if ns := namespaceOf(line); g.Asks(ns) && !g.MayRead(ns) && !g.Known(ns) && !slices.Contains(unknown, ns) && s.learn.Allow() {
			unknown = append(unknown, ns)
		}
	}
	if err := g.LearnAll(s.v.ctx, unknown, false); err != nil {
		s.v.c.unknown(g.AskedHost()+"/...", err)
	}
	return slices.DeleteFunc(lines, func(line string) bool { return !s.v.mayRead(namespaceOf(line)) })
}

func (e *eventFile) ReadAt(ctx context.Context, p []byte, _ int64) (int, error) {
	select {
	case <-e.turn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { e.turn <- struct{}{} }()
	buf := make([]byte, 4096)
	for {
		if e.take(); len(e.rest) > 0 {
			break
		}
		n, err := e.w.lines.ReadAt(ctx, buf, e.off)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil { // too far behind: these feeds have no end
			e.begin()
			continue
		}
		e.off += int64(n)
		e.come = buf[:n]
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
