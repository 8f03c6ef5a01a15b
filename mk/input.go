package mk

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// input is a mkfile as a stream of bytes.
type input struct {
	r        io.Reader
	buf      []byte
	pos, end int
	line     int   // the line of the next byte
	cr       bool  // a \r that stood between a backslash and something else is due
	again    bool  // a backslash that ends the file is read twice
	err      error // of r, io.EOF at its end
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
	keep := min(in.end, 1)
	copy(in.buf, in.buf[in.end-keep:in.end])
	in.pos, in.end = keep, keep
	for tries := 0; in.err == nil && tries < 100; tries++ {
		var n int
		n, in.err = in.r.Read(in.buf[in.end:])
		if in.end += n; n > 0 {
			return true
		}
	}
	if in.err == nil {
		in.err = io.ErrNoProgress
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
