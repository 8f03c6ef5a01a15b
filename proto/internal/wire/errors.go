package wire

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"strings"
	"syscall"

	"9ci/fs"
	"9ci/proto/internal/linux"

	"9fans.net/go/plan9"
)

// Errors of the protocol itself, which tell more than the rows of errorTable that
// they are.
var (
	ErrUnknownFid   = fmt.Errorf("unknown fid: %w", syscall.EBADF)
	ErrNotOpen      = fmt.Errorf("file not open for this: %w", syscall.EBADF)
	ErrFidInUse     = fmt.Errorf("fid already in use: %w", iofs.ErrInvalid)
	ErrOpen         = fmt.Errorf("file already open: %w", iofs.ErrInvalid)
	ErrMalformed    = fmt.Errorf("malformed message: %w", iofs.ErrInvalid)
	ErrTooManyNames = fmt.Errorf("too many names in walk: %w", iofs.ErrInvalid)
	ErrDirOffset    = fmt.Errorf("bad offset in directory read: %w", iofs.ErrInvalid)
	ErrTag          = fmt.Errorf("tag already in use: %w", iofs.ErrInvalid)
	ErrTooMuch      = fmt.Errorf("too many requests or fids: %w", fs.ErrBusy)
	ErrUnsupported  = errors.ErrUnsupported
	ErrNoAuth       = errors.New("no authentication required")
)

// errorTable says how errors travel: as the text of an Rerror, and as the
// number of an Rlerror. The first row whose error the sender's is gives both.
// A client of the other direction takes the first row whose text ends the ename
// or whose number is the ecode. The errors may be the host's own; the numbers
// are Linux's.
//
// The texts are those of Linux's net/9p/error.c, which compares whole texts and
// case; it gives 526 for any other. 9pfuse looks for words, whatever their case,
// and finds the same number where it knows that number at all. The text of
// ErrNoAuth is the one exception: it answers Tauth, which neither client sends.
var errorTable = []struct {
	err   error
	ename string
	errno linux.Errno
}{
	{iofs.ErrNotExist, "file not found", linux.ENOENT},
	{context.Canceled, "Interrupted system call", linux.EINTR},
	{context.DeadlineExceeded, "Connection timed out", linux.ETIMEDOUT},
	{os.ErrDeadlineExceeded, "Connection timed out", linux.ETIMEDOUT},
	{fs.ErrReadOnly, "Read-only file system", linux.EROFS},
	{syscall.EACCES, "Permission denied", linux.EACCES},
	{syscall.EPERM, "Operation not permitted", linux.EPERM},
	{iofs.ErrPermission, "Permission denied", linux.EACCES},
	{syscall.ENOTEMPTY, "Directory not empty", linux.ENOTEMPTY}, // which is ErrExist too
	{iofs.ErrExist, "File exists", linux.EEXIST},
	{fs.ErrIsDir, "Is a directory", linux.EISDIR},
	{fs.ErrNotDir, "Not a directory", linux.ENOTDIR},
	{iofs.ErrInvalid, "Invalid argument", linux.EINVAL},
	{syscall.EINVAL, "Invalid argument", linux.EINVAL},
	{syscall.ENOSPC, "No space left on device", linux.ENOSPC},
	{syscall.EDQUOT, "Disk quota exceeded", linux.EDQUOT},
	{syscall.ENAMETOOLONG, "File name too long", linux.ENAMETOOLONG},
	{syscall.ELOOP, "Too many levels of symbolic links", linux.ELOOP},
	{syscall.ENODATA, "No data available", linux.ENODATA},
	{fs.ErrBusy, "Resource temporarily unavailable", linux.EAGAIN},
	{syscall.EPIPE, "Broken pipe", linux.EPIPE},
	{syscall.EMFILE, "Too many open files", linux.EMFILE},
	{syscall.EBUSY, "Device or resource busy", linux.EBUSY},
	{syscall.EBADF, "Bad file descriptor", linux.EBADF},
	{iofs.ErrClosed, "Bad file descriptor", linux.EBADF},
	{errors.ErrUnsupported, "Operation not supported", linux.EOPNOTSUPP},
	{ErrNoAuth, "no authentication required", linux.ENOENT},
	{fs.ErrIO, "Input/output error", linux.EIO},
}

// Errors returns the errors that travel as one text and one number in both
// dialects. Tests ask real clients what they make of each.
func Errors() (errs []error) {
	for _, e := range errorTable {
		if e.err != ErrNoAuth {
			errs = append(errs, e.err)
		}
	}
	return errs
}

// maxEname keeps an error readable, and within the smallest msize.
const maxEname = 1024

// encodeError returns what a client is told of err. A file that is not there
// and one that the client must not know of have one text.
func encodeError(err error) (ename string, errno linux.Errno) {
	ename, errno = number(err)
	if errno == linux.ENOENT && ename == "file not found" {
		return ename, errno
	}
	if pe, ok := err.(*iofs.PathError); ok { // its path is the host's, and not for clients
		err = pe.Err
	}
	text := err.Error()
	switch {
	case ename == "" || text == ename || strings.HasSuffix(text, ": "+ename):
		ename = text
	case text == unwrapText(err):
		// The error itself, in other words than the table's.
	default:
		ename = strings.TrimSuffix(text, ": "+unwrapText(err)) + ": " + ename
	}
	ename = strings.Join(strings.FieldsFunc(ename, func(r rune) bool { return r == '\n' || r == 0 }), "; ")
	if len(ename) > maxEname {
		ename = ename[:maxEname]
	}
	return ename, errno
}

// number returns what stands for err in errorTable. An error that is not there but
// has a number of its own has strerror(3)'s text, as Linux spells it, and one that
// has none has no text and is EIO.
func number(err error) (ename string, errno linux.Errno) {
	for _, e := range errorTable {
		if errors.Is(err, e.err) {
			return e.ename, e.errno
		}
	}
	errno = linux.ExtractErrno(err)
	var host syscall.Errno
	var own linux.Errno
	if errors.As(err, &host) || errors.As(err, &own) {
		text := errno.Error()
		ename = strings.ToUpper(text[:1]) + text[1:]
	}
	return ename, errno
}

// Errno returns the number that stands for err in 9P2000.L, and in other
// protocols that know errors by Linux's numbers. It is EIO for an error that is
// not in the table and has none of its own.
func Errno(err error) linux.Errno {
	_, errno := number(err)
	return errno
}

// Ename returns the text that stands for err in 9P2000, and in other protocols
// whose errors have a text.
func Ename(err error) string {
	ename, _ := encodeError(err)
	return ename
}

// AppendError appends the R-message that tells of err in dialect d, which is
// Rlerror in 9P2000.L and Rerror in any other.
func AppendError(b []byte, d Dialect, tag uint16, err error) []byte {
	start := len(b)
	ename, errno := encodeError(err)
	if d == DotL {
		b = Begin(b, Rlerror, tag)
		b = le.AppendUint32(b, uint32(errno))
	} else {
		b = Begin(b, plan9.Rerror, tag)
		b = AppendString(b, ename)
	}
	return End(b, start)
}

// unwrapText is the text of the innermost error in err.
func unwrapText(err error) string {
	for {
		e := errors.Unwrap(err)
		if e == nil {
			return err.Error()
		}
		err = e
	}
}

// ErrnoError returns the error that the number of an Rlerror stands for:
// fs.ErrIO for a number that Linux cannot have given, and an Errno for one that
// is not in the table.
func ErrnoError(n uint32) error {
	for _, e := range errorTable {
		if uint32(e.errno) == n {
			return e.err
		}
	}
	if n == 0 || n > 4095 { // MAX_ERRNO of linux/err.h
		return fs.ErrIO
	}
	return linux.Errno(n)
}

// A remoteError is an ename that says more than the error it means.
type remoteError struct {
	ename string
	err   error
}

func (e *remoteError) Error() string { return e.ename }
func (e *remoteError) Unwrap() error { return e.err }

// EnameError returns the error that the text of an Rerror stands for, and that
// has this text. Case does not matter. The words of other servers for common errors
// are known too.
func EnameError(ename string) error {
	for _, e := range errorTable {
		if strings.EqualFold(ename, e.ename) {
			return e.err
		}
	}
	lower := strings.ToLower(ename)
	for _, e := range errorTable {
		if strings.HasSuffix(lower, strings.ToLower(e.ename)) {
			return &remoteError{ename, e.err}
		}
	}
	for words, err := range otherEnames {
		if strings.Contains(lower, words) {
			return &remoteError{ename, err}
		}
	}
	return &remoteError{ename, nil}
}

// otherEnames are words of other servers, in lower case.
var otherEnames = map[string]error{
	"does not exist":            iofs.ErrNotExist,
	"no such file or directory": iofs.ErrNotExist,
	"already exists":            iofs.ErrExist,
	"unknown fid":               ErrUnknownFid,
	"interrupted":               context.Canceled,
	"timed out":                 context.DeadlineExceeded,
}
