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

// Errors of the protocol itself. Their texts are enames.
var (
	ErrUnknownFid   = errors.New("unknown fid")
	ErrFidInUse     = errors.New("fid already in use")
	ErrNotOpen      = errors.New("file not open for this")
	ErrOpen         = errors.New("file already open")
	ErrMalformed    = errors.New("malformed message")
	ErrUnsupported  = errors.New("operation not supported")
	ErrTooMuch      = fmt.Errorf("too many requests or fids: %w", syscall.EAGAIN)
	ErrTooManyNames = errors.New("too many names in walk")
	ErrDirOffset    = errors.New("bad offset in directory read")
	ErrTag          = errors.New("tag already in use")
	ErrNoAuth       = errors.New("no authentication required")
)

// errorTable says how errors travel: as the text of an Rerror, and as the
// number of an Rlerror. The first row whose error the sender's is gives both.
// A client of the other direction takes the first row whose text ends the ename
// or whose number is the ecode. 9pfuse knows an error by words within its text,
// so the texts keep those words. The errors may be the host's own; the numbers
// are Linux's.
var errorTable = []struct {
	err   error
	ename string
	errno linux.Errno
}{
	{iofs.ErrNotExist, "file not found", linux.ENOENT},
	{context.Canceled, "interrupted", linux.EINTR},
	{context.DeadlineExceeded, "timed out", linux.ETIMEDOUT},
	{os.ErrDeadlineExceeded, "timed out", linux.ETIMEDOUT},
	{fs.ErrReadOnly, "read-only file system", linux.EROFS},
	{syscall.EACCES, "permission denied", linux.EACCES},
	{syscall.EPERM, "permission denied", linux.EPERM},
	{iofs.ErrPermission, "permission denied", linux.EACCES},
	{syscall.ENOTEMPTY, "directory not empty", linux.ENOTEMPTY}, // which is ErrExist too
	{iofs.ErrExist, "file already exists", linux.EEXIST},
	{fs.ErrIsDir, "is a directory", linux.EISDIR},
	{fs.ErrNotDir, "not a directory", linux.ENOTDIR},
	{iofs.ErrInvalid, "invalid argument", linux.EINVAL},
	{syscall.EINVAL, "invalid argument", linux.EINVAL},
	{syscall.ENOSPC, "no space left on device", linux.ENOSPC},
	{syscall.EDQUOT, "disk quota exceeded", linux.EDQUOT},
	{syscall.ENAMETOOLONG, "file name too long", linux.ENAMETOOLONG},
	{syscall.ELOOP, "too many levels of symbolic links", linux.ELOOP},
	{syscall.ENODATA, "no data available", linux.ENODATA},
	{syscall.ESTALE, "stale file handle", linux.ESTALE},
	{syscall.EAGAIN, "resource temporarily unavailable", linux.EAGAIN},
	{syscall.EPIPE, "broken pipe", linux.EPIPE},
	{syscall.EMFILE, "too many open files", linux.EMFILE},
	{syscall.EBUSY, "device or resource busy", linux.EBUSY},
	{ErrUnknownFid, "unknown fid", linux.EBADF},
	{iofs.ErrClosed, "file already closed", linux.EBADF},
	{ErrNotOpen, "file not open for this", linux.EBADF},
	{ErrOpen, "file already open", linux.EINVAL},
	{ErrFidInUse, "fid already in use", linux.EINVAL},
	{ErrTag, "tag already in use", linux.EINVAL},
	{ErrMalformed, "malformed message", linux.EINVAL},
	{ErrTooManyNames, "too many names in walk", linux.EINVAL},
	{ErrDirOffset, "bad offset in directory read", linux.EINVAL},
	{ErrNoAuth, "no authentication required", linux.ENOENT},
	{ErrUnsupported, "operation not supported", linux.EOPNOTSUPP},
	{errors.ErrUnsupported, "operation not supported", linux.EOPNOTSUPP},
	{fs.ErrIO, "input/output error", linux.EIO},
}

// maxEname keeps an error readable, and within the smallest msize.
const maxEname = 1024

// encodeError returns what a client is told of err. A file that is not there
// and one that the client must not know of have one text.
func encodeError(err error) (ename string, errno linux.Errno) {
	errno = linux.ExtractErrno(err)
	for _, e := range errorTable {
		if errors.Is(err, e.err) {
			ename, errno = e.ename, e.errno
			break
		}
	}
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

// Errno returns the number that stands for err in 9P2000.L, and in other
// protocols that know errors by Linux's numbers. It is EIO for an error that is
// not in the table and has none of its own.
func Errno(err error) linux.Errno {
	_, errno := encodeError(err)
	return errno
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
// has this text. The words of other servers for common errors are known too.
func EnameError(ename string) error {
	for _, e := range errorTable {
		if ename == e.ename {
			return e.err
		}
	}
	for _, e := range errorTable {
		if strings.HasSuffix(ename, e.ename) {
			return &remoteError{ename, e.err}
		}
	}
	for words, err := range otherEnames {
		if strings.Contains(ename, words) {
			return &remoteError{ename, err}
		}
	}
	return &remoteError{ename, nil}
}

// otherEnames are words of other servers.
var otherEnames = map[string]error{
	"does not exist":            iofs.ErrNotExist,
	"No such file or directory": iofs.ErrNotExist,
	"no such file or directory": iofs.ErrNotExist,
	"Permission denied":         iofs.ErrPermission,
	"Is a directory":            fs.ErrIsDir,
	"Not a directory":           fs.ErrNotDir,
	"Read-only file system":     fs.ErrReadOnly,
	"Interrupted system call":   context.Canceled,
	"Invalid argument":          iofs.ErrInvalid,
}
