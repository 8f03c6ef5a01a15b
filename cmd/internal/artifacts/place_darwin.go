package artifacts

import "golang.org/x/sys/unix"

// oPath opens a directory that this user may only pass through: O_EXEC of
// fcntl.h, with O_DIRECTORY its O_SEARCH.
const oPath = 0x40000000

func exchangeAt(dir int, a, b string) error {
	return unix.RenameatxNp(dir, a, dir, b, unix.RENAME_SWAP)
}
