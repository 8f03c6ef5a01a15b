package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// parseDirent reads a struct linux_dirent64 of getdents64(2), which has the cookie of
// what comes after it.
func parseDirent(b []byte, _ uint64) (name string, off uint64, size int) {
	off = binary.NativeEndian.Uint64(b[8:])
	size = int(binary.NativeEndian.Uint16(b[16:]))
	return unix.ByteSliceToString(b[19:size]), off, size
}
