package main

import (
	"context"
	"path"
	"strings"

	"9ci/cmd/internal/show"
	"9ci/fs"
	"9ci/fs/ci"
)

// waitCommand waits for the end of a run. Its status is the run's.
func waitCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("wait")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	name := f.Arg(0)
	if !strings.Contains(name, "/") {
		name = "ci/" + name
	}
	if path.Base(name) != "wait" {
		name += "/wait"
	}
	n, p, err := find(ctx, *addr, name)
	if err != nil {
		return 1, err
	}
	defer p.close()
	text, err := fs.ReadAll(ctx, n)
	if err != nil {
		return 1, err
	}
	show.Out.Write(text)
	st, err := ci.ParseStatus(string(text))
	if err != nil {
		return 1, err
	}
	return exitStatus(st), nil
}

// exitStatus is the exit status that the status of a finished run stands for.
func exitStatus(st ci.Status) int {
	if st.State == "error" || st.Code < 0 {
		return exitError
	}
	return st.Code
}
