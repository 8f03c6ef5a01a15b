package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"9ci/cmd/internal/artifacts"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/fs"
	"9ci/proto/ninep"
)

// copyTree copies a directory with all that is in it, named from, to the file name
// to, with modes and times. If d is an alias, the directory is copied; an alias
// below d is copied as a link. What is there already is replaced, but no directory
// by another file, nor the other way round. A peer chooses the names in a tree:
// os.Root keeps the copy below to. If tar is not nil, what is in the directory is read
// from there.
func copyTree(ctx context.Context, d fs.Dir, tar *runTar, from, to string) error {
	st, err := d.Stat(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if st.Mode&iofs.ModeSymlink != 0 {
		st.Mode = st.Mode&^(iofs.ModeSymlink|0o222) | iofs.ModeDir // a link's own mode says nothing
	}
	abs, err := filepath.Abs(to) // its last element is a name
	if err != nil {
		return err
	}
	parent, err := os.OpenRoot(filepath.Dir(abs))
	if err != nil {
		return &writeError{filepath.Dir(to), bare(err)}
	}
	defer parent.Close()
	c := copier{root: parent, name: filepath.Base(abs), from: from, to: to}
	return c.copy(ctx, func(ctx context.Context) error {
		if tar != nil {
			return c.run(ctx, d, st, tar)
		}
		return c.node(ctx, d, st, c.name)
	})
}

// copyEntries copies what is in a directory, named from, into an open one. If owned
// is set, the owner of the copy may read and remove all of it, whatever the modes.
func copyEntries(ctx context.Context, d fs.Dir, from string, root *os.Root, owned bool) error {
	c := copier{root: root, name: ".", from: from, to: root.Name(), owned: owned}
	return c.copy(ctx, func(ctx context.Context) error { return c.entries(ctx, d, ".") })
}

// Each file takes a round trip to a peer that may be far away, so many small files
// are copied at once. A large file is read ahead.
const (
	smallFile   = 32 << 10
	smallAtOnce = 256
)

// A copier is the state of one copy of a tree.
type copier struct {
	root     *os.Root
	name     string // of the copy in root
	from, to string // what is copied and where, for errors
	owned    bool   // the owner may read and remove the copy
	small    *errgroup.Group
	dirs     []copied
}

type copied struct {
	name string
	st   fs.Stat
}

// copy copies what do does.
func (c *copier) copy(ctx context.Context, do func(context.Context) error) error {
	c.small, ctx = errgroup.WithContext(ctx)
	c.small.SetLimit(smallAtOnce)
	err := do(ctx)
	if err := c.small.Wait(); err != nil { // the first error has ended the others
		return err
	}
	if err != nil {
		return err
	}
	// A directory gets its mode and time when all is in it.
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if err := c.meta(c.dirs[i].name, c.dirs[i].st, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// below returns the part of a name in root that is below the copy.
func (c *copier) below(name string) string {
	if rel, err := filepath.Rel(c.name, name); err == nil {
		return rel
	}
	return name
}

// A writeError is of a copy that cannot be written.
type writeError struct {
	name string
	err  error
}

func (e *writeError) Error() string { return e.name + ": " + e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// reading and writing name the file in an error: the one that is copied, or its
// copy.
func (c *copier) reading(name string, err error) error {
	return fmt.Errorf("%s: %w", path.Join(c.from, c.below(name)), bare(err))
}

func (c *copier) writing(name string, err error) error {
	return &writeError{filepath.Join(c.to, c.below(name)), bare(err)}
}

// bare takes a name out of an error, which is one relative to some root.
func bare(err error) error {
	if e, ok := errors.AsType[*iofs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

func (c *copier) node(ctx context.Context, n fs.Node, st fs.Stat, name string) error {
	d, isDir := n.(fs.Dir)
	switch {
	case st.Mode&iofs.ModeSymlink != 0:
		return c.link(name, st)
	case isDir:
		if err := c.dir(name); err != nil {
			return c.writing(name, err)
		}
		c.dirs = append(c.dirs, copied{name, st})
		return c.entries(ctx, d, name)
	case st.Version != 0 && st.Size <= smallFile:
		c.small.Go(func() error {
			b, err := fs.ReadAll(ctx, n)
			if err != nil {
				return c.reading(name, err)
			}
			return c.file(st, name, func(w io.Writer) error {
				_, err := w.Write(b)
				return err
			})
		})
		return nil
	}
	return c.file(st, name, func(w io.Writer) error { return copyFile(ctx, w, n) })
}

func (c *copier) link(name string, st fs.Stat) error {
	if err := c.replace(name, func() error { return c.root.Symlink(st.Target, name) }); err != nil {
		return c.writing(name, err)
	}
	return c.time(name, st)
}

func (c *copier) entries(ctx context.Context, d fs.Dir, name string) error {
	for e, err := range fs.Entries(ctx, d) {
		if err != nil {
			return c.reading(name, err)
		}
		n, err := fs.Child(ctx, d, e)
		if err != nil {
			return c.reading(path.Join(name, e.Name), err)
		}
		if err := c.node(ctx, n, e, path.Join(name, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// dir makes a directory, or makes one that is there writable until its copy is
// whole.
func (c *copier) dir(name string) error {
	err := c.root.Mkdir(name, 0o700)
	if !errors.Is(err, iofs.ErrExist) {
		return err
	}
	fi, err := c.root.Lstat(name)
	switch {
	case err != nil:
		return err
	case !fi.IsDir(): // a link may lead out of the copy
		return errors.New("it is there and is not a directory: remove it, or copy to another place")
	case fi.Mode()&0o700 != 0o700:
		return c.root.Chmod(name, fi.Mode().Perm()|0o700)
	}
	return nil
}

// replace has do make a file, and has it do so again without the file that is
// there. It removes no directory.
func (c *copier) replace(name string, do func() error) error {
	err := do()
	if !errors.Is(err, iofs.ErrExist) {
		return err
	}
	if fi, err := c.root.Lstat(name); err == nil && fi.IsDir() {
		return errors.New("it is there and is a directory: remove it, or copy to another place")
	}
	if err := c.root.Remove(name); err != nil {
		return err
	}
	return do()
}

// file makes a file and has fill write it.
func (c *copier) file(st fs.Stat, name string, fill func(io.Writer) error) error {
	var f *os.File
	err := c.replace(name, func() (err error) {
		f, err = c.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return c.writing(name, err)
	}
	rerr, werr := fillFile(f, fill)
	if rerr == nil && werr == nil {
		werr = f.Chmod(c.mode(st, 0o400))
		if werr == nil {
			werr = setOpenTime(f, c.root, name, st)
		}
	}
	if err := errors.Join(werr, f.Close()); err != nil {
		return c.writing(name, err)
	}
	if rerr != nil {
		return c.reading(name, rerr)
	}
	return nil
}

// fillFile has fill write an empty file, and tells what fill could not read from
// what could not be written. It keeps holes.
func fillFile(f *os.File, fill func(io.Writer) error) (rerr, werr error) {
	sparse := fs.NewSparseWriter(f)
	w := &outcome{w: sparse}
	rerr = fill(w)
	if w.err != nil {
		return nil, w.err
	}
	return rerr, sparse.Close()
}

// An outcome remembers the first error of a writer.
type outcome struct {
	w   io.Writer
	err error
}

func (o *outcome) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// mode returns the mode of a copy. An owned one has the bits of owner too. It leaves
// out setuid and setgid: the copy is the user's, the program a peer's.
func (c *copier) mode(st fs.Stat, owner iofs.FileMode) iofs.FileMode {
	if c.owned {
		return st.Mode.Perm() | owner
	}
	return st.Mode.Perm()
}

// meta gives a directory its mode and time.
func (c *copier) meta(name string, st fs.Stat, owner iofs.FileMode) error {
	if err := c.root.Chmod(name, c.mode(st, owner)); err != nil {
		return c.writing(name, err)
	}
	return c.time(name, st)
}

// time gives a directory, or a link itself, its time.
func (c *copier) time(name string, st fs.Stat) error {
	dir, err := c.root.Open(filepath.Dir(name))
	if err != nil {
		return c.writing(name, err)
	}
	defer dir.Close()
	if err := setTime(dir, filepath.Base(name), st); err != nil {
		return c.writing(name, err)
	}
	return nil
}

// setTime gives the file name of an open directory, or a link itself, its time
// (utimensat(2)).
func setTime(dir *os.File, name string, st fs.Stat) error {
	ts, err := unix.TimeToTimespec(st.ModTime)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(dir.Fd()), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyOne copies a file, named from, to the file name to, with its mode and time. As
// cp(1) does, it writes to what is there, a link's target or a device too, and as
// with -f it replaces a file that it must not write to.
func copyOne(ctx context.Context, n fs.Node, from, to string) error {
	st, err := n.Stat(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", from, bare(err))
	}
	r, err := ninep.Stream(ctx, n) // before the file that is there is emptied
	if err != nil {
		return fmt.Errorf("%s: %w", from, bare(err))
	}
	defer r.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if errors.Is(err, iofs.ErrPermission) && os.Remove(to) == nil {
		f, err = os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return &writeError{to, bare(err)}
	}
	fi, err := f.Stat()
	if err != nil {
		return &writeError{to, bare(errors.Join(err, f.Close()))}
	}
	var rerr error
	if fi.Mode().IsRegular() {
		rerr, err = fillFile(f, func(w io.Writer) error { return copyStream(w, r) })
		if rerr == nil && err == nil {
			err = errors.Join(f.Chmod(st.Mode.Perm()), os.Chtimes(to, st.ModTime, st.ModTime))
		}
	} else {
		w := &outcome{w: f}
		if rerr = copyStream(w, r); w.err != nil {
			rerr, err = nil, w.err
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return &writeError{to, bare(err)}
	}
	if rerr != nil {
		return fmt.Errorf("%s: %w", from, bare(rerr))
	}
	return nil
}

// artifactsDir returns the directory that CI_ARTIFACTS names. Its records are the
// user's, not the repository's.
func artifactsDir(c *config.Config, rp *repo.Repo) (artifacts.Dir, error) {
	state, err := home.State()
	return artifacts.Dir{Name: c.Artifacts, Top: rp.Top, Records: filepath.Join(state, ".artifacts")}, err
}

// copyArtifacts copies the artifacts of a run.
func copyArtifacts(ctx context.Context, run fs.Dir, to *os.Root) error {
	dir, err := fs.WalkDir(ctx, run, "artifacts")
	if err != nil {
		return fmt.Errorf("artifacts: %w", err)
	}
	return copyEntries(ctx, dir, "artifacts", to, true)
}

// copyFile writes all of a file to w. It writes the bytes of a live file as they
// come.
func copyFile(ctx context.Context, w io.Writer, n fs.Node) error {
	r, err := ninep.Stream(ctx, n)
	if err != nil {
		return err
	}
	defer r.Close()
	return copyStream(w, r)
}

func copyStream(w io.Writer, r io.Reader) error {
	// Hide the ReadFrom of an *os.File, which has a buffer of its own.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10))
	return err
}
