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

	"9ci/cmd/internal/artifacts"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/fs"
	"9ci/proto/ninep"
)

// copyTree copies a file, or a directory with all that is in it, with modes
// and times. An alias in it is copied as the link that it is; one that n is, as
// the directory. The names of the tree are a peer's: os.Root keeps them below
// to.
func copyTree(ctx context.Context, n fs.Node, to string) error {
	parent, err := os.OpenRoot(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer parent.Close()
	return copyNode(ctx, n, parent, filepath.Base(to))
}

// copyNode is copyTree to a name in root.
func copyNode(ctx context.Context, n fs.Node, root *os.Root, name string) error {
	st, err := n.Stat(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, ok := n.(fs.Dir); ok {
		st.Mode &^= iofs.ModeSymlink
	}
	return copyInto(ctx, root, func(ctx context.Context, c *copier) error { return c.node(ctx, n, st, name) })
}

// copyEntries is copyTree of all that is in a directory, to root itself.
// The user can read all of it.
func copyEntries(ctx context.Context, d fs.Dir, root *os.Root) error {
	return copyInto(ctx, root, func(ctx context.Context, c *copier) error {
		c.also = 0o400
		return c.entries(ctx, d, ".")
	})
}

func copyInto(ctx context.Context, root *os.Root, do func(context.Context, *copier) error) error {
	c := copier{root: root}
	c.small, ctx = errgroup.WithContext(ctx)
	c.small.SetLimit(smallAtOnce)
	err := do(ctx, &c)
	if err := c.small.Wait(); err != nil { // which ends what else goes on
		return err
	}
	if err != nil {
		return err
	}
	// A directory gets its mode and time when nothing more is put in it.
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if err := c.meta(c.dirs[i].name, c.dirs[i].st, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// The peer may be far away, where each file takes a round trip: many small ones
// are copied at once. A large file is read as fast as it comes by itself.
const (
	smallFile   = 32 << 10
	smallAtOnce = 256
)

// A copier is a call of copyInto.
type copier struct {
	root  *os.Root
	small *errgroup.Group
	also  iofs.FileMode // of every file
	dirs  []copied
}

type copied struct {
	name string
	st   fs.Stat
}

func (c *copier) node(ctx context.Context, n fs.Node, st fs.Stat, name string) error {
	d, isDir := n.(fs.Dir)
	switch {
	case st.Mode&iofs.ModeSymlink != 0:
		return c.root.Symlink(st.Target, name)
	case isDir:
		if err := c.root.Mkdir(name, 0o700); err != nil {
			fi, lerr := c.root.Lstat(name)
			if lerr != nil {
				return err
			}
			if !fi.IsDir() { // a link may lead to what the copy is not for
				return fmt.Errorf("%s is there and is not a directory: remove it, or copy to another", name)
			}
		}
		c.dirs = append(c.dirs, copied{name, st})
		return c.entries(ctx, d, name)
	case st.Version != 0 && st.Size <= smallFile:
		c.small.Go(func() error {
			b, err := fs.ReadAll(ctx, n)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
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

func (c *copier) entries(ctx context.Context, d fs.Dir, name string) error {
	for e, err := range fs.Entries(ctx, d) {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n, err := fs.Child(ctx, d, e)
		if err == nil {
			err = c.node(ctx, n, e, path.Join(name, e.Name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file makes a file of what fill writes.
func (c *copier) file(st fs.Stat, name string, fill func(io.Writer) error) error {
	f, err := c.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := fs.NewSparseWriter(f) // as the run left it
	if err := errors.Join(fill(w), w.Close(), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return c.meta(name, st, c.also)
}

func (c *copier) meta(name string, st fs.Stat, also iofs.FileMode) error {
	if err := c.root.Chmod(name, st.Mode.Perm()|also); err != nil {
		return err
	}
	return c.root.Chtimes(name, st.ModTime, st.ModTime)
}

// artifactsDir is what CI_ARTIFACTS names. What this user's 9ci has put there is
// known whatever repository it was of.
func artifactsDir(c *config.Config, rp *repo.Repo) (artifacts.Dir, error) {
	state, err := home.State()
	return artifacts.Dir{Name: c.Artifacts, Top: rp.Top, Records: filepath.Join(state, ".artifacts")}, err
}

// copyArtifacts copies what a run left.
func copyArtifacts(ctx context.Context, run fs.Dir, to *os.Root) error {
	n, err := run.Walk(ctx, "artifacts")
	if err != nil {
		return err
	}
	dir, ok := n.(fs.Dir)
	if !ok {
		return errors.New("the run's artifacts are not a directory")
	}
	return copyEntries(ctx, dir, to)
}

// copyFile writes all of a file to w, as it comes.
func copyFile(ctx context.Context, w io.Writer, n fs.Node) error {
	r, err := ninep.Stream(ctx, n)
	if err != nil {
		return err
	}
	defer r.Close()
	// An *os.File would read by ways of its own.
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10))
	return err
}
