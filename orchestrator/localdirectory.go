package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// nameHeld is for how long a name stays its key's after the executor has left,
// so that no other key takes it while the executor reconnects.
const nameHeld = time.Minute

// maxHeld is how many such names are remembered.
const maxHeld = 65536

// lostFor is for how long an executor whose connection was lost may come back and
// find its place among the askers. It is longer than an executor's longest delay
// before it connects again, 30 s in package dial, because all come back so after
// an orchestrator that was down.
const lostFor = 45 * time.Second

// maxLost is how many bytes of keys are remembered of lost executors' runs.
const maxLost = 32 << 20

// A localDirectory is the directory of a server that is alone.
type localDirectory struct {
	began time.Time

	mu         sync.Mutex // guards what follows, and the state of spaces, members, shares and runs
	lostBytes  int        // of the keys of lost runs
	spaces     map[string]*space
	root       branch // of the namespaces that are exported
	held       map[heldName]holder
	awaited    map[heldName][]claim // the first comes next
	generation uint64               // of the newest announcement
	order      uint64               // of the run learned of last
	versions   uint64               // of the space made last
	events     fs.Feed              // joins and leaves, of all namespaces
	untold     []func()             // audit lines of these, which tellAudit writes

	auditMu sync.Mutex // held by tellAudit, before mu
	audit   func(sh *share, what string, generation uint64)
}

// newLocalDirectory returns a directory that has audit write a line of each join and
// leave, in their order. Audit may block, and what the directory knows stays readable.
func newLocalDirectory(audit func(sh *share, what string, generation uint64)) *localDirectory {
	return &localDirectory{began: time.Now(), spaces: map[string]*space{}, held: map[heldName]holder{}, awaited: map[heldName][]claim{}, audit: audit}
}

// tellAudit writes the audit lines that are due. What joins and leaves calls it once
// it has let go of mu.
func (d *localDirectory) tellAudit() {
	d.auditMu.Lock()
	defer d.auditMu.Unlock()
	d.mu.Lock()
	lines := d.untold
	d.untold = nil
	d.mu.Unlock()
	for _, line := range lines {
		line()
	}
}

// A heldName is a name in a namespace.
type heldName struct{ ns, name string }

// A holder is the key that a name belongs to, for a while. If the connection broke,
// the name is kept until lost for the executor that had it. It is not if the executor
// had fallen silent: most often its machine was started again, and asks for the name.
type holder struct {
	key            string
	until          time.Time
	lost           time.Time
	instance, boot string
}

// keepsFrom reports whether the name is kept from the executor that announces a.
func (h holder) keepsFrom(a wire.Announce, now time.Time) bool {
	return now.Before(h.lost) && a.Instance != h.instance && (a.Boot == "" || a.Boot != h.boot)
}

// A claim is of a key that was refused a name which belongs to another.
type claim struct {
	key  string
	last time.Time // when it was
}

// maxWaiters is how many waiters of one name are remembered, and maxAwaited of how
// many names.
const (
	maxWaiters = 16
	maxAwaited = 4096
)

// A family is the executors of one name in a namespace: NAME, NAME+2 and so on.
type family struct {
	key string // that of all
	n   int    // how many are connected
}

// A space is one namespace that is exported or watched.
type space struct {
	ns       string
	shares   map[string]*share  // by the executor's name
	families map[string]*family // by the name that executors announce
	index    runIndex
	events   fs.Feed
	watches  int                      // that have not been closed
	lost     map[string]*lost         // by the executor's name
	awaited  map[awaited]map[*run]int // how often each asker's own run says that it waits
	version  uint64                   // another after each wake, and in each space of the same name
	changed  chan struct{}            // closed and forgotten when a run has changed or gone; nil: nobody waits for that
}

// An awaited is a run that askers wait for.
type awaited struct{ name, id string }

// await notes that an asker, whose own run has a place, waits for another run, until end
// is called. To an orchestrator that is new the asker may come first; if the other then
// waited for the asker, neither would ever run.
func (sp *space) await(a awaited, own *run) (end func()) {
	if sp.awaited == nil {
		sp.awaited = map[awaited]map[*run]int{}
	}
	if sp.awaited[a] == nil {
		sp.awaited[a] = map[*run]int{}
	}
	sp.awaited[a][own]++
	sp.order(a)
	return func() {
		if sp.awaited[a][own]--; sp.awaited[a][own] == 0 {
			delete(sp.awaited[a], own)
		}
		if len(sp.awaited[a]) == 0 {
			delete(sp.awaited, a)
		}
	}
}

// order moves a run, if it has a place, before the runs of those that wait for it, and
// so on for a run that it waits for itself.
func (sp *space) order(a awaited) {
	moved := map[*run]bool{} // of executors that say they wait for each other, one is first
	for todo := []awaited{a}; len(todo) > 0; {
		a, todo = todo[0], todo[1:]
		sh := sp.shares[a.name]
		if sh == nil || sh.runs[a.id] == nil || sh.runs[a.id].place == 0 || moved[sh.runs[a.id]] {
			continue
		}
		r := sh.runs[a.id]
		for own := range sp.awaited[a] {
			if r != own && r.place >= own.place && own.place > 0 {
				r.place = own.place - 1
				moved[r] = true
			}
		}
		for next, by := range sp.awaited {
			if moved[r] && by[r] > 0 {
				todo = append(todo, next)
			}
		}
	}
}

// wake wakes those that wait for a run of the namespace, and has revisions looked
// up anew.
func (sp *space) wake() {
	sp.version++
	if sp.changed != nil {
		close(sp.changed)
		sp.changed = nil
	}
}

// A lost is what is remembered of an executor whose connection was lost.
type lost struct {
	key   string
	runs  map[string]*run // that have not ended, by id
	until time.Time
	bytes int // of their keys
	timer *time.Timer
}

func (d *localDirectory) join(ctx context.Context, m *member, a wire.Announce, signer string) ([]*share, error) {
	defer d.tellAudit()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.name(ctx, m, a); err != nil {
		return nil, err
	}
	d.generation++
	m.announced.Store(&announced{d.generation, a.Address, a.Instance, a.Boot, signer, a.Adopts})
	for _, ns := range slices.Collect(maps.Keys(m.shares)) {
		if !slices.Contains(a.Namespaces, ns) {
			d.drop(m.shares[ns], false)
		}
	}
	var fresh []*share
	for _, ns := range a.Namespaces {
		if m.shares[ns] == nil {
			fresh = append(fresh, d.addShare(ctx, m, ns))
		}
	}
	return fresh, nil
}

// mayHold returns why key cannot have name in ns.
func (d *localDirectory) mayHold(ns, name, key string) error {
	h := heldName{ns, name}
	now := time.Now()
	owner := ""
	if sp := d.spaces[ns]; sp != nil && sp.families[name] != nil {
		owner = sp.families[name].key
	} else if x, ok := d.held[h]; ok && now.Before(x.until) {
		owner = x.key
	}
	if owner == key {
		return nil
	}
	waiters := slices.DeleteFunc(d.awaited[h], func(w claim) bool { return now.Sub(w.last) >= lostFor })
	if owner == "" && (len(waiters) == 0 || waiters[0].key == key) {
		return nil
	}
	d.await(h, waiters, claim{key, now})
	if owner == "" {
		return fmt.Errorf("the name %s in %s is for another key, which has asked for it before", name, ns)
	}
	return fmt.Errorf("the name %s in %s belongs to another key: it is free %v after that has left", name, ns, nameHeld)
}

// await notes that w waits for a name, behind those that do already.
func (d *localDirectory) await(h heldName, waiters []claim, w claim) {
	if i := slices.IndexFunc(waiters, func(x claim) bool { return x.key == w.key }); i >= 0 {
		waiters[i].last = w.last
	} else if len(waiters) < maxWaiters {
		waiters = append(waiters, w)
	}
	if len(d.awaited) >= maxAwaited {
		maps.DeleteFunc(d.awaited, func(_ heldName, ws []claim) bool {
			return !slices.ContainsFunc(ws, func(x claim) bool { return w.last.Sub(x.last) < lostFor })
		})
		if len(d.awaited) >= maxAwaited {
			return
		}
	}
	d.awaited[h] = waiters
}

// served ends the waiting of a key, which has got the name.
func (d *localDirectory) served(h heldName, key string) {
	waiters := slices.DeleteFunc(d.awaited[h], func(w claim) bool { return w.key == key })
	if len(waiters) == 0 {
		delete(d.awaited, h)
		return
	}
	d.awaited[h] = waiters
}

// name gives m its name: that by which it was shown before, else the first of its
// family that no other executor has. An executor is another one if its instance is,
// and if it answers: a connection that does not is dropped, and its name is free.
func (d *localDirectory) name(ctx context.Context, m *member, a wire.Announce) error {
	for {
		for _, ns := range a.Namespaces {
			if err := d.mayHold(ns, a.Name, m.key); err != nil {
				return err
			}
		}
		name, doubtful := d.choose(m, a)
		if name == "" {
			return fmt.Errorf("%d executors of the name %s and this key are connected: at most %d", wire.MaxNumber, a.Name, wire.MaxNumber)
		}
		if len(doubtful) == 0 {
			if m.name != "" && name != m.name {
				return fmt.Errorf("%s is the name of another executor in one of the namespaces: announce them on connections of their own", m.name)
			}
			if m.name == "" { // it is read without the lock once it is set
				m.name = name
			}
			return nil
		}
		d.mu.Unlock()
		ended := askAll(doubtful)
		d.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, o := range ended { // its connection may take a while to leave
			for _, sh := range slices.Collect(maps.Values(o.shares)) {
				d.drop(sh, true)
			}
		}
	}
}

// choose returns the name that m would get, or "" if there is none, and those that
// have a name before it, but may be connected no more.
func (d *localDirectory) choose(m *member, a wire.Announce) (name string, doubtful map[*member]bool) {
	now := time.Now()
	if m.name != "" {
		a.Had = m.name
	}
	if a.Had != "" && len(d.others(m, a, a.Had)) == 0 && !d.kept(a, a.Had, now) {
		return a.Had, nil
	}
	for n := 1; n <= wire.MaxNumber; n++ {
		name := wire.Shown(a.Name, n)
		others := d.others(m, a, name)
		for _, o := range others {
			if !o.conn.alive(now) {
				if doubtful == nil {
					doubtful = map[*member]bool{}
				}
				doubtful[o] = true
			}
		}
		if len(others) == 0 && !d.kept(a, name, now) {
			return name, doubtful
		}
	}
	return "", doubtful
}

// others returns the executors other than m's that have a name in the namespaces of
// a, which m announces.
func (d *localDirectory) others(m *member, a wire.Announce, name string) []*member {
	var all []*member
	for _, ns := range a.Namespaces {
		sp := d.spaces[ns]
		if sp == nil || sp.shares[name] == nil {
			continue
		}
		o := sp.shares[name].m
		if o != m && (a.Instance == "" || o.announced.Load().instance != a.Instance) {
			all = append(all, o)
		}
	}
	return all
}

// kept reports whether a name is kept for a lost executor in one of the namespaces
// of a, and a is another's.
func (d *localDirectory) kept(a wire.Announce, name string, now time.Time) bool {
	return slices.ContainsFunc(a.Namespaces, func(ns string) bool {
		h, ok := d.held[heldName{ns, name}]
		return ok && h.keepsFrom(a, now)
	})
}

// space returns the namespace, which it makes if it is not known.
func (d *localDirectory) space(ns string) *space {
	sp := d.spaces[ns]
	if sp == nil {
		d.versions++
		sp = &space{ns: ns, shares: map[string]*share{}, families: map[string]*family{}, version: d.versions << 32}
		d.spaces[ns] = sp
	}
	return sp
}

// addShare gives m a share in ns, in place of an older one of the same name.
func (d *localDirectory) addShare(ctx context.Context, m *member, ns string) *share {
	sp := d.space(ns)
	sp.watches++ // so that drop leaves it where it is
	if old := sp.shares[m.name]; old != nil {
		d.drop(old, true)
	}
	sp.watches--
	delete(d.held, heldName{ns, m.name})
	sh := &share{m: m, ns: ns, since: time.Now(), d: d, shareState: shareState{runs: map[string]*run{}}}
	sh.ctx, sh.cancel = context.WithCancel(ctx)
	sp.shares[m.name] = sh
	d.root.add(ns)
	f := sp.families[m.announcedAs]
	if f == nil {
		f = &family{key: m.key}
		sp.families[m.announcedAs] = f
		d.served(heldName{ns, m.announcedAs}, m.key)
	}
	f.n++
	if l := sp.lost[m.name]; l != nil && l.key == m.key { // it is back: its runs keep their places
		d.forgetLost(sp, m.name)
		for id, r := range l.runs {
			if !sh.admits(id) || !sh.mayClaim(r.key) { // another job of the repository has its name
				continue
			}
			r.share = sh
			sh.runs[id] = r
			sh.list(r)
			sh.keys += len(r.key.Text())
		}
	}
	if m.shares == nil {
		m.shares = map[string]*share{}
	}
	m.shares[ns] = sh
	d.tell(sh, "join", sh.since)
	return sh
}

// drop ends a share. If its connection was lost, its runs that have not ended are
// remembered.
func (d *localDirectory) drop(sh *share, lost bool) {
	sh.cancel()
	sp := d.spaces[sh.ns]
	delete(sp.shares, sh.m.name)
	if len(sp.shares) == 0 {
		d.root.remove(sh.ns)
	}
	delete(sh.m.shares, sh.ns)
	if f := sp.families[sh.m.announcedAs]; f.n > 1 {
		f.n--
	} else {
		delete(sp.families, sh.m.announcedAs)
	}
	for _, r := range sh.runs {
		sp.index.remove(r)
	}
	if lost {
		d.remember(sp, sh)
	}
	clear(sh.runs)
	sp.wake()
	d.hold(sh, lost)
	d.tell(sh, "leave", time.Now())
	d.tidy(sp)
}

// hold keeps a name that is given up for its key.
func (d *localDirectory) hold(sh *share, lost bool) {
	now := time.Now()
	if len(d.held) >= maxHeld {
		maps.DeleteFunc(d.held, func(_ heldName, h holder) bool { return !now.Before(h.until) })
		if len(d.held) >= maxHeld {
			return
		}
	}
	h := holder{key: sh.m.key, until: now.Add(nameHeld)}
	if first := (heldName{sh.ns, sh.m.announcedAs}); first.name != sh.m.name {
		was := d.held[first]
		was.key, was.until = h.key, h.until
		d.held[first] = was
	}
	if lost && !sh.m.conn.silent.Load() {
		a := sh.m.announced.Load()
		h.lost, h.instance, h.boot = now.Add(lostFor), a.instance, a.boot
	}
	d.held[heldName{sh.ns, sh.m.name}] = h
}

// remember keeps the runs of a lost share that have not ended, for lostFor.
func (d *localDirectory) remember(sp *space, sh *share) {
	l := &lost{key: sh.m.key, runs: map[string]*run{}, until: time.Now().Add(lostFor)}
	for id, r := range sh.runs {
		n := len(r.key.Text())
		if r.status.Finished() || r.key == nil || len(l.runs) >= maxIntents || d.lostBytes+n > maxLost {
			continue
		}
		kept := *r
		kept.intents = 0 // they end with the connection; a run that the index does not have goes then
		l.runs[id] = &kept
		l.bytes += n
		d.lostBytes += n
	}
	if len(l.runs) == 0 {
		return
	}
	if sp.lost == nil {
		sp.lost = map[string]*lost{}
	}
	name := sh.m.name
	sp.lost[name] = l
	l.timer = time.AfterFunc(lostFor, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if sp.lost[name] == l {
			d.forgetLost(sp, name)
			sp.wake()
			d.tidy(sp)
		}
	})
}

// forgetLost undoes remember.
func (d *localDirectory) forgetLost(sp *space, name string) {
	l := sp.lost[name]
	l.timer.Stop()
	d.lostBytes -= l.bytes
	delete(sp.lost, name)
}

func (d *localDirectory) leave(m *member, lost bool) {
	defer d.tellAudit()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, sh := range slices.Collect(maps.Values(m.shares)) {
		d.drop(sh, lost)
	}
}

func (d *localDirectory) namespaces(g access.Grant, path string, n int) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]bool{}
	for ns := range d.root.readable(g, path) {
		if all[ns] = true; len(all) == n {
			break
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func (d *localDirectory) next(g access.Grant, path string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(slices.Values(d.root.next(g, path)))
}

func (d *localDirectory) exported(ns string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	return sp != nil && len(sp.shares) > 0
}

func (d *localDirectory) size() (executors, namespaces int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	members := make(map[*member]bool)
	for _, sp := range d.spaces {
		if len(sp.shares) > 0 {
			namespaces++
		}
		for _, sh := range sp.shares {
			members[sh.m] = true
		}
	}
	return len(members), namespaces
}

func (d *localDirectory) share(ns, name string) *share {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sp := d.spaces[ns]; sp != nil {
		return sp.shares[name]
	}
	return nil
}

func (d *localDirectory) shares(ns string) []*share {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sp := d.spaces[ns]; sp != nil {
		return slices.Collect(maps.Values(sp.shares))
	}
	return nil
}

func (d *localDirectory) runs(ns string, match func(r *run) bool) []run {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	if sp == nil {
		return nil
	}
	var all []run
	for _, sh := range sp.shares {
		for _, r := range sh.runs {
			if match(r) {
				all = append(all, *r)
			}
		}
	}
	return all
}

func (d *localDirectory) version(ns string) (uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	if sp == nil || len(sp.shares) == 0 {
		return 0, false
	}
	return sp.version, true
}

func (d *localDirectory) lost(ns string, match func(r *run) bool) []run {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	if sp == nil {
		return nil
	}
	var all []run
	now := time.Now()
	for _, l := range sp.lost {
		if !now.Before(l.until) {
			continue
		}
		for _, r := range l.runs {
			if match(r) {
				all = append(all, *r)
			}
		}
	}
	return all
}

func (d *localDirectory) ended(ctx context.Context, ns, name, id string, own func(r *run) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.space(ns)
	sp.watches++
	defer func() {
		sp.watches--
		d.tidy(sp)
	}()
	for _, sh := range sp.shares {
		for _, r := range sh.runs {
			if own(r) {
				defer sp.await(awaited{name, id}, r)()
			}
		}
	}
	for {
		left := d.mayGoOn(sp, name, id)
		if left <= 0 {
			return nil
		}
		if sp.changed == nil {
			sp.changed = make(chan struct{})
		}
		changed := sp.changed
		d.mu.Unlock()
		t := time.NewTimer(left)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		d.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// mayGoOn returns for how long a run may go on of which nothing more is heard: 0
// if it has ended.
func (d *localDirectory) mayGoOn(sp *space, name, id string) time.Duration {
	if sh := sp.shares[name]; sh != nil {
		switch r := sh.runs[id]; {
		case r != nil && r.status.Finished():
			return 0
		case r != nil:
			return time.Hour // and then again
		case sh.indexed:
			return 0
		}
		return time.Until(sh.since.Add(lostFor)) // its index has not been read
	}
	if l := sp.lost[name]; l != nil {
		if l.runs[id] == nil {
			return 0
		}
		return time.Until(l.until)
	}
	if _, ok := d.held[heldName{sp.ns, name}]; ok {
		return 0 // it has left, or has been lost for too long
	}
	// An orchestrator that began a moment ago does not know which executors
	// there were before.
	return time.Until(d.began.Add(lostFor))
}

func (d *localDirectory) watch(ns string) watch {
	if ns == "" {
		return watch{lines: &d.events, state: d.state, close: func() {}}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.space(ns)
	sp.watches++
	return watch{
		lines: &sp.events,
		state: func() (string, int64) { return d.spaceState(sp) },
		close: func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			sp.watches--
			d.tidy(sp)
		},
	}
}

// state returns the executors that are connected, in every namespace.
func (d *localDirectory) state() (string, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	for _, ns := range slices.Sorted(maps.Keys(d.spaces)) {
		for _, sh := range byName(slices.Collect(maps.Values(d.spaces[ns].shares))) {
			b.WriteString("/" + ns + sh.line("join", sh.since))
		}
	}
	return b.String(), d.events.End()
}

// spaceState returns the executors that are connected, and their runs that have
// not ended.
func (d *localDirectory) spaceState(sp *space) (string, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	for _, sh := range byName(slices.Collect(maps.Values(sp.shares))) {
		b.WriteString(sh.line("join", sh.since))
		for _, r := range slices.SortedFunc(maps.Values(sh.runs), func(a, b *run) int { return cmp.Compare(a.order, b.order) }) {
			if !r.status.Finished() {
				b.WriteString(r.line())
			}
		}
	}
	return b.String(), sp.events.End()
}

// tell writes a join or a leave to the event files.
func (d *localDirectory) tell(sh *share, what string, t time.Time) {
	line := sh.line(what, t)
	d.spaces[sh.ns].events.Write(line)
	d.events.Write("/" + sh.ns + line)
	generation := sh.m.announced.Load().generation
	d.untold = append(d.untold, func() { d.audit(sh, what, generation) })
}

func (sh *share) line(what string, t time.Time) string {
	return sh.path() + " " + what + " " + ci.FormatTime(t) + "\n"
}

// tidy forgets a namespace that is neither exported nor watched.
func (d *localDirectory) tidy(sp *space) {
	if len(sp.shares) == 0 && len(sp.lost) == 0 && sp.watches == 0 && d.spaces[sp.ns] == sp {
		delete(d.spaces, sp.ns)
	}
}
