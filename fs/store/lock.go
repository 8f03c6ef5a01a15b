package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Processes that share a store lock files with flock(2): the kernel undoes it
// when a process dies, however it dies, and an open file has its lock to
// itself even within one process.

var errLocked = errors.New("locked by another")

// lockFile opens a file, which it makes where there is none, and locks it
// exclusively. Where another has the lock, it waits if wait says so, and else
// reports errLocked.
func lockFile(name string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// flock is flock(2); a lock that another holds is errLocked.
func flock(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how); err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return errLocked
		default:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// locked reports whether another open file has the named file locked
// exclusively. A file that does not exist is not locked.
func locked(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return flock(f, unix.LOCK_SH|unix.LOCK_NB) == errLocked
}
