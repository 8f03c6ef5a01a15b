package wire

import (
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Stretch is a part of a file that is sent without being copied: the kernel
// moves its pages from file to socket.
type Stretch struct {
	File syscall.RawConn
	Off  int64
	Len  int
	Done func() // called once, when File is not needed any more; must not block
}

// sendsFiles returns the socket behind w, if it is one that takes files.
func sendsFiles(w io.Writer) syscall.RawConn {
	switch c := w.(type) {
	case *net.UnixConn:
		raw, _ := c.SyscallConn()
		return raw
	case *net.TCPConn:
		raw, _ := c.SyscallConn()
		return raw
	}
	return nil
}

// send sends all of f. The frame has said how long it is: if the file has
// become shorter, the connection is of no use any more.
func (f *Stretch) send(sock syscall.RawConn) error {
	off, left := f.Off, f.Len
	var sendErr error
	move := func(src int) error {
		return sock.Write(func(dst uintptr) bool {
			for left > 0 {
				n, err := unix.Sendfile(int(dst), src, &off, left)
				switch {
				case err == unix.EINTR:
				case err == unix.EAGAIN:
					return false
				case err != nil:
					sendErr = err
					return true
				case n == 0:
					sendErr = io.ErrUnexpectedEOF
					return true
				}
				left -= max(n, 0)
			}
			return true
		})
	}
	var sockErr error
	err := f.File.Control(func(src uintptr) { sockErr = move(int(src)) })
	for _, e := range []error{err, sockErr, sendErr} {
		if e != nil {
			return fmt.Errorf("send file: %w", e)
		}
	}
	return nil
}
