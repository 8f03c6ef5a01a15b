package store

import (
	"errors"
	iofs "io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// reserve gives a file room on disk without making it longer (F_PREALLOCATE of
// fcntl(2)).
func reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.FcntlFstore(f.Fd(), unix.F_PREALLOCATE, &unix.Fstore_t{
		Flags: unix.F_ALLOCATEALL, Posmode: unix.F_PEOFPOSMODE, Length: size,
	})
	if err == unix.ENOTSUP || err == unix.EINVAL {
		return nil // a file system without it
	}
	if err != nil {
		return &iofs.PathError{Op: "fcntl F_PREALLOCATE", Path: f.Name(), Err: err}
	}
	return nil
}

// syncDisk waits until all that is below the directory d is on disk. No call does that
// for a file system: sync(2) here only starts it.
func syncDisk(d *os.File) error {
	root, err := os.OpenRoot(d.Name())
	if err != nil {
		return err
	}
	defer root.Close()
	return iofs.WalkDir(root.FS(), ".", func(name string, e iofs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// startSync starts to write a file to disk where the system can be told to.
func startSync(*os.File) {}

// watchDir is of Linux: the index is looked at now and then.
func watchDir(string) (*os.File, error) { return nil, errors.ErrUnsupported }

// changed returns the time of a file's last change of status, in seconds.
func changed(st *syscall.Stat_t) int64 {
	sec, _ := st.Ctimespec.Unix()
	return sec
}
