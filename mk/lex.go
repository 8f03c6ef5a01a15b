package mk

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// maxLine bounds a line of a mkfile outside recipes, and with it the output of
// a command, maxRecipe a recipe.
const (
	maxLine   = 64 << 20
	maxRecipe = 256 << 20
)

// unknown stands in a line for what a command that was not run would have
// printed. It cannot occur in UTF-8.
const unknown = "\xff"

// plain marks the bytes that are copied as they are outside quotes.
var plain = func() (t [256]bool) {
	for i := range t {
		t[i] = true
	}
	for _, c := range "\r\n\\'\"`#" {
		t[c] = false
	}
	return t
}()

// assemble reads the next line that is not blank, without comments and
// escaped newlines, and with the output of its commands. It returns false at
// the end of the file. What follows a NUL is dropped, as in C.
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
			line := cutNUL(b)
			return string(line), len(line) > 0
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
	return string(cutNUL(b)), true
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
	for ; c > 0; c = in.next(false) {
		if c == int(term) {
			cmd := p.runes(string(cutNUL(append(b[start:], '\n'))))
			return p.command(b[:start], cmd)
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
	return p.runes(string(cutNUL(b)))
}

func cutNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// runes returns s with each byte that is not UTF-8 replaced by U+FFFD, but
// for the byte unknown where there can be one.
func (p *parser) runes(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && s[i] == unknown[0] && !p.cfg.Exec {
			b.WriteByte(s[i])
		} else {
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}
