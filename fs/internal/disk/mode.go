package disk

import (
	iofs "io/fs"

	"golang.org/x/sys/unix"
)

// UnixMode returns the permission, set-id and sticky bits of m as chmod(2) has
// them.
func UnixMode(m iofs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&iofs.ModeSetuid != 0 {
		u |= unix.S_ISUID
	}
	if m&iofs.ModeSetgid != 0 {
		u |= unix.S_ISGID
	}
	if m&iofs.ModeSticky != 0 {
		u |= unix.S_ISVTX
	}
	return u
}

// FileMode undoes UnixMode.
func FileMode(u uint32) iofs.FileMode {
	m := iofs.FileMode(u & 0o777)
	if u&unix.S_ISUID != 0 {
		m |= iofs.ModeSetuid
	}
	if u&unix.S_ISGID != 0 {
		m |= iofs.ModeSetgid
	}
	if u&unix.S_ISVTX != 0 {
		m |= iofs.ModeSticky
	}
	return m
}
