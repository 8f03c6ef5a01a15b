package mk

import (
	"strings"
	"unicode/utf8"
)

// A shell is the program that recipes and commands are written for, and the
// dialect that decides how a mkfile quotes.
type shell struct {
	*dialect
	argv []string
}

// dialect is what differs between sh's mkfiles and rc's.
type dialect struct {
	name string
	sep  string // joins the words of a variable in the environment
	rc   bool
}

var (
	shDialect = &dialect{name: "sh", sep: " "}
	rcDialect = &dialect{name: "rc", sep: "\x01", rc: true}
)

// newShell returns the shell that a value of MKSHELL names. It is rc if the
// last element of the path begins so.
func newShell(argv []string) *shell {
	name := argv[0][strings.LastIndexByte(argv[0], '/')+1:]
	if strings.HasPrefix(name, "rc") {
		return &shell{rcDialect, argv}
	}
	return &shell{shDialect, argv}
}

// quotes tells whether c begins a quoted string.
func (d *dialect) quotes(c byte) bool { return c == '\'' || c == '"' && !d.rc }

// closing returns the index in s of the quote c that ends a string begun
// before i, or -1.
func (d *dialect) closing(s string, i int, c byte) int {
	for ; i < len(s); i++ {
		switch {
		case s[i] == c:
			if !d.rc || i+1 >= len(s) || s[i+1] != '\'' {
				return i
			}
			i++
		case s[i] == '\\' && !d.rc:
			i++
		}
	}
	return -1
}

// charin returns the index of the first byte of s that is in set and neither
// quoted nor inside ${...}, or -1. Quotes and braces that do not end are
// reported, and nothing is found behind them.
func (p *parser) charin(s, set string) int {
	vargen := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && !p.shell.rc:
			i++
		case p.shell.quotes(c):
			j := p.shell.closing(s, i+1, c)
			if j < 0 {
				p.report(p.at, "missing closing '")
				return -1
			}
			i = j
		case c == '$':
			if i+1 < len(s) && s[i+1] == '{' {
				vargen = true
			}
		case c == '}' && vargen:
			vargen = false
		case !vargen && strings.IndexByte(set, c) >= 0:
			return i
		}
	}
	if vargen {
		p.report(p.at, "missing closing } in pattern generator")
	}
	return -1
}

// unquote appends to b the string of s that the quote or backslash c, just
// before s, begins. It returns what follows; ok is false where the string
// does not end.
func (d *dialect) unquote(b []byte, s string, c byte) (_ []byte, rest string, ok bool) {
	switch {
	case d.rc && c != '\'':
		return append(b, c), s, true
	case d.rc:
		for i := 0; i < len(s); i++ {
			if s[i] == '\'' {
				if i+1 >= len(s) || s[i+1] != '\'' {
					return b, s[i+1:], true
				}
				i++
			}
			b = append(b, s[i])
		}
		return b, "", false
	case c == '\\':
		if s == "" {
			return b, s, true
		}
		_, n := utf8.DecodeRuneInString(s)
		return append(b, s[:n]...), s[n:], true
	}
	for i := 0; i < len(s); i++ {
		if s[i] == c {
			return b, s[i+1:], true
		}
		if s[i] == '\\' {
			b = append(b, '\\')
			if i++; i == len(s) {
				break
			}
		}
		b = append(b, s[i])
	}
	return b, "", false
}

// escape reads the rest of a token that c, a quote or a backslash already in
// b, begins. The quotes stay in b.
func (p *parser) escape(b []byte, c int) []byte {
	in := p.in
	rc := p.shell.rc
	if rc && c != '\'' {
		in.again = false
		return b
	}
	line := in.line
	if c == '\\' {
		if c = in.get(); c == '\r' {
			c = in.get()
		}
		if c == '\n' {
			in.line++
		}
		if c == eof {
			return b
		}
		return append(b, byte(c))
	}
	quote := c
	for {
		c = in.next(false)
		if rc {
			in.again = false
		}
		switch {
		case c == eof:
			p.syntax(line, "missing closing %c", quote)
		case c == quote:
			b = append(b, byte(c))
			if !rc {
				return b
			}
			if c = in.get(); c == eof {
				p.syntax(line, "missing closing %c", quote)
			}
			if c != quote {
				in.unget(c)
				return b
			}
		case c == '\\' && !rc:
			b = append(b, '\\')
			if c = in.get(); c == '\r' {
				c = in.get()
			}
			if c == eof {
				p.syntax(line, "missing closing %c", quote)
			}
			if c == '\n' {
				in.line++
			}
		}
		b = p.grow(append(b, byte(c)))
	}
}

// copyQuoted returns the length of the quoted or backquoted string at the
// beginning of s, behind the byte c that was just copied. The echo of a
// recipe expands nothing in it.
func (d *dialect) copyQuoted(s string, c byte) int {
	if d.quotes(c) {
		if i := strings.IndexByte(s, c); i >= 0 {
			return i + 1
		}
		return len(s)
	}
	if c != '`' {
		return 0
	}
	end := byte('`')
	if d.rc {
		end = '}'
	}
	for i := 0; i < len(s); {
		c = s[i]
		i++
		if c == end {
			return i
		}
		if d.quotes(c) {
			i += d.copyQuoted(s[i:], c)
		}
	}
	return len(s)
}
