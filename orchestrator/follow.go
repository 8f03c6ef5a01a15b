package orchestrator

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

const (
	readTimeout   = 10 * time.Second // for a file of an executor that does not block
	maxEventLine  = 4096             // bytes
	keysAtJoin    = 64               // newest runs whose keys are read, and that are told of, when an executor joins
	keysAtOnce    = 16               // reads of keys in flight, of one executor
	followRetry   = time.Second      // before an executor's tree is attached again,
	followRetries = time.Minute      // doubled up to this
)

// follow keeps the share's runs as the executor's index and event files tell
// of them, until the share ends.
func (sh *share) follow(d *directory) {
	delay := followRetry
	for {
		began := time.Now()
		err := sh.watch(d)
		if sh.ctx.Err() != nil {
			return
		}
		if errors.Is(err, iofs.ErrNotExist) {
			// A tree without an index is no ci(4). It can be read all the same.
			d.log.Info("follow", "namespace", sh.space.ns, "executor", sh.m.name, "err", err)
			<-sh.ctx.Done()
			return
		}
		d.log.Warn("follow", "namespace", sh.space.ns, "executor", sh.m.name, "err", err)
		if time.Since(began) > followRetries {
			delay = followRetry
		}
		select {
		case <-time.After(delay/2 + rand.N(delay/2)):
		case <-sh.ctx.Done():
			return
		}
		delay = min(2*delay, followRetries)
	}
}

// watch reads the share's index, and then its events for as long as they come.
func (sh *share) watch(d *directory) error {
	l, err := sh.m.watched.attach(sh.ctx, sh)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer l.hangup()
	root := l.root
	defer sh.setRoot(d, nil)
	sh.setRoot(d, root)

	// Events are opened first, so that none falls between the two.
	events, err := openFile(sh.ctx, root, "event")
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	defer events.Close()
	runs, err := readIndex(sh.ctx, root, "")
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	d.replace(sh, runs)
	sh.readKeys(sh.ctx, d, d.keyless(sh, keysAtJoin))

	var text lineBuffer
	buf := make([]byte, 8<<10)
	for off := int64(0); ; {
		n, err := events.ReadAt(sh.ctx, buf, off)
		off += int64(n)
		for line := range text.lines(buf[:n]) {
			if err := sh.event(d, line); err != nil {
				return err
			}
		}
		if len(text) > maxEventLine {
			return errors.New("event: a line without an end")
		}
		if err == io.EOF {
			return errors.New("event: ended")
		}
		if err != nil {
			return fmt.Errorf("event: %w", err)
		}
	}
}

func (sh *share) setRoot(d *directory, root fs.Dir) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sh.root = root
}

// event takes one line of the executor's event file. A run that is new or has
// ended is looked up in the index, for what a status does not say.
func (sh *share) event(d *directory, line string) error {
	id, st, err := parseEventLine(line)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if !d.update(sh, id, st) {
		return nil
	}
	runs, err := readIndex(sh.ctx, sh.root, id)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if n := len(runs); n > 0 && runs[n-1].id == id {
		d.describe(sh, runs[n-1])
	} else {
		d.vanish(sh, id)
	}
	sh.readKeys(sh.ctx, d, d.keyless(sh, keysAtOnce))
	return nil
}

// readIndex reads the lines of the index file, newest first: all of them, or up
// to that of the run until. A line that cannot be read is passed over.
func readIndex(ctx context.Context, root fs.Dir, until string) ([]run, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*readTimeout)
	defer cancel()
	f, err := openFile(ctx, root, "index")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := 64 << 10
	if until != "" {
		size = 4 << 10 // it is likely to be the first
	}
	var runs []run
	var text lineBuffer
	buf := make([]byte, size)
	for off := int64(0); off < maxIndex && len(runs) < maxRuns; {
		n, err := f.ReadAt(ctx, buf, off)
		off += int64(n)
		for line := range text.lines(buf[:n]) {
			r, err := parseIndexLine(line)
			if err != nil {
				continue
			}
			runs = append(runs, r)
			if r.id == until {
				return runs, nil
			}
		}
		if err == io.EOF {
			return runs, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// A lineBuffer is the beginning of a line whose end has not come.
type lineBuffer []byte

// lines adds p, and yields the lines that are whole.
func (b *lineBuffer) lines(p []byte) iter.Seq[string] {
	*b = append(*b, p...)
	return func(yield func(string) bool) {
		for {
			line, rest, ok := bytes.Cut(*b, []byte("\n"))
			if !ok {
				return
			}
			*b = rest
			if !yield(string(line)) {
				return
			}
		}
	}
}

// replace makes runs, newest first, what the share has. What is known of a run
// that was there before stays.
func (d *directory) replace(sh *share, runs []run) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sh.ctx.Err() != nil {
		return
	}
	old := maps.Clone(sh.runs)
	for i, r := range slices.Backward(runs) {
		x := sh.runs[r.id]
		if x == nil || i < keysAtJoin && x.status != r.status {
			x = d.put(sh, r)
			if i < keysAtJoin {
				d.tellRun(x)
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
func (d *directory) put(sh *share, r run) *run {
	if x := sh.runs[r.id]; x != nil {
		return x
	}
	if len(sh.runs) >= maxRuns {
		for id, x := range sh.runs {
			if x.intents == 0 {
				delete(sh.runs, id) // any: whoever has so many is an archive, and its runs are found by path
				break
			}
		}
	}
	d.order++
	r.share, r.order = sh, d.order
	sh.runs[r.id] = &r
	return &r
}

// take copies what a line of the index says.
func (r *run) take(line run) {
	r.status, r.commit, r.tree, r.signer, r.score, r.listed = line.status, line.commit, line.tree, line.signer, line.score, true
}

// update takes a run's new status, and reports whether its line of the index
// must be read.
func (d *directory) update(sh *share, id string, st fs.Status) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sh.ctx.Err() != nil {
		return false
	}
	r := sh.runs[id]
	if r != nil && r.listed && r.status == st {
		return false
	}
	fresh := r == nil || !r.listed
	if r == nil {
		r = d.put(sh, run{id: id})
	}
	r.status, r.listed = st, true
	if st.Finished() {
		return true // told of when it is described: whoever hears of it may ask for it at once
	}
	d.tellRun(r)
	return fresh
}

// describe takes what the index says of a run.
func (d *directory) describe(sh *share, line run) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := sh.runs[line.id]; r != nil {
		r.take(line)
		if r.status.Finished() {
			d.tellRun(r)
		}
	}
}

// forget takes a run away that the executor turned out not to have.
func (d *directory) forget(r *run) { d.vanish(r.share, r.id) }

func (d *directory) vanish(sh *share, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := sh.runs[id]; r != nil && r.intents == 0 {
		delete(sh.runs, id)
	}
}

// tellRun writes a run's status to the event file of its namespace.
func (d *directory) tellRun(r *run) {
	if sp := r.share.space; sp.shares[r.share.m.name] == r.share {
		sp.events.add(sp.ns, r.path()+" "+r.status.String()+"\n")
	}
}

// keyless returns the newest n runs, and of those the ones whose key has not
// been read.
func (d *directory) keyless(sh *share, n int) []*run {
	d.mu.Lock()
	defer d.mu.Unlock()
	runs := slices.SortedFunc(maps.Values(sh.runs), func(a, b *run) int { return cmp.Compare(b.order, a.order) })
	runs = runs[:min(n, len(runs))]
	return slices.DeleteFunc(runs, func(r *run) bool { return r.key != nil })
}

// readKeys reads the keys of runs of the share that have none yet.
func (sh *share) readKeys(ctx context.Context, d *directory, runs []*run) {
	d.mu.Lock()
	root := sh.root
	d.mu.Unlock()
	if root == nil {
		return
	}
	var wg sync.WaitGroup
	turn := wire.NewSlots(keysAtOnce)
	for _, r := range runs {
		turn.Wait()
		wg.Go(func() {
			defer turn.Give()
			key, err := readKey(ctx, root, r.id)
			if errors.Is(err, iofs.ErrNotExist) {
				d.forget(r)
			}
			if err != nil {
				return
			}
			d.learnKey(r, key)
		})
	}
	wg.Wait()
}

// learnKey notes a run's key. A share whose keys have become too many starts
// anew: those that are asked for are read again.
func (d *directory) learnKey(r *run, key fs.Attrs) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.key != nil {
		return
	}
	sh, n := r.share, len(key.Text())
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

func readKey(ctx context.Context, root fs.Dir, id string) (fs.Attrs, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	f, err := openFile(ctx, root, "ci/"+id+"/key")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, maxKey)
	n := 0
	for n < len(b) {
		m, err := f.ReadAt(ctx, b[n:], int64(n))
		n += m
		if err == io.EOF {
			return fs.ParseAttrs(b[:n])
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("key: over %d bytes", maxKey)
}

// openFile opens a file of a tree for reading.
func openFile(ctx context.Context, root fs.Dir, path string) (fs.File, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	n, err := fs.Walk(ctx, root, path)
	if err != nil {
		return nil, err
	}
	return n.Open(ctx, fs.OpenRead)
}
