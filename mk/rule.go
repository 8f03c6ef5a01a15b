package mk

import "slices"

// attr are the attributes of a rule or an assignment.
type attr uint16

const (
	meta      attr = 1 << iota // has a pattern
	update                     // U: read and never used, in the real mk too
	quiet                      // Q: the recipe is not echoed
	virtual                    // V: the target is not a file
	regular                    // R: the target is a regular expression
	noRecipe                   // N: no recipe is fine
	del                        // D: the target is removed if the recipe fails
	noVirtual                  // n: this meta-rule is not for virtual targets
	noMinusE                   // E: the shell runs without -e
	noExport                   // U of an assignment
)

// rule is one target of a rule: a header with three targets makes three.
type rule struct {
	target  string
	tail    []string // prereqs; one empty word where there are none
	recipe  *recipe
	attr    attr
	number  int // new with each redefinition
	file    string
	line    int
	targets []string // all of the header
	prog    string   // of attribute P
	pattern *regex   // of attribute R
	shell   *shell
}

// recipe is a recipe; its identity says whether two rules have the same one.
type recipe struct{ text string }

// bare tells whether a rule has neither prereqs nor recipe: it has no effect.
func (r *rule) bare() bool { return r.recipe.text == "" && r.tail[0] == "" }

// addRules adds a rule for each of names.
func (p *parser) addRules(names, tail []string, text string, a attr, line int, prog string) {
	if p.target1 == nil && a&regular == 0 {
		if !slices.ContainsFunc(names, func(s string) bool { return p.charin(s, "%&") >= 0 }) {
			p.target1 = names
		}
	}
	body := &recipe{text}
	for _, name := range names {
		p.addRule(name, tail, body, names, a, line, prog)
	}
}

// addRule adds a rule. One with the same target and prereqs is replaced, in
// its place.
func (p *parser) addRule(target string, tail []string, body *recipe, names []string, a attr, line int, prog string) {
	sym := p.symbols[target]
	if sym == nil {
		sym = new(symbol)
		p.symbols[target] = sym
	}
	var r *rule
	for _, old := range sym.rules {
		if slices.Equal(old.tail, tail) {
			r = old
			break
		}
	}
	reuse := r != nil
	if !reuse {
		r = new(rule)
		if len(sym.rules) == 0 {
			sym.rules = []*rule{r}
		} else {
			sym.rules = slices.Insert(sym.rules, 1, r)
		}
	}
	*r = rule{target: target, tail: tail, recipe: body, attr: a, number: p.nrules,
		file: p.file, line: line, targets: names, prog: prog, shell: p.shell}
	p.nrules++
	if a&regular != 0 {
		pattern, err := compile(target)
		if err != nil {
			p.out.fail("%s:%d: regular expression error; %s", r.file, r.line, err)
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
