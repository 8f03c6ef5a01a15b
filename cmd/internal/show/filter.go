package show

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// A filter lets text through and, of the control functions of ECMA-48, SGR alone
// (ESC [ ... m). The result is UTF-8: other bytes become U+FFFD, as terminals show
// them, so that no terminal that reads single bytes finds a C1 control there.
type filter struct {
	state state
	seq   []byte // a control sequence that has not ended
	rest  []byte // a character that has not ended

	// What the output has done to the terminal:
	line change // begun: the cursor is within a line
	ink  change // begun: colours, or other modes of SGR, are on
}

// A change is what a filter has done to the terminal since [Writer.content] last
// looked.
type change uint8

const (
	none change = iota
	begun
	ended
)

// A state says what the next character belongs to.
type state uint8

const (
	plain  state = iota
	escape       // ESC was read
	inter        // ESC and an intermediate character
	csi          // a control sequence
	str          // a control string (DCS, SOS, OSC, PM, APC) up to ST or BEL
	strEsc       // ESC within one
)

const (
	esc = 0x1b
	bel = 0x07
	can = 0x18
	sub = 0x1a
	del = 0x7f

	// C1 controls, as characters.
	dcs   = 0x90
	sos   = 0x98
	csiC1 = 0x9b
	st    = 0x9c
	osc   = 0x9d
	pm    = 0x9e
	apc   = 0x9f
)

// maxSequence is the length in bytes of the longest SGR that is let through.
const maxSequence = 64

// append appends to out what is let through of p, and of the bytes held back
// before.
func (f *filter) append(out, p []byte) []byte {
	if len(f.rest) > 0 {
		p = append(f.rest, p...)
		f.rest = nil
	}
	for len(p) > 0 {
		if !utf8.FullRune(p) {
			f.rest = append(f.rest, p...)
			break
		}
		r, n := utf8.DecodeRune(p)
		out = f.step(out, r)
		p = p[n:]
	}
	return out
}

// end appends what was held back, when no more bytes come.
func (f *filter) end(out []byte) []byte {
	for range f.rest {
		out = f.step(out, utf8.RuneError)
	}
	f.rest, f.state = nil, plain
	return out
}

func (f *filter) step(out []byte, r rune) []byte {
	was := f.state
	switch was {
	case escape:
		switch {
		case r == esc:
			return out
		case r == '[':
			f.state, f.seq = csi, append(f.seq[:0], esc, '[')
			return out
		case strings.ContainsRune("PX]^_", r):
			f.state = str
			return out
		case r >= ' ' && r <= '/':
			f.state = inter
			return out
		case r >= '0' && r < del:
			f.state = plain
			return out
		}
	case inter:
		if r >= ' ' && r <= '/' {
			return out
		}
		if r >= '0' && r < del {
			f.state = plain
			return out
		}
	case csi:
		switch {
		case r >= ' ' && r <= '?':
			if len(f.seq) <= maxSequence {
				f.seq = append(f.seq, byte(r))
			}
			return out
		case r >= '@' && r < del:
			f.state = plain
			if r == 'm' {
				out = f.sgr(out)
			}
			return out
		}
	case str, strEsc:
		switch {
		case was == strEsc && r == '\\', r == st, r == bel, r == can, r == sub:
			f.state = plain
			return out
		case r == '\n': // a control string hides one line at most
		case r == esc:
			f.state = strEsc
			return out
		default:
			f.state = str
			return out
		}
	}
	// r is text, or a control that ends the sequence before it.
	f.state = plain
	switch {
	case r == esc:
		f.state = escape
	case r == csiC1:
		f.state, f.seq = csi, f.seq[:0]
	case r == dcs, r == sos, r == osc, r == pm, r == apc:
		f.state = str
	case r == '\n', r == '\t', r == '\r', r == '\b', r >= ' ' && r < del, r > apc:
		if f.line = begun; r == '\n' {
			f.line = ended
		}
		return utf8.AppendRune(out, r)
	}
	return out
}

// sgr appends the sequence that has ended, if it is an SGR in its seven-bit form
// with nothing but parameters.
func (f *filter) sgr(out []byte) []byte {
	args, ok := bytes.CutPrefix(f.seq, []byte("\x1b["))
	if !ok || len(f.seq) > maxSequence {
		return out
	}
	for _, c := range args {
		if c < '0' || c > ';' {
			return out
		}
	}
	if f.ink = begun; strings.Trim(string(args), "0;:") == "" {
		f.ink = ended
	}
	return append(append(out, f.seq...), 'm')
}
