package mk

import (
	"io"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

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
	return &input{r: r, buf: make([]byte, bsize+utf8.UTFMax), line: 1}
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

// fill reads more, keeping the last byte for unget. It reads on where the
// bytes end inside a rune; if the file does too, that rune is not there.
func (in *input) fill() bool {
	keep := min(in.end, 1)
	copy(in.buf, in.buf[in.end-keep:in.end])
	in.pos, in.end = keep, keep
	for tries := 0; !in.failed && tries < 100; tries++ {
		n, err := in.r.Read(in.buf[in.end : len(in.buf)-utf8.UTFMax])
		in.end += n
		part := partial(in.buf[in.pos:in.end])
		if err != nil {
			in.failed = true
			in.end -= part
		} else if part > 0 {
			continue
		}
		if in.end > in.pos {
			return true
		}
	}
	return false
}

// partial returns how many bytes at the end of b are the beginning of a rune
// or, since bio(3) looks at so many at once, might have been.
func partial(b []byte) int {
	i := max(len(b)-utf8.UTFMax, 0)
	for i > 0 && b[i-1] >= utf8.RuneSelf {
		i-- // to where a rune is sure to begin
	}
	for i < len(b) {
		need := 1
		switch c := b[i]; {
		case c >= 0xf0:
			need = 4
		case c >= 0xe0:
			need = 3
		case c >= utf8.RuneSelf:
			need = 2
		}
		if need > len(b)-i {
			return len(b) - i
		}
		_, n := utf8.DecodeRune(b[i:])
		i += n
	}
	return 0
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

// file is a descriptor that is read and written without the runtime's poller,
// which takes longer to set up than a mkfile to read, and without os.File, which
// makes of EPIPE on descriptors 1 and 2 the end of the process.
type file int

func openFile(name string) (file, error) {
	for {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != syscall.EINTR {
			return file(fd), err
		}
	}
}

func (f file) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(f), b)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (f file) Write(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := syscall.Write(int(f), b[n:])
		switch err {
		case nil:
			n += m
		case syscall.EINTR:
		case syscall.EAGAIN: // another program has made it non-blocking
			unix.Poll([]unix.PollFd{{Fd: int32(f), Events: unix.POLLOUT}}, -1)
		default:
			return n, err
		}
	}
	return n, nil
}

func (f file) Close() error { return syscall.Close(int(f)) }
