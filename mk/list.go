package mk

import (
	"slices"
	"strings"
)

// A Rule is what a header says of one of its targets.
type Rule struct {
	Target  string
	Targets []string // all of the header
	Prereqs []string // with variables expanded, % not replaced
	Attr    string   // the letters of the attributes, but P
	Prog    string   // the program of attribute P
	Meta    bool     // the target is a pattern: a regular expression with R in Attr
	Recipe  string   // as it is written, less the white space that begins its lines
	File    string   // the mkfile
	Line    int      // on which the header begins, from 1
}

// A Var is a variable and where it was first assigned: nowhere, if it comes
// from the environment or mk itself.
type Var struct {
	Name     string
	Words    []string // its value; none where it is empty
	Known    bool     // false where only a command that was not run could tell
	Exported bool     // recipes get it in their environment
	File     string   // the mkfile, or ""
	Line     int      // on which the assignment begins, or 0
}

// Rules returns the rules without patterns, then the meta-rules, each kind in
// the order of the mkfile. A name that only a command could tell is left out.
func (m *Mkfile) Rules() []Rule {
	list := make([]Rule, 0, len(m.rules)+len(m.meta))
	for _, r := range slices.Concat(m.rules, m.meta) {
		if !m.known(r.target) {
			continue
		}
		out := Rule{
			Target:  r.target,
			Targets: m.onlyKnown(r.targets),
			Attr:    r.attr.String(),
			Meta:    r.attr&meta != 0,
			Recipe:  r.recipe,
			File:    r.file,
			Line:    r.line,
		}
		if r.prog != nil {
			out.Prog = *r.prog
		}
		if r.tail[0] != "" {
			out.Prereqs = m.onlyKnown(r.tail)
		}
		list = append(list, out)
	}
	return list
}

// Targets returns the targets of rules without patterns, each once.
func (m *Mkfile) Targets() []string {
	seen := make(map[string]bool)
	var list []string
	for _, r := range m.rules {
		if !seen[r.target] && m.known(r.target) {
			seen[r.target] = true
			list = append(list, r.target)
		}
	}
	return list
}

// Matching returns those of Targets that match a pattern like that of a
// meta-rule, A%B or A&B. A target that is the pattern itself matches.
func (m *Mkfile) Matching(pattern string) []string {
	return slices.DeleteFunc(m.Targets(), func(name string) bool {
		_, ok := match(name, pattern)
		return !ok && name != pattern
	})
}

// Default returns the targets that Run makes where it is asked for none.
func (m *Mkfile) Default() []string { return slices.Clone(m.target1) }

// HasRule tells whether there is a rule for name, with or without a pattern. The
// rule may still not apply, for example because a prereq cannot be made.
func (m *Mkfile) HasRule(name string) bool {
	if sym := m.symbols[name]; sym != nil {
		for r := range sym.rules {
			if r.attr&meta == 0 && !r.bare() {
				return true
			}
		}
	}
	for _, r := range m.meta {
		if r.bare() {
			continue
		}
		if r.attr&regular != 0 {
			if r.pattern.match(name) != nil {
				return true
			}
		} else if _, ok := match(name, r.target); ok {
			return true
		}
	}
	return false
}

// Var returns the words of a variable, none for one that is not set. known is
// false if only a command that was not run could tell some of the words, which are
// then left out, or whether there are any.
func (m *Mkfile) Var(name string) (words []string, known bool) {
	v := m.vars[name]
	if v == nil || !v.set {
		return nil, true
	}
	return trimWords(m.onlyKnown(v.words)), m.known(v.words...)
}

// Vars returns the variables that are set, by name.
func (m *Mkfile) Vars() []Var {
	var list []Var
	for _, v := range m.sorted() {
		list = append(list, Var{
			Name:     v.name,
			Words:    trimWords(m.onlyKnown(v.words)),
			Known:    m.known(v.words...),
			Exported: !v.noExport,
			File:     v.file,
			Line:     v.line,
		})
	}
	slices.SortFunc(list, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Complete tells whether all of the mkfile is known: no part of it depends on a
// command that was not run.
func (m *Mkfile) Complete() bool { return !m.partial }

// trimWords returns no words for the list of one empty word.
func trimWords(words []string) []string {
	if len(words) == 1 && words[0] == "" {
		return nil
	}
	return words
}

func (m *Mkfile) known(words ...string) bool {
	return m.cfg.Exec || !slices.ContainsFunc(words, func(s string) bool { return strings.Contains(s, unknown) })
}

func (m *Mkfile) onlyKnown(words []string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(s string) bool { return !m.known(s) })
}

// String returns the letters of a rule's attributes, but P.
func (a attr) String() string {
	var b strings.Builder
	for _, l := range []struct {
		attr   attr
		letter byte
	}{{del, 'D'}, {noMinusE, 'E'}, {noRecipe, 'N'}, {noVirtual, 'n'}, {quiet, 'Q'}, {regular, 'R'}, {update, 'U'}, {virtual, 'V'}} {
		if a&l.attr != 0 {
			b.WriteByte(l.letter)
		}
	}
	return b.String()
}
