package store

import (
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs"
	"9ci/fs/ci"
)

// setMeta gives a file of dst its mode and time. No other process writes the
// file.
func setMeta(dst *os.Root, a ci.Artifact) error {
	name := filepath.FromSlash(a.Name)
	if a.Mode&iofs.ModeSymlink == 0 {
		if err := dst.Chmod(name, a.Mode&(iofs.ModePerm|iofs.ModeSetuid|iofs.ModeSetgid|iofs.ModeSticky)); err != nil {
			return err
		}
	}
	return setTime(dst, name, a.Time)
}

// setTime sets the modification time of a file, or of a link itself.
func setTime(root *os.Root, name string, t time.Time) error {
	dir, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	err = unix.UtimesNanoAt(int(dir.Fd()), filepath.Base(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &iofs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// writeSynced writes a file and waits until it is on disk.
func writeSynced(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.Sync()
}

// fill makes the file name of root, which is not there yet, of all that from
// has, with holes for zeros. A nil buf is one of fill's own.
func fill(root *os.Root, name string, from io.Reader, buf []byte) error {
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := fs.NewSparseWriter(f)
	if _, err := io.CopyBuffer(w, from, buf); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

// syncDir waits until the names in a directory are on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeAll removes a tree whose directories may be read-only.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// diskSize adds up the sizes of the files below dir.
func diskSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	return n, err
}
