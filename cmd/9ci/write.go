package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/show"
	"9ci/fs/ci"
)

// writeLimit is how many bytes 9ci write sends at most: a ctl takes one message.
const writeLimit = 64 << 10

// writeCommand sends standard input to a file and prints the reply.
func writeCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("write")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, writeLimit+1))
	if err != nil {
		return exitError, err
	}
	if len(input) > writeLimit {
		return exitError, fmt.Errorf("the input is longer than %d bytes", writeLimit)
	}
	// The daemon's own ctl takes it, and no repository has one with that command.
	words, _ := ci.SplitWords(strings.TrimSpace(string(input)))
	repo := path.Clean("/"+f.Arg(0)) == "/ctl" && len(words) > 0 && words[0] == "repo"
	n, p, err := search{addr: *addr, roots: repo}.find(ctx, f.Arg(0))
	if err != nil {
		return failed(1, err)
	}
	defer p.close()
	reply, err := ask.Ctl(ctx, n, input)
	show.Out.Write(reply)
	if err != nil {
		return failed(1, fmt.Errorf("%s: %w", f.Arg(0), err))
	}
	return 0, nil
}
