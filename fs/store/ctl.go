package store

import (
	"9ci/fs/ci"
	"9ci/fs/internal/disk"
	"context"
	"fmt"

	iofs "io/fs"
	"slices"
	"strings"
	"time"
)

const rootManual = `run [ATTR=VALUE...] REV [TARGET...]
cancel ID
keep ID
forget ID
gc
`

const runManual = `cancel
hold DURATION
keep
forget
`

// command does a line that was written to /ctl.
func (t *tree) command(ctx context.Context, line string) (string, error) {
	words, err := ci.SplitWords(line)
	if err != nil {
		return "", badCommand("%w", err)
	}
	switch words[0] {
	case "run":
		rev := slices.IndexFunc(words[1:], func(w string) bool { return !strings.Contains(w, "=") })
		if rev < 0 {
			return "", badCommand("run: no revision is named: run [ATTR=VALUE...] REV [TARGET...]")
		}
		return t.c.Command(ctx, line)
	case "cancel", "keep", "forget":
		if len(words) != 2 {
			return "", badCommand("%s: name one run: %[1]s ID", words[0])
		}
		e, err := t.lookup(ctx, words[1])
		if err != nil {
			return "", fmt.Errorf("%s: %s: %w", words[0], words[1], disk.Bare(err))
		}
		if words[0] == "cancel" {
			if e.Run == nil {
				return "", badCommand("cancel: %s has ended", e.ID)
			}
			return t.c.Command(ctx, "cancel "+e.ID)
		}
		return "", t.keepOrForget(words[0], e.ID)
	case "gc":
		if len(words) != 1 {
			return "", badCommand("gc takes no arguments")
		}
		n, err := t.s.GC()
		return fmt.Sprintf("%d", n), err
	}
	return "", badCommand("%.40q is not a command: run, cancel, keep, forget and gc are", words[0])
}

// runCommand does a line that was written to the ctl of a run.
func (t *tree) runCommand(ctx context.Context, id, line string) (string, error) {
	words, err := ci.SplitWords(line)
	if err != nil {
		return "", badCommand("%w", err)
	}
	switch words[0] {
	case "cancel":
		if len(words) != 1 {
			return "", badCommand("cancel takes no arguments")
		}
		if e, err := t.s.Get(id); err != nil || e.Run == nil {
			return "", badCommand("cancel: %s has ended", id)
		}
		return t.c.RunCommand(ctx, id, line)
	case "hold":
		if len(words) != 2 {
			return "", badCommand("hold: name a time: hold DURATION")
		}
		if d, err := time.ParseDuration(words[1]); err != nil || d < 0 {
			return "", badCommand("hold: %.40q is not a time such as 90s, 10m or 2h", words[1])
		}
		return t.c.RunCommand(ctx, id, line)
	case "keep", "forget":
		if len(words) != 1 {
			return "", badCommand("%s takes no arguments here", words[0])
		}
		return "", t.keepOrForget(words[0], id)
	}
	return "", badCommand("%.40q is not a command: cancel, hold, keep and forget are", words[0])
}

func (t *tree) keepOrForget(what, id string) error {
	if what == "keep" {
		return t.s.Keep(id)
	}
	return t.s.Forget(id)
}

// badCommand is the error of a command that cannot be done as it is.
func badCommand(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), iofs.ErrInvalid)
}
