package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

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
	ctx := interruptible(context.Background())
	if err := run(ctx, c, targets); err != nil {
		if interrupted(err) { // We were too, as by a terminal, but may not know yet.
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		var i mk.Interrupt
		if errors.As(context.Cause(ctx), &i) {
			die(i.Signal)
		}
		os.Exit(1)
	}
}

// interrupted tells whether a recipe was.
func interrupted(err error) bool {
	var e *mk.ExitError
	return errors.As(err, &e) && (e.Status == "signal 2" || e.Status == "signal 3")
}

func run(ctx context.Context, c mk.Config, targets []string) error {
	m, err := mk.Parse(ctx, c)
	if err != nil {
		return err
	}
	return m.Run(ctx, targets...)
}

// interruptible returns a context that ends at SIGINT, SIGTERM, SIGHUP and
// SIGQUIT, where they are not ignored. A second one kills mk. SIGPIPE is
// caught to make it an error of the write.
func interruptible(parent context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 1)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		sig := (<-c).(syscall.Signal)
		signal.Reset()
		cancel(mk.Interrupt{
			Signal:    sig,
			Delivered: (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && hasTerminal(),
		})
	}()
	return ctx
}

// die ends the process by a signal, so that who started it learns of that.
func die(sig syscall.Signal) {
	signal.Reset(sig)
	syscall.Kill(os.Getpid(), sig)
	select {}
}

// hasTerminal tells whether there is a terminal, whose interrupts reach the
// recipes as they reach us.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
