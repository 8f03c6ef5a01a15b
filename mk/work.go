package mk

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// makeTarget builds one target.
func (r *run) makeTarget(target string) {
	r.begin()
	r.make(r.applyRules(target))
}

// makeAll builds several targets at once, as the prereqs of a virtual one. No rule
// is for that one: it is not a name.
func (r *run) makeAll(targets []string) {
	const name = "command line arguments"
	r.begin()
	n := &node{name: name, index: r.nodes}
	r.nodes++
	r.applyRule(n, &rule{
		header: &header{targets: []string{name}, tail: targets, shell: newShell([]string{"sh"})},
		target: name,
		attr:   virtual,
		number: r.nrules,
	})
	r.make(n)
}

// begin reads what the real mk, too, reads again before each target.
func (r *run) begin() {
	r.setNproc()
	r.setNrep()
	r.errors = 0
}

// make builds a node.
func (r *run) make(n *node) {
	r.graph(n)
	if r.debug('g') {
		r.dumpNode("new target\n", n)
		r.out.flush()
	}
	r.root = n
	r.unlink()
	r.walk++
	r.clear(n)
	did := false
	for n.flags&notMade != 0 {
		if r.work(n, nil, nil) {
			did = true // found something to do
		} else if r.running > 0 {
			r.waitProcess(nil)
		} else if n.flags&notMade != 0 {
			r.assert("must be run errors", r.errors > 0)
			break // nothing more waiting
		}
	}
	for r.running > 0 {
		r.waitProcess(nil)
	}
	r.assert("target didn't get done", r.errors > 0 || n.flags&made != 0)
	if !did && r.errors == 0 {
		r.out.print("mk: '" + n.name + "' is up to date\n")
	}
}

func (r *run) assert(what string, ok bool) {
	if !ok {
		r.out.fail("Assertion ``%s'' failed.", what)
	}
}

// clear begins a new target: nothing is made.
func (r *run) clear(n *node) {
	if !r.visit(n) {
		return
	}
	n.flags &^= canPretend | pretending
	if strings.IndexByte(n.name, '(') < 0 || n.time != 0 {
		n.flags |= canPretend
	}
	n.setMade(notMade)
	n.flags |= dirty | dirtyBelow
	n.waits = 0
	for i := range n.prereqs {
		if m := n.prereqs[i].n; m != nil {
			r.clear(m)
		}
	}
}

func (n *node) unpretend() {
	n.setMade(notMade)
	n.flags &^= canPretend | pretending
	n.flags |= dirty | dirtyBelow
	n.time = 0
}

// link notes for each node below n whose prereq it is. From then on only
// nodes below which something has changed are looked at again.
func (r *run) link(n *node) {
	if r.linked != nil {
		return
	}
	r.parents = append(r.parents, make([][]*node, int(r.nodes)-len(r.parents))...)
	r.walk++
	r.linkBelow(n)
}

func (r *run) linkBelow(n *node) {
	if !r.visit(n) {
		return
	}
	r.linked = append(r.linked, n)
	for i := range n.prereqs {
		if m := n.prereqs[i].n; m != nil {
			r.parents[m.index] = append(r.parents[m.index], n)
			r.linkBelow(m)
		}
	}
}

// unlink undoes link, for the next target.
func (r *run) unlink() {
	for _, n := range r.linked {
		r.parents[n.index] = nil
	}
	r.linked = nil
}

// changed makes work look again at the nodes that have n as a prereq.
func (r *run) changed(n *node) {
	if r.linked == nil {
		return
	}
	for _, p := range r.parents[n.index] {
		r.soil(p, dirty)
	}
}

// soil marks a node that waits, and all nodes that wait for it. If the node is
// marked already, so are they.
func (r *run) soil(n *node, f flag) {
	old := n.flags
	if old&beingMade != 0 || old&(made|pretending) == made {
		return
	}
	n.flags |= f
	if old&dirty != 0 {
		return
	}
	for _, p := range r.parents[n.index] {
		r.soil(p, dirty|dirtyBelow)
	}
}

// work does what can be done now for n, a prereq of p by pa, and tells
// whether there was something. It first works on n's own prereqs.
func (r *run) work(n, p *node, pa *arc) (did bool) {
	if n.flags&beingMade != 0 {
		return false
	}
	if n.flags&made != 0 && n.flags&pretending != 0 && p != nil && r.outOfDate(p, pa, false) {
		r.explain("unpretending %s(%d) because %s is out of date(%d)\n", n, p)
		n.unpretend()
	}
	// It may be pretending although a node below it no longer is.
	if n.flags&made != 0 {
		if n.flags&pretending == 0 {
			return false
		}
		n.time = 0
	}
	if len(n.prereqs) == 0 {
		if n.time != 0 {
			n.setMade(made)
			r.changed(n)
			return false
		}
		r.unknownTarget(n)
		return false
	}

	if n.flags&pretending == 0 {
		if n.flags&dirty == 0 {
			return false // as when last looked at
		}
		if n.flags&dirtyBelow == 0 {
			if m := n.prereqs[n.waits].n; m != nil && m.flags&(notMade|beingMade) != 0 {
				n.flags &^= dirty
				return false
			}
		}
	}
	n.flags &^= dirty | dirtyBelow

	// Are we out of date?
	isReady := true
	stale := r.cfg.All
	var newest *arc
	for i := range n.prereqs {
		a := &n.prereqs[i]
		if a.n == nil {
			if n.time == 0 {
				if newest == nil {
					newest = a
				}
				stale = true
			}
			continue
		}
		did = r.work(a.n, n, a) || did
		if a.n.flags&(notMade|beingMade) != 0 {
			isReady = false
			n.waits = int32(i)
		}
		if r.outOfDate(n, a, false) {
			stale = true
			if newest == nil || newest.n == nil || newest.n.time < a.n.time {
				newest = a
			}
		}
	}
	if !isReady {
		return did
	}
	if !stale {
		n.setMade(made)
		r.changed(n)
		return did
	}

	// Can we pretend to be made?
	if !r.cfg.Missing && n.time == 0 && n.flags&(pretending|canPretend) != 0 &&
		p != nil && newest.n != nil && !r.outOfDate(p, newest, false) {
		n.flags &^= canPretend
		n.setMade(made)
		r.changed(n)
		if n.flags&pretending == 0 {
			r.explain("pretending %s has time %d\n", n, nil)
		}
		n.flags |= pretending
		return did
	}

	// We really have to do something. No prereq may go on pretending.
	if pretender, worked := r.unpretendBelow(n, newest); pretender {
		// Later, unless nothing has happened, for -k's sake.
		r.link(r.root)
		r.soil(n, dirty|dirtyBelow)
		return did || worked || r.work(n, p, pa)
	}
	return r.doRecipe(n) || did
}

// unpretendBelow has those of n's prereqs made that only pretend to be, and
// tells whether there were any and whether there was something to do.
func (r *run) unpretendBelow(n *node, newest *arc) (any, did bool) {
	for i := range n.prereqs {
		a := &n.prereqs[i]
		if a.n == nil || a.n.flags&pretending == 0 {
			continue
		}
		if r.cfg.Explain {
			why := "rule with no prerequisites"
			if newest != nil && newest.n != nil {
				why = newest.n.name
			}
			r.out.print("unpretending " + a.n.name + " because of " + n.name + " because of " + why + "\n")
		}
		a.n.unpretend()
		did = r.work(a.n, n, a) || did
		any = true
	}
	return any, did
}

// explain prints for -e something about n and, if it is not nil, p.
func (r *run) explain(format string, n, p *node) {
	switch {
	case !r.cfg.Explain:
	case p == nil:
		r.out.say(fmt.Sprintf(format, n.name, n.time))
	default:
		r.out.say(fmt.Sprintf(format, n.name, n.time, p.name, p.time))
	}
}

// unknownTarget reports that there is neither a file n nor a rule for it.
func (r *run) unknownTarget(n *node) {
	dir := r.dir()
	r.out.error("mk: don't know how to make '" + n.name + "' in " + dir + r.hint(r.targetHint(n.name)) + "\n")
	if !r.cfg.Keep {
		panic(bail{fmt.Errorf("%w '%s' in %s", ErrNoRule, n.name, dir)})
	}
	n.flags |= beingMade
	r.failure(fmt.Errorf("%w '%s' in %s", ErrNoRule, n.name, dir))
}

// failure takes note of an error that Keep lets pass.
func (r *run) failure(err error) {
	r.errors++
	r.failures = append(r.failures, err)
}

// update takes note that n was made, or where fake is true, that it could
// not be.
func (r *run) update(n *node, fake bool) {
	defer r.changed(n)
	if fake {
		n.setMade(beingMade)
	} else {
		n.setMade(made)
	}
	if n.flags&isVirtual == 0 && syscall.Access(r.cfg.path(n.name), 0) == nil {
		n.time = r.timeOf(n.name, true)
		r.checkTime(n)
		n.flags &^= canPretend | pretending
		for i := range n.prereqs {
			if a := &n.prereqs[i]; a.rule.prog != nil && a.n != nil {
				r.outOfDate(n, a, true)
			}
		}
		return
	}
	n.time = 1
	for i := range n.prereqs {
		if a := &n.prereqs[i]; a.n != nil && r.outOfDate(n, a, true) {
			n.time = a.n.time
		}
	}
}

// outOfDate tells whether n is, with respect to a's node. What the program
// of attribute P says is remembered until eval is true.
func (r *run) outOfDate(n *node, a *arc, eval bool) bool {
	if a.rule.prog != nil {
		key := [2]string{n.name, a.n.name}
		stale, ok := r.compared[key]
		if !ok || eval {
			stale = r.compare(a.rule, n.name, a.n.name)
			r.compared[key] = stale
		}
		return stale
	}
	if a.n.time == 0 && strings.IndexByte(a.n.name, '(') >= 0 {
		return true // a member that its archive does not have
	}
	return n.time <= a.n.time
}

// compare runs the program of attribute P. Its failure means out of date.
func (r *run) compare(rule *rule, target, prereq string) bool {
	r.out.flush()
	cmd := *rule.prog + " '" + target + "' '" + prereq + "'\n"
	r.trace("pipecmd='" + cmd + "'\n")
	proc := r.procs.start(rule.shell, []string{"-c", cmd}, nil, nil, nil, r.environment(rule.shell))
	if proc.err != nil {
		r.out.fail("program of %s: %v", target, proc.err)
	}
	for !r.waitProcess(proc) {
	}
	return proc.status != ""
}

func (r *run) dir() string {
	if r.cfg.Dir != "" && r.cfg.Dir[0] == '/' {
		return r.cfg.Dir
	}
	dir, err := syscall.Getwd()
	if err != nil {
		dir, _ = os.Getwd()
	}
	if r.cfg.Dir != "" {
		dir += "/" + r.cfg.Dir
	}
	return dir
}

// setNproc reads how many jobs may run at once.
func (r *run) setNproc() {
	if w := r.first("NPROC"); w != "" {
		r.nproc = atoi(w)
	}
	r.nproc = max(r.nproc, 1)
	if w := r.first("MKOUTPUT"); r.nproc > 1 {
		r.collects = r.cfg.Collect || w != "" && w != "0"
	}
	if r.debug('e') {
		r.out.say(fmt.Sprintf("nprocs = %d\n", r.nproc))
	}
}

func (r *run) setNrep() {
	if w := r.first("NREP"); w != "" {
		r.nrep = int32(atoi(w))
	}
	r.nrep = max(r.nrep, 1)
	if r.debug('g') {
		r.out.print(fmt.Sprintf("nreps = %d\n", r.nrep))
	}
}

// first returns the first word of a variable.
func (r *run) first(name string) string {
	if v := r.vars[name]; v != nil && v.set && len(v.words) > 0 {
		return v.words[0]
	}
	return ""
}

// atoi is C's: it reads what digits there are.
func atoi(s string) int {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	i := 0
	if s != "" && (s[0] == '-' || s[0] == '+') {
		i++
	}
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	n, _ := strconv.Atoi(s[:i])
	return n
}
