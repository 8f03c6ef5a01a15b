package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"9ci/mk"
)

// A mkFlag is an option, which its first letter names.
type mkFlag struct {
	letter byte
	arg    string // what the usage calls its argument, [in brackets] if that may be empty
	help   string
	set    func(c *mk.Config, arg string) error
}

// wants tells whether there must be an argument, here or as the next one.
func (f *mkFlag) wants() bool { return f.arg != "" && f.arg[0] != '[' }

// name returns the flag as it is written.
func (f *mkFlag) name() string {
	if f.wants() {
		return "-" + string(f.letter) + " " + f.arg
	}
	return "-" + string(f.letter) + f.arg
}

// flags are the options, in the order of the usage and of the manual.
var flags = []mkFlag{
	{'a', "", "all targets are out of date; implies -i", on(func(c *mk.Config) *bool { return &c.All })},
	{'C', "dir", "go to dir first", func(_ *mk.Config, s string) error { return chdir(s) }},
	{'d', "[egp]", "print what was parsed (p), the graph (g), what is run (e)", func(c *mk.Config, s string) error {
		c.Debug += cmp.Or(s, "egp")
		return nil
	}},
	{'e', "", "say why each target is made", on(func(c *mk.Config) *bool { return &c.Explain })},
	{'f', "mkfile", "read this, instead of mkfile; may be repeated", func(c *mk.Config, s string) error {
		c.Files = append(c.Files, s)
		return nil
	}},
	{'h', "", "print this", func(*mk.Config, string) error { return errHelp }},
	{'i', "", "make missing intermediate targets", on(func(c *mk.Config) *bool { return &c.Missing })},
	{'k', "", "go on after errors, with what does not depend on them", on(func(c *mk.Config) *bool { return &c.Keep })},
	{'n', "", "print recipes, do not run them", on(func(c *mk.Config) *bool { return &c.NoExec })},
	{'N', "", "compare times in nanoseconds, not in whole seconds", on(func(c *mk.Config) *bool { return &c.Nano })},
	{'o', "", "print the output of each recipe at the recipe's end", on(func(c *mk.Config) *bool { return &c.Collect })},
	{'s', "", "make the targets one after the other", on(func(c *mk.Config) *bool { return &c.Sequence })},
	{'t', "", "touch targets, do not run recipes", on(func(c *mk.Config) *bool { return &c.Touch })},
	{'u', "", "print at the end for how many seconds 0, 1, 2, ... recipes ran", on(func(c *mk.Config) *bool { return &c.Usage })},
	{'v', "", "say so if the built-in shell is used", func(c *mk.Config, _ string) error {
		c.Builtin = sync.OnceValue(func() []string {
			argv := builtin()
			if argv != nil {
				syscall.Write(2, []byte("mk: using the built-in shell\n")) // os.Stderr would die of SIGPIPE
			}
			return argv
		})
		return nil
	}},
	{'w', "names", "these, separated by commas, count as modified just now", func(c *mk.Config, s string) error {
		c.WhatIf += " " + s
		return nil
	}},
}

// on sets a field of the configuration.
func on(field func(*mk.Config) *bool) func(*mk.Config, string) error {
	return func(c *mk.Config, _ string) error {
		*field(c) = true
		return nil
	}
}

// A usageError says what is wrong with a command line. Of one that asks for the
// usage nothing is.
type usageError string

func (e usageError) Error() string { return string(e) }

const errHelp = usageError("")

// refuse says what is wrong with a command line, or what errHelp asks for, and
// returns mk's exit status.
func refuse(err error) int {
	var b strings.Builder
	w, status := os.Stdout, 0
	if err != errHelp {
		w, status = os.Stderr, 1
		fmt.Fprintf(&b, "mk: %v\n", err)
	}
	if _, ok := err.(usageError); ok {
		b.WriteString("Usage: mk [-f mkfile] ... [option ...] [name=value ...] [target ...]\n")
		for _, f := range flags {
			fmt.Fprintf(&b, "\t%-9s  %s\n", f.name(), f.help)
		}
	}
	if _, err := w.WriteString(b.String()); err != nil {
		return 1
	}
	return status
}

// chdir changes the directory as cd does, with $PWD.
func chdir(dir string) error {
	if strings.Contains(os.Args[0], "/") { // by which builtin may have to find us
		if exe, err := filepath.Abs(os.Args[0]); err == nil {
			os.Args[0] = exe
		}
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	return os.Setenv("PWD", wd)
}

// parseArgs reads the command line as mk does: only the first letter of an
// option counts, and the first argument without a - ends them. An argument with
// a = is an assignment. The error says what is wrong, or is errHelp.
func parseArgs(args []string) (c mk.Config, targets []string, err error) {
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
		if arg == "--help" {
			return c, nil, errHelp
		}
		k := slices.IndexFunc(flags, func(f mkFlag) bool { return len(arg) > 1 && f.letter == arg[1] })
		if k < 0 {
			return c, nil, usageError("unknown flag " + arg)
		}
		f := &flags[k]
		if f.letter != 'C' { // which a mk that gets $MKFLAGS must not obey again
			words = append(words, arg)
		}
		value := arg[2:]
		if f.wants() && (value == "" || f.letter == 'f') { // -fX ignores X
			if i++; i == len(args) {
				return c, nil, usageError("flag " + arg + " without its " + f.arg)
			}
			value = args[i]
		}
		if f.letter == 'f' {
			words = append(words, value)
		}
		if err := f.set(&c, value); err != nil {
			return c, nil, err
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
	c.Flags = strings.Join(append(words, c.Vars...), " ")
	c.Args = targets
	return c, targets, nil
}
