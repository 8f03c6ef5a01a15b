package mk

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// node is a name in the graph of what is made from what. Its time is when it
// was modified, 0 where it is missing.
type node struct {
	name    string
	time    int64
	prereqs []arc
	next    *node // in the list of a job's targets
	index   int32 // in run.parents
	mark    int32 // the last walk that was here
	waits   int32 // index of a prereq that was not made when last looked at
	flags   flag
}

type flag uint16

// The numbers are those that -dg prints.
const (
	isVirtual      flag = 0x0001
	onPath         flag = 0x0002 // of the walk that looks for cycles
	ready          flag = 0x0004 // went through vacuous
	canPretend     flag = 0x0008
	pretending     flag = 0x0010
	notMade        flag = 0x0020
	beingMade      flag = 0x0040
	made           flag = 0x0080
	probable       flag = 0x0100 // a rule or a file means it to exist
	isVacuous      flag = 0x0200
	noRecipeNeeded flag = 0x0400
	deleteOnError  flag = 0x0800
	onList         flag = 0x2000
	dirty          flag = 0x4000 // there may be something to do for it
	dirtyBelow     flag = 0x8000 // there may be something to do for its prereqs
)

// setMade replaces what the node's flags say of its being made.
func (n *node) setMade(f flag) { n.flags = n.flags&^(notMade|beingMade|made) | f }

// arc is an edge of the graph: its node is made from n by rule. A rule
// without prereqs has one arc without a node.
type arc struct {
	n    *node
	rule *rule
	stem *stem // of a meta-rule
	togo bool  // to be deleted
}

// stem is what a name matched in the target of a meta-rule.
type stem struct {
	text string
	subs []string // of a regular expression: stem0 to stem9
}

// graph finishes the graph below n.
func (r *run) graph(n *node) {
	r.stat()
	r.walk++
	r.checkCycle(n)
	n.flags |= probable // it stays, whatever vacuous thinks of it
	vacuous(n)
	r.walk++
	r.ambiguous(n)
	r.walk++
	r.attribute(n)
}

// maxGraph bounds the depth of the graph: what walks it is recursive.
const maxGraph = 200_000

// applyRules makes the node of a name from the rules that are for it: the
// explicit ones, then the meta-rules that match. A meta-rule applies NREP
// times on a path.
func (r *run) applyRules(target string) *node {
	sym := r.symbols[target]
	if n := r.find(target, sym); n != nil {
		return n
	}
	n := r.newNode(target, sym)
	if r.depth++; r.depth > maxGraph {
		r.out.fail("graph is more than %d rules deep at target %s", maxGraph, target)
	}
	if sym != nil {
		r.applyRule(n, sym.first)
		for i := len(sym.more) - 1; i >= 0; i-- {
			r.applyRule(n, sym.more[i])
		}
	}
	for _, rule := range r.meta {
		r.applyMeta(n, rule)
	}
	r.depth--
	return n
}

// applyRule adds the arcs of an explicit rule.
func (r *run) applyRule(n *node, rule *rule) {
	if rule.attr&meta != 0 || rule.bare() || r.counts[rule.number] >= r.nrep {
		return
	}
	r.counts[rule.number]++
	n.flags |= probable
	if rule.tail[0] == "" {
		n.prereqs = append(n.prereqs, arc{rule: rule})
	} else {
		n.prereqs = slices.Grow(n.prereqs, len(rule.tail))
		for _, w := range rule.tail {
			n.prereqs = append(n.prereqs, arc{n: r.applyRules(w), rule: rule})
		}
	}
	r.counts[rule.number]--
}

// applyMeta adds the arcs of a meta-rule if it matches.
func (r *run) applyMeta(n *node, rule *rule) {
	if rule.bare() {
		return
	}
	if k := len(n.prereqs); rule.attr&noVirtual != 0 && k > 0 && n.prereqs[k-1].rule.attr&virtual != 0 {
		return
	}
	s := new(stem)
	var sub []int
	if rule.attr&regular != 0 {
		if sub = r.matchRegexp(rule, n.name); sub == nil {
			return
		}
		s.subs = stems(n.name, sub)
	} else {
		var ok bool
		if s.text, ok = match(n.name, rule.target); !ok {
			return
		}
	}
	if r.counts[rule.number] >= r.nrep {
		return
	}
	r.counts[rule.number]++
	if rule.tail[0] == "" {
		n.prereqs = append(n.prereqs, arc{rule: rule, stem: s})
	} else {
		for _, w := range rule.tail {
			if sub != nil {
				w = regsub(w, n.name, sub)
			} else {
				w = subst(s.text, w)
			}
			n.prereqs = append(n.prereqs, arc{n: r.applyRules(w), rule: rule, stem: s})
		}
	}
	r.counts[rule.number]--
}

// matchRegexp returns what of name the regular expression of a rule matches, or
// nil.
func (r *run) matchRegexp(rule *rule, name string) []int {
	a := r.automata[rule.pattern]
	if a == nil {
		a = newAutomaton(rule.pattern)
		r.automata[rule.pattern] = a
	}
	if !a.mayMatch(name) {
		return nil
	}
	return rule.pattern.match(name)
}

// find returns the node of a name, whose symbol sym is, nil if there is none
// yet.
func (r *run) find(name string, sym *symbol) *node {
	if sym != nil {
		return r.made[sym.index]
	}
	return r.others[name]
}

func (r *run) newNode(name string, sym *symbol) *node {
	if len(r.slab) == 0 {
		r.slab = make([]node, 128)
	}
	n := &r.slab[0]
	r.slab = r.slab[1:]
	if sym != nil {
		r.made[sym.index] = n
	} else {
		r.others[name] = n
	}
	n.name = name
	n.index = r.nodes
	r.nodes++
	if isMember(name) {
		n.setTime(r.memberTime(name, false)) // and what it says is in order
	} else {
		r.unknown = append(r.unknown, n)
	}
	return n
}

// setTime sets the time of a new node.
func (n *node) setTime(t int64) {
	if n.time = t; t != 0 {
		n.flags |= probable
	}
}

// stat looks up the times of the new nodes, with as many threads as run.
func (r *run) stat() {
	const few = 2000 // for each thread
	list := r.unknown
	r.unknown = nil
	var wg sync.WaitGroup
	for k := min(runtime.GOMAXPROCS(0), len(list)/few); k > 1; k-- {
		part := list[:len(list)/k]
		list = list[len(part):]
		wg.Go(func() { r.statAll(part) })
	}
	r.statAll(list)
	wg.Wait()
}

func (r *run) statAll(list []*node) {
	for _, n := range list {
		n.setTime(r.timeOf(n.name, false))
	}
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

// vacuous tells whether n is not meant to exist: there is no such file and no
// explicit rule, and the meta-rules that would make it lead to vacuous nodes
// only. It removes the arcs of such meta-rules.
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
		n.dropVacuous()
	}
	if vac {
		n.flags |= isVacuous
	}
	return vac
}

// dropVacuous drops the arcs that are to go. If one arc of a rule stays, all
// do.
func (n *node) dropVacuous() {
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
		if a.rule.recipe == "" {
			continue
		}
		if last == nil {
			last = a
			continue
		}
		if last.rule.header == a.rule.header {
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
				r.reportAmbiguous(n, last)
			}
			r.chain(n.name, a)
		}
	}
	if bad {
		panic(bail{fmt.Errorf("ambiguous recipes for %s", n.name)})
	}
	if going {
		n.dropArcs()
	}
}

func (r *run) reportAmbiguous(n *node, first *arc) {
	r.out.error("mk: ambiguous recipes for " + n.name + ":\n")
	r.chain(n.name, first)
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
				if n.prereqs[i].rule.recipe != "" {
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
	r.checkTime(n)
}
