package mk

import (
	"fmt"
	"slices"
	"strings"
)

// node is a name in the graph of what is made from what. Its time is when it
// was modified, 0 where it is missing.
type node struct {
	name    string
	time    int64
	flags   flag
	mark    int32 // the last walk that was here
	prereqs []arc
	next    *node   // in the list of a job's targets
	parents []*node // whose prereq it is; see run.link
	waits   *node   // a prereq that was not made when last looked at
}

type flag uint16

const (
	isVirtual flag = 1 << iota
	onPath         // of the walk that looks for cycles
	ready          // went through vacuous
	canPretend
	pretending
	notMade
	beingMade
	made
	probable // somebody means it to exist
	isVacuous
	noRecipeNeeded
	deleteOnError
	onList
	dirty      // work may find something to do for it
	dirtyBelow // work may find something to do for one of its prereqs
)

// setMade replaces what the node's flags say of its being made.
func (n *node) setMade(f flag) { n.flags = n.flags&^(notMade|beingMade|made) | f }

// arc is an edge of the graph: its node is made from n by rule. A rule
// without prereqs has one arc without a node.
type arc struct {
	n     *node
	rule  *rule
	stem  string
	match []string // of a regular expression: stem0 to stem9
	togo  bool     // to be deleted
}

// graph returns the node of target, with what it is made from.
func (r *run) graph(target string) *node {
	r.counts = make([]int32, r.nrules+1)
	n := r.applyRules(target)
	r.walk++
	r.checkCycle(n)
	n.flags |= probable // it stays, whatever vacuous thinks of it
	vacuous(n)
	r.walk++
	r.ambiguous(n)
	r.walk++
	r.attribute(n)
	return n
}

// applyRules makes the node of a name from the rules that are for it: the
// explicit ones, then the meta-rules that match. A meta-rule applies NREP
// times on a path.
func (r *run) applyRules(target string) *node {
	if n := r.nodes[target]; n != nil {
		return n
	}
	n := r.newNode(target)
	var arcs []arc
	var rules []*rule
	if sym := r.symbols[target]; sym != nil {
		rules = sym.rules
	} else if r.command != nil && target == r.command.target {
		rules = []*rule{r.command}
	}
	for _, rule := range rules {
		if rule.attr&meta != 0 || rule.bare() || int(r.counts[rule.number]) >= r.nrep {
			continue
		}
		r.counts[rule.number]++
		n.flags |= probable
		if rule.tail[0] == "" {
			arcs = append(arcs, arc{rule: rule})
		} else {
			arcs = slices.Grow(arcs, len(rule.tail))
			for _, w := range rule.tail {
				arcs = append(arcs, arc{n: r.applyRules(w), rule: rule})
			}
		}
		r.counts[rule.number]--
	}
	for _, rule := range r.meta {
		if rule.bare() {
			continue
		}
		if rule.attr&noVirtual != 0 && len(arcs) > 0 && arcs[len(arcs)-1].rule.attr&virtual != 0 {
			continue
		}
		var stem string
		var sub []int
		if rule.attr&regular != 0 {
			if sub = rule.pattern.match(target); sub == nil {
				continue
			}
		} else {
			var ok bool
			r.shell = rule.shell
			if stem, ok = r.match(target, rule.target); !ok {
				continue
			}
		}
		if int(r.counts[rule.number]) >= r.nrep {
			continue
		}
		r.counts[rule.number]++
		a := arc{rule: rule, stem: stem}
		if sub != nil {
			a.match = stems(target, sub)
		}
		if rule.tail[0] == "" {
			arcs = append(arcs, a)
		} else {
			for _, w := range rule.tail {
				if sub != nil {
					w = regsub(w, target, sub)
				} else {
					w = subst(stem, w)
				}
				a.n = r.applyRules(w)
				arcs = append(arcs, a)
			}
		}
		r.counts[rule.number]--
	}
	n.prereqs = arcs
	return n
}

func (r *run) newNode(name string) *node {
	if len(r.slab) == 0 {
		r.slab = make([]node, 128)
	}
	n := &r.slab[0]
	r.slab = r.slab[1:]
	r.nodes[name] = n
	n.name = name
	if n.time = r.timeOf(name, false); n.time != 0 {
		n.flags = probable
	}
	return n
}

// visit tells whether the walk has not been at n, and takes note of it.
func (r *run) visit(n *node) bool {
	if n.mark == r.walk {
		return false
	}
	n.mark = r.walk
	return true
}

func (r *run) checkCycle(n *node) {
	if n.flags&onPath != 0 && len(n.prereqs) > 0 {
		r.out.fail("cycle in graph detected at target %s", n.name)
	}
	if !r.visit(n) {
		return
	}
	n.flags |= onPath
	for i := range n.prereqs {
		if m := n.prereqs[i].n; m != nil {
			r.checkCycle(m)
		}
	}
	n.flags &^= onPath
}

// vacuous tells whether nobody means n to exist: there is no such file, no
// explicit rule, and the meta-rules that would make it lead to vacuous nodes
// only. The arcs of such meta-rules go.
func vacuous(n *node) bool {
	if n.flags&ready != 0 {
		return n.flags&isVacuous != 0
	}
	n.flags |= ready
	vac := n.flags&probable == 0
	going := false
	for i := range n.prereqs {
		a := &n.prereqs[i]
		if a.n != nil && vacuous(a.n) && a.rule.attr&meta != 0 {
			a.togo = true
			going = true
		} else {
			vac = false
		}
	}
	if going {
		// If one arc of a rule stays, all do.
		stays := make(map[*rule]bool)
		for i := range n.prereqs {
			if a := &n.prereqs[i]; !a.togo {
				stays[a.rule] = true
			}
		}
		for i := range n.prereqs {
			if a := &n.prereqs[i]; stays[a.rule] {
				a.togo = false
			}
		}
		n.dropArcs()
	}
	if vac {
		n.flags |= isVacuous
	}
	return vac
}

func (n *node) dropArcs() {
	n.prereqs = slices.DeleteFunc(n.prereqs, func(a arc) bool { return a.togo })
}

// ambiguous bails out where a node has two recipes. An explicit rule's beats
// a meta-rule's.
func (r *run) ambiguous(n *node) {
	if !r.visit(n) {
		return
	}
	var last *arc
	going, bad := false, false
	for i := range n.prereqs {
		a := &n.prereqs[i]
		if a.n != nil {
			r.ambiguous(a.n)
		}
		if a.rule.recipe.text == "" {
			continue
		}
		if last == nil {
			last = a
			continue
		}
		if last.rule.recipe == a.rule.recipe {
			continue
		}
		lastMeta, isMeta := last.rule.attr&meta != 0, a.rule.attr&meta != 0
		switch {
		case lastMeta && !isMeta:
			last.togo, going = true, true
			last = a
		case !lastMeta && isMeta:
			a.togo, going = true, true
		default:
			if !bad {
				bad = true
				r.out.error("mk: ambiguous recipes for " + n.name + ":\n")
				r.chain(n.name, last)
			}
			r.chain(n.name, a)
		}
	}
	if bad {
		r.exit("ambiguous recipes for %s", n.name)
	}
	if going {
		n.dropArcs()
	}
}

// chain prints how name is made by way of a.
func (r *run) chain(name string, a *arc) {
	var b strings.Builder
	b.WriteString("\t" + name)
	for a != nil {
		to := ""
		if a.n != nil {
			to = a.n.name
		}
		fmt.Fprintf(&b, " <-(%s:%d)- %s", a.rule.file, a.rule.line, to)
		n := a.n
		a = nil
		if n != nil {
			for i := range n.prereqs {
				if n.prereqs[i].rule.recipe.text != "" {
					a = &n.prereqs[i]
					break
				}
			}
		}
	}
	b.WriteString("\n")
	r.out.error(b.String())
}

// attribute hands the attributes of rules on to the nodes they make.
func (r *run) attribute(n *node) {
	if !r.visit(n) {
		return
	}
	for i := range n.prereqs {
		a := &n.prereqs[i]
		if a.rule.attr&virtual != 0 {
			n.flags |= isVirtual
		}
		if a.rule.attr&noRecipe != 0 {
			n.flags |= noRecipeNeeded
		}
		if a.rule.attr&del != 0 {
			n.flags |= deleteOnError
		}
		if a.n != nil {
			r.attribute(a.n)
		}
	}
	if n.flags&isVirtual != 0 {
		n.time = 0
	}
}
