package main

import (
	"context"
	"fmt"
	"path"
	"strings"

	"9ci/cmd/internal/show"
	"9ci/fs"
	"9ci/fs/ci"
)

// waitCommand waits for the end of a run. Its status is the run's, or exitError if
// that could not be read.
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
	n, p, err := search{addr: *addr, store: true}.find(ctx, name)
	if err != nil {
		return failed(exitError, err)
	}
	defer p.close()
	text, err := fs.ReadAll(ctx, n)
	var st ci.Status
	if err == nil {
		st, err = ci.ParseStatus(string(text))
	}
	if err == nil && !st.Finished() {
		err = fmt.Errorf("it reads as %q, which is no end of a run", text)
	}
	if err != nil {
		return failed(exitError, fmt.Errorf("%s: %w: how the run ended is not known, and 9ci wait %s asks again", name, err, f.Arg(0)))
	}
	show.Out.Write(text)
	return exitStatus(st), nil
}

// exitStatus is the exit status that the status of a finished run stands for.
func exitStatus(st ci.Status) int {
	if st.State == "error" || st.Code < 0 {
		return exitError
	}
	if st.State != "passed" && st.Code&0xff == 0 { // the kernel keeps eight bits: exit(3)
		return 1
	}
	return st.Code
}
