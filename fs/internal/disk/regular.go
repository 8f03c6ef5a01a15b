package disk

import (
	"crypto/sha256"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenRegular opens a file of root for reading, and only if it is a regular one
// and no link to one: opening a fifo would block, a device may do anything, and
// what a link leads to is not what is named. It reports ErrNotRegular.
func OpenRegular(root *os.Root, name string) (*os.File, error) {
	name = filepath.FromSlash(name)
	want, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !want.Mode().IsRegular() {
		return nil, &iofs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// An os.Root follows links within it, O_NOFOLLOW or not.
	got, err := f.Stat()
	if err == nil && !os.SameFile(want, got) {
		err = &iofs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ErrNotRegular is the error of opening anything but a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Hash returns the SHA-256 and the size of a regular file in root.
func Hash(root *os.Root, name string) (d [32]byte, size int64, err error) {
	f, err := OpenRegular(root, name)
	if err != nil {
		return d, 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	h.Sum(d[:0])
	return d, size, err
}
