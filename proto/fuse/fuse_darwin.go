package fuse

import (
	"syscall"

	"golang.org/x/sys/unix"

	"9ci/proto/internal/linux"
)

// directMount is of Linux. Here the program of macFUSE mounts.
const directMount = false

// hostErrno returns the number of this host for one of Linux, which are the same up to
// ERANGE, but for EAGAIN.
func hostErrno(e linux.Errno) syscall.Errno {
	switch e {
	case linux.EAGAIN:
		return syscall.EAGAIN
	case linux.EDQUOT:
		return syscall.EDQUOT
	case linux.ELOOP:
		return syscall.ELOOP
	case linux.ENAMETOOLONG:
		return syscall.ENAMETOOLONG
	case linux.ENODATA:
		return syscall.ENODATA
	case linux.ENOTEMPTY:
		return syscall.ENOTEMPTY
	case linux.EOPNOTSUPP:
		return syscall.EOPNOTSUPP
	case linux.ESTALE:
		return syscall.ESTALE
	case linux.ETIMEDOUT:
		return syscall.ETIMEDOUT
	}
	if e > linux.Errno(syscall.ERANGE) {
		return syscall.EIO
	}
	return syscall.Errno(e)
}

// detach takes a mount that is in use away.
func detach(dir string) error { return unix.Unmount(dir, unix.MNT_FORCE) }
