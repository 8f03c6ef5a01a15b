package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A Show is a directory that shows sealed runs of a store to a machine. The
// machine is given the directory before the runs are due: it is empty until
// Fill.
type Show struct {
	s    *Store
	path string
}

// maxShown bounds the files, directories and links of a Show, each of which
// costs some 10 µs to make.
const maxShown = 1 << 18

// NewShow makes an empty directory. Close removes it; Open removes those of
// dead processes.
func (s *Store) NewShow() (*Show, error) {
	// MkdirTemp, as a process may make many, and dies by its own token.
	dir, err := os.MkdirTemp(s.path("show"), s.token+"+")
	if err != nil {
		return nil, fmt.Errorf("store: show: %w", err)
	}
	return &Show{s, dir}, nil
}

// Dir returns the directory.
func (v *Show) Dir() string { return v.path }

// Fill shows the runs of these ids that are still sealed and there, in that
// order, as directories of their ids. It makes a symbolic link for each name in
// aliases whose run is shown. It leaves out runs that would make more than
// 262144 files, and returns how many it shows. The files are hard links: they
// last as long as v, whatever is evicted meanwhile, and take no room but that
// of a run that was evicted.
//
// A process that can write in the directory can change sealed runs by the
// links.
func (v *Show) Fill(ctx context.Context, ids []string, aliases map[string]string) (shown int, err error) {
	n := 0
	done := make(map[string]bool)
	for _, id := range ids {
		if err := context.Cause(ctx); err != nil {
			return shown, err
		}
		if done[id] {
			continue
		}
		more, err := v.add(id, maxShown-n)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if errors.Is(err, errManyFiles) {
			break
		}
		if err != nil {
			return shown, fmt.Errorf("store: show %s: %w", id, err)
		}
		n += more
		shown++
		done[id] = true
	}
	for name, id := range aliases {
		if !done[id] {
			continue
		}
		if err := os.Symlink(id, filepath.Join(v.path, name)); err != nil {
			return shown, fmt.Errorf("store: show %s: %w", name, err)
		}
	}
	return shown, nil
}

var errManyFiles = errors.New("more files than are shown")

// add shows one run of at most room files, or nothing of it.
func (v *Show) add(id string, room int) (n int, err error) {
	l, err := v.s.acquire(id)
	if err != nil {
		return 0, err
	}
	defer v.s.release(id, l)
	from, to := v.s.runPath(id), filepath.Join(v.path, id)
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(to))
		}
	}()
	type dir struct {
		name string
		iofs.FileInfo
	}
	var dirs []dir
	err = filepath.WalkDir(from, func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > room {
			return errManyFiles
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		copied := filepath.Join(to, rel)
		if !d.IsDir() {
			return link(name, copied)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		dirs = append(dirs, dir{copied, fi})
		return os.Mkdir(copied, 0o700)
	})
	if err != nil {
		return 0, err
	}
	for i := len(dirs) - 1; i >= 0; i-- { // when nothing more is put in it
		d := dirs[i]
		if err := os.Chmod(d.name, d.Mode()); err != nil {
			return 0, err
		}
		if err := os.Chtimes(d.name, time.Time{}, d.ModTime()); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// link makes to the same file as from. Where that cannot be linked, or not once
// more, it makes a copy.
func link(from, to string) error {
	err := os.Link(from, to)
	if !slices.ContainsFunc([]error{unix.EXDEV, unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP}, func(e error) bool { return errors.Is(err, e) }) {
		return err
	}
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if fi.Mode()&iofs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil { // by copy_file_range(2), which shares what it can
		return err
	}
	if err := out.Chmod(fi.Mode()); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chtimes(to, time.Time{}, fi.ModTime())
}

// Close removes the directory.
func (v *Show) Close() error { return removeAll(v.path) }
