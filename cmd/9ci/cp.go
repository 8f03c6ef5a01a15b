package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"9ci/fs"
)

// cpCommand copies a file or a directory out of a tree.
func cpCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("cp")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 2, 2); err != nil {
		return exitError, err
	}
	from, to := f.Arg(0), f.Arg(1)
	n, p, err := search{addr: *addr, store: true}.find(ctx, from)
	if err != nil {
		return failed(1, err)
	}
	defer p.close()
	if err = copyTo(ctx, n, p, from, to); err != nil {
		if _, ok := errors.AsType[*writeError](err); ok {
			return exitError, err
		}
		return failed(1, err)
	}
	return 0, nil
}

// copyTo copies a node of a place, named from, to the file to, or into it if that is
// a directory. All that is in a tree comes into the directory itself.
func copyTo(ctx context.Context, n fs.Node, p place, from, to string) error {
	d, isDir := n.(fs.Dir)
	if st, err := os.Stat(to); err == nil && st.IsDir() {
		name := path.Base(path.Clean("/" + from))
		if name == "/" && isDir {
			root, err := os.OpenRoot(to)
			if err != nil {
				return &writeError{to, bare(err)}
			}
			defer root.Close()
			return copyEntries(ctx, d, from, root, false)
		}
		to = filepath.Join(to, name)
	}
	if isDir {
		tar, err := findTar(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", from, bare(err))
		}
		if tar != nil {
			defer tar.close()
		}
		return copyTree(ctx, d, tar, from, to)
	}
	return copyOne(ctx, n, from, to)
}
