package sh

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// A script's descriptors are a map to ours, all of which are closed on exec: the
// runtime of Go has some open below 10, which must not be replaced. Each is in the
// map once. A command that is started gets them under the script's numbers.

// inherited returns the descriptors that the shell was started with.
func inherited() map[int]int {
	fds := make(map[int]int)
	for n := range 10 {
		flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.CloseOnExec(n)
			fds[n] = n
		}
	}
	return fds
}

// replaced is a descriptor that a redirection has replaced; fd is -1 if there was
// none.
type replaced struct{ n, fd int }

// redirect does redirections in order, until one fails, and then says so. It returns
// what end has to be given.
func (s *shell) redirect(list []*syntax.Redirect) (undo []replaced, ok bool) {
	for _, rd := range list {
		n, fd, ok := s.open(rd)
		if !ok {
			return undo, false
		}
		old, had := s.fds[n]
		if !had {
			old = -1
		}
		undo = append(undo, replaced{n, old})
		if s.fds[n] = fd; fd < 0 {
			delete(s.fds, n)
		}
	}
	return undo, true
}

// end takes redirections back, or makes them stay.
func (s *shell) end(undo []replaced, stay bool) {
	for _, r := range slices.Backward(undo) {
		drop := r.fd
		if !stay {
			var has bool
			if drop, has = s.fds[r.n]; !has {
				drop = -1
			}
			if s.fds[r.n] = r.fd; r.fd < 0 {
				delete(s.fds, r.n)
			}
		}
		if drop >= 0 {
			syscall.Close(drop)
		}
	}
}

// open returns the descriptor that a redirection is of, and what it is to be: -1 if
// it is to be closed.
func (s *shell) open(rd *syntax.Redirect) (n, fd int, ok bool) {
	n = 1
	flags := syscall.O_RDONLY
	switch rd.Op {
	case syntax.RdrIn, syntax.Hdoc, syntax.DashHdoc, syntax.DplIn:
		n = 0
	case syntax.RdrInOut:
		n, flags = 0, syscall.O_RDWR|syscall.O_CREAT
	case syntax.RdrOut:
		flags = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_TRUNC
	case syntax.RdrClob:
		flags = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_TRUNC
	case syntax.AppOut:
		flags = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_APPEND
	case syntax.DplOut:
	default:
		s.refuse(rd.Op.String())
		return 0, 0, false
	}
	if rd.N != nil {
		var err error
		if n, err = strconv.Atoi(rd.N.Value); err != nil || n > 9 {
			s.fail("%s: descriptors are 0 to 9", rd.N.Value)
			return 0, 0, false
		}
	}
	if rd.Op == syntax.Hdoc || rd.Op == syntax.DashHdoc {
		fd, ok = s.hereDocument(rd)
		return n, fd, ok
	}
	arg, ok := s.literal(rd.Word)
	if !ok {
		return 0, 0, false
	}
	if rd.Op == syntax.DplIn || rd.Op == syntax.DplOut {
		fd, ok = s.duplicate(arg)
		return n, fd, ok
	}
	if rd.Op == syntax.RdrOut && s.opts['C'] {
		if fi, err := os.Stat(arg); err == nil && fi.Mode().IsRegular() {
			s.errorf("cannot create %s: File exists", arg)
			return 0, 0, false
		}
	}
	fd, err := openFile(arg, flags)
	if err != nil {
		verb, why := "open", reason(err)
		if flags&syscall.O_CREAT != 0 {
			verb = "create"
		}
		if err == syscall.ENOENT {
			why = map[string]string{"open": "No such file", "create": "Directory nonexistent"}[verb]
		}
		s.errorf("cannot %s %s: %s", verb, arg, why)
		return 0, 0, false
	}
	return n, fd, true
}

func openFile(name string, flags int) (fd int, err error) {
	for {
		fd, err = syscall.Open(name, flags|syscall.O_CLOEXEC, 0o666)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}

// duplicate returns a copy of a descriptor of the script, -1 for "-".
func (s *shell) duplicate(arg string) (fd int, ok bool) {
	if arg == "-" {
		return -1, true
	}
	from, err := strconv.Atoi(arg)
	if err != nil {
		s.fail("Syntax error: Bad fd number")
		return 0, false
	}
	if fd, ok = s.fds[from]; !ok {
		s.errorf("%d: Bad file descriptor", from)
		return 0, false
	}
	if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 10); err != nil {
		s.errorf("%d: %s", from, reason(err))
	}
	return fd, err == nil
}

// hereDocument returns a descriptor of a here-document.
func (s *shell) hereDocument(rd *syntax.Redirect) (fd int, ok bool) {
	text, ok := s.hereText(rd)
	if !ok {
		return 0, false
	}
	fd, err := memory("here-document", []byte(text))
	if err != nil {
		s.errorf("cannot make a here-document: %s", reason(err))
	}
	return fd, err == nil
}

// memory returns a descriptor to read text from: a file in memory.
func memory(name string, text []byte) (fd int, err error) {
	if fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC); err != nil {
		return -1, err
	}
	if err = writeAll(fd, text); err == nil {
		_, err = syscall.Seek(fd, 0, io.SeekStart)
	}
	if err != nil {
		syscall.Close(fd)
	}
	return fd, err
}

func (s *shell) hereText(rd *syntax.Redirect) (string, bool) {
	if rd.Hdoc == nil {
		return "", true
	}
	quoted := false
	for _, part := range rd.Word.Parts {
		lit, ok := part.(*syntax.Lit)
		quoted = quoted || !ok || strings.Contains(lit.Value, "\\")
	}
	body := rd.Hdoc
	if rd.Op == syntax.DashHdoc {
		body = withoutTabs(body)
	}
	if quoted {
		var b strings.Builder
		for _, part := range body.Parts {
			if lit, ok := part.(*syntax.Lit); ok {
				b.WriteString(lit.Value)
			}
		}
		return b.String(), true
	}
	return s.document(body)
}

// withoutTabs removes the tabs that lines begin with.
func withoutTabs(w *syntax.Word) *syntax.Word {
	out := new(syntax.Word)
	start := true // of a line
	for _, part := range w.Parts {
		lit, ok := part.(*syntax.Lit)
		if !ok {
			start = false
			out.Parts = append(out.Parts, part)
			continue
		}
		var b strings.Builder
		for line := range strings.Lines(lit.Value) {
			if start {
				line = strings.TrimLeft(line, "\t")
			}
			b.WriteString(line)
			start = strings.HasSuffix(line, "\n")
		}
		stripped := *lit
		stripped.Value = b.String()
		out.Parts = append(out.Parts, &stripped)
	}
	return out
}

// write writes to a descriptor of the script. A reader that has gone ends the
// shell, as SIGPIPE would, unless that is trapped.
func (s *shell) write(n int, b []byte) error {
	fd, ok := s.fds[n]
	if !ok {
		return syscall.EBADF
	}
	err := writeAll(fd, b)
	if err == syscall.EPIPE && !s.traps.has(int(syscall.SIGPIPE)) {
		os.Exit(128 + int(syscall.SIGPIPE))
	}
	return err
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		switch err {
		case nil:
			b = b[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		default:
			return err
		}
	}
	return nil
}

// fdReader reads from a descriptor of the script.
type fdReader struct {
	s *shell
	n int
}

func (r *fdReader) Read(b []byte) (int, error) {
	fd, ok := r.s.fds[r.n]
	if !ok {
		return 0, syscall.EBADF
	}
	return readFD(fd, b)
}

func readFD(fd int, b []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, b)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
