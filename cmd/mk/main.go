package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"9ci/mk"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == shellFlag {
		os.Exit(shell(os.Args[2:]))
	}
	c, args, ok := parseArgs(os.Args[1:])
	if !ok {
		os.Stderr.WriteString(usage)
		os.Exit(1)
	}
	ctx, sig := interruptible(context.Background())
	if run(ctx, c, args) != nil {
		sig.die()
		os.Exit(1)
	}
}

func run(ctx context.Context, c mk.Config, args []string) error {
	m, err := mk.Parse(ctx, c)
	if err != nil {
		return err
	}
	return m.Run(ctx, args...)
}

// signals is which signal came, if one did.
type signals struct{ got syscall.Signal }

// interruptible returns a context that ends at SIGINT, SIGTERM and SIGHUP,
// where they are not ignored.
func interruptible(parent context.Context) (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(parent)
	s := new(signals)
	c := make(chan os.Signal, 1)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
	go func() {
		sig := (<-c).(syscall.Signal)
		s.got = sig
		cancel(mk.Interrupt{Signal: sig})
	}()
	return ctx, s
}

// die ends the process by the signal that ended the run.
func (s *signals) die() {
	if s.got != 0 {
		signal.Reset(s.got)
		syscall.Kill(os.Getpid(), s.got)
		select {}
	}
}

// hasTerminal tells whether there is a terminal whose interrupts reach the
// recipes without us. They must then stay in its foreground process group.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

const usage = "Usage: mk [-f file] [-n] [-a] [-e] [-t] [-k] [-i] [-d[egp]] [targets ...]\n"

// parseArgs reads the command line as mk does: only the first letter of an
// option counts, and the first argument without a - ends them.
func parseArgs(args []string) (c mk.Config, targets []string, ok bool) {
	c = mk.Config{Exec: true, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	verbose := false
	var flags []string
	var whatIf []string
	i := 0
	for ; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		arg := args[i]
		flags = append(flags, arg)
		if arg == "-" {
			return c, nil, false
		}
		switch arg[1] {
		case 'a':
			c.All = true
		case 'd':
			if c.Debug += arg[2:]; arg == "-d" {
				c.Debug += "egp"
			}
		case 'e':
			c.Explain = true
		case 'f':
			if i++; i == len(args) {
				return c, nil, false
			}
			c.Files = append(c.Files, args[i])
			flags = append(flags, args[i])
		case 'i':
			c.Missing = true
		case 'k':
			c.Keep = true
		case 'n':
			c.NoExec = true
		case 's':
			c.Sequence = true
		case 't':
			c.Touch = true
		case 'u':
			c.Usage = true
		case 'w':
			if name := arg[2:]; name != "" {
				whatIf = append(whatIf, name)
				break
			}
			if i++; i == len(args) {
				return c, nil, false
			}
			whatIf = append(whatIf, args[i])
		case 'N':
			c.Nano = true
		case 'v':
			verbose = true
		default:
			return c, nil, false
		}
	}
	for _, arg := range args[i:] {
		switch {
		case strings.Contains(arg, "="):
			c.Vars = append(c.Vars, arg)
		case arg != "":
			targets = append(targets, arg)
		}
	}
	c.Builtin = builtin()
	if verbose {
		c.OnBuiltin = func() { os.Stderr.WriteString("mk: no sh; using the built-in shell\n") }
	}
	c.Group = !hasTerminal()
	c.WhatIf = strings.Join(whatIf, " ")
	c.Flags = strings.Join(append(flags, c.Vars...), " ")
	c.Args = targets
	return c, targets, true
}
