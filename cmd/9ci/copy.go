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

// copyTree copies a file, or a directory with all that is in it, with modes and
// times. If n is an alias of a directory, the directory is copied; an alias below n
// is copied as a link. A peer chooses the names in a tree: os.Root keeps the copy
// below to.
func copyTree(ctx context.Context, n fs.Node, to string) error {
	parent, err := os.OpenRoot(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer parent.Close()
	return copyNode(ctx, n, parent, filepath.Base(to))
}

// copyNode is copyTree to a name in an open directory.
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

// copyEntries copies what is in a directory into an open one. The owner of the copy
// may read all of it, whatever the modes.
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

// Each file takes a round trip to a peer that may be far away, so many small files
// are copied at once. A large file is read ahead.
const (
	smallFile   = 32 << 10
	smallAtOnce = 256
)

// A copier is the state of one call of copyInto.
type copier struct {
	root  *os.Root
	small *errgroup.Group
	also  iofs.FileMode // added to the mode of every file
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
			if !fi.IsDir() { // a link may lead out of the copy
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

// file makes a file and has fill write it.
func (c *copier) file(st fs.Stat, name string, fill func(io.Writer) error) error {
	f, err := c.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := fs.NewSparseWriter(f) // keep holes
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
	return copyEntries(ctx, dir, to)
}

// copyFile writes all of a file to w. It writes the bytes of a live file as they
// come.
func copyFile(ctx context.Context, w io.Writer, n fs.Node) error {
	r, err := ninep.Stream(ctx, n)
	if err != nil {
		return err
	}
	defer r.Close()
	// Hide the ReadFrom of an *os.File, which has a buffer of its own.
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10))
	return err
}
