package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"9ci/cmd/internal/sh"
	"9ci/mk"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == shellFlag {
		os.Exit(sh.Main(builtin(), os.Args[2:]))
	}
	c, targets, err := parseArgs(os.Args[1:])
	if err != nil {
		os.Exit(refuse(err))
	}
	ctx := interruptible(context.Background())
	if err := run(ctx, c, targets); err != nil {
		if interrupted(err) { // A terminal interrupts mk too, which may not know yet.
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

// interrupted tells whether err is that of a recipe that was interrupted.
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

// interruptible returns a context that ends at the first SIGINT, SIGTERM, SIGHUP
// or SIGQUIT that is not ignored. A second one kills mk.
func interruptible(parent context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	catch(func(sig syscall.Signal) {
		cancel(mk.Interrupt{
			Signal:    sig,
			Delivered: (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && hasTerminal(),
		})
	}, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return ctx
}

// die ends the process by a signal that was caught, so that its parent learns of
// the signal.
func die(sig syscall.Signal) {
	syscall.Kill(os.Getpid(), sig)
	select {}
}

// hasTerminal tells whether there is a terminal. Its interrupts reach recipes and
// mk alike.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
