// Package linux has the numbers of Linux that travel in 9P2000.L and FUSE:
// errors, modes, and the flags of open(2). On a wire they are Linux's on every
// host, while syscall.E* and syscall.O_* are the host's own, and O_DIRECTORY
// differs even from one Linux architecture to the next. They are made of what
// github.com/hugelgupf/p9 has, as the words of 9P2000 are those of
// 9fans.net/go/plan9.
package linux

import (
	iofs "io/fs"

	"9ci/fs"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// An Errno is an error number of Linux.
type Errno = linux.Errno

// The numbers that our errors have.
const (
	EACCES       = linux.EACCES
	EAGAIN       = linux.EAGAIN
	EBADF        = linux.EBADF
	EBUSY        = linux.EBUSY
	EDQUOT       = linux.EDQUOT
	EEXIST       = linux.EEXIST
	EINTR        = linux.EINTR
	EINVAL       = linux.EINVAL
	EIO          = linux.EIO
	EISDIR       = linux.EISDIR
	ELOOP        = linux.ELOOP
	EMFILE       = linux.EMFILE
	ENAMETOOLONG = linux.ENAMETOOLONG
	ENODATA      = linux.ENODATA
	ENOENT       = linux.ENOENT
	ENOSPC       = linux.ENOSPC
	ENOTDIR      = linux.ENOTDIR
	ENOTEMPTY    = linux.ENOTEMPTY
	EOPNOTSUPP   = linux.EOPNOTSUPP
	EPERM        = linux.EPERM
	EPIPE        = linux.EPIPE
	EROFS        = linux.EROFS
	ESTALE       = linux.ESTALE
	ETIMEDOUT    = linux.ETIMEDOUT
)

// ExtractErrno returns the number of the Errno or the host's errno in err, and
// EIO where there is none.
func ExtractErrno(err error) Errno { return linux.ExtractErrno(err) }

// Bits of a mode that p9 has no name for: setuid(2) and inode(7).
const (
	setuid p9.FileMode = 0o4000
	setgid p9.FileMode = 0o2000
	sticky             = p9.Sticky

	special = setuid | setgid | sticky
)

// TypeMask is the part of a mode that says what a file is, and TypeShift how
// far down a directory entry has it.
const (
	TypeMask  = uint32(p9.FileModeMask)
	TypeShift = 12
)

// Mode returns the st_mode of m, in which an alias is a link.
//
// It adds setuid, setgid and sticky, which p9.ModeFromOS drops: artifacts keep
// their modes, and a copy of a run through a mount is checked against its
// manifest.
func Mode(m iofs.FileMode) uint32 {
	if m&iofs.ModeSymlink != 0 {
		m &^= iofs.ModeDir
	}
	mode := p9.ModeFromOS(m)
	if m&iofs.ModeSetuid != 0 {
		mode |= setuid
	}
	if m&iofs.ModeSetgid != 0 {
		mode |= setgid
	}
	if m&iofs.ModeSticky != 0 {
		mode |= sticky
	}
	return uint32(mode)
}

// FileMode returns what a st_mode says. A type that Linux does not have is that
// of a regular file. OSMode of p9 drops setuid and setgid, and leaves sticky
// where iofs has another meaning for it.
func FileMode(mode uint32) iofs.FileMode {
	l := p9.FileMode(mode)
	m := (l &^ special).OSMode()
	if l&setuid != 0 {
		m |= iofs.ModeSetuid
	}
	if l&setgid != 0 {
		m |= iofs.ModeSetgid
	}
	if l&sticky != 0 {
		m |= iofs.ModeSticky
	}
	return m
}

// Flags of open(2) that 9P2000.L has, as P9_DOTL_* of linux/include/net/9p/9p.h
// numbers them, besides p9.OpenFlags.
const (
	truncate  = 0o1000
	Directory = 0o200000 // P9_DOTL_DIRECTORY: fail if it is none
)

// OpenMode returns what flags of open(2) ask for. Those that a tree knows
// nothing of mean nothing.
func OpenMode(flags uint32) fs.OpenMode {
	m := fs.OpenRead | fs.OpenWrite
	switch p9.OpenFlags(flags).Mode() {
	case p9.ReadOnly:
		m = fs.OpenRead
	case p9.WriteOnly:
		m = fs.OpenWrite
	}
	if flags&truncate != 0 {
		m |= fs.OpenTrunc
	}
	return m
}

// OpenFlags returns the flags of open(2) that ask for m.
func OpenFlags(m fs.OpenMode) uint32 {
	flags := p9.ReadOnly
	switch m & (fs.OpenRead | fs.OpenWrite) {
	case fs.OpenWrite:
		flags = p9.WriteOnly
	case fs.OpenRead | fs.OpenWrite:
		flags = p9.ReadWrite
	}
	if m&fs.OpenTrunc != 0 {
		flags |= truncate
	}
	return uint32(flags)
}
