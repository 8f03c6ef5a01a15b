package artifacts

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A place is the name of a Dir in its open parent.
type place struct {
	name, base string   // the path, and its last element
	record     string   // of what was put there
	parent     *os.Root // of the directory
	fd         int      // of the same
}

// open finds the place, and refuses places at which artifacts would do harm. It
// follows no symbolic link. If the parent does not exist, open makes it, or without
// create returns nil.
func (d Dir) open(create bool) (*place, error) {
	name := d.Name
	if !filepath.IsAbs(name) {
		name = filepath.Join(d.Top, name)
	}
	name = filepath.Clean(name)
	p := &place{name: name, base: filepath.Base(name)}
	p.record = filepath.Join(d.Records, fmt.Sprintf("%x", sha256.Sum256([]byte(name))))
	if name == "/" {
		return nil, fmt.Errorf("%s holds the work tree %s", name, d.Top)
	}
	for elem := range strings.SplitSeq(name, "/") { // no link leads elsewhere
		if strings.EqualFold(elem, ".git") {
			return nil, fmt.Errorf("%s is in a git directory", name)
		}
	}
	var err error
	if p.fd, err = enter(filepath.Dir(name), create); err != nil || p.fd < 0 {
		return nil, err
	}
	if err = p.examine(d.Top); err != nil {
		unix.Close(p.fd)
		return nil, err
	}
	return p, nil
}

// examine opens the parent for all but renames, and looks at the directory.
func (p *place) examine(top string) (err error) {
	var at, by, dir unix.Stat_t
	if err := unix.Fstat(p.fd, &at); err != nil {
		return err
	}
	parent := filepath.Dir(p.name)
	if p.parent, err = os.OpenRoot(parent); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.parent.Close()
		}
	}()
	f, err := p.parent.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &by); err != nil {
		return err
	}
	if at.Dev != by.Dev || at.Ino != by.Ino {
		return fmt.Errorf("%s was moved just now", parent)
	}
	switch err := unix.Fstatat(p.fd, p.base, &dir, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", p.name, err)
	}
	fd, err := step(p.fd, p.base, p.name)
	if err != nil {
		return err
	}
	unix.Close(fd)
	for up := top; ; up = filepath.Dir(up) {
		var st unix.Stat_t
		if err := unix.Lstat(up, &st); err == nil && st.Dev == dir.Dev && st.Ino == dir.Ino {
			return fmt.Errorf("%s holds the work tree %s", p.name, top)
		}
		if up == filepath.Dir(up) {
			return nil
		}
	}
}

func (p *place) close() {
	p.parent.Close()
	unix.Close(p.fd)
}

// enter opens the directory of an absolute path, name by name. If it does not
// exist, enter makes it, or without create returns -1.
func enter(dir string, create bool) (int, error) {
	fd, err := unix.Open("/", oPath|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	path := "/"
	for name := range strings.SplitSeq(dir[1:], "/") {
		if name == "" { // dir is /
			break
		}
		path = filepath.Join(path, name)
		next, err := step(fd, name, path)
		if err == unix.ENOENT && create {
			if err := unix.Mkdirat(fd, name, 0o777); err != nil && err != unix.EEXIST {
				unix.Close(fd)
				return -1, fmt.Errorf("mkdir %s: %w", path, err)
			}
			next, err = step(fd, name, path)
		}
		unix.Close(fd)
		if err == unix.ENOENT && !create {
			return -1, nil
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// step opens the directory name in the open directory dir. It refuses links and
// the directories of git.
func step(dir int, name, path string) (int, error) {
	fd, err := unix.Openat(dir, name, oPath|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT:
		return -1, err
	case err == unix.ENOTDIR:
		if to, err := os.Readlink(path); err == nil {
			return -1, fmt.Errorf("%s is a symbolic link to %q, and none is followed: name the directory itself", path, to)
		}
		return -1, fmt.Errorf("%s is not a directory", path)
	case err != nil:
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	if isGitDir(func(name string) bool {
		return unix.Fstatat(fd, name, new(unix.Stat_t), unix.AT_SYMLINK_NOFOLLOW) == nil
	}) {
		unix.Close(fd)
		return -1, fmt.Errorf("%s is a git directory", path)
	}
	return fd, nil
}

// isGitDir reports whether git would take a directory, whatever its name, for a
// git directory: is_git_directory of git's setup.c. has reports which names are in
// the directory.
func isGitDir(has func(name string) bool) bool { return has("HEAD") && has("objects") && has("refs") }

// lock locks the record, and with it the directory, as how says (flock(2)).
func (p *place) lock(how int) (unlock func(), err error) {
	flag := os.O_RDWR | os.O_CREATE
	if how&unix.LOCK_SH != 0 {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(p.record+".lock", flag, 0o600)
	if os.IsNotExist(err) && how&unix.LOCK_SH != 0 {
		return func() {}, nil // no record: nothing to lock
	}
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
