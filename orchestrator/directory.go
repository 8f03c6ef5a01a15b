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
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// nameHeld is for how long a name stays its key's after the executor has left,
// so that nobody takes it while it reconnects.
const nameHeld = time.Minute

// maxHeld is how many such names are remembered.
const maxHeld = 65536

// A directory knows who exports which namespace, and which runs they have.
type directory struct {
	log *slog.Logger

	mu         sync.Mutex // guards what follows, and spaces, members, shares and runs
	spaces     map[string]*space
	held       map[[2]string]holder // by namespace and name
	generation uint64               // of the newest announcement
	order      uint64               // of the run learned of last
	events     feed                 // joins and leaves, of all namespaces
}

// A holder is the key that a name belongs to, for a while.
type holder struct {
	key   string
	until time.Time
}

// A space is one namespace that somebody exports or watches.
type space struct {
	ns     string
	shares map[string]*share // by the executor's name
	events feed
}

// A member is one export of one connection.
type member struct {
	name     string
	key      string // the fingerprint of the key that announced it
	conn     *conn
	exporter exporter
	several  bool // it announced more than one namespace at first
	watched  watchLink

	generation atomic.Uint64
	address    string
	shares     map[string]*share // by namespace
}

// A share is what one member shows in one namespace.
type share struct {
	m        *member
	space    *space
	ctx      context.Context // done when the share ends: who reads through it is told so
	cancel   context.CancelFunc
	since    time.Time
	runs     map[string]*run // by id
	keys     int             // bytes of their keys
	intents  int             // open find files that say this executor is going to run something
	silent   time.Time       // when the executor last did not answer; zero once it has
	backends backends
	root     fs.Dir // the tree as the orchestrator itself reads it; nil while it cannot
}

// export makes namespaces what m exports, and counts it as a new generation.
// It returns the shares that are new. A name in a namespace that another key
// holds refuses the whole.
func (d *directory) export(ctx context.Context, m *member, a wire.Announce) ([]*share, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ns := range a.Namespaces {
		if err := d.mayHold(ns, m.name, m.key); err != nil {
			return nil, err
		}
	}
	d.generation++
	m.generation.Store(d.generation)
	m.address = a.Address
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
func (d *directory) mayHold(ns, name, key string) error {
	owner := ""
	if sp := d.spaces[ns]; sp != nil && sp.shares[name] != nil {
		owner = sp.shares[name].m.key
	} else if h, ok := d.held[[2]string{ns, name}]; ok && time.Now().Before(h.until) {
		owner = h.key
	}
	if owner == "" || owner == key {
		return nil
	}
	return fmt.Errorf("the name %s in %s belongs to another key", name, ns)
}

// add returns the namespace, which it makes where it is not known.
func (d *directory) add(ns string) *space {
	if sp := d.spaces[ns]; sp != nil {
		return sp
	}
	sp := &space{ns: ns, shares: map[string]*share{}}
	if d.spaces == nil {
		d.spaces = map[string]*space{}
	}
	d.spaces[ns] = sp
	return sp
}

// addShare gives m a share in ns, in place of an older one of the same name.
func (d *directory) addShare(ctx context.Context, m *member, ns string) *share {
	sp := d.add(ns)
	if old := sp.shares[m.name]; old != nil {
		d.drop(old)
		d.spaces[ns] = sp // it may have been the only one
	}
	delete(d.held, [2]string{ns, m.name})
	sh := &share{m: m, space: sp, since: time.Now(), runs: map[string]*run{}}
	sh.ctx, sh.cancel = context.WithCancel(ctx)
	sp.shares[m.name] = sh
	if m.shares == nil {
		m.shares = map[string]*share{}
	}
	m.shares[ns] = sh
	d.log.Info("join", "namespace", ns, "executor", m.name, "generation", m.generation.Load())
	d.tell(sh, "join", sh.since)
	return sh
}

// drop ends a share.
func (d *directory) drop(sh *share) {
	sh.cancel()
	sp := sh.space
	delete(sp.shares, sh.m.name)
	delete(sh.m.shares, sp.ns)
	clear(sh.runs)
	d.hold(sp.ns, sh.m)
	d.log.Info("leave", "namespace", sp.ns, "executor", sh.m.name, "generation", sh.m.generation.Load())
	d.tell(sh, "leave", time.Now())
	d.tidy(sp)
}

// hold keeps a name that is given up for its key.
func (d *directory) hold(ns string, m *member) {
	now := time.Now()
	if len(d.held) >= maxHeld {
		maps.DeleteFunc(d.held, func(_ [2]string, h holder) bool { return !now.Before(h.until) })
		if len(d.held) >= maxHeld {
			return
		}
	}
	if d.held == nil {
		d.held = map[[2]string]holder{}
	}
	d.held[[2]string{ns, m.name}] = holder{key: m.key, until: now.Add(nameHeld)}
}

// leave ends all that m shares.
func (d *directory) leave(m *member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, sh := range slices.Collect(maps.Values(m.shares)) {
		d.drop(sh)
	}
}

// share returns the executor of that name in ns, or nil.
func (d *directory) share(ns, name string) *share {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sp := d.spaces[ns]; sp != nil {
		return sp.shares[name]
	}
	return nil
}

// shares returns the executors in ns, by name.
func (d *directory) shares(ns string) []*share {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	if sp == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(sp.shares), func(a, b *share) int { return cmp.Compare(a.m.name, b.m.name) })
}

// answered notes whether the share's executor answered in time.
func (d *directory) answered(sh *share, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sh.silent = time.Time{}
	if !ok {
		sh.silent = time.Now()
	}
}

// exported reports whether somebody exports ns.
func (d *directory) exported(ns string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[ns]
	return sp != nil && len(sp.shares) > 0
}

// namespaces returns those that somebody exports and may agrees to, sorted.
func (d *directory) namespaces(may func(ns string) bool) []string {
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

// tell writes a join or a leave to the event files.
func (d *directory) tell(sh *share, what string, t time.Time) {
	text := sh.line(what, t)
	sh.space.events.add(sh.space.ns, text)
	d.events.add(sh.space.ns, text)
}

func (sh *share) line(what string, t time.Time) string {
	return fmt.Sprintf("/n/%s %s %s\n", sh.m.name, what, wire.Stamp(t))
}

// tidy forgets a namespace that nobody exports or watches.
func (d *directory) tidy(sp *space) {
	if len(sp.shares) == 0 && sp.events.readers == 0 && d.spaces[sp.ns] == sp {
		delete(d.spaces, sp.ns)
	}
}

// below returns the next element of each of the sorted names that lie below
// prefix, once.
func below(names []string, prefix string) []string {
	var next []string
	for _, n := range names {
		rest := n
		if prefix != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(n, prefix+"/"); !ok {
				continue
			}
		}
		elem, _, _ := strings.Cut(rest, "/")
		if len(next) == 0 || next[len(next)-1] != elem {
			next = append(next, elem)
		}
	}
	return next
}
