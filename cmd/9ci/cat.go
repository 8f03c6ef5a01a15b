package main

import (
	"context"
	"fmt"
	"io"

	"9ci/cmd/internal/show"
)

// catCommand writes files to standard output.
func catCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("cat")
	addr := f.String("a", "", "")
	raw := f.Bool("raw", false, "")
	if err := parseFlags(f, args, 1, -1); err != nil {
		return exitError, err
	}
	for _, name := range f.Args() {
		n, p, err := search{addr: *addr, store: true}.find(ctx, name)
		if err != nil {
			return failed(1, err)
		}
		defer p.close()
		if err := copyFile(ctx, content(show.Out, *raw), n); err != nil {
			return failed(1, fmt.Errorf("%s: %w", name, err))
		}
	}
	return 0, nil
}

// content returns a writer of content to w: one that filters nothing if raw is
// set.
func content(w *show.Writer, raw bool) io.Writer {
	if raw {
		return w.Raw()
	}
	return w
}
