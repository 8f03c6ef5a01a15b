package mk

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"
)

// Errors of Plan and Run that a caller may test for, besides *ExitError and the
// cause of the context's end. Of these, of *SyntaxError, and of all others that
// mk has words for, the text was already printed on Config.Stderr.
var (
	ErrNoTarget = errors.New("nothing to mk")          // no target was asked for, and the mkfile has none
	ErrNoRule   = errors.New("don't know how to make") // there is neither a file nor a rule
)

// A SyntaxError says why a mkfile, or what it includes, cannot be read.
type SyntaxError struct {
	File string // the mkfile, as it was named
	Line int    // on which what is wrong begins, from 1
	Msg  string // what is wrong, in mk's words
}

// Error is FILE:LINE: MSG.
func (e *SyntaxError) Error() string {
	return e.File + ":" + strconv.Itoa(e.Line) + ": " + e.Msg
}

// An ExitError says which recipe failed.
type ExitError struct {
	Target string // the first that the recipe was for
	Status string // "exit(1)", "signal 9"
}

// Error is the target and the status.
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
