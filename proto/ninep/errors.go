package ninep

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"strings"
	"syscall"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// Errors of the protocol itself. Their texts are enames.
var (
	errUnknownFid   = errors.New("unknown fid")
	errFidInUse     = errors.New("fid already in use")
	errNotOpen      = errors.New("file not open for this")
	errOpen         = errors.New("file already open")
	errMalformed    = errors.New("malformed message")
	errUnsupported  = errors.New("operation not supported")
	errTooMuch      = errors.New("too many requests or fids")
	errTooManyNames = errors.New("too many names in walk")
	errDirOffset    = errors.New("bad offset in directory read")
	errTag          = errors.New("tag already in use")
	errNoAuth       = errors.New("no authentication required")
	errInterrupted  = errors.New("interrupted")
)

// errorTable is how errors travel: as the text of an Rerror and as the number
// of an wire.Rlerror. The first row that an error is gives both; 9pfuse knows an
// error by words within its text, so texts keep these. In the other direction
// the first row whose text ends an ename, or whose number is the ecode, gives
// the error.
var errorTable = []struct {
	err   error
	ename string
	errno syscall.Errno
}{
	{iofs.ErrNotExist, "file not found", syscall.ENOENT},
	{context.Canceled, "interrupted", syscall.EINTR},
	{errInterrupted, "interrupted", syscall.EINTR},
	{context.DeadlineExceeded, "timed out", syscall.ETIMEDOUT},
	{os.ErrDeadlineExceeded, "timed out", syscall.ETIMEDOUT},
	{fs.ErrReadOnly, "read-only file system", syscall.EROFS},
	{syscall.EACCES, "permission denied", syscall.EACCES},
	{syscall.EPERM, "permission denied", syscall.EPERM},
	{iofs.ErrPermission, "permission denied", syscall.EACCES},
	{syscall.ENOTEMPTY, "directory not empty", syscall.ENOTEMPTY}, // which is ErrExist too
	{iofs.ErrExist, "file already exists", syscall.EEXIST},
	{fs.ErrIsDir, "is a directory", syscall.EISDIR},
	{fs.ErrNotDir, "not a directory", syscall.ENOTDIR},
	{iofs.ErrInvalid, "invalid argument", syscall.EINVAL},
	{syscall.EINVAL, "invalid argument", syscall.EINVAL},
	{syscall.ENOSPC, "no space left on device", syscall.ENOSPC},
	{syscall.EDQUOT, "disk quota exceeded", syscall.EDQUOT},
	{syscall.ENAMETOOLONG, "file name too long", syscall.ENAMETOOLONG},
	{syscall.ELOOP, "too many levels of symbolic links", syscall.ELOOP},
	{syscall.ENODATA, "no data available", syscall.ENODATA},
	{syscall.ESTALE, "stale file handle", syscall.ESTALE},
	{syscall.EAGAIN, "resource temporarily unavailable", syscall.EAGAIN},
	{syscall.EPIPE, "broken pipe", syscall.EPIPE},
	{syscall.EMFILE, "too many open files", syscall.EMFILE},
	{syscall.EBUSY, "device or resource busy", syscall.EBUSY},
	{errUnknownFid, "unknown fid", syscall.EBADF},
	{iofs.ErrClosed, "file already closed", syscall.EBADF},
	{errNotOpen, "file not open for this", syscall.EBADF},
	{errOpen, "file already open", syscall.EINVAL},
	{errFidInUse, "fid already in use", syscall.EINVAL},
	{errTag, "tag already in use", syscall.EINVAL},
	{errMalformed, "malformed message", syscall.EINVAL},
	{errTooManyNames, "too many names in walk", syscall.EINVAL},
	{errDirOffset, "bad offset in directory read", syscall.EINVAL},
	{errTooMuch, "too many requests or fids", syscall.EAGAIN},
	{errNoAuth, "no authentication required", syscall.ENOENT},
	{errUnsupported, "operation not supported", syscall.EOPNOTSUPP},
	{errors.ErrUnsupported, "operation not supported", syscall.EOPNOTSUPP},
	{fs.ErrIO, "input/output error", syscall.EIO},
}

// maxEname keeps an error readable, and within the smallest msize.
const maxEname = 1024

// encodeError returns what a client is told of err. A file that is not there
// and one that must not be known have one text.
func encodeError(err error) (ename string, errno syscall.Errno) {
	if errno = syscall.EIO; !errors.As(err, &errno) || errno == 0 {
		errno = syscall.EIO
	}
	for _, e := range errorTable {
		if errors.Is(err, e.err) {
			ename, errno = e.ename, e.errno
			break
		}
	}
	if errno == syscall.ENOENT && ename == "file not found" {
		return ename, errno
	}
	if pe, ok := err.(*iofs.PathError); ok { // the path is the host's affair
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

// Errno is the Linux errno that stands for err in 9P2000.L, and in other
// protocols that know errors by number.
func Errno(err error) syscall.Errno {
	_, errno := encodeError(err)
	return errno
}

// AppendError appends the message that says err in dialect d.
func AppendError(b []byte, d Dialect, tag uint16, err error) []byte {
	start := len(b)
	ename, errno := encodeError(err)
	if d == DotL {
		b = wire.Begin(b, wire.Rlerror, tag)
		b = le.AppendUint32(b, uint32(errno))
	} else {
		b = wire.Begin(b, plan9.Rerror, tag)
		b = wire.AppendString(b, ename)
	}
	return wire.End(b, start)
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

// ErrnoError is the error that an wire.Rlerror brought.
func ErrnoError(n uint32) error {
	for _, e := range errorTable {
		if uint32(e.errno) == n {
			return e.err
		}
	}
	if n == 0 || n > 4095 {
		return fs.ErrIO
	}
	return syscall.Errno(n)
}

// A remoteError is an ename that says more than the error it means.
type remoteError struct {
	ename string
	err   error
}

func (e *remoteError) Error() string { return e.ename }
func (e *remoteError) Unwrap() error { return e.err }

// EnameError is the error that the text of an Rerror stands for, and that
// keeps the text. Other servers' words for
// the common ones are known too.
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
