package sh

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/syntax"
)

// special are the builtins whose errors end a script, and before which assignments
// last.
var special = map[string]bool{
	":": true, ".": true, "break": true, "continue": true, "eval": true, "exec": true,
	"exit": true, "export": true, "readonly": true, "return": true, "set": true,
	"shift": true, "times": true, "trap": true, "unset": true,
}

// missing are the commands of sh(1) that this shell does not have.
var missing = map[string]bool{
	"alias": true, "unalias": true, "bg": true, "fg": true, "jobs": true, "fc": true, "ulimit": true,
}

// A builtin returns its status. One that leaves the shell, a loop or a function sets
// s.leave.
type builtin func(s *shell, args []string) int

var builtins map[string]builtin

func init() { // some run others
	builtins = map[string]builtin{
		":":        func(*shell, []string) int { return 0 },
		"true":     func(*shell, []string) int { return 0 },
		"false":    func(*shell, []string) int { return 1 },
		".":        dot,
		"[":        test,
		"break":    breakOrContinue,
		"cd":       cd,
		"command":  command,
		"continue": breakOrContinue,
		"echo":     echo,
		"eval":     eval,
		"exec":     func(s *shell, args []string) int { s.exec(args[1:]); return s.status },
		"exit":     exitOrReturn,
		"export":   declare,
		"getopts":  getopts,
		"hash":     hash,
		"kill":     kill,
		"local":    local,
		"printf":   printf,
		"pwd":      pwd,
		"read":     read,
		"readonly": declare,
		"return":   exitOrReturn,
		"set":      set,
		"shift":    shift,
		"test":     test,
		"times":    times,
		"trap":     trap,
		"type":     typeOf,
		"umask":    umask,
		"unset":    unset,
		"wait":     wait,
	}
}

// usage reports an error in the use of a builtin, which ends the script if it is a
// special one.
func (s *shell) usage(args []string, format string, a ...any) int {
	msg := args[0] + ": " + fmt.Sprintf(format, a...)
	if special[args[0]] {
		s.fail("%s", msg)
	} else {
		s.errorf("%s", msg)
	}
	return 2
}

// print writes a builtin's output. Its status is 1 if that fails.
func (s *shell) print(name, text string) int {
	if err := s.write(1, []byte(text)); err != nil {
		s.errorf("%s: I/O error", name)
		return 1
	}
	return 0
}

// options takes the letters of known off args. It returns those given and the rest,
// or not ok after a message.
func (s *shell) options(args []string, known string) (given string, rest []string, ok bool) {
	rest = args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		arg := rest[0]
		rest = rest[1:]
		if arg == "--" {
			break
		}
		for _, c := range arg[1:] {
			if !strings.ContainsRune(known, c) {
				s.usage(args, "Illegal option -%c", c)
				return "", nil, false
			}
		}
		given += arg[1:]
	}
	return given, rest, true
}

func dot(s *shell, args []string) int {
	if len(args) > 1 && args[1] == "--" {
		args = slices.Delete(slices.Clone(args), 1, 2)
	}
	if len(args) < 2 {
		return s.usage(args, "a file is needed")
	}
	name := args[1]
	if !strings.Contains(name, "/") {
		for _, dir := range s.path() {
			if fi, err := os.Stat(filepath.Join(dir, name)); err == nil && fi.Mode().IsRegular() {
				name = filepath.Join(dir, name)
				break
			}
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		why := reason(err)
		if errors.Is(err, os.ErrNotExist) {
			why = "No such file"
		}
		return s.usage(args, "cannot open %s: %s", args[1], why)
	}
	s.status = 0
	s.dots++
	s.source(strings.NewReader(string(text)))
	s.dots--
	if s.leave == returning {
		s.leave = nothing
	}
	return s.status
}

func eval(s *shell, args []string) int {
	if len(args) > 1 && args[1] == "--" {
		args = args[1:]
	}
	s.status = 0
	line := s.line
	s.source(strings.NewReader(strings.Join(args[1:], " ")))
	s.line = line
	return s.status
}

func breakOrContinue(s *shell, args []string) int {
	n, ok := s.number(args, 1, 1)
	if !ok {
		return 2
	}
	if s.loops == 0 {
		return 0
	}
	s.leave, s.levels = breaking, min(n, s.loops)
	if args[0] == "continue" {
		s.leave = continuing
	}
	return 0
}

// number returns the number that is a builtin's only argument.
func (s *shell) number(args []string, without, least int) (int, bool) {
	if len(args) == 1 {
		return without, true
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < least {
		s.usage(args, "Illegal number: %s", args[1])
		return 0, false
	}
	return n, true
}

func exitOrReturn(s *shell, args []string) int {
	status := s.status
	if s.before != nil {
		status = *s.before
	}
	n, ok := s.number(args, status, 0)
	if !ok {
		return 2
	}
	s.status = n & 0xff
	s.leave = exiting
	if args[0] == "return" && (len(s.locals) > 0 || s.dots > 0) {
		s.leave = returning
	}
	return s.status
}

func declare(s *shell, args []string) int {
	given, rest, ok := s.options(args, "p")
	if !ok {
		return 2
	}
	export := args[0] == "export"
	if len(rest) == 0 || given != "" {
		for _, name := range slices.Sorted(maps.Keys(s.vars)) {
			v := s.vars[name]
			if export && v.export || !export && v.readonly {
				line := args[0] + " " + name
				if v.set {
					line += "=" + quote(v.value)
				}
				s.print(args[0], line+"\n")
			}
		}
		return 0
	}
	for _, arg := range rest {
		name, value, assigned := strings.Cut(arg, "=")
		if !syntax.ValidName(name) {
			return s.usage(args, "%s: bad variable name", name)
		}
		if assigned && !s.assign(name, value) {
			return 2
		}
		if s.vars[name] == nil {
			s.vars[name] = new(variable)
		}
		if export {
			s.vars[name].export = true
		} else {
			s.vars[name].readonly = true
		}
	}
	return 0
}

func local(s *shell, args []string) int {
	if len(s.locals) == 0 {
		s.fail("local: not in a function")
		return 2
	}
	hidden := s.locals[len(s.locals)-1]
	for _, arg := range args[1:] {
		name, value, assigned := strings.Cut(arg, "=")
		if !syntax.ValidName(name) {
			return s.usage(args, "%s: bad variable name", name)
		}
		if _, again := hidden[name]; !again {
			hidden[name] = nil
			if v := s.vars[name]; v != nil {
				old := *v
				hidden[name] = &old
			}
		}
		if assigned && !s.assign(name, value) {
			return 2
		}
	}
	return 0
}

func unset(s *shell, args []string) int {
	given, rest, ok := s.options(args, "fv")
	if !ok {
		return 2
	}
	for _, name := range rest {
		if strings.Contains(given, "f") {
			delete(s.funcs, name)
			continue
		}
		if !syntax.ValidName(name) {
			return s.usage(args, "%s: bad variable name", name)
		}
		if v := s.vars[name]; v != nil && v.readonly {
			return s.usage(args, "%s: is read only", name)
		}
		delete(s.vars, name)
	}
	return 0
}

// optionNames are the options of set -o.
var optionNames = map[string]byte{
	"allexport": 'a', "errexit": 'e', "noclobber": 'C', "noglob": 'f', "nounset": 'u', "xtrace": 'x',
}

// setOptions takes options off args. With command, also those of sh: -c and -s.
func (s *shell) setOptions(args []string, cmd *string) (rest []string, ok bool) {
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		arg := args[0]
		on := arg[0] == '-'
		args = args[1:]
		if arg == "--" {
			break
		}
		for _, c := range []byte(arg[1:]) {
			switch {
			case strings.IndexByte("aefuxC", c) >= 0:
				s.opts[c] = on
			case c == 'o' && len(args) > 0:
				letter, known := optionNames[args[0]]
				if !known {
					s.fail("set: the built-in shell has no option -o %s", args[0])
					return nil, false
				}
				s.opts[letter] = on
				args = args[1:]
			case c == 'c' && cmd != nil && len(args) > 0:
				*cmd, args = args[0]+"\n", args[1:]
			case c == 's' && cmd != nil:
				s.opts['s'] = true
			default:
				s.fail("set: the built-in shell has no option -%c", c)
				return nil, false
			}
		}
	}
	return args, true
}

func set(s *shell, args []string) int {
	if len(args) == 1 {
		for _, name := range slices.Sorted(maps.Keys(s.vars)) {
			if v := s.vars[name]; v.set {
				s.print("set", name+"="+quote(v.value)+"\n")
			}
		}
		return 0
	}
	if len(args) == 2 && (args[1] == "-o" || args[1] == "+o") {
		for _, name := range slices.Sorted(maps.Keys(optionNames)) {
			on := s.opts[optionNames[name]]
			line := fmt.Sprintf("set %co %s\n", "+-"[b2i(on)], name)
			if args[1] == "-o" {
				line = fmt.Sprintf("%-15s %s\n", name, []string{"off", "on"}[b2i(on)])
			}
			s.print("set", line)
		}
		return 0
	}
	rest, ok := s.setOptions(args[1:], nil)
	switch {
	case !ok:
		return 2
	case len(rest) > 0 && rest[0] == "-":
		rest = rest[1:]
		s.opts['x'] = false
	case len(rest) > 0 && rest[0] == "+":
		rest = rest[1:]
	}
	if len(rest) > 0 || slices.Contains(args, "--") {
		s.args, s.char = rest, 0
	}
	return 0
}

func shift(s *shell, args []string) int {
	n, ok := s.number(args, 1, 0)
	if !ok {
		return 2
	}
	if n > len(s.args) {
		s.fail("shift: can't shift that many")
		return 2
	}
	s.args = s.args[n:]
	return 0
}

func times(s *shell, args []string) int {
	var b strings.Builder
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		syscall.Getrusage(who, &u)
		for i, t := range []syscall.Timeval{u.Utime, u.Stime} {
			fmt.Fprintf(&b, "%dm%d.%06ds%c", t.Sec/60, t.Sec%60, t.Usec, " \n"[i])
		}
	}
	return s.print("times", b.String())
}

// condition returns the number of a trap's condition or a signal, -1 if there is
// none of this name.
func conditionNumber(name string) int {
	if n, err := strconv.Atoi(name); err == nil {
		if n >= 0 && n <= maxSignal {
			return n
		}
		return -1
	}
	for n := range maxSignal + 1 {
		if signalName(n) == strings.TrimPrefix(strings.ToUpper(name), "SIG") {
			return n
		}
	}
	return -1
}

func trap(s *shell, args []string) int {
	_, rest, ok := s.options(args, "")
	if !ok {
		return 2
	}
	if len(rest) == 0 {
		actions := s.traps.actions()
		for _, n := range slices.Sorted(maps.Keys(actions)) {
			s.print("trap", fmt.Sprintf("trap -- %s %s\n", quote(actions[n]), signalName(n)))
		}
		return 0
	}
	action := "-"
	if _, err := strconv.Atoi(rest[0]); err != nil && len(rest) > 1 {
		action, rest = rest[0], rest[1:]
	}
	for _, name := range rest {
		n := conditionNumber(name)
		switch {
		case n < 0:
			s.errorf("trap: %s: bad trap", name)
			return 1
		case n == int(syscall.SIGKILL) || n == int(syscall.SIGSTOP): // no shell can
		case action == "-":
			s.traps.reset(n)
		default:
			s.traps.set(n, action)
		}
	}
	return 0
}

func cd(s *shell, args []string) int {
	given, rest, ok := s.options(args, "LP")
	if !ok {
		return 2
	}
	dir, show := s.value("HOME"), false
	if len(rest) > 0 {
		dir = rest[0]
	} else if dir == "" {
		s.errorf("cd: HOME not set")
		return 2
	}
	if dir == "-" {
		dir, show = s.value("OLDPWD"), true
	}
	first, _, _ := strings.Cut(dir, "/")
	if dir != "" && first != "" && first != "." && first != ".." {
		for _, p := range filepath.SplitList(s.value("CDPATH")) {
			if fi, err := os.Stat(filepath.Join(p, dir)); err == nil && fi.IsDir() {
				show = show || p != "" && p != "."
				dir = filepath.Join(p, dir)
				break
			}
		}
	}
	to := dir
	if !path.IsAbs(to) {
		to = s.value("PWD") + "/" + to
	}
	to = path.Clean(to)
	physical := strings.HasSuffix(given, "P")
	if physical {
		to = dir
	}
	if err := os.Chdir(to); err != nil || dir == "" {
		s.errorf("cd: can't cd to %s", dir)
		return 2
	}
	if physical {
		to, _ = syscallGetwd()
	}
	s.setVar("OLDPWD", s.value("PWD"))
	s.setVar("PWD", to)
	if show {
		return s.print("cd", to+"\n")
	}
	return 0
}

// syscallGetwd returns the directory without symbolic links.
func syscallGetwd() (string, error) {
	b := make([]byte, syscall.PathMax)
	n, err := syscall.Getcwd(b)
	if err != nil || n < 1 {
		return "", err
	}
	return string(b[:n-1]), nil
}

func pwd(s *shell, args []string) int {
	given, _, ok := s.options(args, "LP")
	if !ok {
		return 2
	}
	dir := s.value("PWD")
	if strings.HasSuffix(given, "P") {
		var err error
		if dir, err = syscallGetwd(); err != nil {
			s.errorf("pwd: %s", reason(err))
			return 1
		}
	}
	return s.print("pwd", dir+"\n")
}

// describe says what a command name is, as command -v and -V do.
func (s *shell) describe(name string, verbose bool) (string, bool) {
	_, isBuiltin := builtins[name]
	long, short := "", name
	switch {
	case syntax.IsKeyword(name) && name != "function" && name != "[[" && name != "select" && name != "time":
		long = "is a shell keyword"
	case s.funcs[name] != nil:
		long = "is a shell function"
	case special[name]:
		long = "is a special shell builtin"
	case isBuiltin:
		long = "is a shell builtin"
	default:
		file, err := s.look(name)
		if err != nil {
			return name + ": not found", false
		}
		long, short = "is "+file, file
	}
	if verbose {
		return name + " " + long, true
	}
	return short, true
}

func typeOf(s *shell, args []string) int {
	status := 0
	for _, name := range args[1:] {
		text, ok := s.describe(name, true)
		if !ok {
			status = 127
		}
		s.print("type", text+"\n")
	}
	return status
}

func command(s *shell, args []string) int {
	given, rest, ok := s.options(args, "pvV")
	if !ok {
		return 2
	}
	if strings.ContainsAny(given, "vV") {
		status := 0
		for _, name := range rest {
			verbose := strings.HasSuffix(given, "V")
			text, ok := s.describe(name, verbose)
			if !ok {
				status = 127
			}
			if ok || verbose {
				s.print("command", text+"\n")
			}
		}
		return status
	}
	if len(rest) == 0 {
		return 0
	}
	if strings.Contains(given, "p") {
		old := s.vars["PATH"]
		s.vars["PATH"] = &variable{value: standardPath, set: true}
		defer func() { s.vars["PATH"] = old }()
	}
	body, isFunc := s.funcs[rest[0]]
	if isFunc {
		delete(s.funcs, rest[0])
		defer func() { s.funcs[rest[0]] = body }()
	}
	s.run(rest)
	return s.status
}

func hash(s *shell, args []string) int {
	status := 0
	for _, name := range args[1:] {
		if _, err := s.look(name); err != nil && name != "-r" {
			s.errorf("hash: %s: not found", name)
			status = 1
		}
	}
	return status
}

func umask(s *shell, args []string) int {
	given, rest, ok := s.options(args, "S")
	if !ok {
		return 2
	}
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	if len(rest) > 0 {
		n, ok := parseMask(rest[0], mask)
		if !ok {
			return s.usage(args, "Illegal mode: %s", rest[0])
		}
		syscall.Umask(n)
		return 0
	}
	if given == "" {
		return s.print("umask", fmt.Sprintf("%04o\n", mask))
	}
	var parts []string
	for i, who := range []string{"u=", "g=", "o="} {
		for j, c := range []string{"r", "w", "x"} {
			if mask&(0o400>>(3*i+j)) == 0 {
				who += c
			}
		}
		parts = append(parts, who)
	}
	return s.print("umask", strings.Join(parts, ",")+"\n")
}

// parseMask reads a mask in octal, or as chmod(1) has modes, which say what is not
// masked.
func parseMask(text string, mask int) (int, bool) {
	if n, err := strconv.ParseUint(text, 8, 16); err == nil {
		return int(n & 0o777), n <= 0o777
	}
	for part := range strings.SplitSeq(text, ",") {
		i := strings.IndexAny(part, "=+-")
		if i < 0 {
			return 0, false
		}
		who := 0
		for _, c := range part[:i] {
			bits, ok := map[rune]int{'u': 0o700, 'g': 0o070, 'o': 0o007, 'a': 0o777}[c]
			if !ok {
				return 0, false
			}
			who |= bits
		}
		if i == 0 {
			who = 0o777
		}
		perm := 0
		for _, c := range part[i+1:] {
			bits, ok := map[rune]int{'r': 0o444, 'w': 0o222, 'x': 0o111}[c]
			if !ok {
				return 0, false
			}
			perm |= bits & who
		}
		switch part[i] {
		case '=':
			mask = mask&^who | who&^perm
		case '+':
			mask &^= perm
		case '-':
			mask |= perm
		}
	}
	return mask, true
}

func wait(s *shell, args []string) int {
	status := 0
	list := args[1:]
	if len(list) == 0 {
		for pid := range s.jobs {
			list = append(list, strconv.Itoa(pid))
		}
	}
	for _, arg := range list {
		if strings.HasPrefix(arg, "%") {
			s.refuse("job control (" + arg + ")")
			return 2
		}
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return s.usage(args, "Illegal number: %s", arg)
		}
		j := s.jobs[pid]
		if j == nil {
			status = 127
			continue
		}
		for waiting := true; waiting; {
			select {
			case <-j.done:
				waiting = false
				delete(s.jobs, pid)
				status = j.status
				s.sayKilled(j)
			case <-s.traps.wake:
				if n, ok := s.traps.signaled(); ok {
					return 128 + n
				}
			}
		}
	}
	if len(args) == 1 {
		return 0
	}
	return status
}

func kill(s *shell, args []string) int {
	rest := args[1:]
	sig := int(syscall.SIGTERM)
	if len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		name := rest[0][1:]
		rest = rest[1:]
		switch {
		case name == "-":
			name = "TERM"
		case name == "l":
			return listSignals(s, args, rest)
		case name == "s" && len(rest) > 0:
			name, rest = rest[0], rest[1:]
		}
		if len(rest) > 0 && rest[0] == "--" {
			rest = rest[1:]
		}
		if sig = conditionNumber(name); sig < 0 || strings.EqualFold(name, "EXIT") {
			s.errorf("kill: invalid signal number or name: %s", name)
			return 2
		}
	}
	if len(rest) == 0 {
		return s.usage(args, "a process is needed")
	}
	status := 0
	for _, arg := range rest {
		if strings.HasPrefix(arg, "%") {
			s.refuse("job control (" + arg + ")")
			return 2
		}
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return s.usage(args, "Illegal number: %s", arg)
		}
		if err := s.signal(pid, syscall.Signal(sig)); err != nil {
			s.errorf("kill: %s", reason(err))
			status = 1
		}
	}
	return status
}

func listSignals(s *shell, args, which []string) int {
	for _, arg := range which {
		n, err := strconv.Atoi(arg)
		if n > 128 {
			n -= 128
		}
		if err != nil || signalName(n) == "" || n == 0 {
			return s.usage(args, "Illegal number: %s", arg)
		}
		s.print("kill", signalName(n)+"\n")
	}
	for n := 1; n <= maxSignal && len(which) == 0; n++ {
		s.print("kill", signalName(n)+"\n")
	}
	return 0
}

func getopts(s *shell, args []string) int {
	if len(args) < 3 {
		return s.usage(args, "usage: getopts optstring name [arg ...]")
	}
	letters, name, list := args[1], args[2], s.args
	if len(args) > 3 {
		list = args[3:]
	}
	if !syntax.ValidName(name) {
		return s.usage(args, "%s: bad variable name", name)
	}
	silent := strings.HasPrefix(letters, ":")
	index, _ := strconv.Atoi(s.value("OPTIND"))
	index = max(index, 1)
	s.unsetOptarg()
	end := func() int {
		s.assign(name, "?")
		s.setVar("OPTIND", strconv.Itoa(index))
		return 1
	}
	if s.char == 0 {
		if index > len(list) || len(list[index-1]) < 2 || list[index-1][0] != '-' {
			return end()
		}
		if list[index-1] == "--" {
			index++
			return end()
		}
		s.char = 1
	}
	if index > len(list) || s.char >= len(list[index-1]) {
		return end()
	}
	arg := list[index-1]
	c := arg[s.char]
	char := s.char + 1
	if char == len(arg) {
		char = 0
		index++
	}
	i := strings.IndexByte(letters, c)
	value, opt := "", string(c)
	switch {
	case i < 0 || c == ':':
		opt = "?"
		if silent {
			s.setVar("OPTARG", string(c))
		} else {
			s.errorfPlain("Illegal option -%c", c)
		}
	case i+1 < len(letters) && letters[i+1] == ':':
		switch {
		case char > 0:
			value = arg[char:]
			index++
			s.setVar("OPTARG", value)
		case index <= len(list):
			value = list[index-1]
			index++
			s.setVar("OPTARG", value)
		case silent:
			opt = ":"
			s.setVar("OPTARG", string(c))
		default:
			opt = "?"
			s.errorfPlain("No arg for -%c option", c)
		}
		char = 0
	}
	s.assign(name, opt)
	s.setVar("OPTIND", strconv.Itoa(index))
	s.char = char
	return 0
}

func (s *shell) unsetOptarg() { delete(s.vars, "OPTARG") }

func (s *shell) errorfPlain(format string, args ...any) {
	s.write(2, []byte(fmt.Sprintf(format, args...)+"\n"))
}

// signal sends a signal. One to this shell itself comes before it goes on.
func (s *shell) signal(pid int, sig syscall.Signal) error {
	if pid != os.Getpid() {
		return syscall.Kill(pid, sig)
	}
	err := raise(sig)
	s.traps.sync()
	return err
}

func read(s *shell, args []string) int {
	rest := args[1:]
	raw := false
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		arg := rest[0]
		rest = rest[1:]
		if arg == "--" {
			break
		}
		for _, c := range arg[1:] {
			switch {
			case c == 'r':
				raw = true
			case c == 'p' && len(rest) > 0:
				s.write(2, []byte(rest[0]))
				rest = rest[1:]
			default:
				return s.usage(args, "Illegal option -%c", c)
			}
		}
	}
	if len(rest) == 0 {
		return s.usage(args, "arg count")
	}
	for _, name := range rest {
		if !syntax.ValidName(name) {
			return s.usage(args, "%s: bad variable name", name)
		}
	}
	line, err := s.readLine(raw)
	values := s.readFields(line, len(rest), raw)
	for i, name := range rest {
		value := ""
		if i < len(values) {
			value = values[i]
		}
		if !s.assign(name, value) {
			return 2
		}
	}
	if err != nil && err != io.EOF {
		s.errorf("read: %s", reason(err))
	}
	return b2i(err != nil)
}

// readLine reads a line byte by byte: what follows is left to others. Unless raw, a
// backslash before a newline joins lines; others are left in.
func (s *shell) readLine(raw bool) (string, error) {
	r := &fdReader{s, 0}
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := r.Read(b); err != nil {
			return string(line), err
		}
		switch {
		case b[0] == '\n':
			return string(line), nil
		case b[0] == '\\' && !raw:
			if _, err := r.Read(b); err != nil {
				return string(line), err
			}
			if b[0] != '\n' {
				line = append(line, '\\', b[0])
			}
		case b[0] != 0:
			line = append(line, b[0])
		}
	}
}
