package disk

import "golang.org/x/sys/unix"

const oPath = unix.O_RDONLY

// openat2 is Linux's alone: a Place walks by its os.Root.
func openat2(int, string, uint64) (int, error) { return -1, unix.ENOSYS }
