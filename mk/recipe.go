package mk

import "slices"

// job is one recipe, to be run for the nodes of a list.
type job struct {
	rule       *rule
	nodes      *node
	stem       string
	match      []string
	prereqs    []string
	newPrereqs []string
	targets    []string // to be made
	all        []string // of the rule
	deletes    []deletion
}

// deletion is a target that is removed if its recipe fails.
type deletion struct {
	name   string
	before stamp // the recipe
}

// doRecipe makes a job of n, with the other targets of its rule that are out
// of date too, and tells whether there was a recipe.
func (r *run) doRecipe(n *node) bool {
	var a *arc
	for i := range n.prereqs {
		if n.prereqs[i].rule.recipe != "" {
			a = &n.prereqs[i]
		}
	}
	if a == nil {
		r.noRecipe(n)
		return false
	}
	rule := a.rule
	j := &job{rule: rule, nodes: n}
	if a.stem != nil {
		j.stem, j.match = a.stem.text, a.stem.subs
	}
	n.next = nil
	if rule.attr&regular != 0 {
		j.targets = []string{n.name}
		j.all = j.targets
	} else {
		for _, t := range rule.targets {
			if rule.attr&meta != 0 {
				t = subst(j.stem, t)
			}
			j.all = append(j.all, t)
			m := r.find(t, r.symbols[t])
			if m == nil || m != n && m.flags&beingMade != 0 { // by another job, or it has failed
				continue
			}
			if !r.cfg.All && m.time != 0 && !r.anyNewer(m) {
				continue
			}
			j.targets = append(j.targets, t)
			if m == n || m.flags&onList != 0 {
				continue
			}
			m.flags |= onList
			m.next = n.next
			n.next = m
		}
	}
	for m := n.next; m != nil; m = m.next {
		m.flags &^= onList
	}
	for m := n; m != nil; m = m.next {
		if m.flags&ready == 0 {
			return false
		}
	}

	var prereqs, newer wordSet
	for m := n; m != nil; m = m.next {
		for i := range m.prereqs {
			a := &m.prereqs[i]
			if a.n == nil {
				if r.cfg.Explain {
					r.out.say(m.name + " has no prerequisites\n")
				}
				continue
			}
			prereqs.add(a.n.name)
			if r.outOfDate(m, a, false) {
				newer.add(a.n.name)
				r.explain("%s(%d) < %s(%d)\n", m, a.n)
			}
		}
		m.setMade(beingMade)
	}
	j.prereqs, j.newPrereqs = prereqs.list, newer.list
	r.enqueue(j)
	return true
}

// anyNewer tells whether a prereq of n is newer than it.
func (r *run) anyNewer(n *node) bool {
	for i := range n.prereqs {
		if a := &n.prereqs[i]; a.n != nil && r.outOfDate(n, a, false) {
			return true
		}
	}
	return false
}

// noRecipe makes a node that has prereqs and no recipe.
func (r *run) noRecipe(n *node) {
	if n.flags&(isVirtual|noRecipeNeeded) == 0 {
		r.out.fail("no recipe to make '%s'%s", n.name, r.hint(r.targetHint(n.name)))
	}
	if isMember(n.name) && n.time == 0 {
		n.setMade(made)
		r.changed(n)
	} else {
		r.update(n, false)
	}
	if r.cfg.Touch {
		r.touchNode(n)
	}
}

func (r *run) touchNode(n *node) {
	if n.flags&isVirtual == 0 {
		r.touch(n.name)
	} else if r.cfg.Explain {
		r.out.print("no touch of virtual '" + n.name + "'\n")
	}
}

// wordSet is a list of words without duplicates.
type wordSet struct {
	list []string
	has  map[string]bool // made when the list is long
}

func (s *wordSet) add(w string) {
	if s.has == nil {
		if slices.Contains(s.list, w) {
			return
		}
		if len(s.list) == 16 {
			s.has = make(map[string]bool)
			for _, w := range s.list {
				s.has[w] = true
			}
		}
	}
	if s.has != nil {
		if s.has[w] {
			return
		}
		s.has[w] = true
	}
	s.list = append(s.list, w)
}
