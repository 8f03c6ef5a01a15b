package artifacts

import "golang.org/x/sys/unix"

// oPath opens a directory that this user may only pass through.
const oPath = unix.O_PATH

func exchangeAt(dir int, a, b string) error {
	return unix.Renameat2(dir, a, dir, b, unix.RENAME_EXCHANGE)
}
