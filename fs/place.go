package fs

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

// A place is a directory in which paths are resolved in one step of the
// kernel's, never out of it and never through a symbolic link (openat2(2)).
// Where there is no openat2 its os.Root walks them name by name.
type place struct {
	root *os.Root
	dir  *os.File // the same directory
}

// A diskStat describes a file on disk.
type diskStat struct {
	mode     iofs.FileMode
	size     int64
	time     time.Time
	uid, gid uint32
	target   string // of a symbolic link
}

// newPlace returns the place at root.
func newPlace(root *os.Root) (place, error) {
	d, err := root.Open(".")
	return place{root, d}, err
}

// openPlace returns the place at dir. The caller closes it.
func openPlace(dir string) (place, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return place{}, err
	}
	p, err := newPlace(root)
	if err != nil {
		root.Close()
	}
	return p, err
}

func (p place) close() {
	p.dir.Close()
	p.root.Close()
}

var haveOpenat2 = sync.OnceValue(func() bool {
	fd, err := openat2(unix.AT_FDCWD, ".", unix.O_PATH)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
})

func openat2(dir int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename on the way
			return fd, err
		}
	}
}

// lstat describes a file, and a symbolic link itself.
func (p place) lstat(rel string) (diskStat, error) {
	if !haveOpenat2() {
		return p.lstatByName(filepath.FromSlash(rel))
	}
	var s unix.Stat_t
	dir := int(p.dir.Fd())
	if !strings.Contains(rel, "/") { // one name needs no steps
		if err := unix.Fstatat(dir, rel, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return diskStat{}, err
		}
		return newDiskStat(&s, dir, rel)
	}
	fd, err := openat2(dir, rel, unix.O_PATH)
	if err != nil {
		return diskStat{}, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &s); err != nil {
		return diskStat{}, err
	}
	return newDiskStat(&s, fd, "")
}

func (p place) lstatByName(name string) (diskStat, error) {
	fi, err := p.root.Lstat(name)
	if err != nil {
		return diskStat{}, bare(err)
	}
	st := diskStat{mode: fi.Mode(), size: fi.Size(), time: fi.ModTime()}
	if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
		st.uid, st.gid = sys.Uid, sys.Gid
	}
	if st.mode&iofs.ModeSymlink != 0 {
		st.target, err = p.root.Readlink(name)
	}
	return st, bare(err)
}

// newDiskStat makes a diskStat of the file name in the open directory dir, or
// of dir itself where the name is empty.
func newDiskStat(s *unix.Stat_t, dir int, name string) (diskStat, error) {
	sec, nsec := s.Mtim.Unix()
	st := diskStat{mode: fileMode(s.Mode & 0o7777), size: s.Size, time: time.Unix(sec, nsec), uid: s.Uid, gid: s.Gid}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		st.mode |= iofs.ModeDir
	case unix.S_IFLNK:
		st.mode |= iofs.ModeSymlink
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return diskStat{}, err
		}
		st.target = string(b[:n])
	default:
		st.mode |= iofs.ModeIrregular // not served
	}
	return st, nil
}

// open opens a regular file. It reports errNotRegular where it is none.
func (p place) open(rel string) (*os.File, error) {
	if !haveOpenat2() {
		return openRegular(p.root, rel)
	}
	fd, err := openat2(int(p.dir.Fd()), rel, unix.O_RDONLY|unix.O_NONBLOCK)
	if err == unix.ELOOP {
		return nil, errNotRegular
	}
	if err != nil {
		return nil, err
	}
	var s unix.Stat_t
	if err = unix.Fstat(fd, &s); err == nil && s.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// openDir opens a directory.
func (p place) openDir(rel string) (*os.File, error) {
	if !haveOpenat2() {
		f, err := p.root.Open(filepath.FromSlash(rel))
		return f, bare(err)
	}
	fd, err := openat2(int(p.dir.Fd()), rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}
