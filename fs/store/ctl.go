package store

import (
	"context"
	"fmt"
	iofs "io/fs"
	"strconv"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// command does a line that was written to /ctl.
func (t *tree) command(ctx context.Context, line string) (string, error) {
	c, err := ci.ParseCommand(line)
	if err != nil {
		return "", err
	}
	switch c.Verb {
	case "run":
		return t.c.Command(ctx, c)
	case "gc":
		n, err := t.s.GC()
		return strconv.Itoa(n), err
	}
	e, err := t.lookup(ctx, c.Run)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", c.Verb, c.Run, disk.Bare(err))
	}
	c.Run = e.ID
	return t.commandRun(ctx, c)
}

// runCommand does a line that was written to the ctl of a run.
func (t *tree) runCommand(ctx context.Context, id, line string) (string, error) {
	c, err := ci.ParseRunCommand(line)
	if err != nil {
		return "", err
	}
	c.Run = id
	return t.commandRun(ctx, c)
}

// commandRun does a command on the run that c names by its id.
func (t *tree) commandRun(ctx context.Context, c ci.Command) (string, error) {
	switch c.Verb {
	case "keep":
		return "", t.s.Keep(c.Run)
	case "forget":
		if h, ok := t.c.(Holder); ok && h.Held(c.Run) != nil {
			return "", fmt.Errorf("forget: the machine of %s is held: hold 0, written to ci/%[1]s/ctl, lets it go: %w", c.Run, ErrInUse)
		}
		return "", t.s.Forget(c.Run)
	case "hold":
		h, ok := t.c.(Holder)
		if !ok {
			return "", fmt.Errorf("hold: this executor cannot hold a machine: %w", iofs.ErrInvalid)
		}
		return "", h.Hold(ctx, c.Run, c.Duration)
	}
	// cancel
	if e, err := t.s.Get(c.Run); err != nil || e.Run == nil {
		return "", fmt.Errorf("cancel: %s has ended: %w", c.Run, iofs.ErrInvalid)
	}
	return t.c.Command(ctx, c)
}
