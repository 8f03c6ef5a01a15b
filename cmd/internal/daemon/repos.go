package daemon

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A repoList is the file that lists the work trees that daemons serve, one a
// line: it is how they survive a restart. It keeps a work tree that cannot be
// opened, and what another daemon of the same user wrote.
type repoList struct{ name string }

// read returns the work trees; none if there is no file.
func (l repoList) read() ([]string, error) {
	text, err := os.ReadFile(l.name)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	return strings.FieldsFunc(string(text), func(c rune) bool { return c == '\n' }), nil
}

// replace puts top in the place of old, or at the end if old is not listed.
func (l repoList) replace(old, top string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	was, err := l.read()
	if err != nil {
		return err
	}
	tops := slices.Clone(was)
	if i := slices.Index(tops, old); i >= 0 {
		tops[i] = top
	}
	var all []string
	for _, t := range append(tops, top) {
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	if slices.Equal(all, was) {
		return nil
	}
	return l.write(all)
}

// write replaces the file as a whole: a daemon that is killed leaves the old
// list or the new one.
func (l repoList) write(tops []string) error {
	f, err := os.OpenFile(l.name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(tops, "\n") + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(l.name+".new", l.name)
}

// lock keeps other daemons from writing the list. It locks the directory, which
// needs no file of its own.
func (l repoList) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(l.name), 0o700); err != nil {
		return nil, err
	}
	d, err := os.Open(filepath.Dir(l.name))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		d.Close()
		return nil, err
	}
	return func() { d.Close() }, nil
}
