package mk

import (
	"fmt"
	"slices"
	"strings"
)

// attr are the attributes of a rule or an assignment.
type attr uint16

// The numbers are those that -dp prints.
const (
	meta      attr = 0x0001 // has a pattern
	update    attr = 0x0004 // U: read and never used, in the real mk too
	quiet     attr = 0x0008 // Q: the recipe is not echoed
	virtual   attr = 0x0010 // V: the target is not a file
	regular   attr = 0x0020 // R: the target is a regular expression
	noRecipe  attr = 0x0040 // N: no recipe is fine
	del       attr = 0x0080 // D: the target is removed if the recipe fails
	noVirtual attr = 0x0100 // n: this meta-rule is not for virtual targets
	noMinusE  attr = 0x1000 // E: the shell runs without -e
	noExport  attr = 0x8000 // U of an assignment
)

// header is a rule as it is written.
type header struct {
	targets []string
	tail    []string // prereqs; one empty word where there are none
	recipe  string
	prog    *string // of attribute P, which may be empty; nil without P
	file    string
	line    int
	shell   *shell
}

// rule is one target of a header: one with three targets makes three. Two
// rules have the same recipe if they have the same header.
type rule struct {
	*header
	target  string
	pattern *regex // of attribute R
	number  int32  // new with each redefinition
	attr    attr
}

// bare tells whether a rule has neither prereqs nor recipe: it has no effect.
func (r *rule) bare() bool { return r.recipe == "" && r.tail[0] == "" }

// symbol is a name that is the target of rules.
type symbol struct {
	first *rule
	more  []*rule          // in the order they came
	by    map[string]*rule // by their key, made when there are many
	index int32            // of its node in run.made
}

// rules yields the rules as mk uses them: the first, then the others
// backwards.
func (s *symbol) rules(yield func(*rule) bool) {
	if !yield(s.first) {
		return
	}
	for _, r := range slices.Backward(s.more) {
		if !yield(r) {
			return
		}
	}
}

// same returns the rule with these prereqs that is of the kind of a, a regular
// expression or not, nil if there is none.
func (s *symbol) same(tail []string, a attr) *rule {
	if s.by != nil {
		return s.by[key(tail, a)]
	}
	for r := range s.rules {
		if r.attr&regular == a&regular && slices.Equal(r.tail, tail) {
			return r
		}
	}
	return nil
}

func (s *symbol) add(r *rule) {
	const many = 32
	s.more = append(s.more, r)
	if s.by == nil && len(s.more) == many {
		s.by = make(map[string]*rule)
		for r := range s.rules {
			s.by[key(r.tail, r.attr)] = r
		}
	} else if s.by != nil {
		s.by[key(r.tail, r.attr)] = r
	}
}

func key(tail []string, a attr) string {
	if a&regular != 0 {
		return "R\x00" + strings.Join(tail, "\x00")
	}
	return strings.Join(tail, "\x00")
}

// addRules adds a rule for each target of h.
func (p *parser) addRules(h *header, a attr) {
	if p.target1 == nil && a&regular == 0 {
		if !slices.ContainsFunc(h.targets, func(s string) bool { return p.charin(s, "%&") >= 0 }) {
			p.target1 = h.targets
		}
	}
	for _, name := range h.targets {
		p.addRule(h, name, a)
	}
}

// addRule adds a rule. One of the same kind with the same target and prereqs is
// replaced, in its place.
func (p *parser) addRule(h *header, target string, a attr) {
	sym := p.symbols[target]
	var r *rule
	if sym != nil {
		r = sym.same(h.tail, a)
	}
	reuse := r != nil
	if !reuse {
		if len(p.slab) == 0 {
			p.slab = make([]rule, 128)
		}
		r, p.slab = &p.slab[0], p.slab[1:]
		r.header, r.attr = h, a // add looks at them
		if sym != nil {
			sym.add(r)
		} else {
			p.symbols[target] = &symbol{first: r, index: int32(len(p.symbols))}
		}
	}
	*r = rule{header: h, target: target, number: p.nrules, attr: a}
	p.nrules++
	if a&regular != 0 {
		pattern, err := compile(target)
		if err != nil {
			p.out.error(fmt.Sprintf("mk: %s:%d: regular expression error; %s\n", h.file, h.line, err))
			p.exit("regular expression error; %s", err)
		}
		r.pattern = pattern
	}
	if a&regular != 0 || p.charin(target, "%&") >= 0 {
		r.attr |= meta
		if !reuse {
			p.meta = append(p.meta, r)
		}
	} else if !reuse {
		p.rules = append(p.rules, r)
	}
}
