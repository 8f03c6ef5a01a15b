package mk

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"
)

// Errors that Parse, Plan and Run return, besides *SyntaxError, *ExitError
// and the context's. Their text was already printed on Config.Stderr, in mk's
// words.
var (
	ErrNoTarget = errors.New("nothing to mk")
	ErrNoRule   = errors.New("don't know how to make")
)

// A SyntaxError is a mkfile that cannot be read. Line is the one mk names,
// which for a header is the line after it.
type SyntaxError struct {
	File string
	Line int
	Msg  string
}

func (e *SyntaxError) Error() string {
	return e.File + ":" + strconv.Itoa(e.Line) + ": " + e.Msg
}

// An ExitError is a recipe that failed.
type ExitError struct {
	Target string
	Status string // "exit(1)", "signal 9"
}

func (e *ExitError) Error() string { return e.Target + ": exit status=" + e.Status }

// bail carries an error from where mk would exit to the API's boundary.
type bail struct{ err error }

// catch is deferred by exported functions that call what may bail.
func catch(err *error) {
	switch e := recover().(type) {
	case nil:
	case bail:
		*err = e.err
	default:
		panic(e)
	}
}

// fail prints a message in mk's words and bails out.
func (o *output) fail(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	o.error("mk: " + msg + "\n")
	panic(bail{errors.New(msg)})
}

// errno returns an error in C's spelling, "No such file or directory".
func errno(err error) string {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return err.Error()
	}
	if s, ok := cSpelling[e]; ok {
		return s
	}
	s := []byte(e.Error())
	if len(s) > 0 && 'a' <= s[0] && s[0] <= 'z' {
		s[0] -= 'a' - 'A'
	}
	return string(s)
}

// cSpelling is where strerror(3) differs from Go's text by more than the
// first letter.
var cSpelling = map[syscall.Errno]string{
	syscall.EIO:   "Input/output error",
	syscall.ENXIO: "No such device or address",
}
