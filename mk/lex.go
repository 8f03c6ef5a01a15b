package mk

import (
	"bytes"
)

// maxLine bounds a line of a mkfile outside recipes, and with it the output of
// a command, maxRecipe a recipe.
const (
	maxLine   = 64 << 20
	maxRecipe = 256 << 20
)

// unknown stands in a line for what a command that was not run would have
// printed. It cannot occur in UTF-8; a mkfile that has this byte is taken for one
// with a command there.
const unknown = "\xff"

// plain marks the bytes that are copied as they are outside quotes.
var plain = func() (t [256]bool) {
	for i := range t {
		t[i] = true
	}
	for _, c := range "\x00\r\n\\'\"`#" {
		t[c] = false
	}
	return t
}()

// assemble reads the next line that is not blank, without comments and
// escaped newlines, and with the output of its commands. It returns false at
// the end of the file.
func (p *parser) assemble() (string, bool) {
	in := p.in
	b := p.buf[:0]
	defer func() { p.buf = b }()
loop:
	for {
		if !in.cr && !in.again {
			i := in.pos
			for i < in.end && plain[in.buf[i]] {
				i++
			}
			if len(b) == 0 && i > in.pos {
				p.at = in.line
			}
			b = p.grow(append(b, in.buf[in.pos:i]...))
			in.pos = i
		}
		c := in.next(true)
		if len(b) == 0 && c != '\n' {
			p.at = in.line
		}
		switch c {
		case eof:
			return p.noNUL(b), len(b) > 0
		case 0: // at once, before anything of a program is run
			p.syntax(in.line, "NUL byte")
		case '\r':
		case '\n':
			if len(b) > 0 {
				break loop
			}
		case '\\', '\'', '"':
			b = p.escape(append(b, byte(c)), c)
		case '`':
			b = p.backquote(b)
		case '#':
			last := c
			for {
				if c = in.get(); c == eof || c == '\n' {
					break
				}
				if c != '\r' {
					last = c
				}
			}
			if c == eof {
				continue // and meet it again
			}
			in.line++
			if last != '\\' && len(b) > 0 {
				break loop
			}
		default:
			b = p.grow(append(b, byte(c)))
		}
	}
	return p.noNUL(b), true
}

// noNUL returns b as a string. It bails out where b has a NUL, from quotes or a
// command, which neither a name nor a variable can have.
func (p *parser) noNUL(b []byte) string {
	if bytes.IndexByte(b, 0) >= 0 {
		p.syntax(p.at, "NUL byte")
	}
	return string(b)
}

// grow returns b, and bails out where it is longer than a line may be.
func (p *parser) grow(b []byte) []byte { return p.bounded(b, maxLine) }

func (p *parser) bounded(b []byte, most int) []byte {
	if len(b) > most {
		p.syntax(p.in.line, "longer than %d bytes", most)
	}
	return b
}

// backquote reads a command up to its end and appends its output to b.
func (p *parser) backquote(b []byte) []byte {
	in := p.in
	line := in.line
	skip := func() (c int) {
		for c = in.get(); c == ' ' || c == '\t'; c = in.get() {
		}
		return c
	}
	term := '`' // sh's style
	c := skip()
	if c == '{' {
		term = '}' // rc's
		c = skip()
	}
	start := len(b)
	for ; c != eof; c = in.next(false) {
		if c == int(term) {
			return p.command(b[:start], string(append(b[start:], '\n')))
		}
		if c == '\n' {
			break
		}
		b = p.grow(append(b, byte(c)))
		if c == '\'' || c == '"' || c == '\\' {
			b = p.escape(b, c)
		}
	}
	p.syntax(line, "missing closing %c after `", term)
	return nil
}

// recipe reads the lines that follow a header and belong to it. One
// character of white space is cut off each; a comment that begins a line
// stays.
func (p *parser) recipe() string {
	in := p.in
	b := p.buf[:0]
	for {
		c := in.get()
		if c == '#' {
			b = append(b, '#')
		} else if c != ' ' && c != '\t' {
			in.unget(c)
			break
		}
		for c != eof && c != '\n' {
			if i := bytes.IndexByte(in.buf[in.pos:in.end], '\n'); i > 0 {
				b = append(b, in.buf[in.pos:in.pos+i]...)
				in.pos += i
			}
			if c = in.get(); c != eof {
				b = p.bounded(append(b, byte(c)), maxRecipe)
			}
		}
		if c == eof {
			break
		}
		in.line++
	}
	p.buf = b
	if len(b) == 0 {
		return ""
	}
	return string(b)
}

func cutNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}
