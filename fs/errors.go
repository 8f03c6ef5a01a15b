package fs

import (
	"os"
	"syscall"
)

// Errors that callers may test for, besides iofs.ErrNotExist,
// iofs.ErrPermission, iofs.ErrExist, iofs.ErrInvalid and context.Canceled.
// proto/ninep maps each to an ename and a Linux errno.
var (
	ErrIsDir    error = syscall.EISDIR
	ErrNotDir   error = syscall.ENOTDIR
	ErrReadOnly error = syscall.EROFS
	ErrIO       error = syscall.EIO

	// ErrBusy is the error of a limit that is reached for now: what was asked
	// for may be there, and is to be asked for again a moment later. A door
	// must not turn it into the error of a file that is not there.
	ErrBusy error = syscall.EAGAIN
)

var self = User{Name: os.Getenv("USER"), UID: int64(os.Getuid())}

// uid and gid own all files of this process's own. Their user may write a ctl.
var uid, gid = uint32(os.Getuid()), uint32(os.Getgid())
