package ci

import (
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"time"
)

// CtlManual is what /ctl reads as.
const CtlManual = `run [ATTR=VALUE...] REV [TARGET...]
cancel ID
keep ID
forget ID
gc
`

// RunCtlManual is what the ctl of a run reads as. Only an executor that can hold
// a machine offers hold.
func RunCtlManual(canHold bool) string {
	if canHold {
		return "cancel\nhold DURATION\nkeep\nforget\n"
	}
	return "cancel\nkeep\nforget\n"
}

// A Command is a line that was written to a ctl.
type Command struct {
	Verb string // run, cancel, keep, forget, gc or hold
	Run  string // of cancel, keep and forget in /ctl: the run's id, or another name of it

	// Of run:
	Attrs   Attrs // ATTR=VALUE, in their order; a name may be there twice
	Rev     string
	Targets []string // none: the default ones

	// Of hold:
	Duration time.Duration
}

// ParseCommand reads a line of /ctl, which is not blank. An error wraps
// iofs.ErrInvalid and says what the command should be.
func ParseCommand(line string) (Command, error) {
	c, args, err := cutVerb(line)
	if err != nil {
		return Command{}, err
	}
	switch c.Verb {
	case "run":
		rev := slices.IndexFunc(args, func(w string) bool { return !strings.Contains(w, "=") })
		if rev < 0 {
			return Command{}, badCommand("run: no revision is named: run [ATTR=VALUE...] REV [TARGET...]")
		}
		for _, w := range args[:rev] {
			name, value, _ := strings.Cut(w, "=")
			c.Attrs = append(c.Attrs, Attr{name, value})
		}
		c.Rev, c.Targets = args[rev], args[rev+1:]
	case "cancel", "keep", "forget":
		if len(args) != 1 {
			return Command{}, badCommand("%s: name one run: %[1]s ID", c.Verb)
		}
		c.Run = args[0]
	case "gc":
		if len(args) != 0 {
			return Command{}, badCommand("gc takes no arguments")
		}
	default:
		return Command{}, badCommand("%.40q is not a command: run, cancel, keep, forget and gc are", c.Verb)
	}
	return c, nil
}

// ParseRunCommand reads a line of the ctl of a run, as ParseCommand does. An
// executor that cannot hold a machine refuses hold.
func ParseRunCommand(line string) (Command, error) {
	c, args, err := cutVerb(line)
	if err != nil {
		return Command{}, err
	}
	switch c.Verb {
	case "cancel", "keep", "forget":
		if len(args) != 0 {
			return Command{}, badCommand("%s takes no arguments here", c.Verb)
		}
	case "hold":
		if len(args) != 1 {
			return Command{}, badCommand("hold: name a time: hold DURATION")
		}
		if c.Duration, err = ParseDuration(args[0]); err != nil {
			return Command{}, badCommand("hold: %.40q is not a time such as 90s, 1h30m or 7d", args[0])
		}
	default:
		return Command{}, badCommand("%.40q is not a command: read this file for those that are", c.Verb)
	}
	return c, nil
}

// cutVerb cuts a line into its verb and its arguments.
func cutVerb(line string) (c Command, args []string, err error) {
	words, err := SplitWords(line)
	if err != nil {
		return Command{}, nil, badCommand("%w", err)
	}
	if len(words) == 0 {
		return Command{}, nil, badCommand("an empty line is not a command")
	}
	return Command{Verb: words[0]}, words[1:], nil
}

// badCommand is the error of a command that cannot be done as it is.
func badCommand(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), iofs.ErrInvalid)
}
