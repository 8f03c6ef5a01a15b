package fuse

import (
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"9ci/proto/internal/linux"
)

const directMount = true

// hostErrno returns the number of this host for one of Linux.
func hostErrno(e linux.Errno) syscall.Errno { return syscall.Errno(e) }

// detach takes a mount that is in use out of the tree.
func detach(dir string) error {
	if unix.Unmount(dir, unix.MNT_DETACH) == nil {
		return nil
	}
	if out, err := exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
