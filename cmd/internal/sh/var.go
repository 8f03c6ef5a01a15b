package sh

import (
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/pattern"
	"mvdan.cc/sh/v3/syntax"
)

// matches tells whether the whole of text matches a pattern. One that is malformed
// stands for itself.
func matches(pat, text string) bool {
	expr, err := pattern.Regexp(pat, pattern.EntireString)
	if err != nil {
		return pat == text
	}
	re, err := regexp.Compile(expr)
	return err == nil && re.MatchString(text)
}

func (s *shell) value(name string) string {
	if v := s.vars[name]; v != nil {
		return v.value
	}
	return ""
}

// setVar sets a variable that is not read only.
func (s *shell) setVar(name, value string) {
	v := s.vars[name]
	if v == nil {
		v = new(variable)
		s.vars[name] = v
	}
	v.value, v.set = value, true
	v.export = v.export || s.opts['a']
	if name == "OPTIND" {
		s.char = 0
	}
}

// assign sets a variable. One that is read only ends the script.
func (s *shell) assign(name, value string) bool {
	if v := s.vars[name]; v != nil && v.readonly {
		s.fail("%s: is read only", name)
		return false
	}
	s.setVar(name, value)
	return true
}

// assignment does an assignment of a command.
func (s *shell) assignment(a *syntax.Assign) (name string, ok bool) {
	if a.Append || a.Array != nil || a.Index != nil {
		s.refuse("arrays and +=")
		return "", false
	}
	value := ""
	if a.Value != nil {
		if value, ok = s.literal(a.Value); !ok {
			return "", false
		}
	}
	return a.Name.Value, s.assign(a.Name.Value, value)
}

// environ is the environment of commands.
func (s *shell) environ() []string {
	var env []string
	for name, v := range s.vars {
		if v.export && v.set {
			env = append(env, name+"="+v.value)
		}
	}
	slices.Sort(env)
	return env
}

// textParam begins the name of a parameter that stands for the rest of the name.
const textParam = "="

// env shows variables and parameters to package expand.
type env struct{ s *shell }

func (e env) Get(name string) expand.Variable {
	s := e.s
	str := func(v string) expand.Variable {
		return expand.Variable{Set: true, Kind: expand.String, Str: v}
	}
	if text, ok := strings.CutPrefix(name, textParam); ok {
		return str(text)
	}
	switch name {
	case "@", "*":
		return expand.Variable{Set: true, Kind: expand.Indexed, List: append([]string{}, s.args...)}
	case "#":
		return str(strconv.Itoa(len(s.args)))
	case "?":
		return str(strconv.Itoa(s.status))
	case "$":
		return str(strconv.Itoa(s.pid))
	case "!":
		if s.last == 0 {
			return expand.Variable{}
		}
		return str(strconv.Itoa(s.last))
	case "-":
		return str(s.flags())
	case "0":
		return str(s.name)
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n > 0 && n <= len(s.args) {
			return str(s.args[n-1])
		}
		return expand.Variable{}
	}
	if v := s.vars[name]; v != nil && v.set {
		return str(v.value)
	}
	return expand.Variable{}
}

func (e env) Set(name string, v expand.Variable) error {
	if old := e.s.vars[name]; old != nil && old.readonly {
		return errors.New(name + ": is read only")
	}
	e.s.setVar(name, v.String())
	return nil
}

func (e env) Each(f func(string, expand.Variable) bool) {
	for name := range e.s.vars {
		if !f(name, e.Get(name)) {
			return
		}
	}
}

// config returns what package expand needs. It keeps what it works on in it: each
// expansion has its own.
func (s *shell) config() *expand.Config {
	c := &expand.Config{
		Env:     env{s},
		NoUnset: s.opts['u'],
		CmdSubst: func(w io.Writer, cs *syntax.CmdSubst) error {
			out := s.substitute(cs)
			_, err := w.Write(out)
			return err
		},
	}
	if !s.opts['f'] {
		c.ReadDir2 = os.ReadDir
	}
	return c
}

// expanded tells whether an expansion succeeded. If not, the script ends.
func (s *shell) expanded(err error) bool {
	if err == nil {
		return s.leave == nothing
	}
	var unset expand.UnsetParameterError
	if errors.As(err, &unset) {
		msg := unset.Message
		if msg == "" || msg == "unbound variable" {
			msg = "parameter not set"
		}
		s.fail("%s: %s", unset.Node.Param.Value, msg)
	} else {
		s.fail("%v", err)
	}
	return false
}

// mode is what a word is expanded to.
type mode int

const (
	toText    mode = iota // one string
	toPattern             // one pattern
	toFields              // fields
	toQuoted              // a part of a string in quotes
)

func (s *shell) literal(w *syntax.Word) (string, bool) {
	return s.expand(w, toText, expand.Literal)
}

func (s *shell) pattern(w *syntax.Word) (string, bool) {
	return s.expand(w, toPattern, expand.Pattern)
}

func (s *shell) document(w *syntax.Word) (string, bool) {
	return s.expand(w, toQuoted, expand.Document)
}

func (s *shell) expand(w *syntax.Word, m mode, f func(*expand.Config, *syntax.Word) (string, error)) (string, bool) {
	if w == nil {
		return "", true
	}
	parts, ok := s.prepare(w.Parts, m)
	if !ok {
		return "", false
	}
	text, err := f(s.config(), &syntax.Word{Parts: parts})
	return text, s.expanded(err)
}

func (s *shell) fields(words []*syntax.Word) ([]string, bool) {
	var fields []string
	for _, w := range words {
		parts, ok := s.prepare(w.Parts, toFields)
		if !ok {
			return nil, false
		}
		var list []*syntax.Word
		for len(parts) > 0 {
			n := slices.Index(parts, syntax.WordPart(fieldBreak))
			if n < 0 {
				n = len(parts)
			}
			if n > 0 {
				list = append(list, withoutBraces(&syntax.Word{Parts: parts[:n]}))
			}
			parts = parts[min(n+1, len(parts)):]
		}
		config := s.config()
		config.Env = unsplit{env{s}}
		text, err := expand.Fields(config, list...)
		if !s.expanded(err) {
			return nil, false
		}
		fields = append(fields, text...)
	}
	return fields, true
}

// unsplit is an env where expansions are not split: prepare has done it.
type unsplit struct{ env }

func (u unsplit) Get(name string) expand.Variable {
	if name == "IFS" {
		return expand.Variable{Set: true, Kind: expand.String}
	}
	return u.env.Get(name)
}

// fieldBreak is between the parts of two fields.
var fieldBreak = &syntax.Lit{Value: "fieldBreak"}

// prepare does what package expand does not do as POSIX has it. Of ${x-word} and
// ${x+word} expand takes the word even if that does not count, and forgets its
// quotes, as it does those of the pattern in ${x#pattern}. It takes $IFS for white
// space, and knows "$@" only alone in quotes.
func (s *shell) prepare(parts []syntax.WordPart, m mode) ([]syntax.WordPart, bool) {
	var out []syntax.WordPart
	for _, part := range parts {
		list, ok := []syntax.WordPart{part}, true
		switch p := part.(type) {
		case *syntax.Lit:
			if m == toText && strings.Contains(p.Value, "\\") && !strings.HasPrefix(p.Value, "~") {
				list[0] = &syntax.SglQuoted{Value: unquote(p.Value)}
			}
		case *syntax.DblQuoted:
			list, ok = s.prepareQuoted(p, m)
		case *syntax.ParamExp:
			list, ok = s.prepareParam(p, m)
		case *syntax.CmdSubst, *syntax.ArithmExp:
			if m == toFields {
				var text string
				text, ok = s.text(part)
				list = s.split(text)
			}
		}
		if !ok {
			return nil, false
		}
		out = append(out, list...)
	}
	return out, true
}

// unquote removes backslashes.
func unquote(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
			if text[i] == '\n' {
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// text expands one part.
func (s *shell) text(part syntax.WordPart) (string, bool) {
	text, err := expand.Literal(s.config(), &syntax.Word{Parts: []syntax.WordPart{part}})
	return text, s.expanded(err)
}

// textPart is a part that expands to text, which may be a pattern.
func textPart(text string) syntax.WordPart {
	return &syntax.ParamExp{Param: &syntax.Lit{Value: textParam + text}}
}

// split returns text as parts of fields.
func (s *shell) split(text string) []syntax.WordPart {
	fields, before, after := s.splitFields(text, -1, true)
	var parts []syntax.WordPart
	if before {
		parts = append(parts, fieldBreak)
	}
	for i, f := range fields {
		if i > 0 {
			parts = append(parts, fieldBreak)
		}
		if f == "" { // between two separators
			parts = append(parts, &syntax.SglQuoted{})
		} else {
			parts = append(parts, textPart(f))
		}
	}
	if after {
		parts = append(parts, fieldBreak)
	}
	return parts
}

// prepareQuoted prepares what is in double quotes.
func (s *shell) prepareQuoted(p *syntax.DblQuoted, m mode) ([]syntax.WordPart, bool) {
	parts, ok := s.prepare(p.Parts, toQuoted)
	if !ok {
		return nil, false
	}
	q := *p
	q.Parts = parts
	i := slices.IndexFunc(parts, isAllArgs)
	if i < 0 || m != toFields || len(parts) == 1 {
		return []syntax.WordPart{&q}, true
	}
	// The first argument joins what is before, the last one what is after.
	quoted := func(parts []syntax.WordPart) *syntax.DblQuoted {
		q := *p
		q.Parts = parts
		return &q
	}
	var out []syntax.WordPart
	piece := slices.Clone(parts[:i])
	for i, arg := range s.args {
		if i > 0 {
			out = append(out, quoted(piece), fieldBreak)
			piece = nil
		}
		piece = append(piece, &syntax.SglQuoted{Value: arg})
	}
	last, ok := s.prepareQuoted(quoted(parts[i+1:]), m)
	return append(append(out, quoted(piece)), last...), ok
}

// isAllArgs tells whether a part is $@.
func isAllArgs(part syntax.WordPart) bool {
	p, ok := part.(*syntax.ParamExp)
	return ok && p.Param != nil && p.Param.Value == "@" && p.Exp == nil && !p.Length
}

// prepareParam returns what stands for a parameter.
func (s *shell) prepareParam(p *syntax.ParamExp, m mode) ([]syntax.WordPart, bool) {
	if p.Param == nil {
		s.refuse("parameter of this kind")
		return nil, false
	}
	if p.Exp != nil {
		return s.prepareExp(p, m)
	}
	name := p.Param.Value
	switch {
	case m == toFields && (name == "@" || name == "*") && !p.Length:
		var parts []syntax.WordPart
		for i, arg := range s.args {
			if i > 0 {
				parts = append(parts, fieldBreak)
			}
			parts = append(parts, s.split(arg)...)
		}
		return parts, true
	case m == toFields:
		text, ok := s.text(p)
		return s.split(text), ok
	case (name == "*" || name == "IFS") && !p.Length: // unsplit hides $IFS
		text, ok := s.text(p)
		return []syntax.WordPart{textPart(text)}, ok
	}
	return []syntax.WordPart{p}, true
}

// prepareExp returns what stands for ${x-word} and the like.
func (s *shell) prepareExp(p *syntax.ParamExp, m mode) ([]syntax.WordPart, bool) {
	name := p.Param.Value
	plain := &syntax.ParamExp{Dollar: p.Dollar, Param: p.Param}
	v := env{s}.Get(name)
	has, text := v.IsSet(), v.String()
	if v.Kind == expand.Indexed { // $@ and $*
		has, text = len(v.List) > 0, strings.Join(v.List, "")
	}
	switch p.Exp.Op {
	case syntax.DefaultUnsetOrNull, syntax.AlternateUnsetOrNull, syntax.AssignUnsetOrNull, syntax.ErrorUnsetOrNull:
		has = has && text != ""
	}
	switch p.Exp.Op {
	case syntax.DefaultUnset, syntax.DefaultUnsetOrNull:
		if !has {
			return s.prepareWord(p.Exp.Word, m)
		}
		return s.prepareParam(plain, m)
	case syntax.AlternateUnset, syntax.AlternateUnsetOrNull:
		if has {
			return s.prepareWord(p.Exp.Word, m)
		}
		return nil, true
	case syntax.AssignUnset, syntax.AssignUnsetOrNull:
		if !has {
			if !syntax.ValidName(name) {
				s.fail("%s: bad variable name", name)
				return nil, false
			}
			value, ok := s.literal(p.Exp.Word)
			if !ok || !s.assign(name, value) {
				return nil, false
			}
		}
		return s.prepareParam(plain, m)
	case syntax.ErrorUnset, syntax.ErrorUnsetOrNull:
		if has {
			return s.prepareParam(plain, m)
		}
		msg, ok := s.literal(p.Exp.Word)
		if ok {
			if msg == "" {
				msg = "parameter not set"
			}
			s.fail("%s: %s", name, msg)
		}
		return nil, false
	case syntax.RemSmallPrefix, syntax.RemLargePrefix, syntax.RemSmallSuffix, syntax.RemLargeSuffix:
		pat, ok := s.pattern(p.Exp.Word)
		if !ok {
			return nil, false
		}
		q := *p
		exp := *p.Exp
		exp.Word = &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{Value: pat}}}
		q.Exp = &exp
		if m != toFields {
			return []syntax.WordPart{&q}, true
		}
		text, ok := s.text(&q)
		return s.split(text), ok
	}
	s.refuse("${" + name + p.Exp.Op.String() + "}")
	return nil, false
}

// prepareWord prepares the word of ${x-word} or ${x+word}: in quotes a ' is one, and
// out of them blanks split.
func (s *shell) prepareWord(w *syntax.Word, m mode) ([]syntax.WordPart, bool) {
	if w == nil {
		return nil, true
	}
	var parts []syntax.WordPart
	for _, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.SglQuoted:
			if m == toQuoted {
				part = &syntax.SglQuoted{Value: "'" + p.Value + "'"}
			}
		case *syntax.Lit:
			if m == toFields && !strings.ContainsAny(p.Value, "\\~") {
				parts = append(parts, s.split(p.Value)...)
				continue
			}
		}
		list, ok := s.prepare([]syntax.WordPart{part}, m)
		if !ok {
			return nil, false
		}
		parts = append(parts, list...)
	}
	return parts, true
}

// splitFields splits text at $IFS, into most fields at most, all if that is -1. White
// space of $IFS around fields does not count; each other character of it ends one.
// Before and after tell whether there is some before the first and after the last.
func (s *shell) splitFields(text string, most int, raw bool) (fields []string, before, after bool) {
	ifs := " \t\n"
	if v := s.vars["IFS"]; v != nil && v.set {
		ifs = v.value
	}
	separates := func(c byte) bool { return strings.IndexByte(ifs, c) >= 0 }
	blank := func(c byte) bool { return separates(c) && (c == ' ' || c == '\t' || c == '\n') }
	i := 0
	skip := func() {
		for i < len(text) && blank(text[i]) {
			i++
		}
	}
	skip()
	before = i > 0
	for i < len(text) {
		after = false
		if len(fields) == most-1 {
			return append(fields, lastField(text[i:], blank, separates, raw)), before, false
		}
		var b []byte
		for i < len(text) && !separates(text[i]) {
			if text[i] == '\\' && !raw && i+1 < len(text) {
				i++
			}
			b = append(b, text[i])
			i++
		}
		fields = append(fields, string(b))
		after = i < len(text)
		skip()
		if i < len(text) && separates(text[i]) {
			i++
			skip()
		}
	}
	return fields, before, after
}

// lastField returns the rest of a line as a field: less blanks at its end, and one
// other separator if it is a single field with nothing after it.
func lastField(text string, blank, separates func(byte) bool, raw bool) string {
	end := len(text)
	for end > 0 && blank(text[end-1]) && (raw || end < 2 || text[end-2] != '\\') {
		end--
	}
	text = text[:end]
	if n := strings.IndexFunc(text, func(r rune) bool { return r < 128 && separates(byte(r)) }); n >= 0 && n == len(text)-1 {
		text = text[:n]
		for len(text) > 0 && blank(text[len(text)-1]) {
			text = text[:len(text)-1]
		}
	}
	if !raw {
		text = unquote(text)
	}
	return text
}

// readFields splits a line as read does.
func (s *shell) readFields(line string, n int, raw bool) []string {
	fields, _, _ := s.splitFields(line, n, raw)
	return fields
}

// commandFields expands the words of a command. Those of the form NAME=VALUE are
// not split if the command is one that declares variables.
func (s *shell) commandFields(words []*syntax.Word) ([]string, bool) {
	if len(words) == 0 {
		return nil, true
	}
	switch words[0].Lit() {
	case "export", "readonly", "local":
	default:
		return s.fields(words)
	}
	var fields []string
	for _, w := range words {
		list, ok := []string(nil), false
		if lit, isLit := w.Parts[0].(*syntax.Lit); isLit && strings.Contains(lit.Value, "=") {
			var one string
			one, ok = s.declared(w, lit)
			list = []string{one}
		} else {
			list, ok = s.fields([]*syntax.Word{w})
		}
		if !ok {
			return nil, false
		}
		fields = append(fields, list...)
	}
	return fields, true
}

// declared expands a word NAME=VALUE that begins with first.
func (s *shell) declared(w *syntax.Word, first *syntax.Lit) (string, bool) {
	name, rest, _ := strings.Cut(first.Value, "=")
	lit := *first
	lit.Value = rest
	value, ok := s.literal(&syntax.Word{Parts: append([]syntax.WordPart{&lit}, w.Parts[1:]...)})
	return name + "=" + value, ok
}

// withoutBraces puts a backslash before each brace, which package expand would
// take for bash's.
func withoutBraces(w *syntax.Word) *syntax.Word {
	copied := false
	for i, part := range w.Parts {
		lit, ok := part.(*syntax.Lit)
		if !ok || !strings.Contains(lit.Value, "{") {
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
		if !copied {
			w = &syntax.Word{Parts: slices.Clone(w.Parts)}
			copied = true
		}
		escaped := *lit
		escaped.Value = b.String()
		w.Parts[i] = &escaped
	}
	return w
}
