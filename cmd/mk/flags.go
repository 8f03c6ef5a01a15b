package main

import (
	"os"
	"strings"
	"sync"
	"syscall"

	"9ci/mk"
)

const usage = "Usage: mk [-f file] [-n] [-a] [-e] [-t] [-k] [-i] [-d[egp]] [targets ...]\n"

// flags are the options, by their letter. The function gets what stands
// behind the letter, or where that is empty and arg is 'w', the next argument;
// where arg is 'f' it always gets that.
var flags = map[byte]struct {
	arg byte
	set func(c *mk.Config, arg string)
}{
	'a': {0, func(c *mk.Config, _ string) { c.All = true }},
	'd': {0, func(c *mk.Config, s string) {
		if s == "" {
			s = "egp"
		}
		c.Debug += s
	}},
	'e': {0, func(c *mk.Config, _ string) { c.Explain = true }},
	'f': {'f', func(c *mk.Config, s string) { c.Files = append(c.Files, s) }},
	'i': {0, func(c *mk.Config, _ string) { c.Missing = true }},
	'k': {0, func(c *mk.Config, _ string) { c.Keep = true }},
	'n': {0, func(c *mk.Config, _ string) { c.NoExec = true }},
	's': {0, func(c *mk.Config, _ string) { c.Sequence = true }},
	't': {0, func(c *mk.Config, _ string) { c.Touch = true }},
	'u': {0, func(c *mk.Config, _ string) { c.Usage = true }},
	'v': {0, func(c *mk.Config, _ string) {
		c.Builtin = sync.OnceValue(func() []string {
			argv := builtin()
			if argv != nil {
				syscall.Write(2, []byte("mk: using the built-in shell\n")) // os.Stderr would die of SIGPIPE
			}
			return argv
		})
	}},
	'w': {'w', func(c *mk.Config, s string) { c.WhatIf += " " + s }},
	'N': {0, func(c *mk.Config, _ string) { c.Nano = true }},
}

// parseArgs reads the command line as mk does: only the first letter of an
// option counts, and the first argument without a - ends them. An argument with
// a = is an assignment.
func parseArgs(args []string) (c mk.Config, targets []string, ok bool) {
	c = mk.Config{
		Exec:    true,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Builtin: builtin,
	}
	var words []string // of $MKFLAGS
	i := 0
	for ; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		arg := args[i]
		words = append(words, arg)
		if arg == "-" {
			return c, nil, false
		}
		f, ok := flags[arg[1]]
		if !ok {
			return c, nil, false
		}
		value := arg[2:]
		if f.arg == 'f' || f.arg == 'w' && value == "" {
			if i++; i == len(args) {
				return c, nil, false
			}
			value = args[i]
		}
		if f.arg == 'f' {
			words = append(words, value)
		}
		f.set(&c, value)
	}
	for _, arg := range args[i:] {
		switch {
		case strings.Contains(arg, "="):
			c.Vars = append(c.Vars, arg)
		case arg != "":
			targets = append(targets, arg)
		}
	}
	c.Flags = strings.Join(append(words, c.Vars...), " ")
	c.Args = targets
	return c, targets, true
}
