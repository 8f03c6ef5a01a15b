package mk

import "io"

// input is a mkfile as a stream of bytes.
type input struct {
	r        io.Reader
	buf      []byte
	pos, end int
	line     int  // the line of the next byte
	cr       bool // a \r that stood between a backslash and something else is due
	again    bool // a backslash that ends the file is read twice
	failed   bool
}

const eof = -1

func newInput(r io.Reader) *input {
	return &input{r: r, buf: make([]byte, bsize), line: 1}
}

// get returns the next byte, or eof.
func (in *input) get() int {
	if in.again {
		in.again = false
		return '\\'
	}
	if in.pos == in.end && !in.fill() {
		return eof
	}
	c := in.buf[in.pos]
	in.pos++
	return int(c)
}

// unget takes back what get returned last.
func (in *input) unget(c int) {
	if c != eof {
		in.pos--
	}
}

// fill reads more, keeping the last byte for unget.
func (in *input) fill() bool {
	for tries := 0; !in.failed && tries < 100; tries++ {
		in.pos = copy(in.buf, in.buf[max(in.end-1, 0):in.end])
		in.end = in.pos
		n, err := in.r.Read(in.buf[in.end:])
		in.end += n
		if err != nil {
			in.failed = true
		}
		if n > 0 {
			return true
		}
	}
	return false
}

// next is get without escaped newlines. They vanish, or where elide is false
// are a blank.
func (in *input) next(elide bool) int {
	if in.cr {
		in.cr = false
		return '\r'
	}
	for {
		c := in.get()
		if c == '\\' {
			c2 := in.get()
			if c2 == '\r' {
				in.cr = true
				c2 = in.get()
			}
			if c2 == '\n' {
				in.cr = false
				in.line++
				if elide {
					continue
				}
				return ' '
			}
			if c2 == eof {
				in.again = true
			}
			in.unget(c2)
		}
		if c == '\n' {
			in.line++
		}
		return c
	}
}
