package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"9ci/cmd/internal/sh"
	"9ci/mk"
)

func main() {
	inheritIgnored()
	if len(os.Args) > 1 && os.Args[1] == shellFlag {
		os.Exit(sh.Main(builtin(), os.Args[2:]))
	}
	c, targets, err := parseArgs(os.Args[1:])
	if err != nil {
		os.Exit(refuse(err))
	}
	// What recipes leave behind becomes a child of PID 1, or of a subreaper, which
	// so can reach it and must reap it.
	c.Orphans = os.Getpid() == 1 || unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil
	ctx, w := interruptible(context.Background())
	if err := run(ctx, c, targets); err != nil {
		if ctx.Err() == nil && w.killed(0) { // a recipe has failed by a signal that mk has got too
			select {
			case <-ctx.Done():
			case <-time.After(time.Second): // nobody but the witness has got it
			}
		}
		var i mk.Interrupt
		if !errors.As(context.Cause(ctx), &i) {
			os.Exit(1)
		}
		if i.Signal == syscall.SIGALRM { // as the C mk does
			os.Stdout.WriteString("mk: " + i.Error() + "\n")
			os.Exit(1)
		}
		die(i.Signal)
	}
}

func run(ctx context.Context, c mk.Config, targets []string) error {
	m, err := mk.Parse(ctx, c)
	if err != nil {
		return err
	}
	return m.Run(ctx, targets...)
}
