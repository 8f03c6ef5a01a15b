// Package sh is a POSIX shell, for machines without one: it runs the recipes of
// mk where there is no sh. Package syntax of mvdan.cc/sh parses, its package
// expand expands; this package runs what they yield, as dash(1) does.
//
// A subshell is a process, as POSIX has it: this shell again, which is given the
// state of its parent as a script. So $! is a process that kill reaches, and
// directory, umask, descriptors and traps are each process's own.
//
// What the shell does not have ends the script with status 2 and a message that
// says so; it is never passed over.
package sh

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/syntax"
)

// subshell, as the first argument, makes a shell go on from its parent's state,
// which it reads from descriptor stateFD. The arguments after it are those of
// subshellArgs.
const (
	subshell = "--subshell"
	stateFD  = 10
)

// Main runs a shell with sh's arguments, and returns its exit status. Self is the
// command line that starts this shell, to which arguments are added. Nothing else
// may use descriptors below 10 in this process.
func Main(self, args []string) int {
	s := newShell(self)
	if len(args) > 0 && args[0] == subshell {
		return s.mainSubshell(args[1:])
	}
	command, script := "", io.Reader(&fdReader{s, 0})
	rest, ok := s.setOptions(args, &command)
	switch {
	case !ok:
		return 2
	case command != "":
		script = strings.NewReader(command)
		if len(rest) > 0 {
			s.name, rest = rest[0], rest[1:]
		}
	case len(rest) == 0:
		s.opts['s'] = true
	case !s.opts['s']:
		f, err := os.ReadFile(rest[0])
		if err != nil {
			s.errorf("cannot open %s: %s", rest[0], reason(err))
			return 2
		}
		s.name, rest = rest[0], rest[1:]
		script = bytes.NewReader(f)
	}
	s.args = rest
	s.source(bufio.NewReader(script))
	return s.finish()
}

// shell is the state of one shell process.
type shell struct {
	self   []string
	name   string // $0
	pid    int    // $$
	line   uint   // of the command that runs, for messages
	args   []string
	vars   map[string]*variable
	locals []map[string]*variable // what local hides, by the depth of calls
	funcs  map[string]*syntax.Stmt
	opts   map[byte]bool
	fds    map[int]int // the script's descriptors: ours
	status int
	before *int // the status before the trap that runs
	tail   bool // what is called next is all there is to do
	subst  int  // of the last command substitution
	last   int  // $!
	jobs   map[int]*job
	traps  *traps
	char   int // of getopts in its argument

	leave  leave
	levels int // that break and continue leave
	loops  int // that run
	depth  int // of calls and scripts
	dots   int // files that run by way of .
	quiet  int // conditions that run: -e does not count
}

// leave says what is being left.
type leave int

const (
	nothing leave = iota
	breaking
	continuing
	returning
	exiting
)

type variable struct {
	value                 string
	set, export, readonly bool
}

func newShell(self []string) *shell {
	s := &shell{
		self:  self,
		name:  "sh",
		pid:   os.Getpid(),
		vars:  make(map[string]*variable),
		funcs: make(map[string]*syntax.Stmt),
		opts:  make(map[byte]bool),
		jobs:  make(map[int]*job),
		fds:   inherited(),
	}
	s.traps = newTraps()
	for _, e := range os.Environ() {
		if name, value, ok := strings.Cut(e, "="); ok && syntax.ValidName(name) {
			s.vars[name] = &variable{value: value, set: true, export: true}
		}
	}
	s.vars["IFS"] = &variable{value: " \t\n", set: true}
	s.vars["OPTIND"] = &variable{value: "1", set: true}
	s.vars["PPID"] = &variable{value: strconv.Itoa(os.Getppid()), set: true}
	if s.vars["PATH"] == nil {
		s.setVar("PATH", standardPath)
	}
	if !sameFile(s.value("PWD"), ".") {
		dir, _ := os.Getwd()
		s.setVar("PWD", dir)
	}
	return s
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return path.IsAbs(a) && err == nil && err2 == nil && os.SameFile(x, y)
}

// mainSubshell is Main of a subshell. Its script is the state, a NUL, and what it
// has to run.
func (s *shell) mainSubshell(args []string) int {
	f := os.NewFile(stateFD, "state")
	text, err := io.ReadAll(f)
	f.Close()
	state, body, ok := strings.Cut(string(text), "\x00")
	if err != nil || !ok || len(args) != 7 {
		s.errorf("cannot read the state of the parent: %v", err)
		return 2
	}
	s.source(strings.NewReader(state))
	n := make([]int, 6)
	for i := range n {
		n[i], _ = strconv.Atoi(args[i])
	}
	s.pid, s.last, s.quiet, s.status, s.subst = n[0], n[1], n[2], n[3], 0
	s.loops = n[5]
	s.name = args[6]
	s.locals = make([]map[string]*variable, n[4])
	for i := range s.locals {
		s.locals[i] = make(map[string]*variable)
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(body), "")
	if err != nil {
		s.errorf("cannot read what the parent has printed: %v", err)
		return 2
	}
	if len(file.Stmts) == 1 && !file.Stmts[0].Negated {
		_, s.tail = file.Stmts[0].Cmd.(*syntax.CallExpr)
	}
	s.stmts(file.Stmts)
	return s.finish()
}

// state returns the state of s as a script, and the arguments of a shell that goes
// on from it with a statement on the given line.
func (s *shell) state(line uint, body []*syntax.Stmt) (script []byte, args []string, err error) {
	var b bytes.Buffer
	for name, v := range s.vars {
		switch {
		case v.set && !v.export:
			fmt.Fprintf(&b, "%s=%s\n", name, quote(v.value))
		case v.export && !v.set:
			fmt.Fprintf(&b, "export %s\n", name)
		}
		if v.readonly {
			fmt.Fprintf(&b, "readonly %s\n", name)
		}
	}
	printer := syntax.NewPrinter()
	for name, body := range s.funcs {
		decl := &syntax.FuncDecl{Parens: true, Name: &syntax.Lit{Value: name}, Body: body}
		if err := printer.Print(&b, decl); err != nil {
			return nil, nil, err
		}
		b.WriteByte('\n')
	}
	for sig := range s.traps.actions() {
		if s.traps.ignored(sig) {
			fmt.Fprintf(&b, "trap '' %d\n", sig)
		}
	}
	for c := range s.opts {
		if s.opts[c] && c != 's' {
			fmt.Fprintf(&b, "set -%c\n", c)
		}
	}
	b.WriteString("set --")
	for _, arg := range s.args {
		b.WriteString(" " + quote(arg))
	}
	b.WriteString("\n\x00" + strings.Repeat("\n", int(max(line, 1)-1)))
	if err := printer.Print(&b, &syntax.File{Stmts: body}); err != nil {
		return nil, nil, err
	}
	args = []string{subshell}
	for _, n := range []int{s.pid, s.last, s.quiet, s.status, len(s.locals), s.loops} {
		args = append(args, strconv.Itoa(n))
	}
	return b.Bytes(), append(args, s.name), nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }

// errorf prints a message in sh's form.
func (s *shell) errorf(format string, args ...any) {
	s.write(2, fmt.Appendf(nil, "%s: %d: %s\n", s.name, s.line, fmt.Sprintf(format, args...)))
}

// fail ends the script with a message and status 2.
func (s *shell) fail(format string, args ...any) {
	s.errorf(format, args...)
	s.status, s.leave = 2, exiting
}

// refuse ends the script since it needs what this shell lacks.
func (s *shell) refuse(what string) {
	s.fail("the built-in shell has no %s: it needs a real sh, see MKSHELL in mk(1)", what)
}

// reason is the text of the system's error in err, as C spells it.
func reason(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// source runs a script, a line at a time: a line is read when those before it have
// run. Until its end has been read, its here-documents have not.
func (s *shell) source(r io.Reader) {
	if !s.enter() {
		return
	}
	defer func() { s.depth-- }()
	var line []*syntax.Stmt
	for stmt, err := range syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).StmtsSeq(r) {
		var last uint
		if n := len(line); n > 0 {
			last = line[n-1].End().Line()
		}
		switch {
		case err != nil:
			pos, fail := s.syntaxError(err)
			if pos > last {
				s.stmts(line)
			}
			if s.leave == nothing {
				s.line = pos
				fail()
			}
			return
		case stmt.Pos().Line() > last:
			s.stmts(line)
			line = nil
		}
		if s.leave != nothing {
			return
		}
		line = append(line, stmt)
	}
	s.stmts(line)
}

// maxDepth bounds how deep functions, eval and . nest.
const maxDepth = 10_000

func (s *shell) enter() bool {
	if s.depth++; s.depth > maxDepth {
		s.depth--
		s.fail("functions, eval and . are nested more than %d deep", maxDepth)
		return false
	}
	return true
}

// syntaxError returns the line of an error of the parser, and what reports it.
func (s *shell) syntaxError(err error) (line uint, report func()) {
	var perr syntax.ParseError
	var lerr syntax.LangError
	switch {
	case errors.As(err, &perr):
		return perr.Pos.Line(), func() { s.fail("Syntax error: %s", perr.Text) }
	case errors.As(err, &lerr):
		return lerr.Pos.Line(), func() { s.refuse(lerr.Feature) }
	}
	return s.line + 1, func() { s.fail("%v", err) }
}

// finish runs the trap on EXIT, and returns the status the shell ends with.
func (s *shell) finish() int {
	s.runTraps()
	if action, ok := s.traps.take(0); ok {
		s.leave, s.loops = nothing, 0
		s.action(action)
	}
	return s.status & 0xff
}

// runTraps runs the actions of the signals that have come.
func (s *shell) runTraps() {
	for s.leave != exiting {
		action, ok := s.traps.next()
		if !ok {
			return
		}
		leave, levels := s.leave, s.levels
		s.leave = nothing
		s.action(action)
		if s.leave == nothing {
			s.leave, s.levels = leave, levels
		}
	}
}

// action runs the action of a trap. What is left by it without a status is left with
// that from before it.
func (s *shell) action(text string) {
	status, outer := s.status, s.before
	s.before = &status
	s.source(strings.NewReader(text))
	s.before = outer
	if s.leave == nothing {
		s.status = status
	}
}

func (s *shell) stmts(list []*syntax.Stmt) {
	for _, st := range list {
		if s.leave != nothing {
			return
		}
		s.stmt(st)
	}
}

func (s *shell) stmt(st *syntax.Stmt) {
	s.line = st.Pos().Line()
	if st.Coprocess || st.Disown {
		s.refuse("|& and &|")
		return
	}
	if st.Background {
		s.background(st)
		s.runTraps()
		return
	}
	if st.Negated {
		s.quiet++
	}
	keep := false
	undo, ok := s.redirect(st.Redirs)
	if ok {
		if st.Cmd == nil {
			s.status = 0
		}
		keep = s.command(st.Cmd)
	} else {
		s.status = 2
		if isSpecial(st.Cmd) {
			s.leave = exiting
		}
	}
	s.end(undo, keep)
	s.runTraps() // before -e counts a wait that a signal has ended
	if st.Negated {
		s.quiet--
		if s.leave == nothing {
			s.status = b2i(s.status == 0)
		}
		return
	}
	switch cmd := st.Cmd.(type) {
	case *syntax.BinaryCmd:
		if cmd.Op != syntax.Pipe {
			return
		}
	case *syntax.CallExpr, *syntax.Subshell, nil:
	default:
		if ok {
			return // what is in it has been looked at
		}
	}
	if s.status != 0 && s.opts['e'] && s.quiet == 0 && s.leave == nothing {
		s.leave = exiting
	}
}

// isSpecial tells whether cmd is a special builtin: one whose failed redirection
// ends the script.
func isSpecial(cmd syntax.Command) bool {
	call, ok := cmd.(*syntax.CallExpr)
	return ok && len(call.Args) > 0 && special[call.Args[0].Lit()]
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// condition runs a list whose failure -e does not count.
func (s *shell) condition(list []*syntax.Stmt) bool {
	s.quiet++
	s.stmts(list)
	s.quiet--
	return s.status == 0
}

// command runs a command. It returns whether its redirections stay: those of an
// exec.
func (s *shell) command(cmd syntax.Command) (keep bool) {
	switch c := cmd.(type) {
	case nil:
	case *syntax.CallExpr:
		return s.call(c)
	case *syntax.Block:
		s.stmts(c.Stmts)
	case *syntax.Subshell:
		s.status = s.await(s.start(c.Pos().Line(), c.Stmts))
	case *syntax.BinaryCmd:
		if c.Op == syntax.Pipe {
			s.pipeline(stages(c))
			break
		}
		if c.Op != syntax.AndStmt && c.Op != syntax.OrStmt {
			s.refuse(c.Op.String())
			break
		}
		ok := s.condition([]*syntax.Stmt{c.X})
		if s.leave == nothing && ok == (c.Op == syntax.AndStmt) {
			s.stmt(c.Y)
		}
	case *syntax.IfClause:
		s.ifClause(c)
	case *syntax.WhileClause:
		status := 0
		s.loop(func() bool {
			if s.condition(c.Cond) == c.Until || s.leave != nothing {
				return false
			}
			s.stmts(c.Do)
			status = s.status
			return true
		})
		if s.leave == nothing || s.leave == breaking || s.leave == continuing {
			s.status = status
		}
	case *syntax.ForClause:
		s.forClause(c)
	case *syntax.CaseClause:
		s.caseClause(c)
	case *syntax.FuncDecl:
		if c.Name == nil || special[c.Name.Value] {
			s.fail("%s: is a special builtin", c.Name.Value)
			break
		}
		s.funcs[c.Name.Value] = c.Body
		s.status = 0
	default:
		s.refuse(strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", c), "*syntax.")))
	}
	return false
}

func (s *shell) ifClause(c *syntax.IfClause) {
	for ; c != nil; c = c.Else {
		if len(c.Cond) == 0 { // else
			s.stmts(c.Then)
			return
		}
		ok := s.condition(c.Cond)
		if s.leave != nothing {
			return
		}
		if ok {
			s.stmts(c.Then)
			return
		}
	}
	s.status = 0
}

// loop calls body until it returns false or the loop is left.
func (s *shell) loop(body func() bool) {
	s.loops++
	defer func() { s.loops-- }()
	for {
		more := body()
		switch s.leave {
		case nothing:
			if !more {
				return
			}
		case returning, exiting:
			return
		default:
			again := s.leave == continuing && s.levels == 1
			if s.levels--; s.levels == 0 {
				s.leave = nothing
			}
			if !again {
				return
			}
		}
	}
}

func (s *shell) forClause(c *syntax.ForClause) {
	iter, ok := c.Loop.(*syntax.WordIter)
	if !ok || c.Select {
		s.refuse("for of this kind")
		return
	}
	list := s.args
	if iter.InPos.IsValid() {
		if list, ok = s.fields(iter.Items); !ok {
			return
		}
	}
	if len(list) == 0 {
		s.status = 0
	}
	i := 0
	s.loop(func() bool {
		if i == len(list) || !s.assign(iter.Name.Value, list[i]) {
			return false
		}
		i++
		s.stmts(c.Do)
		return true
	})
}

func (s *shell) caseClause(c *syntax.CaseClause) {
	word, ok := s.literal(c.Word)
	if !ok {
		return
	}
	for _, item := range c.Items {
		for _, p := range item.Patterns {
			pat, ok := s.pattern(p)
			if !ok {
				return
			}
			if matches(pat, word) {
				if len(item.Stmts) == 0 {
					s.status = 0
				}
				s.stmts(item.Stmts)
				return
			}
		}
	}
	s.status = 0
}

// call runs a simple command.
func (s *shell) call(c *syntax.CallExpr) (keep bool) {
	s.subst = 0
	args, ok := s.commandFields(c.Args)
	if !ok {
		return false
	}
	if len(args) == 0 {
		for _, a := range c.Assigns {
			if _, ok := s.assignment(a); !ok {
				return false
			}
		}
		s.status = s.subst
		return false
	}
	saved := make(map[string]*variable)
	for _, a := range c.Assigns {
		old := s.vars[a.Name.Value]
		if old != nil {
			v := *old
			old = &v
		}
		name, ok := s.assignment(a)
		if !ok {
			return false
		}
		if _, twice := saved[name]; !twice {
			saved[name] = old
		}
		if !special[args[0]] {
			s.vars[name].export = true
		}
	}
	s.trace(c.Assigns, args)
	keep = s.run(args)
	if special[args[0]] {
		return keep
	}
	for name, old := range saved {
		if old == nil {
			delete(s.vars, name)
		} else {
			s.vars[name] = old
		}
	}
	return keep
}

// run runs a command whose words have been expanded.
func (s *shell) run(args []string) (keep bool) {
	name, tail := args[0], s.tail
	s.tail = false
	if body, ok := s.funcs[name]; ok && !special[name] {
		s.function(body, args[1:])
		return false
	}
	if name == "exec" {
		return s.exec(args[1:])
	}
	if b, ok := builtins[name]; ok {
		status := b(s, args)
		if s.leave != exiting || name == "exit" {
			s.status = status
		}
		return false
	}
	if missing[name] {
		s.refuse(name)
		return false
	}
	if tail { // so a signal to a subshell reaches the command
		return s.exec(args)
	}
	s.status = s.await(s.spawn(args))
	return false
}

func (s *shell) function(body *syntax.Stmt, args []string) {
	if !s.enter() {
		return
	}
	defer func() { s.depth-- }()
	oldArgs, oldLoops, oldLine := s.args, s.loops, s.line
	s.args, s.loops = args, 0
	s.locals = append(s.locals, make(map[string]*variable))
	s.stmt(body)
	for name, v := range s.locals[len(s.locals)-1] {
		if v == nil {
			delete(s.vars, name)
		} else {
			s.vars[name] = v
		}
	}
	s.locals = s.locals[:len(s.locals)-1]
	s.args, s.loops, s.line = oldArgs, oldLoops, oldLine
	if s.leave == returning {
		s.leave = nothing
	}
}

// trace prints a command as -x asks.
func (s *shell) trace(assigns []*syntax.Assign, args []string) {
	if !s.opts['x'] {
		return
	}
	words := []string{"+"}
	for _, a := range assigns {
		words = append(words, a.Name.Value+"="+s.value(a.Name.Value))
	}
	s.write(2, []byte(strings.Join(append(words, args...), " ")+"\n"))
}

// flags is $-.
func (s *shell) flags() string {
	var b []byte
	for c, on := range s.opts {
		if on {
			b = append(b, c)
		}
	}
	slices.Sort(b)
	return string(b)
}
