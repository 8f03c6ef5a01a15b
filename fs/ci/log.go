package ci

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A LogLine is a line of a log in the CRI log format:
//
//	2026-11-24T21:04:05.000000000Z stdout F the text
//
// The bytes of a stream are the texts of its lines in order, with a newline
// behind each that is full.
type LogLine struct {
	Time   time.Time
	Stream string // stdout or stderr
	Full   bool   // F: the line ended; P: it goes on in the stream's next line, or the stream ended
	Text   []byte
}

// logTime is RFC 3339 with all nine digits, so that lines sort by time.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// maxLogText is the longest text of a line in bytes: the kubelet splits lines
// there.
const maxLogText = 16 << 10

// MaxLogLine bounds a line in bytes, with its time, stream and tag.
const MaxLogLine = maxLogText + 64

// Append appends the line, with its newline, to b.
func (l LogLine) Append(b []byte) []byte {
	return appendLogLine(b, l.Time.UTC().AppendFormat(nil, logTime), l.Stream, l.Full, l.Text)
}

func appendLogLine(b, when []byte, stream string, full bool, text []byte) []byte {
	b = append(append(b, when...), ' ')
	b = append(b, stream...)
	if full {
		b = append(b, " F "...)
	} else {
		b = append(b, " P "...)
	}
	return append(append(b, text...), '\n')
}

// Bytes appends the bytes of the stream that the line holds to b.
func (l LogLine) Bytes(b []byte) []byte {
	b = append(b, l.Text...)
	if l.Full {
		b = append(b, '\n')
	}
	return b
}

// ParseLogLine reads a line of a log, without its newline. Text is a part of
// line, not a copy.
func ParseLogLine(line []byte) (LogLine, error) {
	bad := func() (LogLine, error) { return LogLine{}, badLogLine(line[:min(len(line), 80)]) }
	when, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return bad()
	}
	t, err := time.Parse(time.RFC3339Nano, string(when))
	if err != nil {
		return bad()
	}
	l := LogLine{Time: t}
	switch {
	case bytes.HasPrefix(rest, []byte("stdout ")):
		l.Stream = "stdout"
	case bytes.HasPrefix(rest, []byte("stderr ")):
		l.Stream = "stderr"
	default:
		return bad()
	}
	rest = rest[len("stdout "):]
	switch {
	case bytes.HasPrefix(rest, []byte("F ")):
		l.Full = true
	case bytes.HasPrefix(rest, []byte("P ")):
	default:
		return bad()
	}
	l.Text = rest[2:]
	return l, nil
}

// A badLogLine is the beginning of a line that is none of a log. Its words are made when
// they are asked for: a reader may go on behind millions of such lines.
type badLogLine string

func (e badLogLine) Error() string { return fmt.Sprintf("not a line of a CRI log: %q", string(e)) }

// cutLogLine returns of a line what the streams had, for readers to which the time
// says nothing: to parse it takes longer than all else, and short lines are many. A
// line whose time is not as logTime has it is left to ParseLogLine.
func cutLogLine(line []byte) (l LogLine, err error) {
	const (
		when = "0000-00-00T00:00:00.000000000Z "
		head = len(when) + len("stdout F ")
	)
	if len(line) < head {
		return ParseLogLine(line)
	}
	for i := range len(when) {
		if c := line[i]; c != when[i] && (when[i] != '0' || c < '0' || c > '9') {
			return ParseLogLine(line)
		}
	}
	switch string(line[len(when):head]) {
	case "stdout F ":
		l.Stream, l.Full = "stdout", true
	case "stderr F ":
		l.Stream, l.Full = "stderr", true
	case "stdout P ":
		l.Stream = "stdout"
	case "stderr P ":
		l.Stream = "stderr"
	default:
		return ParseLogLine(line)
	}
	l.Text = line[head:]
	return l, nil
}

// CopyLog writes the bytes of a log to the streams that they came from, in
// their order. It returns the first error of a reader or a writer, or the first
// line that is none of a log.
func CopyLog(stdout, stderr io.Writer, log io.Reader) error {
	r := bufio.NewReaderSize(log, MaxLogLine)
	var b []byte
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log line %d: %w", n, err)
		}
		l, err := cutLogLine(line[:len(line)-1])
		if err != nil {
			return fmt.Errorf("log line %d: %w", n, err)
		}
		w := stdout
		if l.Stream == "stderr" {
			w = stderr
		}
		b = l.Bytes(b[:0])
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
}

// A Splitter cuts what is written to one stream into the lines of a log.
type Splitter struct {
	Stream string // stdout or stderr
	part   []byte // what came after the last newline; below maxLogText
}

// Write takes the next bytes of the stream. It appends the lines that they
// complete to b, and returns how many bytes of the stream those lines hold.
func (s *Splitter) Write(b, p []byte, now time.Time) (lines []byte, n int) {
	var buf [len(logTime)]byte
	when := now.UTC().AppendFormat(buf[:0], logTime) // the same for all lines
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		take := i
		if i < 0 {
			take = len(p)
		}
		full := i >= 0
		if room := maxLogText - len(s.part); take > room {
			take, full = room, false
		}
		text := p[:take]
		if len(s.part) > 0 {
			s.part = append(s.part, text...)
			text = s.part
		}
		p = p[take:]
		switch {
		case full:
			p = p[1:]
			n++
		case len(text) == maxLogText:
		default:
			if len(s.part) == 0 {
				s.part = append(s.part, text...)
			}
			continue
		}
		n += len(text)
		b = appendLogLine(b, when, s.Stream, full, text)
		s.part = s.part[:0]
	}
	return b, n
}

// Waits reports whether the splitter holds a part of a line back, for its rest.
func (s *Splitter) Waits() bool { return len(s.part) > 0 }

// Flush appends what is held back to b, as a part of a line, and returns how many
// bytes of the stream it holds.
func (s *Splitter) Flush(b []byte, now time.Time) (lines []byte, n int) {
	if len(s.part) == 0 {
		return b, 0
	}
	n = len(s.part)
	b = LogLine{now, s.Stream, false, s.part}.Append(b)
	s.part = nil
	return b, n
}

// A LiveReader reads the bytes that a log holds, as a file of their own: live.
type LiveReader struct {
	Src io.ReaderAt // the log
	Mark
}

// A Mark is a place where a line of the log begins: its offset in live, and in
// the log.
type Mark struct {
	live int64
	Log  int64
}

// Marks are where the last reads of one log stopped. A client has several reads under
// way, which come in any order: each goes on from the nearest place before it, and
// not from the log's start.
type Marks struct {
	last [32]Mark
	next int
}

// Near returns the last mark at or before the offset off in live.
func (m *Marks) Near(off int64) (near Mark) {
	for _, k := range m.last {
		if k.live <= off && k.live > near.live {
			near = k
		}
	}
	return near
}

// Add adds a mark, and forgets the oldest.
func (m *Marks) Add(k Mark) {
	m.last[m.next] = k
	m.next = (m.next + 1) % len(m.last)
}

var errLog = errors.New("the log is damaged")

// ReadAt reads, at the offset off in live, what the first size bytes of the log
// hold. It returns no bytes and no error where they hold no more. It moves the
// Mark to the line where it stopped: a read from there on is cheap.
func (r *LiveReader) ReadAt(p []byte, off, size int64) (n int, err error) {
	if off < r.live {
		r.Mark = Mark{}
	}
	buf := logBuf.Get().(*[]byte)
	defer logBuf.Put(buf)
	for n < len(p) && r.Mark.Log < size {
		b := (*buf)[:min(int64(len(*buf)), size-r.Mark.Log)]
		m, err := r.Src.ReadAt(b, r.Mark.Log)
		if m < len(b) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		start := r.Mark.Log
		for n < len(p) {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				break
			}
			l, err := cutLogLine(b[:i])
			if err != nil {
				return n, errLog
			}
			size := int64(len(l.Text))
			if l.Full {
				size++
			}
			if at := off + int64(n) - r.live; at < size {
				if at < int64(len(l.Text)) {
					n += copy(p[n:], l.Text[at:])
				}
				if n < len(p) && l.Full {
					p[n] = '\n'
					n++
				}
				if off+int64(n) < r.live+size {
					break // p is full in the middle of a line
				}
			}
			r.live += size
			r.Mark.Log += int64(i + 1)
			b = b[i+1:]
		}
		if r.Mark.Log == start && n < len(p) {
			return n, errLog // no newline in the longest line there is
		}
	}
	return n, nil
}

// LiveSize counts the bytes that a log holds.
func LiveSize(log io.Reader) (n int64, err error) {
	var c counter
	err = CopyLog(&c, &c, log)
	return int64(c), err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// logBuf holds buffers of twice the longest line. A reader that waits holds
// none.
var logBuf = sync.Pool{New: func() any { b := make([]byte, 2*MaxLogLine); return &b }}
