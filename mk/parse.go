package mk

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"syscall"
	"unicode/utf8"
)

// A Mkfile is what was read of mkfiles: rules and variables. It does not change,
// and may be run more than once.
type Mkfile struct {
	cfg     Config
	vars    map[string]*variable
	nvars   int
	symbols map[string]*symbol
	rules   []*rule // without patterns
	meta    []*rule
	nrules  int32
	target1 []string // the default targets
	version int      // of vars
	forceRC bool     // FORCERCFORMK is set: rc is the default shell
	partial bool     // a command was not run
	hinted  bool     // a message had a hint
}

// parser reads mkfiles. Its shell is the one recipes are for at this place.
type parser struct {
	*Mkfile
	ctx   context.Context
	out   *output
	procs *procs
	in    *input // nil outside of a file
	file  string
	at    int    // the line on which the statement begins that is read
	text  string // of that statement
	shell *shell
	buf   []byte
	slab  []rule // rules to come
	depth int    // of includes
	count int    // of includes

	hinted bool // a message had a hint

	exported   map[*dialect][]string // the environment, for version exportedAt of the variables
	exportedAt int
}

// Parse reads the mkfiles that c names. With Config.Exec it runs the commands in
// them, and blocks until these have ended; when ctx ends they are ended as recipes
// are by Run. Its error is the cause of ctx's end, one of c.Stdout, or one that
// names the mkfile: a *SyntaxError, an *fs.PathError where the file cannot be
// read, or FILE:LINE and an error of the system. The Mkfile that it returns with an
// error has what was read so far.
func Parse(ctx context.Context, c Config) (m *Mkfile, err error) {
	if c.All {
		c.Missing = true
	}
	m = &Mkfile{
		cfg:     c,
		vars:    make(map[string]*variable),
		symbols: make(map[string]*symbol),
	}
	w, err := openStreams(&c)
	if err != nil {
		return m, err
	}
	defer w.end(&err)
	p := &parser{Mkfile: m, ctx: ctx, out: newOutput(w.stdout, w.stderr), file: "<nil>"}
	p.procs = newProcs(ctx, &m.cfg, p.out, w)
	defer p.out.end(&err)
	defer p.procs.reap()
	defer p.locate(&err)
	defer catch(&err)
	p.all()
	m.hinted = p.hinted
	return m, nil
}

// locate adds to an error in which statement it came, unless it names the file.
func (p *parser) locate(err *error) {
	var syntax *SyntaxError
	var path *iofs.PathError
	if *err == nil || p.in == nil || p.ctx.Err() != nil || errors.As(*err, &syntax) || errors.As(*err, &path) {
		return
	}
	*err = fmt.Errorf("%s:%d: %w", p.file, p.at, *err)
}

// all reads the environment, the command line and the mkfiles.
func (p *parser) all() {
	p.startShell()
	for _, name := range internal {
		p.lookup(name).internal = true
	}
	force := false
	for _, kv := range p.cfg.environ() {
		name, value, _ := strings.Cut(kv, "=")
		force = force || name == "FORCERCFORMK"
		if v := p.lookup(name); !v.internal {
			p.set(v, []string{value})
		}
	}
	if force {
		p.forceRC = true
		p.startShell()
	}

	if len(p.cfg.Vars) > 0 {
		p.parse("command line args", strings.NewReader(strings.Join(p.cfg.Vars, "\n")+"\n"), true)
	}
	if v := p.lookup("MKFLAGS"); !v.set {
		p.set(v, p.words(p.cfg.Flags))
	}
	if v := p.lookup("MKARGS"); !v.set {
		p.set(v, p.words(strings.Join(p.cfg.Args, " ")))
	}

	files := p.cfg.Files
	if files == nil || len(files) == 0 && p.cfg.Src != nil {
		files = []string{"mkfile"}
	}
	for i, name := range files {
		if i == 0 && p.cfg.Src != nil {
			p.parse(name, p.cfg.Src, false)
		} else {
			p.parseFile(name)
		}
	}
	if p.debug('p') {
		p.dump()
	}
}

// parseFile reads a mkfile that must be there, unless nobody has asked for it.
func (p *parser) parseFile(name string) {
	f, err := openFile(p.cfg.path(name))
	if err == syscall.ENOENT && p.cfg.Files == nil {
		return
	}
	if err != nil {
		p.unreadable("open", name, err)
	}
	defer f.Close()
	p.parse(name, f, false)
}

func (p *parser) unreadable(op, name string, err error) {
	p.out.error(op + " " + name + ": " + errno(err) + "\n")
	panic(bail{&iofs.PathError{Op: op, Path: name, Err: err}})
}

// parse reads one mkfile. Assignments of the command line override those
// that follow. An included file starts with the default shell, and leaves its
// includer's as it was.
func (p *parser) parse(name string, r io.Reader, override bool) {
	shell, file, at, in := p.shell, p.file, p.at, p.in
	p.text = ""
	p.startShell()
	p.file, p.in = name, newInput(r)
	for {
		line, ok := p.assemble()
		if p.ctx.Err() != nil {
			panic(bail{context.Cause(p.ctx)})
		}
		if err := p.in.err; err != nil && err != io.EOF {
			p.unreadable("read", name, err)
		}
		if !ok {
			break
		}
		p.text = line
		p.statement(line, override)
		p.text = ""
	}
	p.file, p.at, p.in = file, at, in
	p.shell = shell
	p.set(p.lookup("MKSHELL"), shell.argv)
}

// statement reads a line, and the recipe that belongs to it. The first
// unquoted one of :, = and < decides what it is.
func (p *parser) statement(line string, override bool) {
	i := p.charin(line, ":=<")
	if i < 0 && !p.known(line) {
		return
	}
	if i < 0 {
		p.syntax(p.at, "expected one of :<=")
	}
	kind, head, tail := line[i], line[:i], line[i+1:]
	var attr attr
	var prog *string
	switch {
	case kind == '<' && tail != "" && tail[0] == '|':
		kind, tail = '|', tail[1:]
	case kind == '=':
		attr, tail = p.assignAttr(tail)
	case kind == ':' && tail != "" && tail[0] != ' ' && tail[0] != '\t':
		attr, prog, tail = p.ruleAttr(tail)
	}
	names := p.words(head)
	if names[0] == "" && (kind == '=' || kind == ':') {
		p.syntax(p.at, "no var on left side of assignment/rule")
	}
	words := p.words(tail)

	switch kind {
	case '<':
		p.include(strings.Join(words, " "))
	case '|':
		p.includeProgram(strings.Join(words, " "))
	case ':':
		h := &header{targets: names, tail: words, prog: prog, file: p.file, line: p.at, shell: p.shell}
		h.recipe = p.recipe()
		p.addRules(h, attr)
	case '=':
		if len(names) > 1 {
			p.syntax(p.at, "multiple vars on left side of assignment")
		}
		p.assign(names[0], words, attr, override)
	}
}

// assignAttr cuts the attributes off the right side of an assignment. The
// only one is U, V=U=words: the variable is not exported.
func (p *parser) assignAttr(s string) (a attr, rest string) {
	set := "= \t"
	if p.shell.rc {
		set = "'= \t"
	}
	i := p.charin(s, set)
	if i < 0 || s[i] != '=' {
		return 0, s
	}
	for j := 0; j < i; j++ {
		if s[j] != 'U' {
			p.unknownAttr(s[j])
		}
		a = noExport
	}
	return a, s[i+1:]
}

// ruleAttr cuts the attributes off what follows a rule's first colon.
func (p *parser) ruleAttr(s string) (a attr, prog *string, rest string) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ':':
			return a, prog, s[i+1:]
		case 'D':
			a |= del
		case 'E':
			a |= noMinusE
		case 'n':
			a |= noVirtual
		case 'N':
			a |= noRecipe
		case 'P':
			j := strings.IndexByte(s[i:], ':')
			if j < 0 {
				p.syntax(p.at, "missing trailing :")
			}
			text := s[i+1 : i+j]
			prog = &text
			i += j - 1
		case 'Q':
			a |= quiet
		case 'R':
			a |= regular
		case 'U':
			a |= update
		case 'V':
			a |= virtual
		default:
			p.unknownAttr(c)
		}
	}
	p.syntax(p.at, "missing trailing :")
	return
}

// unknownAttr bails out. What is not ASCII it does not print, like mk.
func (p *parser) unknownAttr(c byte) {
	name := ""
	if c < utf8.RuneSelf {
		name = string(rune(c))
	}
	p.syntax(p.at, "unknown attribute '%s'", name)
}

// maxDepth is how deep includes nest. A file beyond it is skipped, as by the real
// mk, which then has no descriptors left; a command is an error: each level has a
// process. maxIncludes is how many includes there may be.
const (
	maxDepth    = 1000
	maxIncludes = 100_000
)

func (p *parser) include(name string) {
	if name == "" {
		p.syntax(p.at, "missing include file name")
	}
	if !p.known(name) {
		return
	}
	if p.depth == maxDepth {
		p.out.error(fmt.Sprintf("warning: skipping include file %s: includes nest more than %d deep\n", name, maxDepth))
		return
	}
	f, err := openFile(p.cfg.path(name))
	if err != nil {
		p.out.error("warning: skipping missing include file " + name + ": " + errno(err) + "\n")
		return
	}
	defer f.Close()
	p.nest(name, f)
}

func (p *parser) nest(name string, r io.Reader) {
	if p.count++; p.count > maxIncludes {
		p.syntax(p.at, "more than %d includes", maxIncludes)
	}
	p.depth++
	p.parse(name, r, false)
	p.depth--
}

// includeProgram reads the output of a command, which must succeed.
func (p *parser) includeProgram(cmd string) {
	if cmd == "" {
		p.syntax(p.at, "missing include program name")
	}
	if !p.cfg.Exec {
		p.partial = true
		return
	}
	if p.depth == maxDepth {
		p.syntax(p.at, "includes nest more than %d deep", maxDepth)
	}
	p.trace("pipecmd='" + cmd + "'\n")
	r, proc, err := p.procs.capture(p.ctx, p.shell, []string{"-c", cmd}, nil, p.environment(p.shell))
	if err != nil {
		p.syntax(p.at, "%v", err)
	}
	func() {
		defer r.Close() // in time for a command that is not read to its end
		p.nest(cmd, r)
	}()
	status := p.procs.wait(proc)
	p.traceEnd(proc)
	settle(p.ctx, proc)
	if p.ctx.Err() != nil {
		panic(bail{context.Cause(p.ctx)})
	}
	if status != "" {
		p.out.error("bad include program status\n")
		p.exit("bad include program status: %s: %s", cmd, status)
	}
}

// assign sets a variable, unless the command line has. NoExport sticks to it.
func (p *parser) assign(name string, words []string, a attr, override bool) {
	v := p.lookup(name)
	if !v.override || override {
		v.override = v.override || override
		p.set(v, words)
		v.assigned = true
		if name == "MKSHELL" {
			p.shell = newShell(words)
		}
	}
	if a&noExport != 0 {
		v.noExport = true
	}
	if v.line == 0 {
		v.file, v.line = p.file, p.at
	}
}

// startShell sets the shell a file starts with.
func (p *parser) startShell() {
	name := "sh"
	if p.forceRC {
		name = "rc"
	}
	p.shell = newShell([]string{name})
	p.set(p.lookup("MKSHELL"), p.shell.argv)
}

// command runs the text of a backquote and appends its output, without the
// last newline, to b.
func (p *parser) command(b []byte, text string) []byte {
	if !p.cfg.Exec {
		p.partial = true
		return append(b, unknown...)
	}
	p.trace("starting: " + text + "\n")
	b, err := p.procs.backquote(p.ctx, p.shell, text, p.environment(p.shell), b)
	if p.ctx.Err() != nil {
		panic(bail{context.Cause(p.ctx)})
	}
	if err != nil {
		p.syntax(p.in.line, "%v", err)
	}
	return b
}

// report prints a syntax error that does not end the reading, and returns it.
func (p *parser) report(line int, format string, args ...any) *SyntaxError {
	msg := "syntax error; " + fmt.Sprintf(format, args...) + p.hint(lineHint(p.text))
	p.out.error(fmt.Sprintf("mk: %s:%d: %s\n", p.file, line, msg))
	return &SyntaxError{p.file, line, msg}
}

// syntax reports a syntax error and bails out.
func (p *parser) syntax(line int, format string, args ...any) {
	panic(bail{p.report(line, format, args...)})
}

// exit bails out of a statement after a message that was printed.
func (p *parser) exit(format string, args ...any) {
	panic(bail{&SyntaxError{p.file, p.at, fmt.Sprintf(format, args...)}})
}
