package orchestrator

import (
	"cmp"
	"context"
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
	runs    map[string]*run          // by id
	keys    int                      // bytes of their keys
	intents int                      // runs that open find files say this executor is going to run
	indexed bool                     // the index has been read
	reading map[string]chan struct{} // keys that are being read, by id; closed after
	root    fs.Dir                   // the tree as the orchestrator itself reads it; nil while it cannot
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
	runs = sh.admitAll(runs)
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
		sh.list(x)
		delete(old, r.id)
	}
	for _, r := range old {
		if r.intents == 0 {
			sh.remove(r)
		}
	}
	sh.indexed = true
	sh.wake()
}

// wake wakes those that wait for a run of the share.
func (sh *share) wake() {
	if sp := sh.d.spaces[sh.ns]; sp != nil {
		sp.wake()
	}
}

// put adds a run, unless it is there, and returns it.
func (sh *share) put(r run) *run {
	if x := sh.runs[r.id]; x != nil {
		return x
	}
	if len(sh.runs) >= maxRuns {
		// Any goes: an executor with so many is an archive, whose runs are found
		// by path. One that others may wait for goes last.
		tries := 0
		for _, x := range sh.runs {
			if tries++; x.intents == 0 && (x.status.Finished() || tries > 64) {
				sh.remove(x)
				sh.wake()
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
	if sh.ctx.Err() != nil || !sh.admits(id) {
		return false
	}
	r := sh.runs[id]
	if r != nil && r.listed && r.status == st {
		return false
	}
	if st.Finished() {
		return true // describe takes it, whole: a client that hears of it may ask for it at once
	}
	fresh := r == nil || !r.listed
	if r == nil {
		r = sh.put(run{id: id})
	}
	r.status, r.listed = st, true
	sh.list(r)
	sh.tell(r)
	return fresh
}

// describe takes what the index says of a run, and reports whether it is news that
// the run has ended.
func (sh *share) describe(line run) bool {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if sh.ctx.Err() != nil {
		return false
	}
	old := sh.runs[line.id]
	if !sh.admit(&line) {
		if old != nil && old.intents == 0 { // its event did not tell the commit
			sh.remove(old)
			sh.wake()
		}
		return false
	}
	fresh := line.status.Finished() && (old == nil || !old.listed || old.status != line.status)
	r := sh.put(line)
	r.take(line)
	sh.list(r)
	if r.status.Finished() {
		sh.tell(r)
		sh.wake()
	}
	return fresh
}

// intended reports whether an open find file says that the executor is going to run
// the run of that id.
func (sh *share) intended(id string) bool {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	r := sh.runs[id]
	return r != nil && r.intents > 0
}

// forget drops a run that the executor turned out not to have.
func (sh *share) forget(id string) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	if r := sh.runs[id]; r != nil && r.intents == 0 {
		sh.remove(r)
		sh.wake()
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

// beginKey reports whether the key of a run is to be read by the caller, which
// must call the function that it gets. If another reads it already, beginKey
// returns when that is done, or ctx is.
func (sh *share) beginKey(ctx context.Context, id string) (end func(), ok bool) {
	sh.d.mu.Lock()
	done := sh.reading[id]
	if done == nil {
		done = make(chan struct{})
		if sh.reading == nil {
			sh.reading = map[string]chan struct{}{}
		}
		sh.reading[id] = done
		sh.d.mu.Unlock()
		return func() {
			sh.d.mu.Lock()
			defer sh.d.mu.Unlock()
			delete(sh.reading, id)
			close(done)
		}, true
	}
	sh.d.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
	return nil, false
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
	key = sh.admitKey(key)
	n := len(key.Text())
	if sh.keys += n; sh.keys > maxKeys {
		for _, x := range sh.runs {
			if x.intents == 0 {
				x.key = nil
			}
		}
		sh.keys = n
	}
	sh.setKey(r, key)
}

// setKey notes a run's key. From then on others may wait for the run, so its place
// is behind those that find has told of.
func (sh *share) setKey(r *run, key ci.Attrs) {
	r.key = key
	if r.place == 0 {
		sh.d.order++
		r.place = sh.d.order << placeBits
	}
	if sp := sh.d.spaces[sh.ns]; sp != nil {
		sp.version++ // of a revision's runs those of the default targets come first
		sp.order(awaited{sh.m.name, r.id})
	}
}

// placeBits leaves room before a place for those that turn out to be before it.
const placeBits = 16

// intend notes that the executor is going to run key as id, until release is
// called. Then the executor's index tells what has become of the run: it may have
// ended so fast that its event comes later, or be there no more.
func (sh *share) intend(id string, key ci.Attrs) (release func(), err error) {
	sh.d.mu.Lock()
	defer sh.d.mu.Unlock()
	r := sh.runs[id]
	if (r == nil || r.intents == 0) && sh.intents >= maxIntents {
		return nil, fmt.Errorf("find: an executor has %d intents at most: %w", maxIntents, fs.ErrBusy)
	}
	if sh.ctx.Err() != nil {
		return nil, errors.New("find: the executor has left")
	}
	if r == nil {
		r = sh.put(run{id: id, status: ci.Status{State: "queued", Code: -1, Took: -1, Time: time.Now()}})
	}
	if r.key == nil {
		r.commit, r.tree = cmp.Or(r.commit, key.Get("commit")), cmp.Or(r.tree, key.Get("tree"))
		sh.list(r)
		sh.setKey(r, key)
	}
	if r.intents++; r.intents == 1 {
		sh.intents++
	}
	return func() {
		sh.d.mu.Lock()
		defer sh.d.mu.Unlock()
		if r.intents--; r.intents > 0 {
			return
		}
		sh.intents--
		if sh.runs[id] == r && !r.status.Finished() && sh.root != nil {
			root := sh.root
			sh.m.conn.wg.Go(func() { sh.settle(root, id) }) // within a session, which is waited for
		}
	}, nil
}
