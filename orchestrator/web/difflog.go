package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"
)

// What a comparison of two logs reads and shows at most.
const (
	diffWindow  = 512 << 10 // bytes of text of each log that are compared at a time
	diffSync    = 8         // lines that are the same before the end of a window, for a difference to be told
	diffRead    = 64 << 20  // bytes of each log
	diffTime    = 6 * time.Second
	diffRows    = 300 // that are shown
	diffRoom    = 20 << 10
	diffContext = 3 // lines around a difference, as package diff has them
)

// A logDiff is the difference of two logs, line by line without their times.
type logDiff struct {
	Rows []diffRow
	Same bool // as far as the logs were compared
	// Why not all is shown: full, because there is too much, or late, because the logs are
	// too long to be read in the time that there is; or "", if all is.
	Cut  string
	A, B int // the lines from which on nothing is shown, if Cut

	size int // about how many bytes of HTML the rows have
}

// A diffRow is a line of the difference of two logs.
type diffRow struct {
	Sign string // -, + or a blank; @ where lines that are the same are left out
	A, B int    // of @: the lines that come next
	row
}

// A diffSide is a log that is compared, and a window of it. A log that is not there has
// ended.
type diffSide struct {
	lr    *lineReader
	lines []string // the window
	first int      // line of the log with which it begins
	size  int      // bytes of lines
	ended bool
}

// fill reads on until the window is full or the log ends.
func (s *diffSide) fill(ctx context.Context) error {
	for !s.ended && s.size < diffWindow {
		s.lr.ctx = ctx
		line, err := s.lr.next()
		if err == io.EOF {
			s.ended = true
			break
		}
		if err != nil {
			return err
		}
		text := plainText(line)
		s.lines = append(s.lines, text)
		s.size += max(len(text)+1, lineWork)
	}
	return nil
}

// read returns how many bytes of the log have been read, as lineReader counts them.
func (s *diffSide) read() int64 {
	if s.lr == nil {
		return 0
	}
	return s.lr.work
}

// drop forgets the first n lines of the window.
func (s *diffSide) drop(n int) {
	for _, line := range s.lines[:n] {
		s.size -= max(len(line)+1, lineWork)
	}
	s.lines = slices.Delete(s.lines, 0, n)
	s.first += n
}

// text returns the window as package diff reads it.
func (s *diffSide) text() []byte {
	var b []byte
	for _, line := range s.lines {
		b = append(append(b, line...), '\n')
	}
	return b
}

// diffLogs compares two logs of any length, a window of each at a time: it leaves out the
// lines that both begin with, tells how the windows differ, and goes on behind what they
// have in common. A difference at the end of the windows may be but a part of one, so it is
// looked at again with what follows.
func diffLogs(ctx context.Context, a, b *diffSide) (*logDiff, error) {
	soon, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	d := &logDiff{Same: true}
	for {
		err := cmp.Or(soon.Err(), a.fill(soon), b.fill(soon))
		if err == nil && max(a.read(), b.read()) > diffRead {
			err = context.DeadlineExceeded
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			d.Cut, d.A, d.B = "late", a.first, b.first
			return d, nil
		case err != nil:
			return nil, err
		}
		same := 0
		for same < min(len(a.lines), len(b.lines)) && a.lines[same] == b.lines[same] {
			same++
		}
		ended := a.ended && b.ended
		if ended && same == max(len(a.lines), len(b.lines)) {
			return d, nil
		}
		if same > diffContext {
			a.drop(same - diffContext)
			b.drop(same - diffContext)
			continue
		}
		d.Same = false
		ops := diffOps(a.text(), b.text())
		toA, toB := len(a.lines), len(b.lines)
		if !ended {
			if at := unsure(ops, toA); at < len(ops) && ops[at].a+ops[at].b > 0 {
				toA, toB = ops[at].a, ops[at].b
				ops = ops[:at]
			} else if at == len(ops) {
				toA, toB = toA-diffContext, toB-diffContext
			}
		}
		if !d.add(ops, a.first, b.first) || ended {
			return d, nil
		}
		a.drop(toA)
		b.drop(toB)
	}
}

// add adds lines of windows that begin with the lines a and b of their logs. It returns
// false when there is room for no more.
func (d *logDiff) add(ops []diffOp, a, b int) bool {
	for _, op := range ops {
		if len(d.Rows) == diffRows || d.size > diffRoom {
			d.Cut, d.A, d.B = "full", a+op.a, b+op.b
			return false
		}
		r := diffRow{Sign: op.sign, row: row{Text: spans(op.text)}}
		if op.sign == "@" {
			r.A, r.B = a+op.a, b+op.b
		}
		d.Rows = append(d.Rows, r)
		d.size += r.size()
	}
	return true
}

// A diffOp is a line of the difference of two windows.
type diffOp struct {
	sign string // as a diffRow's
	a, b int    // lines of the windows before it
	text string
}

// diffOps returns the difference of two windows.
func diffOps(a, b []byte) (ops []diffOp) {
	atA, atB := 0, 0
	for i, line := range strings.Split(strings.TrimSuffix(string(diff.Diff("a", a, "b", b)), "\n"), "\n") {
		if i < 3 || line == "" { // the head; all is the same
			continue
		}
		op := diffOp{line[:1], atA, atB, line[1:]}
		switch op.sign {
		case "@": // @@ -line,lines +line,lines @@, where no lines begin behind a line
			var ofA, ofB int
			if _, err := fmt.Sscanf(line, "@@ -%d,%d +%d,%d @@", &atA, &ofA, &atB, &ofB); err != nil {
				panic(err) // package diff has written it
			}
			atA, atB = atA-min(ofA, 1), atB-min(ofB, 1)
			op = diffOp{sign: "@", a: atA, b: atB}
		case "-":
			atA++
		case "+":
			atB++
		default:
			atA++
			atB++
		}
		ops = append(ops, op)
	}
	return ops
}

// unsure returns where a difference begins that may go on behind the windows, with what
// stands around it, or len(ops) if none does. Lines is how many the window of a has.
func unsure(ops []diffOp, lines int) int {
	last := len(ops)
	for last > 0 && ops[last-1].sign == " " {
		last--
	}
	if last == 0 {
		return len(ops)
	}
	op := ops[last-1]
	if op.sign == "-" {
		op.a++
	}
	if lines-op.a >= diffSync {
		return len(ops)
	}
	for last > 0 && (ops[last-1].sign == "-" || ops[last-1].sign == "+") {
		last--
	}
	begin := last
	for begin > 0 && ops[begin-1].sign == " " {
		begin--
	}
	if begin > 0 && ops[begin-1].sign == "@" { // nothing else of its hunk is sure
		return begin - 1
	}
	return last
}
