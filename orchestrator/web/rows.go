package web

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"9ci/fs/ci"
)

// A row is a line of a log as the page shows it. Its number is that of the line in the
// file, which is a record of the CRI log format, whole or a part.
type row struct {
	Line   int    `json:"n"`           // from 1
	Stderr bool   `json:"e,omitempty"` // the line is of the standard error
	Part   bool   `json:"p,omitempty"` // the line goes on in the next one of its stream
	Text   []span `json:"s"`
}

// A span is text of one look.
type span struct {
	Class string `json:"c,omitempty"` // of the style sheet; "" for plain text
	Text  string `json:"t"`
}

// What is shown of a line. A record has 16 KiB at most.
const (
	maxShown = 4096 // bytes of text
	maxSpans = 256  // changes of colour
)

// newRow returns the row of a line of a log. A line that is none of a log is shown as it
// is: an executor may write what it likes.
func newRow(n int, line []byte) row {
	l, err := ci.ParseLogLine(line)
	if err != nil {
		l = ci.LogLine{Stream: "stdout", Full: true, Text: line}
	}
	return row{Line: n, Stderr: l.Stream == "stderr", Part: !l.Full, Text: spans(string(l.Text))}
}

// spans returns a line of untrusted text as it may be shown: of the control functions of
// ECMA-48 it obeys SGR (colours), and leaves out all others and all control characters. What
// a carriage return was to overwrite is left out. Characters that change the order
// of others are shown as U+FFFD, as bytes are that are not UTF-8: with them a line could
// read as another. The look begins anew in each line, so that a line is the same on
// whichever page it stands.
func spans(s string) []span { return spansOf(s, maxShown) }

// visible returns untrusted text as it may stand in a line: what changes the order of
// characters, or is none, is U+FFFD.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return utf8.RuneError
		}
		return r
	}, s)
}

// plainText returns the text of a line of a log as spans has it, but whole.
func plainText(line []byte) string {
	l, err := ci.ParseLogLine(line)
	if err != nil {
		l.Text = line
	}
	if !slices.ContainsFunc(l.Text, func(c byte) bool { return c < ' ' || c > '~' }) {
		return string(l.Text) // as most are
	}
	var b strings.Builder
	for _, s := range spansOf(string(l.Text), math.MaxInt) {
		b.WriteString(s.Text)
	}
	return b.String()
}

// spansOf is spans that shows most bytes of text.
func spansOf(s string, most int) []span {
	s = strings.TrimRight(s, "\r")
	var pen pen
	var all []span
	var text strings.Builder
	class, room, left := "", most, 0
	flush := func() {
		if text.Len() > 0 {
			all = append(all, span{class, text.String()})
			text.Reset()
		}
	}
	for len(s) > 0 {
		if n, sgr, ok := escape(s); n > 0 {
			s = s[n:]
			if !ok || len(all) >= maxSpans {
				continue
			}
			pen.set(sgr)
			if c := pen.class(); c != class {
				flush()
				class = c
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		switch {
		case r == '\r':
			text.Reset()
			all, room, left = nil, most, 0
			continue
		case r == '\t':
		case unicode.IsControl(r):
			continue
		case unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029':
			r = utf8.RuneError
		}
		if room -= utf8.RuneLen(r); room < 0 {
			left += n
			continue
		}
		text.WriteRune(r)
	}
	flush()
	if left > 0 {
		all = append(all, span{"cut", " … " + strconv.Itoa(left) + " more bytes"})
	}
	return all
}

// escape returns how many bytes at the beginning of s are a control function of ECMA-48 or
// the beginning of one that does not end; 0 if none are. If it is SGR, ok is true and sgr
// has its parameters.
func escape(s string) (n int, sgr string, ok bool) {
	var kind byte
	switch {
	case s[0] == 0x1b && len(s) == 1:
		return 1, "", false
	case s[0] == 0x1b:
		kind, n = s[1], 2
	case s[0] == 0xc2 && len(s) > 1 && s[1] >= 0x80 && s[1] <= 0x9f: // C1 in UTF-8
		kind, n = s[1]-0x40, 2
	default:
		return 0, "", false
	}
	switch {
	case kind == '[':
		start := n
		for n < len(s) && s[n] >= 0x20 && s[n] <= 0x3f {
			n++
		}
		if n == len(s) || s[n] < 0x40 || s[n] > 0x7e { // it is cut short
			return n, "", false
		}
		return n + 1, s[start:n], s[n] == 'm'
	case strings.IndexByte("]PX^_", kind) >= 0: // a string, to BEL or ST
		for i := n; i < len(s); i++ {
			switch {
			case s[i] == 0x07:
				return i + 1, "", false
			case s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\', s[i] == 0xc2 && i+1 < len(s) && s[i+1] == 0x9c:
				return i + 2, "", false
			}
		}
		return len(s), "", false
	case s[0] == 0x1b && kind >= 0x20 && kind <= 0x2f: // with intermediate bytes
		for n < len(s) && s[n] >= 0x20 && s[n] <= 0x2f {
			n++
		}
		if n < len(s) && s[n] >= 0x30 && s[n] <= 0x7e {
			n++
		}
		return n, "", false
	case s[0] == 0x1b && (kind < 0x30 || kind > 0x7e): // no function: ESC alone
		return 1, "", false
	}
	return n, "", false
}

// A pen is the look that SGR has set. Text that is to be hidden is shown: a log hides
// nothing.
type pen struct {
	fore, back                           int // 1 to 16: a colour of a terminal; 0: none
	bold, dim, italic, underline, strike bool
	inverse                              bool
}

// set obeys the parameters of an SGR.
func (p *pen) set(params string) {
	if strings.ContainsAny(params, "<=>? ") { // of another function that ends in m
		return
	}
	f := strings.Split(strings.ReplaceAll(params, ":", ";"), ";")
	for i := 0; i < len(f); i++ {
		n, err := strconv.Atoi(f[i])
		if f[i] == "" {
			n, err = 0, nil
		}
		if err != nil {
			continue
		}
		switch {
		case n == 0:
			*p = pen{}
		case n == 1:
			p.bold = true
		case n == 2:
			p.dim = true
		case n == 3:
			p.italic = true
		case n == 4:
			p.underline = true
		case n == 7:
			p.inverse = true
		case n == 9:
			p.strike = true
		case n == 22:
			p.bold, p.dim = false, false
		case n == 23:
			p.italic = false
		case n == 24:
			p.underline = false
		case n == 27:
			p.inverse = false
		case n == 29:
			p.strike = false
		case n >= 30 && n <= 37:
			p.fore = n - 30 + 1
		case n == 39:
			p.fore = 0
		case n >= 40 && n <= 47:
			p.back = n - 40 + 1
		case n == 49:
			p.back = 0
		case n >= 90 && n <= 97:
			p.fore = n - 90 + 9
		case n >= 100 && n <= 107:
			p.back = n - 100 + 9
		case n == 38 || n == 48:
			c, used := colour(f[i+1:])
			i += used
			if n == 38 {
				p.fore = c
			} else {
				p.back = c
			}
		}
	}
}

// colour reads the parameters behind 38 or 48: 5;N of 256 colours, or 2;R;G;B. It returns
// the nearest of the sixteen that the style sheet has, from 1, and how many parameters it
// used.
func colour(f []string) (c, used int) {
	num := func(i int) int {
		if i >= len(f) {
			return 0
		}
		n, _ := strconv.Atoi(f[i])
		return min(max(n, 0), 255)
	}
	if len(f) == 0 {
		return 0, 0
	}
	switch f[0] {
	case "5":
		n := num(1)
		switch {
		case n < 16:
			return n + 1, 2
		case n >= 232:
			g := 8 + 10*(n-232)
			return nearest(g, g, g), 2
		}
		n -= 16
		level := func(n int) int {
			if n == 0 {
				return 0
			}
			return 55 + 40*n
		}
		return nearest(level(n/36), level(n/6%6), level(n%6)), 2
	case "2":
		return nearest(num(1), num(2), num(3)), 4
	}
	return 0, 1
}

// nearest returns which of the sixteen colours is most like that one, from 1.
func nearest(r, g, b int) int {
	top := max(r, g, b)
	if top-min(r, g, b) < 32 { // grey
		switch {
		case top < 64:
			return 1
		case top < 128:
			return 9
		case top < 220:
			return 8
		}
		return 16
	}
	c := 0
	for i, v := range []int{r, g, b} {
		if v > top*6/10 {
			c |= 1 << i
		}
	}
	if top > 200 {
		return c + 9
	}
	return c + 1
}

// class returns the classes of the style sheet.
func (p *pen) class() string {
	var b []string
	if p.inverse {
		b = append(b, "inv")
	}
	if p.fore > 0 {
		b = append(b, "f"+strconv.Itoa(p.fore-1))
	}
	if p.back > 0 {
		b = append(b, "b"+strconv.Itoa(p.back-1))
	}
	for _, c := range []struct {
		on   bool
		name string
	}{{p.bold, "bold"}, {p.dim, "dim"}, {p.italic, "ital"}, {p.underline, "under"}, {p.strike, "strike"}} {
		if c.on {
			b = append(b, c.name)
		}
	}
	return strings.Join(b, " ")
}
