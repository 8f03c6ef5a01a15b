package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
)

// nameHeld is for how long a name stays its key's after the executor has left,
// so that no other key takes it while the executor reconnects.
const nameHeld = time.Minute

// maxHeld is how many such names are remembered.
const maxHeld = 65536

// A localDirectory is the directory of a server that is alone.
type localDirectory struct {
	log *slog.Logger

	mu         sync.Mutex // guards what follows, and the state of spaces, members, shares and runs
	spaces     map[string]*space
	held       map[heldName]holder
	generation uint64  // of the newest announcement
	order      uint64  // of the run learned of last
	events     fs.Feed // joins and leaves, of all namespaces
}

func newLocalDirectory(log *slog.Logger) *localDirectory {
	return &localDirectory{log: log, spaces: map[string]*space{}, held: map[heldName]holder{}}
}

// A heldName is a name in a namespace.
type heldName struct{ ns, name string }

// A holder is the key that a name belongs to, for a while.
type holder struct {
	key   string
	until time.Time
}

// A space is one namespace that is exported or watched.
type space struct {
	ns      string
	shares  map[string]*share // by the executor's name
	events  fs.Feed
	watches int // that have not been closed
}

func (d *localDirectory) join(ctx context.Context, m *member, a wire.Announce) ([]*share, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ns := range a.Namespaces {
		if err := d.mayHold(ns, m.name, m.key); err != nil {
			return nil, err
		}
	}
	d.generation++
	m.announced.Store(&announced{d.generation, a.Address})
	for _, ns := range slices.Collect(maps.Keys(m.shares)) {
		if !slices.Contains(a.Namespaces, ns) {
			d.drop(m.shares[ns])
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
	owner := ""
	if sp := d.spaces[ns]; sp != nil && sp.shares[name] != nil {
		owner = sp.shares[name].m.key
	} else if h, ok := d.held[heldName{ns, name}]; ok && time.Now().Before(h.until) {
		owner = h.key
	}
	if owner == "" || owner == key {
		return nil
	}
	return fmt.Errorf("the name %s in %s belongs to another key", name, ns)
}

// space returns the namespace, which it makes if it is not known.
func (d *localDirectory) space(ns string) *space {
	sp := d.spaces[ns]
	if sp == nil {
		sp = &space{ns: ns, shares: map[string]*share{}}
		d.spaces[ns] = sp
	}
	return sp
}

// addShare gives m a share in ns, in place of an older one of the same name.
func (d *localDirectory) addShare(ctx context.Context, m *member, ns string) *share {
	if sp := d.spaces[ns]; sp != nil && sp.shares[m.name] != nil {
		d.drop(sp.shares[m.name])
	}
	delete(d.held, heldName{ns, m.name})
	sh := &share{m: m, ns: ns, since: time.Now(), d: d, shareState: shareState{runs: map[string]*run{}}}
	sh.ctx, sh.cancel = context.WithCancel(ctx)
	d.space(ns).shares[m.name] = sh
	if m.shares == nil {
		m.shares = map[string]*share{}
	}
	m.shares[ns] = sh
	d.log.Info("join", "namespace", ns, "executor", m.name, "generation", m.announced.Load().generation)
	d.tell(sh, "join", sh.since)
	return sh
}

// drop ends a share.
func (d *localDirectory) drop(sh *share) {
	sh.cancel()
	sp := d.spaces[sh.ns]
	delete(sp.shares, sh.m.name)
	delete(sh.m.shares, sh.ns)
	clear(sh.runs)
	d.hold(sh.ns, sh.m)
	d.log.Info("leave", "namespace", sh.ns, "executor", sh.m.name, "generation", sh.m.announced.Load().generation)
	d.tell(sh, "leave", time.Now())
	d.tidy(sp)
}

// hold keeps a name that is given up for its key.
func (d *localDirectory) hold(ns string, m *member) {
	now := time.Now()
	if len(d.held) >= maxHeld {
		maps.DeleteFunc(d.held, func(_ heldName, h holder) bool { return !now.Before(h.until) })
		if len(d.held) >= maxHeld {
			return
		}
	}
	d.held[heldName{ns, m.name}] = holder{key: m.key, until: now.Add(nameHeld)}
}

func (d *localDirectory) leave(m *member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, sh := range slices.Collect(maps.Values(m.shares)) {
		d.drop(sh)
	}
}

func (d *localDirectory) namespaces(may func(ns string) bool) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for ns, sp := range d.spaces {
		if len(sp.shares) > 0 && may(ns) {
			all = append(all, ns)
		}
	}
	slices.Sort(all)
	return all
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
}

func (sh *share) line(what string, t time.Time) string {
	return sh.path() + " " + what + " " + ci.FormatTime(t) + "\n"
}

// tidy forgets a namespace that is neither exported nor watched.
func (d *localDirectory) tidy(sp *space) {
	if len(sp.shares) == 0 && sp.watches == 0 && d.spaces[sp.ns] == sp {
		delete(d.spaces, sp.ns)
	}
}
