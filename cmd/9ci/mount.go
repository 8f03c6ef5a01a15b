package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"9ci/cmd/internal/show"
	"9ci/proto/fuse"
)

// mountCommand mounts a tree until the user unmounts it, a signal comes or the
// tree's server is gone.
func mountCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("mount")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	show.Outlive()
	dir := f.Arg(0)
	// The kernel may know the attributes still, but asks the server for these.
	if err := syscall.Statfs(dir, new(syscall.Statfs_t)); errors.Is(err, syscall.ENOTCONN) {
		return exitError, fmt.Errorf("%s is a stale mount, whose server is gone: fusermount3 -u %s", dir, dir)
	}
	if fi, err := os.Stat(dir); err != nil {
		return exitError, err
	} else if !fi.IsDir() {
		return exitError, fmt.Errorf("%s is not a directory: mount wants one to mount on", dir)
	}
	ps, err := search{addr: *addr}.places(ctx)
	if err != nil {
		return exitError, err
	}
	for _, p := range ps[1:] {
		p.close()
	}
	p := ps[0]
	defer p.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	gone := errors.New("the server of the tree is gone")
	go func() {
		select {
		case <-p.done:
			cancel(gone)
		case <-ctx.Done():
		}
	}()
	if err := fuse.Mount(ctx, dir, p.root); err != nil {
		return exitError, err
	}
	if context.Cause(ctx) == gone {
		return exitError, gone
	}
	return 0, nil
}
