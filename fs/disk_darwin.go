package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// parseDirent reads a struct dirent of dir(5). What package unix makes of getdirentries
// there counts entries, so the cookie of what comes after one is one more than its own.
func parseDirent(b []byte, before uint64) (name string, off uint64, size int) {
	size = int(binary.NativeEndian.Uint16(b[16:]))
	return unix.ByteSliceToString(b[21:size]), before + 1, size
}
