package mk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// run is one Run or Plan of a Mkfile: the graph, the queue of jobs that are
// ready, and those that run.
type run struct {
	*parser
	root     *node            // that is made
	made     []*node          // of names with rules, by symbol.index
	others   map[string]*node // the nodes of other names
	nodes    int32            // how many there are
	slab     []node           // nodes to come
	unknown  []*node          // whose time is not known yet
	parents  [][]*node        // by node.index, of the nodes of linked
	linked   []*node          // below root; nil until a job has run
	counts   []int32          // how often each rule is on the path
	automata map[*regex]*automaton
	walk     int32
	depth    int // of the path
	nrep     int32
	nproc    int
	errors   int                // of this target, with Keep
	failures []error            // of all targets, with Keep
	jobs     []*job             // ready, in the order they became so
	slots    []*process         // jobs that run; nil is free
	running  int                // how many do
	collects bool               // the output of jobs is printed when they end
	left     []*collector       // of jobs that have ended, and left processes behind
	compared map[[2]string]bool // what programs of attribute P said
	values   [][]string         // of the internal variables, for the last job
	times    map[string]int64   // said by -w, or read from archives
	latest   int64              // a time that is not too far in the future; see checkTime
	archives map[string]int64   // when an archive was when it was read
	bitched  map[string]bool    // archives that were said not to exist
	plan     func(*job)         // if not nil, jobs go here and are not run
	ids      map[*node]int      // that -dg gave
	usage    []int64            // seconds with so many jobs running
	tick     int64
}

// Run makes the targets, or the default ones if it gets none. It blocks until every
// recipe that it started has ended. When ctx ends, the recipes that run and their
// descendants get SIGTERM, or the signal of the cause if that is an Interrupt, once.
// Run then waits for all of them, and kills those that have not ended after five
// seconds; targets with attribute D that have changed since their recipe began are
// removed. The error is ErrNoTarget, one that wraps ErrNoRule, an *ExitError, one
// that wraps syscall.E2BIG where the system does not take the environment of a
// recipe, the cause of ctx's end, or one of the graph, such as a cycle. With
// Config.Keep it joins the errors of all that failed.
func (m *Mkfile) Run(ctx context.Context, targets ...string) error {
	return m.run(ctx, targets, nil)
}

// A Job is a recipe that Run would run.
type Job struct {
	Targets []string // that are out of date
	Prereqs []string // all of them
	New     []string // the prereqs that are newer
	Stem    string   // what the pattern of a meta-rule matched
	Recipe  string   // as mk prints it
	File    string   // where the rule is
	Line    int      // on which its header begins
}

// Plan returns the jobs that Run would run, in the order of a Run with an NPROC of
// 1. It runs the programs of attribute P, and nothing else. Its errors are those of
// Run; the jobs before the error are returned with it.
func (m *Mkfile) Plan(ctx context.Context, targets ...string) (jobs []Job, err error) {
	p := *m
	p.cfg.NoExec = true
	err = p.run(ctx, targets, func(r *run, j *job) {
		jobs = append(jobs, Job{
			Targets: j.targets,
			Prereqs: j.prereqs,
			New:     j.newPrereqs,
			Stem:    j.stem,
			Recipe:  r.echo(j.rule.recipe, j.rule.shell.dialect),
			File:    j.rule.file,
			Line:    j.rule.line,
		})
	})
	return jobs, err
}

func (m *Mkfile) run(ctx context.Context, targets []string, plan func(*run, *job)) (err error) {
	w, err := openStreams(&m.cfg)
	if err != nil {
		return err
	}
	defer w.end(&err)
	out := newOutput(w.stdout, w.stderr)
	r := &run{
		parser:   &parser{Mkfile: m, ctx: ctx, out: out, file: "<nil>", hinted: m.hinted},
		made:     make([]*node, len(m.symbols)),
		others:   make(map[string]*node),
		counts:   make([]int32, m.nrules+1),
		automata: make(map[*regex]*automaton),
		compared: make(map[[2]string]bool),
		values:   make([][]string, len(internal)),
		times:    make(map[string]int64),
		archives: make(map[string]int64),
		bitched:  make(map[string]bool),
	}
	if plan != nil {
		r.plan = func(j *job) { plan(r, j) }
		r.latest = math.MaxInt64
	}
	r.procs = newProcs(ctx, &m.cfg, out, w)
	defer out.end(&err)
	defer r.finish(&err)
	defer catch(&err)
	r.whatIf()
	r.count()
	switch {
	case len(targets) == 0:
		if m.target1 == nil {
			r.out.error("mk: nothing to mk\n")
			panic(bail{ErrNoTarget})
		}
		for _, t := range m.target1 {
			r.makeTarget(t)
		}
	case len(targets) == 1 || m.cfg.Sequence:
		for _, t := range targets {
			r.makeTarget(t)
		}
	default:
		r.makeAll(targets)
	}
	if m.cfg.Usage {
		r.printUsage()
	}
	return errors.Join(r.failures...)
}

// finish waits for what still runs, and after an interrupt removes what it
// was making.
func (r *run) finish(err *error) {
	r.procs.reap()
	for _, p := range r.slots {
		if p != nil {
			r.out.error(p.last)
			r.printOutput(p)
		}
	}
	for _, c := range r.left {
		c.stop()
	}
	if r.ctx.Err() == nil {
		return
	}
	cause := context.Cause(r.ctx)
	*err = cause
	for slot, p := range r.slots {
		if p == nil || p.status == "" || p.err != nil {
			continue
		}
		r.setValues(p.job, slot)
		if i := (Interrupt{}); errors.As(cause, &i) && i.Signal == syscall.SIGALRM {
			r.failed(p.job, "exit status="+p.status, p.job.deletes)
		} else if changed := r.changedTargets(p.job); len(changed) > 0 {
			r.failed(p.job, cause.Error(), changed)
		}
	}
}

// changedTargets returns those of a job's targets to delete that are not what
// they were before it.
func (r *run) changedTargets(j *job) []deletion {
	return slices.DeleteFunc(slices.Clone(j.deletes), func(d deletion) bool { return r.stamp(d.name) == d.before })
}

// failed says why a job has failed, and removes the targets of list.
func (r *run) failed(j *job, why string, list []deletion) {
	msg := "mk: " + front(r.echo(j.rule.recipe, j.rule.shell.dialect)) + ": " + why
	deleting := ", deleting"
	for _, d := range list {
		r.out.error(msg + deleting + " '" + d.name + "'")
		msg, deleting = "", ""
		r.remove(d.name)
	}
	r.out.error(msg + "\n")
}

// enqueue adds a job to those that are ready, and runs the first of them if
// it can.
func (r *run) enqueue(j *job) {
	r.jobs = append(r.jobs, j)
	if r.running < r.nproc {
		r.schedule()
	}
}

// schedule runs the first job of the queue.
func (r *run) schedule() {
	if len(r.jobs) == 0 {
		r.count()
		return
	}
	if r.ctx.Err() != nil {
		panic(bail{context.Cause(r.ctx)})
	}
	if r.out.broken != nil {
		panic(bail{r.out.broken})
	}
	j := r.jobs[0]
	r.jobs[0] = nil
	r.jobs = r.jobs[1:]
	if r.debug('e') {
		r.out.say("firing up job for target " + strings.Join(j.targets, " ") + "\n")
	}
	slot := r.freeSlot()
	r.setValues(j, slot)
	text, sh := j.rule.recipe, j.rule.shell
	cfg := &r.cfg
	echo := ""
	if r.plan != nil {
		r.plan(j)
	} else if !cfg.Touch && (cfg.NoExec || j.rule.attr&quiet == 0) {
		echo = r.echo(text, sh.dialect)
	}
	if cfg.NoExec || cfg.Touch {
		r.out.print(echo)
		now := r.now()
		for n := j.nodes; n != nil; n = n.next {
			if cfg.Touch {
				r.touchNode(n)
			}
			n.time = now
			n.setMade(made)
			r.changed(n)
		}
		return
	}
	if r.debug('e') {
		r.out.say("recipe='" + text + "'")
	}
	var c *collector
	var stdout, stderr *os.File
	if r.collects {
		var err error
		if c, stdout, stderr, err = r.newCollector(); err != nil {
			r.procs.fatal("pipe", err)
		}
		defer stdout.Close()
		defer stderr.Close()
		c.add(0, []byte(echo))
	} else {
		r.out.print(echo)
	}
	r.out.flush()
	if r.out.broken != nil {
		panic(bail{r.out.broken})
	}
	r.link(r.root)
	var args []string
	if j.rule.attr&noMinusE == 0 {
		args = []string{"-e"}
	}
	for n := j.nodes; n != nil; n = n.next {
		if n.flags&deleteOnError != 0 {
			j.deletes = append(j.deletes, deletion{n.name, r.stamp(n.name)})
		}
	}
	p := r.procs.start(sh, args, &text, stdout, stderr, r.appendEnv(nil, sh.dialect, r.values))
	p.job, p.output = j, c
	r.slots[slot] = p
	r.count()
	r.running++
	if r.debug('e') {
		r.out.say(fmt.Sprintf("pid for target %s = %d\n", strings.Join(j.targets, " "), p.pid))
		r.out.say("starting: " + text + "\n")
	}
}

// freeSlot returns the first slot without a process: $nproc.
func (r *run) freeSlot() int {
	slot := slices.Index(r.slots, nil)
	if slot < 0 {
		slot = len(r.slots)
		r.slots = append(r.slots, nil)
	}
	return slot
}

// waitProcess waits for p or any job, sees to what follows from a job's end, and
// tells whether it was p.
func (r *run) waitProcess(p *process) bool {
	q := r.procs.waitAny(p, r.slots)
	settle(r.ctx, q)
	if r.ctx.Err() != nil {
		panic(bail{context.Cause(r.ctx)})
	}
	r.traceEnd(q)
	if q == p {
		return true
	}
	r.ended(slices.Index(r.slots, q), q)
	return false
}

// ended sees to a job that has ended.
func (r *run) ended(slot int, p *process) {
	r.count()
	j := p.job
	r.slots[slot] = nil
	r.running--
	fake := false
	r.printOutput(p)
	if p.status != "" {
		var err error = &ExitError{j.nodes.name, p.status}
		if p.err != nil { // there is nothing half made
			err = fmt.Errorf("%s: %w", j.nodes.name, p.err)
			r.out.error("mk: " + err.Error() + "\n")
		} else {
			r.setValues(j, slot)
			r.failed(j, "exit status="+p.status+r.hint(r.recipeHint(j, p.status)), j.deletes)
		}
		if !r.cfg.Keep {
			r.jobs = nil
			panic(bail{err})
		}
		r.failure(err)
		fake = true
	}
	for _, t := range j.targets {
		if n := r.find(t, r.symbols[t]); n != nil {
			r.update(n, fake)
		}
	}
	if r.running < r.nproc {
		r.schedule()
	}
}

// printOutput prints what was collected of a job that has ended.
func (r *run) printOutput(p *process) {
	if p.output == nil {
		return
	}
	r.out.flush()
	if p.output.end() {
		r.left = append(r.left, p.output)
	}
	p.output = nil
}

// setValues sets the internal variables for a job.
func (r *run) setValues(j *job, slot int) {
	v := r.values
	stem := j.stem
	if j.rule.attr&regular != 0 {
		stem = ""
	}
	v[0] = j.targets
	v[1] = []string{stem}
	v[2] = j.prereqs
	v[3] = []string{r.procs.pid()}
	v[4] = []string{strconv.Itoa(slot)}
	v[5] = j.newPrereqs
	v[6] = j.all
	v[7] = members(j.newPrereqs)
	for i := range 10 {
		v[8+i] = nil
		if i < len(j.match) {
			v[8+i] = j.match[i : i+1]
		}
	}
}

func (r *run) debug(c byte) bool { return r.Mkfile.debug(c) }

func (m *Mkfile) debug(c byte) bool { return strings.IndexByte(m.cfg.Debug, c) >= 0 }

// trace prints what is run, for -de.
func (p *parser) trace(s string) {
	if p.debug('e') {
		p.out.say(s)
	}
}

// traceEnd prints how a process has ended, for -de.
func (p *parser) traceEnd(q *process) {
	p.trace("waitup got pid=" + strconv.Itoa(q.pid) + ", status='" + q.status + "'\n")
}

// count adds up for how long how many jobs have run.
func (r *run) count() {
	if !r.cfg.Usage {
		return
	}
	now := time.Now().Unix()
	n := r.running
	for len(r.usage) <= n {
		r.usage = append(r.usage, 0)
	}
	if r.tick != 0 {
		r.usage[n] += now - r.tick
	}
	r.tick = now
}

func (r *run) printUsage() {
	r.count()
	for i := 0; i <= max(r.nproc, len(r.usage)-1); i++ {
		var n int64
		if i < len(r.usage) {
			n = r.usage[i]
		}
		r.out.say(fmt.Sprintf("%d: %d\n", i, n))
	}
}
