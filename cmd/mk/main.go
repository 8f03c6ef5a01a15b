package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"9ci/mk"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == shellFlag {
		os.Exit(shell(os.Args[2:]))
	}
	c, targets, ok := parseArgs(os.Args[1:])
	if !ok {
		os.Stderr.WriteString(usage)
		os.Exit(1)
	}
	ctx, sig := interruptible(context.Background())
	if run(ctx, c, targets) != nil {
		sig.die()
		os.Exit(1)
	}
}

func run(ctx context.Context, c mk.Config, targets []string) error {
	m, err := mk.Parse(ctx, c)
	if err != nil {
		return err
	}
	return m.Run(ctx, targets...)
}

// caught is the signal that ended the run, if one did.
type caught struct{ sig syscall.Signal }

// interruptible returns a context that ends at SIGINT, SIGTERM, SIGHUP and
// SIGQUIT, where they are not ignored. A second one kills mk. SIGPIPE is
// caught to make it an error of the write.
func interruptible(parent context.Context) (context.Context, *caught) {
	ctx, cancel := context.WithCancelCause(parent)
	s := new(caught)
	c := make(chan os.Signal, 1)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		sig := (<-c).(syscall.Signal)
		s.sig = sig
		signal.Reset()
		cancel(mk.Interrupt{Signal: sig})
	}()
	return ctx, s
}

// die ends the process by the signal, so that who started it learns of that.
func (s *caught) die() {
	if s.sig != 0 {
		syscall.Kill(os.Getpid(), s.sig)
		select {}
	}
}
