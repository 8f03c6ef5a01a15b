package orchestrator

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// maxIntents is how many intents an executor may have in a namespace.
const maxIntents = 256

// shareState is what the localDirectory knows of a share. The directory's mutex
// guards it.
type shareState struct {
	runs    map[string]*run // by id
	keys    int             // bytes of their keys
	intents int             // open find files that say this executor is going to run something
	root    fs.Dir          // the tree as the orchestrator itself reads it; nil while it cannot
}

func (sh *share) setRoot(root fs.Dir) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	sh.root = root
}

func (sh *share) getRoot() fs.Dir {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	return sh.root
}

// replace makes runs, newest first, what the share has. What is known of a run
// that was there before stays.
func (sh *share) replace(runs []run) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if sh.ctx.Err() != nil {
		return
	}
	old := maps.Clone(sh.runs)
	for i, r := range slices.Backward(runs) {
		x := sh.runs[r.id]
		if x == nil || i < keysAtJoin && x.status != r.status {
			x = sh.put(r)
			if i < keysAtJoin {
				sh.tell(x)
			}
		}
		x.take(r)
		delete(old, r.id)
	}
	for id, r := range old {
		if r.intents == 0 {
			delete(sh.runs, id)
		}
	}
}

// put adds a run, unless it is there, and returns it.
func (sh *share) put(r run) *run {
	if x := sh.runs[r.id]; x != nil {
		return x
	}
	if len(sh.runs) >= maxRuns {
		for id, x := range sh.runs {
			if x.intents == 0 {
				delete(sh.runs, id) // any: an executor with so many is an archive, whose runs are found by path
				break
			}
		}
	}
	sh.d.order++
	r.share, r.order = sh, sh.d.order
	sh.runs[r.id] = &r
	return &r
}

// take copies what a line of the index says.
func (r *run) take(line run) {
	r.status, r.commit, r.tree, r.signer, r.score, r.listed = line.status, line.commit, line.tree, line.signer, line.score, true
}

// update takes a run's new status, and reports whether its line of the index
// must be read.
func (sh *share) update(id string, st ci.Status) bool {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if sh.ctx.Err() != nil {
		return false
	}
	r := sh.runs[id]
	if r != nil && r.listed && r.status == st {
		return false
	}
	fresh := r == nil || !r.listed
	if r == nil {
		r = sh.put(run{id: id})
	}
	r.status, r.listed = st, true
	if st.Finished() {
		return true // describe tells of it: a client that hears of it may ask for it at once
	}
	sh.tell(r)
	return fresh
}

// describe takes what the index says of a run.
func (sh *share) describe(line run) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if r := sh.runs[line.id]; r != nil {
		r.take(line)
		if r.status.Finished() {
			sh.tell(r)
		}
	}
}

// forget drops a run that the executor turned out not to have.
func (sh *share) forget(id string) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if r := sh.runs[id]; r != nil && r.intents == 0 {
		delete(sh.runs, id)
	}
}

// tell writes a run's status to the event file of its namespace.
func (sh *share) tell(r *run) {
	if sp := sh.d.spaces[sh.ns]; sp != nil && sp.shares[sh.m.name] == sh {
		sp.events.Write(r.line())
	}
}

// keyless returns those of the newest n runs whose key has not been read.
func (sh *share) keyless(n int) []string {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	runs := slices.SortedFunc(maps.Values(sh.runs), func(a, b *run) int { return cmp.Compare(b.order, a.order) })
	var ids []string
	for _, r := range runs[:min(n, len(runs))] {
		if r.key == nil {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// learnKey notes a run's key. If the keys of a share become too many, it forgets
// them all: those that are asked for are read again.
func (sh *share) learnKey(id string, key ci.Attrs) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	r := sh.runs[id]
	if r == nil || r.key != nil {
		return
	}
	n := len(key.Text())
	if sh.keys += n; sh.keys > maxKeys {
		for _, x := range sh.runs {
			if x.intents == 0 {
				x.key = nil
			}
		}
		sh.keys = n
	}
	r.key = key
}

// intend notes that the executor is going to run key as id, until release is
// called.
func (sh *share) intend(id string, key ci.Attrs) (release func(), err error) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if sh.intents >= maxIntents {
		return nil, fmt.Errorf("find: an executor has %d intents at most: %w", maxIntents, fs.ErrBusy)
	}
	if sh.ctx.Err() != nil {
		return nil, errors.New("find: the executor has left")
	}
	sh.intents++
	r := sh.runs[id]
	if r == nil {
		r = sh.put(run{id: id, status: ci.Status{State: "queued", Code: -1, Took: -1, Time: time.Now()}})
	}
	if r.key == nil {
		r.key, r.commit, r.tree = key, cmp.Or(r.commit, key.Get("commit")), cmp.Or(r.tree, key.Get("tree"))
	}
	r.intents++
	return func() {
		sh.d.mu.Lock()
		defer sh.d.mu.Unlock()
		sh.intents--
		if r.intents--; r.intents == 0 && !r.listed && sh.runs[r.id] == r {
			delete(sh.runs, r.id)
		}
	}, nil
}
