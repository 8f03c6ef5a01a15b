// Package disk looks at files on disk below a directory, and never out of it.
package disk

import (
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Place is an open directory in which the kernel resolves a path in one step,
// never out of it and never through a symbolic link (openat2(2)). Where there
// is no openat2, its os.Root walks the path name by name.
type Place struct {
	Root *os.Root
	Dir  *os.File // the same directory
}

// A Stat describes a file on disk.
type Stat struct {
	Mode     iofs.FileMode
	Size     int64
	Time     time.Time
	UID, GID uint32
	Target   string // of a symbolic link
}

// NewPlace returns the place at root.
func NewPlace(root *os.Root) (Place, error) {
	d, err := root.Open(".")
	return Place{root, d}, err
}

// OpenPlace returns the place at dir. The caller closes it.
func OpenPlace(dir string) (Place, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Place{}, err
	}
	p, err := NewPlace(root)
	if err != nil {
		root.Close()
	}
	return p, err
}

// Close closes the directory.
func (p Place) Close() {
	p.Dir.Close()
	p.Root.Close()
}

// HaveOpenat2 reports whether the kernel has openat2(2), and lets this process
// use it. It is a variable for tests only.
var HaveOpenat2 = sync.OnceValue(func() bool {
	fd, err := openat2(unix.AT_FDCWD, ".", oPath)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
})

// Lstat describes a file, and a symbolic link itself.
func (p Place) Lstat(rel string) (Stat, error) {
	if !HaveOpenat2() {
		return p.lstatByName(filepath.FromSlash(rel))
	}
	var s unix.Stat_t
	dir := int(p.Dir.Fd())
	if !strings.Contains(rel, "/") { // one name needs no steps
		if err := unix.Fstatat(dir, rel, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return Stat{}, err
		}
		return NewStat(&s, dir, rel)
	}
	fd, err := openat2(dir, rel, oPath)
	if err != nil {
		return Stat{}, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &s); err != nil {
		return Stat{}, err
	}
	return NewStat(&s, fd, "")
}

func (p Place) lstatByName(name string) (Stat, error) {
	fi, err := p.Root.Lstat(name)
	if err != nil {
		return Stat{}, Bare(err)
	}
	st := Stat{Mode: fi.Mode(), Size: fi.Size(), Time: fi.ModTime()}
	if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
		st.UID, st.GID = sys.Uid, sys.Gid
	}
	if st.Mode&iofs.ModeSymlink != 0 {
		st.Target, err = p.Root.Readlink(name)
	}
	return st, Bare(err)
}

// NewStat makes a Stat of s, which is of the file name in the open directory
// dir, or of dir itself where the name is empty.
func NewStat(s *unix.Stat_t, dir int, name string) (Stat, error) {
	sec, nsec := s.Mtim.Unix()
	st := Stat{Mode: FileMode(uint32(s.Mode)), Size: s.Size, Time: time.Unix(sec, nsec), UID: s.Uid, GID: s.Gid}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		st.Mode |= iofs.ModeDir
	case unix.S_IFLNK:
		st.Mode |= iofs.ModeSymlink
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return Stat{}, err
		}
		st.Target = string(b[:n])
	default:
		st.Mode |= iofs.ModeIrregular // not served
	}
	return st, nil
}

// Open opens a regular file for reading. It reports ErrNotRegular where it is
// none.
func (p Place) Open(rel string) (*os.File, error) {
	if !HaveOpenat2() {
		return OpenRegular(p.Root, rel)
	}
	fd, err := openat2(int(p.Dir.Fd()), rel, unix.O_RDONLY|unix.O_NONBLOCK)
	if err == unix.ELOOP {
		return nil, ErrNotRegular
	}
	if err != nil {
		return nil, err
	}
	var s unix.Stat_t
	if err = unix.Fstat(fd, &s); err == nil && s.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// OpenDir opens a directory.
func (p Place) OpenDir(rel string) (*os.File, error) {
	if !HaveOpenat2() {
		f, err := p.Root.Open(filepath.FromSlash(rel))
		return f, Bare(err)
	}
	fd, err := openat2(int(p.Dir.Fd()), rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}
