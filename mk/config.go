package mk

import (
	"io"
	"os"
)

// Config says what to read and how to run it. The zero Config is mk without
// flags, reading ./mkfile, except that nothing is run by Parse.
type Config struct {
	// Dir is the directory to which the names of mkfiles and targets are
	// relative, and in which recipes run. Empty is the current directory.
	Dir string

	// Env is the environment, NAME=VALUE, of which the mkfile's variables
	// start. Nil is os.Environ().
	Env []string

	// Files are the mkfiles to read, in order. Nil is "mkfile", which
	// need not exist.
	Files []string

	// Src, if not nil, is read instead of the first of Files, whose name then
	// only stands in messages. Parse reads it to its end and does not close
	// it; ctx does not end a Read that blocks.
	Src io.Reader

	// Vars are command-line assignments, "NAME=value", each parsed as a
	// line of a mkfile. They win over the mkfiles and the environment.
	Vars []string

	// Flags and Args are the values of $MKFLAGS and $MKARGS, which say what
	// the command line was. They have no other effect.
	Flags string
	Args  []string // see Flags

	// Exec lets Parse run backquotes and <| lines. Without it their output is
	// unknown; see Mkfile.Var.
	Exec bool

	// Stdin is the standard input of <| and P programs (a recipe and a
	// backquote read themselves). Nil is the null device.
	Stdin *os.File

	// Stdout and Stderr get what mk and its recipes print; nil discards.
	// The recipes get an *os.File as it is. Any other writer is written to
	// from one goroutine; one for both gets both from one. It gets nothing
	// more after an error. An error of Stdout is one of Parse or Run.
	Stdout, Stderr io.Writer

	All      bool   // -a: all targets are out of date; implies Missing
	Debug    string // -d: letters of egp
	Explain  bool   // -e: say why a target is made
	Missing  bool   // -i: make missing intermediate targets
	Keep     bool   // -k: go on after errors, with what does not depend on them
	NoExec   bool   // -n: print recipes, do not run them
	Sequence bool   // -s: one argument after the other
	Touch    bool   // -t: touch targets, do not run recipes
	Usage    bool   // -u: print how many jobs ran for how long
	Nano     bool   // -N: compare times in nanoseconds, not seconds
	Collect  bool   // -o: print the output of a job when it ends, where NPROC is over 1
	WhatIf   string // -w: names, separated by commas, that were modified just now

	// Orphans makes Parse and Run wait for every child of this program, as PID 1
	// and a child subreaper (prctl(2)) must, and a signal reach orphans of
	// recipes. No other code of the program may then wait for a child. Where recipes
	// run this program, it is taken to signal its own recipes.
	Orphans bool

	// Builtin returns the command line of a POSIX shell, to which the
	// arguments of sh are added, or nil where it has none. It is called each
	// time such a shell is to run a command: if MKSHELL is sh and there is
	// no sh, and if MKSHELL is builtin. If Builtin is nil a missing shell is
	// an error.
	Builtin func() []string
}

// environ returns the environment the mkfile starts with.
func (c *Config) environ() []string {
	if c.Env != nil {
		return c.Env
	}
	return os.Environ()
}

// path returns name as the operating system is to be asked for it.
func (c *Config) path(name string) string {
	if c.Dir == "" || (name != "" && name[0] == '/') {
		return name
	}
	return c.Dir + "/" + name
}
