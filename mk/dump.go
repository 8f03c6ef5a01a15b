package mk

import (
	"fmt"
	"slices"
	"strings"
)

// What the flags -dp and -dg print. Numbers stand where mk prints addresses.

// dump prints default targets, rules and variables.
func (p *parser) dump() {
	o := p.out
	o.print("default targets" + quoteWords(p.target1) + "\n")
	p.dumpRules("rules", p.rules)
	p.dumpRules("metarules", p.meta)
	o.print("variables:\n")
	for _, v := range p.sorted() {
		o.print("\t" + v.name + "=" + strings.ReplaceAll(quoteWords(v.words), " '", "'") + "\n")
	}
}

// quoteWords returns words in quotes, a blank before each.
func quoteWords(words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(" '" + w + "'")
	}
	return b.String()
}

func (p *parser) dumpRules(title string, rules []*rule) {
	if len(rules) == 0 {
		return
	}
	sh := rules[0].shell
	p.out.print(fmt.Sprintf("%s: start=%d shelltype=%s shellcmd=%s\n", title, rules[0].number+1, sh.name, strings.Join(sh.argv, " ")))
	number := func(list []*rule, i int) int { // of rule i, 0 behind the last
		if i >= len(list) {
			return 0
		}
		return int(list[i].number) + 1
	}
	for i, r := range rules {
		chain := slices.Collect(p.symbols[r.target].rules)
		p.out.print(fmt.Sprintf("\tRule %d: %s[%d] attr=%x next=%d chain=%d alltarget='%s'",
			r.number+1, r.file, r.line, uint16(r.attr), number(rules, i+1),
			number(chain, slices.Index(chain, r)+1), strings.Join(r.targets, " ")))
		if r.prog != nil {
			p.out.print(" prog='" + *r.prog + "'")
		}
		p.out.print(fmt.Sprintf("\n\ttarget=%s: %s\n\trecipe@%d='%s'\n", r.target, strings.Join(r.tail, " "), r.number+1, r.recipe))
	}
}

// dumpNode prints a node and what it is made from.
func (r *run) dumpNode(title string, n *node) {
	indent := "   "
	if strings.HasPrefix(title, " ") {
		indent = title + indent
	}
	r.out.print(fmt.Sprintf("%s%s@%d: time=%d flags=0x%x next=%d\n",
		title, n.name, r.id(n), n.time, uint16(n.flags), r.id(n.next)))
	for i := range n.prereqs {
		a := &n.prereqs[i]
		stem := ""
		if a.stem != nil {
			stem = a.stem.text
		}
		r.out.print(fmt.Sprintf("%sArc@%x.%x: n=%x r=%x flag=0x0 stem='%s'", indent, r.id(n), i, r.id(a.n), a.rule.number+1, stem))
		if a.rule.prog != nil {
			r.out.print(" prog='" + *a.rule.prog + "'")
		}
		r.out.print("\n")
		if a.n != nil {
			r.dumpNode(indent+"    ", a.n)
		}
	}
}

// id numbers the nodes as they are met. No node is 0.
func (r *run) id(n *node) int {
	if n == nil {
		return 0
	}
	if r.ids == nil {
		r.ids = make(map[*node]int)
	}
	if r.ids[n] == 0 {
		r.ids[n] = len(r.ids) + 1
	}
	return r.ids[n]
}
