package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// AddArtifacts copies what is in root, with modes and times, as the run's
// artifacts. A device, a fifo, a socket, or a name that 9P cannot carry is an
// error that names it; after any error the run has no artifacts. What its
// owner cannot read is kept readable for the owner: we must be able to serve
// it. Whoever may still write in root cannot lead the copy out of it.
func (r *Run) AddArtifacts(ctx context.Context, root *os.Root) error {
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	if state != runOpen {
		return r.ended()
	}
	dir := filepath.Join(r.dir, "artifacts")
	err := copyTree(ctx, dir, root)
	if err != nil {
		err = fmt.Errorf("fs: keep artifacts: %w", err)
		if rerr := remake(dir); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	r.change.changed()
	return err
}

// remake makes dir an empty directory.
func remake(dir string) error {
	if err := removeAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

func copyTree(ctx context.Context, dir string, src *os.Root) error {
	dst, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	c := copier{ctx: ctx, src: src, dst: dst}
	if err := c.dir("."); err != nil {
		return err
	}
	// A directory gets its mode and time when nothing more is put in it.
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if err := setMeta(dst, c.dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

type copier struct {
	ctx      context.Context // of one call of copyTree
	src, dst *os.Root
	dirs     []artifact
	n        int
}

func (c *copier) dir(name string) error {
	d, err := c.src.Open(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(256)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := c.entry(path.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
}

func (c *copier) entry(name string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	if err := checkPath(name); err != nil {
		return err
	}
	if c.n++; c.n > maxArtifacts {
		return fmt.Errorf("over %d artifacts", maxArtifacts)
	}
	fi, err := c.src.Lstat(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	a, err := describe(c.src, name, fi)
	if err != nil {
		return err
	}
	switch {
	case a.mode.IsDir():
		a.mode |= 0o500
		c.dirs = append(c.dirs, a)
		if err := c.dst.Mkdir(filepath.FromSlash(name), 0o700); err != nil {
			return err
		}
		return c.dir(name)
	case a.mode&iofs.ModeSymlink != 0:
		if err := c.dst.Symlink(a.link, filepath.FromSlash(name)); err != nil {
			return err
		}
		return setMeta(c.dst, a)
	}
	f, err := openRegular(c.src, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil { // what was opened counts
		return err
	}
	a.mode, a.time = fi.Mode()|0o400, fi.ModTime()
	out, err := c.dst.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, ctxReader{c.ctx, f}); err != nil {
		out.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := out.Close(); err != nil {
		return err
	}
	return setMeta(c.dst, a)
}

// A ctxReader ends a copy when its context does.
type ctxReader struct {
	ctx context.Context // of one copy
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// setMeta gives a file of dst, which nobody else writes, its mode and time.
func setMeta(dst *os.Root, a artifact) error {
	name := filepath.FromSlash(a.name)
	if a.mode&iofs.ModeSymlink == 0 {
		if err := dst.Chmod(name, a.mode&(iofs.ModePerm|iofs.ModeSetuid|iofs.ModeSetgid|iofs.ModeSticky)); err != nil {
			return err
		}
	}
	return setTime(dst, name, a.time)
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

// syncDir makes the names in a directory last.
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
