package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shellFlag, as the first argument, makes this program the built-in shell.
// What follows is for sh: -e, or -c and a command.
const shellFlag = "--builtin-sh"

// builtin returns the command line of the built-in shell, nil where this
// program cannot tell where it is.
func builtin() []string {
	exe, err := os.Executable()
	if err != nil { // no /proc
		if strings.IndexByte(os.Args[0], '/') < 0 {
			return nil
		}
		if exe, err = filepath.Abs(os.Args[0]); err != nil {
			return nil
		}
	}
	return []string{exe, shellFlag}
}

// shell runs a POSIX shell script, its standard input unless args are -c and
// a command, and returns its exit status. A statement is read when those
// before it have run, as sh does.
func shell(args []string) int {
	var options []string
	var script io.Reader = bufio.NewReader(os.Stdin)
	name := "sh"
	for i, arg := range args {
		if arg == "-c" && i+1 < len(args) {
			script = strings.NewReader(args[i+1])
			break
		}
		options = append(options, arg)
	}
	r, err := interp.New(
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Params(append(options, "--")...),
		interp.ExecHandlers(command),
	)
	if err != nil {
		os.Stderr.WriteString(name + ": " + err.Error() + "\n")
		return 2
	}
	status := 0
	for stmt, err := range syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).StmtsSeq(script) {
		if err != nil {
			os.Stderr.WriteString(name + ": " + err.Error() + "\n")
			return 2
		}
		syntax.Walk(stmt, posix)
		err := r.Run(context.Background(), stmt)
		var code interp.ExitStatus
		switch {
		case err == nil:
			status = 0
		case errors.As(err, &code):
			status = int(code)
		default:
			os.Stderr.WriteString(name + ": " + err.Error() + "\n")
			return 1
		}
		if r.Exited() {
			break
		}
	}
	return status
}

// posix changes what the interpreter would take for bash's: braces stay as
// they are, and export, readonly and local, which the parser knows in bash's
// scripts only, are declarations.
func posix(node syntax.Node) bool {
	switch n := node.(type) {
	case *syntax.CallExpr:
		escapeBraces(n.Args)
	case *syntax.WordIter:
		escapeBraces(n.Items)
	case *syntax.Stmt:
		call, ok := n.Cmd.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 || len(call.Assigns) > 0 {
			break
		}
		switch call.Args[0].Lit() {
		case "export", "readonly", "local":
			decl := &syntax.DeclClause{Variant: call.Args[0].Parts[0].(*syntax.Lit)}
			for _, w := range call.Args[1:] {
				decl.Args = append(decl.Args, assignment(w))
			}
			n.Cmd = decl
		}
	}
	return true
}

// escapeBraces puts a backslash before each brace that could be expanded.
func escapeBraces(words []*syntax.Word) {
	for _, w := range words {
		for _, part := range w.Parts {
			lit, ok := part.(*syntax.Lit)
			if !ok || strings.IndexByte(lit.Value, '{') < 0 {
				continue
			}
			var b strings.Builder
			for i := 0; i < len(lit.Value); i++ {
				c := lit.Value[i]
				if c == '{' {
					b.WriteByte('\\')
				}
				b.WriteByte(c)
				if c == '\\' && i+1 < len(lit.Value) {
					i++
					b.WriteByte(lit.Value[i])
				}
			}
			lit.Value = b.String()
		}
	}
}

// assignment splits a word NAME=VALUE.
func assignment(w *syntax.Word) *syntax.Assign {
	lit, ok := w.Parts[0].(*syntax.Lit)
	if !ok {
		return &syntax.Assign{Naked: true, Value: w}
	}
	name, value, ok := strings.Cut(lit.Value, "=")
	if !syntax.ValidName(name) {
		return &syntax.Assign{Naked: true, Value: w}
	}
	a := &syntax.Assign{Naked: !ok, Name: &syntax.Lit{ValuePos: lit.ValuePos, ValueEnd: lit.ValueEnd, Value: name}}
	if ok {
		first := *lit
		first.Value = value
		a.Value = &syntax.Word{Parts: append([]syntax.WordPart{&first}, w.Parts[1:]...)}
	}
	return a
}

// command runs a command. One that is not there is reported in sh's words,
// but for sh itself, which we are.
func command(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		h := interp.HandlerCtx(ctx)
		if _, err := interp.LookPathDir(h.Dir, h.Env, args[0]); err == nil {
			return next(ctx, args)
		}
		self := builtin()
		if self == nil || args[0] != "sh" && args[0] != "/bin/sh" {
			fmt.Fprintf(h.Stderr, "sh: %d: %s: not found\n", h.Pos.Line(), args[0])
			return interp.ExitStatus(127)
		}
		return next(ctx, append(self, args[1:]...))
	}
}
