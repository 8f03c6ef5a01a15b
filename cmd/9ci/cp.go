package main

import (
	"context"
	"os"
	"path"
	"path/filepath"
)

// cpCommand copies a file or a directory out of a tree.
func cpCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("cp")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 2, 2); err != nil {
		return exitError, err
	}
	n, p, err := find(ctx, *addr, f.Arg(0))
	if err != nil {
		return 1, err
	}
	defer p.close()
	to, name := f.Arg(1), path.Base(path.Clean("/"+f.Arg(0)))
	if st, err := os.Stat(to); err == nil && st.IsDir() && name != "/" {
		to = filepath.Join(to, name)
	}
	if err := copyTree(ctx, n, to); err != nil {
		return 1, err
	}
	return 0, nil
}
