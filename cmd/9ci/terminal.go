package main

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/term"
)

// terminal returns w, or where it is a terminal a writer that lets no escapes
// through but those for colour: what a test prints must not move the cursor,
// set the title or answer for the user.
func terminal(f *os.File, raw bool) io.Writer {
	if raw || !term.IsTerminal(int(f.Fd())) {
		return f
	}
	return &sanitizer{w: f}
}

// A sanitizer passes on text, and of ECMA-48's control sequences only SGR
// (CSI ... m).
type sanitizer struct {
	w     io.Writer
	state escape
	seq   []byte // a control sequence that has not ended
}

// An escape is what the next byte belongs to.
type escape uint8

const (
	plain   escape = iota
	esc            // ESC was read
	csi            // ESC [
	str            // an OSC, DCS, PM, APC or SOS, whose end is ESC \ or BEL
	strEsc         // ESC within one
	charset        // ESC and an intermediate byte
)

// maxSequence is the longest SGR that is passed on.
const maxSequence = 64

func (s *sanitizer) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p))
	for _, c := range p {
		switch s.state {
		case plain:
			switch {
			case c == 0x1b:
				s.state = esc
			case c >= ' ' && c != 0x7f || bytes.IndexByte([]byte("\t\n\r\b"), c) >= 0:
				out = append(out, c)
			}
		case esc:
			switch {
			case c == '[':
				s.state, s.seq = csi, append(s.seq[:0], 0x1b, '[')
			case bytes.IndexByte([]byte("]PX^_"), c) >= 0:
				s.state = str
			case c >= ' ' && c <= '/':
				s.state = charset
			default:
				s.state = plain
			}
		case csi:
			if len(s.seq) <= maxSequence {
				s.seq = append(s.seq, c)
			}
			if c >= '@' && c <= '~' {
				if c == 'm' && len(s.seq) <= maxSequence && !bytes.ContainsAny(s.seq[2:], "<=>? !\"#$%&'()*+,-./") {
					out = append(out, s.seq...)
				}
				s.state = plain
			} else if c < ' ' || c > '?' {
				s.state = plain
			}
		case str:
			if c == 0x1b {
				s.state = strEsc
			} else if c == 0x07 {
				s.state = plain
			}
		case strEsc:
			if s.state = str; c == '\\' {
				s.state = plain
			}
		case charset:
			if c < ' ' || c > '/' {
				s.state = plain
			}
		}
	}
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
