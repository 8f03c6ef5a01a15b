package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"sync"

	"9ci/fs"
	"9ci/fs/ci"
)

// What one request reads of a log to find a line, in bytes. Where a log is longer, what was
// found is remembered, and the next request goes on from there.
const maxScan = 32 << 20

// errFar is the error of a line that is too far into a log for one request.
var errFar = errors.New("the line is too far into the log")

// A lineReader reads the lines of a log that have been written, from a place where one
// begins. A line that is longer than any of a log is cut into several.
type lineReader struct {
	ctx  context.Context
	f    fs.File
	off  int64 // of the next line
	work int64 // bytes of the lines that were read, each of lineWork at least
	buf  []byte
	mem  []byte
}

// lineWork is how many bytes a line counts for at least where what is read is bounded: about
// as many as a line of a log has before its text. An executor may serve newlines alone.
const lineWork = 40

// next returns the next line, without its newline; it is valid until the next call. It
// returns io.EOF at the present end: a line without a newline is not there yet.
func (r *lineReader) next() ([]byte, error) {
	for {
		if i := bytes.IndexByte(r.buf[:min(len(r.buf), ci.MaxLogLine+1)], '\n'); i >= 0 {
			line := r.buf[:i]
			r.buf = r.buf[i+1:]
			r.off += int64(i + 1)
			r.work += max(int64(i+1), lineWork)
			return line, nil
		}
		if len(r.buf) > ci.MaxLogLine {
			line := r.buf[:ci.MaxLogLine]
			r.buf = r.buf[ci.MaxLogLine:]
			r.off += ci.MaxLogLine
			r.work += ci.MaxLogLine
			return line, nil
		}
		if r.mem == nil {
			r.mem = make([]byte, 64<<10)
		}
		had := copy(r.mem, r.buf)
		n, err := r.f.ReadAt(r.ctx, r.mem[had:], r.off+int64(had))
		r.buf = r.mem[:had+n]
		if n == 0 {
			if err == nil {
				err = io.EOF
			}
			return nil, err
		}
	}
}

// marks are places where lines of a log begin.
type marks struct {
	mu     sync.Mutex // guards what follows
	stride int        // lines between two marks
	at     []int64    // at[i] is the offset of line 1+i*stride
}

// maxMarks is how many places are remembered of one log. With more, every second is
// forgotten.
const maxMarks = 2048

// before returns the last place that is known at or before a line.
func (m *marks) before(line int) (n int, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := min((line-1)/m.stride, len(m.at)-1)
	return 1 + i*m.stride, m.at[i]
}

// note remembers where a line begins, if the place is the next to be known.
func (m *marks) note(line int, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if line != 1+len(m.at)*m.stride {
		return
	}
	m.at = append(m.at, off)
	if len(m.at) > maxMarks {
		for i := range (len(m.at) + 1) / 2 {
			m.at[i] = m.at[2*i]
		}
		m.at = m.at[:(len(m.at)+1)/2]
		m.stride *= 2
	}
}

// An index remembers where lines begin of logs that were read of late, by their path. A
// log only grows, and the name of a run is never given twice.
type index struct {
	mu   sync.Mutex // guards logs
	logs map[string]*marks
}

// maxLogs is how many logs an index remembers.
const maxLogs = 256

func (x *index) of(path string) *marks {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := x.logs[path]
	if m == nil {
		for old := range x.logs {
			if len(x.logs) < maxLogs {
				break
			}
			delete(x.logs, old)
		}
		m = &marks{stride: 128, at: []int64{0}}
		if x.logs == nil {
			x.logs = map[string]*marks{}
		}
		x.logs[path] = m
	}
	return m
}

// A log is an open log of a run.
type log struct {
	f     fs.File
	marks *marks
}

func (l *log) Close() error { return l.f.Close() }

// openLog opens the log at a path of the tree.
func (r *reading) openLog(path string) (*log, error) {
	n, err := r.node(path)
	if err != nil {
		return nil, err
	}
	f, err := n.Open(r.ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	return &log{f, r.page.index.of(path)}, nil
}

// seek returns a reader at a line, or at the end of the log if that comes first, and the
// number of the line that it reads next. With errFar, it is the last that was looked at.
func (l *log) seek(ctx context.Context, line int) (*lineReader, int, error) {
	n, off := l.marks.before(max(line, 1))
	r := &lineReader{ctx: ctx, f: l.f, off: off}
	for n < line {
		if r.work > maxScan {
			return r, n, errFar
		}
		switch _, err := r.next(); {
		case err == io.EOF:
			return r, n, nil
		case err != nil:
			return r, n, err
		}
		n++
		l.marks.note(n, r.off)
	}
	return r, n, nil
}

// lines returns how many lines the log has. If it returns errFar, it has more.
func (l *log) lines(ctx context.Context) (int, error) {
	_, n, err := l.seek(ctx, math.MaxInt)
	return n - 1, err
}

// A pos is a place in the logs of a run: the line of a step's log that comes next.
type pos struct {
	Step int   // in ci.Steps
	Line int   // from 1
	Off  int64 // in bytes
}

// rows returns rows from a line on, whose HTML has about room bytes, one at least unless the log
// ends, and the place behind them.
func (l *log) rows(r *lineReader, line, most, room int) (rows []row, next int, err error) {
	for len(rows) < most && room > 0 {
		text, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return rows, line, err
		}
		rows = append(rows, newRow(line, text))
		line++
		l.marks.note(line, r.off)
		room -= rows[len(rows)-1].size()
	}
	return rows, line, nil
}

// size returns about how many bytes of HTML the row has.
func (r *row) size() int {
	n := 70
	for _, s := range r.Text {
		n += htmlSize(s.Text) + len(s.Class) + 22
	}
	return n
}

// htmlSize returns about how many bytes of HTML a text has, some of which package template
// escapes.
func htmlSize(s string) int {
	n := len(s)
	for i := range len(s) {
		switch s[i] {
		case '<', '>', '&', '"', '\'', '+':
			n += 4
		}
	}
	return n
}
