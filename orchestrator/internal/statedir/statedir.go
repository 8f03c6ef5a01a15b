// Package statedir reads and writes the plain files of a state directory.
package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs"
)

// A Dir is a state directory whose files a server and commands of an operator
// change. A process that changes a file holds the lock, and writes the file anew under
// another name, which then takes the old one's place: a reader needs no lock, and a
// process that is killed leaves the old file or the new one.
type Dir string

// LockFile is the file of the lock.
const LockFile = "lock"

const (
	lockWait = 5 * time.Second // for a process that holds the lock, which takes milliseconds
	lockPoll = 5 * time.Millisecond
)

// Path returns the path of a file.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// Locked calls f while it holds the lock. Its error is fs.ErrBusy if another process
// holds it for long.
func (d Dir) Locked(f func() error) error {
	lock, err := d.Create(LockFile, os.O_RDWR)
	if err != nil {
		return err
	}
	defer lock.Close()
	for began := time.Now(); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f()
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%s: %w", lock.Name(), err)
		case time.Since(began) > lockWait:
			return fmt.Errorf("%s is locked by another process, a stopped orchestrator token or revoke perhaps (fuser shows which): %w", lock.Name(), fs.ErrBusy)
		}
	}
}

// Create opens a file, and makes it if it is not there.
func (d Dir) Create(name string, flag int) (*os.File, error) {
	f, err := d.open(name, flag|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := d.give(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open opens a file. A command that root starts in a directory of the server's user must
// read, change and give away no file elsewhere, whatever that user has put there: a
// symbolic link is an error, and so is a pipe, and a link in the place of a directory
// below.
func (d Dir) open(name string, flag int) (*os.File, error) {
	below, base := filepath.Split(name)
	dir, err := d.openDir(below)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := openAt(dir, base, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	plain := !errors.Is(err, unix.ELOOP)
	if err == nil {
		fi, err := f.Stat()
		if plain = err == nil && fi.Mode().IsRegular(); !plain {
			f.Close()
		}
	}
	if !plain {
		return nil, fmt.Errorf("%s: want a plain file, not a link or a pipe: put one there, or take it away", d.Path(name))
	}
	return f, err
}

// openAt opens a file in a directory that is open.
func openAt(dir *os.File, name string, flag int) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flag|unix.O_CLOEXEC, 0o600)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !errors.Is(err, unix.EINTR):
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// give gives a file that root has made to the owner of the directory, as which the
// server may run.
func (d Dir) give(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return f.Chown(int(st.Uid), int(st.Gid))
	}
	return nil
}

// Read returns what a file says, nothing if it is not there.
func (d Dir) Read(name string) ([]byte, error) {
	f, err := d.open(name, os.O_RDONLY)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Write makes text what a file says. The lock is held. The name may be that of a
// directory below, which is there, and of a file in it.
func (d Dir) Write(name string, text []byte) error {
	below, base := filepath.Split(name)
	next := "." + base + ".new"
	dir, err := d.openDir(below)
	if err != nil {
		return err
	}
	defer dir.Close()
	at := int(dir.Fd())
	if err := unix.Unlinkat(at, next, 0); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return &os.PathError{Op: "remove", Path: d.Path(below + next), Err: err} // a killed process has left it
	}
	f, err := d.Create(below+next, os.O_WRONLY|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		if err = unix.Renameat(at, next, at, base); err != nil {
			err = &os.PathError{Op: "rename", Path: d.Path(name), Err: err}
		}
	}
	if err != nil {
		unix.Unlinkat(at, next, 0) // the disk may be full
		return err
	}
	return dir.Sync()
}

// sync has the names in the directory, or in one below it, survive a loss of power.
func (d Dir) sync(below string) error {
	f, err := d.openDir(below)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// MakeDir makes a directory below, unless it is there.
func (d Dir) MakeDir(name string) error {
	if err := os.Mkdir(d.Path(name), 0o700); errors.Is(err, iofs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	f, err := d.openDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.give(f), f.Close(), d.sync(""))
}

// openDir opens the directory, or one below it. That is no link, which could lead out.
func (d Dir) openDir(below string) (*os.File, error) {
	flag := os.O_RDONLY | unix.O_DIRECTORY
	if below != "" {
		flag |= unix.O_NOFOLLOW
	}
	return os.OpenFile(d.Path(below), flag, 0)
}

// Add adds a line to a file, which begins with head if it is new. The lock is held.
func (d Dir) Add(name, head, line string) error {
	text, err := d.Read(name)
	if err != nil {
		return err
	}
	if len(text) == 0 {
		text = []byte(head)
	}
	return d.Write(name, append(ended(text), line+"\n"...))
}

// ended returns a text whose last line has its end.
func ended(text []byte) []byte {
	if n := len(text); n > 0 && text[n-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}

// Entries calls f with each line of text that is neither blank nor a comment, and
// returns the text without those for which f reports true.
func Entries(text []byte, f func(line []byte) (drop bool)) (rest []byte) {
	for line := range bytes.Lines(text) {
		if t := bytes.TrimSpace(line); len(t) == 0 || t[0] == '#' || !f(t) {
			rest = append(rest, line...)
		}
	}
	return rest
}
