package mk

import (
	"fmt"
	"slices"
	"strings"
)

// What is make's in a mkfile gets a hint, which is added to the message of the
// failure that it leads to, once. A mkfile that is right gets none.

// makeWords are the words that begin a line of a makefile, with what mk has instead.
var makeWords = map[string]string{
	"include":  "write <FILE",
	"-include": "write <FILE",
	"sinclude": "write <FILE",
	"export":   "write NAME=value, which is exported",
	"unexport": "write NAME=U=value",
	"override": "write NAME=value",
	"define":   "put the text into a script",
	"endef":    "put the text into a script",
	"vpath":    "write the directory into the prerequisites",
	"ifeq":     noConditions,
	"ifneq":    noConditions,
	"ifdef":    noConditions,
	"ifndef":   noConditions,
	"else":     noConditions,
	"endif":    noConditions,
}

const noConditions = "write <|COMMAND to include what a command prints"

// makeAssigns are make's assignments, by what stands before the =.
var makeAssigns = map[byte]string{
	':': "':=' is make's: write NAME=value",
	'?': "'?=' is make's: write NAME=`echo ${NAME:-value}`",
	'+': "'+=' is make's: write NAME=$NAME value",
	'!': "'!=' is make's: write NAME=`{command}",
}

// hint returns s in parentheses if it is the first that is not empty.
func (p *parser) hint(s string) string {
	if s == "" || p.hinted {
		return ""
	}
	p.hinted = true
	return " (" + s + ")"
}

// lineHint returns a hint for a line that cannot be read.
func lineHint(line string) string {
	kind, i := byte(0), strings.IndexAny(line, ":=<")
	if i >= 0 {
		kind = line[i]
	}
	f := strings.Fields(line)
	if len(f) > 0 && (kind == 0 || kind == '=') && (len(f) == 1 || f[1][0] != '=') {
		if say := makeWords[f[0]]; say != "" {
			return "'" + f[0] + "' is make's: " + say
		}
	}
	switch {
	case kind == ':' && strings.HasPrefix(strings.TrimLeft(line[i:], ":"), "="):
		return makeAssigns[':']
	case kind == '=' && i > 0 && makeAssigns[line[i-1]] != "":
		return makeAssigns[line[i-1]]
	case strings.Contains(line, "$("):
		return "'$(NAME)' is make's: write $NAME, or `{command} for a function"
	}
	return ""
}

// targetHint returns a hint for a target that cannot be made.
func (r *run) targetHint(name string) string {
	special := func(target string) bool { // name is it, or one of its prereqs
		sym := r.symbols[target]
		return sym != nil && (name == target || slices.ContainsFunc(slices.Collect(sym.rules), func(r *rule) bool { return slices.Contains(r.tail, name) }))
	}
	switch {
	case special(".PHONY"):
		return "'.PHONY' is make's: write TARGET:V: for a target that is no file"
	case special(".SUFFIXES"):
		return "'.SUFFIXES' is make's: write a rule such as %.o: %.c"
	case strings.HasPrefix(name, "="):
		return makeAssigns[':']
	}
	return r.assignHint()
}

// assignHint returns a hint for a variable that nothing can refer to, such as
// NAME+=value sets.
func (r *run) assignHint() string {
	for _, v := range r.sorted() {
		if n := len(v.name); v.assigned && n > 1 {
			if say := makeAssigns[v.name[n-1]]; say != "" {
				return fmt.Sprintf("%s:%d: %s", v.file, v.line, say)
			}
		}
	}
	return ""
}

// recipeHint returns a hint for a job whose recipe has failed.
func (r *run) recipeHint(j *job, status string) string {
	if crlf(j.rule.recipe) {
		return "the lines of the recipe end with carriage returns: remove them"
	}
	if j.rule.shell.rc {
		return ""
	}
	code := unquoted(j.rule.recipe)
	words := strings.FieldsFunc(code, func(c rune) bool { return strings.ContainsRune(" \t\n;&|", c) })
	if !strings.Contains(code, "<<") { // for programs in other languages
		switch {
		case strings.Contains(code, "$<"):
			return "'$<' is make's: write $prereq"
		case strings.Contains(code, "$^"):
			return "'$^' is make's: write $prereq"
		case strings.Contains(code, "$@") && !slices.Contains(words, "set") && !strings.Contains(code, "()"):
			return "'$@' is make's: write $target"
		}
	}
	if status == "exit(127)" && len(words) > 0 && words[0][0] == '@' && len(words[0]) > 1 {
		return "'@' is make's: write TARGET:Q:"
	}
	for rest := code; rest != ""; {
		_, rest, _ = strings.Cut(rest, "$(")
		name, _, ok := strings.Cut(rest, ")")
		if v := r.vars[name]; !ok || v == nil || !v.assigned {
			continue
		}
		if _, err := searchPath(&r.cfg, name, r.environment(j.rule.shell)); err != nil { // no command
			return "'$(" + name + ")' is make's: write $" + name
		}
	}
	return r.assignHint()
}

// crlf tells whether every line of a recipe ends with a carriage return.
func crlf(recipe string) bool {
	for line := range strings.Lines(recipe) {
		if !strings.HasSuffix(strings.TrimSuffix(line, "\n"), "\r") {
			return false
		}
	}
	return true
}

// unquoted returns a script for sh without what stands between single quotes, behind
// backslashes and in comments, and without double quotes.
func unquoted(s string) string {
	var b strings.Builder
	double := false
	skip := func(i int, end byte) int {
		if n := strings.IndexByte(s[i:], end); n >= 0 {
			return i + n
		}
		return len(s)
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"':
			double = !double
		case c == '\'' && !double:
			i = skip(i+1, '\'')
		case c == '#' && !double && (i == 0 || strings.IndexByte(" \t\n;", s[i-1]) >= 0):
			i = skip(i, '\n') - 1
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
