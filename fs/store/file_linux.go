package store

import (
	"fmt"
	iofs "io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// reserve gives a file room on disk without making it longer.
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return nil // a file system without it
	}
	if err != nil {
		return &iofs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

// syncDisk waits until all of the file system that has the directory d is on disk.
func syncDisk(d *os.File) error {
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs: %w", err)
	}
	return nil
}

// startSync starts to write a file to disk. It is a hint.
func startSync(f *os.File) {
	unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// watchDir returns a file from which a read returns when a file in dir was
// written, or was renamed there.
func watchDir(dir string) (*os.File, error) {
	fd, err := inotify(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// inotify is a variable for tests only.
var inotify = unix.InotifyInit1

// changed returns the time of a file's last change of status, in seconds.
func changed(st *syscall.Stat_t) int64 {
	sec, _ := st.Ctim.Unix()
	return sec
}
