package replay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"9ci/cmd/internal/config"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

const (
	adoptAtOnce  = 2       // runs that are fetched at once, each from another executor
	adoptTries   = 3       // of a run from one executor, until it joins again
	maxMakers    = 4096    // executors that are followed
	maxOffered   = 4096    // runs of one executor that are waiting to be fetched
	maxAdopted   = 1 << 16 // runs that are remembered, so that none is adopted twice
	maxScan      = 4096    // lines of an index that are read
	maxIndexLine = 4096    // bytes
	askTimeout   = 20 * time.Second

	// An executor that failed to give a run is asked again after a delay that
	// doubles with each failure, so that one that offers what it has not costs
	// little.
	failedFirst = time.Second
	failedMost  = 5 * time.Minute

	// The orchestrator is connected to again after a delay drawn from zero up to
	// a bound that doubles.
	reconnectFirst = 500 * time.Millisecond
	reconnectMost  = 30 * time.Second
)

// An Adopter takes the passed runs of a namespace into the store as the
// orchestrator tells of them: 9ci serve -adopt. A run is adopted by the rules of a
// replay, once, and if the store wants it. The fields do not change while Run runs.
type Adopter struct {
	// Replayer returns what is to fetch and judge. It is called anew for each
	// run: whose clone counts may change.
	Replayer func() *Replayer

	Config     *config.Config
	Namespaces []string // of which runs may say that they are

	mu      sync.Mutex           // guards adopted
	adopted map[string]time.Time // by score: when the run ended. It is not adopted again if it was evicted
}

// Run adopts until ctx is done. It connects to the orchestrator again if that is
// lost.
func (a *Adopter) Run(ctx context.Context) {
	r := a.Replayer()
	if r.Mux == nil {
		r.Say("nothing is adopted: CI_ORCHESTRATOR is not set")
		return
	}
	told := ""
	for bound := reconnectFirst; ; bound = min(2*bound, reconnectMost) {
		began := time.Now()
		err := a.follow(ctx, r)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > reconnectMost { // it was there
			bound, told = reconnectFirst, ""
		}
		if err.Error() != told {
			told = err.Error()
			r.Say("nothing is adopted: %v: it is tried again", err)
		}
		select {
		case <-time.After(rand.N(bound)):
		case <-ctx.Done():
			return
		}
	}
}

// follow reads the events of the namespace, and adopts what they tell of, until
// they end.
func (a *Adopter) follow(ctx context.Context, r *Replayer) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	mux, events, err := r.events(ctx)
	if err != nil {
		return err
	}
	defer events.Close()
	own, _ := r.Name(ctx) // if that is not known, the store has the runs anyway
	f := &following{a: a, ctx: ctx, wg: &wg, mux: mux, own: own, makers: map[string]*maker{}, runs: map[what]*offered{}, changed: make(chan struct{})}
	for range adoptAtOnce {
		wg.Go(f.work)
	}
	return eachLine(ctx, events, func(line string) error {
		e, err := ci.ParseMuxEvent(line)
		if err != nil {
			return err
		}
		f.event(e)
		return nil
	})
}

// events opens the file event of the namespace.
func (r *Replayer) events(ctx context.Context) (mux fs.Dir, events fs.File, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if mux, err = r.Mux(ctx); err != nil {
		return nil, nil, err
	}
	events, err = openFile(ctx, mux, "event")
	return mux, events, err
}

func openFile(ctx context.Context, dir fs.Dir, path string) (fs.File, error) {
	n, err := fs.Walk(ctx, dir, path)
	if err == nil {
		var f fs.File
		if f, err = n.Open(ctx, fs.OpenRead); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// eachLine calls do for each line of a file that blocks, without its newline. It
// returns the error of do, or of the file, which is io.ErrUnexpectedEOF at its end.
func eachLine(ctx context.Context, f fs.File, do func(line string) error) error {
	var text []byte
	buf := make([]byte, 8<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(ctx, buf, off)
		off += int64(n)
		text = append(text, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(text, []byte("\n"))
			if !ok {
				break
			}
			text = rest
			if err := do(string(line)); err != nil {
				return err
			}
		}
		switch {
		case len(text) > maxIndexLine:
			return errors.New("a line without an end")
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

// A following is what an Adopter knows while it is connected.
type following struct {
	a   *Adopter
	ctx context.Context
	wg  *sync.WaitGroup
	mux fs.Dir
	own string // our name below n, or ""

	mu      sync.Mutex        // guards what follows
	makers  map[string]*maker // that are connected, by name
	runs    map[what]*offered // that may be fetched
	noted   int               // runs, ever
	changed chan struct{}     // closed and made anew when a worker may find something to do
}

// A maker is an executor that is connected.
type maker struct {
	name   string
	ctx    context.Context // done when it has left
	cancel context.CancelFunc

	// Guarded by the following's mu.
	news    map[string]bool // ids of runs that the index is to be read for
	told    chan struct{}   // has a value when there are some
	busy    bool            // a run is being fetched from it
	fails   int             // one after the other
	retry   time.Time       // it is not asked before
	offers  int             // in runs
	refused map[string]int  // how often a run did not come, by score
}

// A what is a run as makers tell of it. One that lies about the end of another's run
// tells of another what.
type what struct {
	score string
	end   int64 // in Unix seconds
}

// An offered is a run that some makers say they have.
type offered struct {
	what
	nth    int // in the order in which runs were noted: of those that ended in one second, an index has the newest first
	busy   bool
	places map[*maker]ci.Offer
}

func (f *following) event(e ci.MuxEvent) {
	if e.Executor == f.own {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.makers[e.Executor]
	if m != nil && e.What != "" { // it left, or another one came in its place
		m.cancel()
		delete(f.makers, m.name)
		for _, o := range f.runs {
			f.drop(o, m)
		}
		f.wake()
	}
	switch {
	case e.What == "join" && len(f.makers) < maxMakers:
		m = &maker{name: e.Executor, news: map[string]bool{}, told: make(chan struct{}, 1), refused: map[string]int{}}
		m.ctx, m.cancel = context.WithCancel(f.ctx)
		f.makers[m.name] = m
		f.wg.Go(func() { f.scans(m) })
	case e.What == "" && m != nil && e.Status.State == "passed" && len(m.news) < maxScan:
		m.news[e.ID] = true
		select {
		case m.told <- struct{}{}:
		default:
		}
	}
}

// drop forgets that m offers a run. f.mu is held.
func (f *following) drop(o *offered, m *maker) {
	if _, ok := o.places[m]; !ok {
		return
	}
	delete(o.places, m)
	m.offers--
	if len(o.places) == 0 && !o.busy {
		delete(f.runs, o.what)
	}
}

// wake has the workers look again. f.mu is held.
func (f *following) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// scans reads the maker's index, and again whenever it has ended a run.
func (f *following) scans(m *maker) {
	var news map[string]bool // nil: all
	for {
		// An index that cannot be read is read at the next event, or when the
		// executor joins again.
		f.scan(m, news)
		select {
		case <-m.told:
		case <-m.ctx.Done():
			return
		}
		f.mu.Lock()
		news, m.news = m.news, map[string]bool{}
		f.mu.Unlock()
	}
}

// scan reads a maker's index, newest first, until the runs in news have come, and
// notes what is to be fetched.
func (f *following) scan(m *maker, news map[string]bool) error {
	ctx, cancel := context.WithTimeout(m.ctx, askTimeout)
	defer cancel()
	r := f.a.Replayer()
	signers, ok := r.signers(ctx)
	if !ok {
		return nil
	}
	index, err := openFile(ctx, f.mux, "n/"+m.name+"/index")
	if err != nil {
		return err
	}
	defer index.Close()
	done := errors.New("done")
	ends := make(map[string]time.Time)
	var found []ci.Offer
	all, lines := news == nil, 0
	err = eachLine(ctx, index, func(line string) error {
		l, err := ci.ParseIndexLine(line)
		if err == nil && l.Score != "" {
			found = append(found, ci.Offer{Executor: m.name, ID: l.ID, State: l.State, Took: l.Took, Score: l.Score, Signer: l.Signer})
			ends[l.ID] = l.Time
		}
		delete(news, l.ID)
		if lines++; lines == maxScan || !all && len(news) == 0 {
			return done
		}
		return nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.ctx.Err() != nil {
		return m.ctx.Err()
	}
	for _, o := range order(found, "passed", signers) {
		f.note(r, m, o, ends[o.ID])
	}
	f.wake()
	return err
}

// note has a run fetched from m, if it may be one to adopt. f.mu is held.
func (f *following) note(r *Replayer, m *maker, o ci.Offer, end time.Time) {
	if time.Since(end) > f.a.Config.MaxAge || m.offers >= maxOffered || m.refused[o.Score] >= adoptTries ||
		f.a.was(o.Score) || r.Store.HasScore(o.Score) {
		return
	}
	w := what{o.Score, end.Unix()}
	run := f.runs[w]
	if run == nil {
		f.noted++
		run = &offered{what: w, nth: f.noted, places: map[*maker]ci.Offer{}}
		f.runs[w] = run
	}
	if _, ok := run.places[m]; !ok {
		run.places[m] = o
		m.offers++
	}
}

// work fetches one run after the other.
func (f *following) work() {
	for {
		run, m, o := f.next()
		if run == nil {
			return
		}
		f.adopt(run, m, o)
	}
}

// next waits for a run that is to be fetched: the newest one, but those of makers
// that failed of late come last. It is nil when ctx is done.
func (f *following) next() (*offered, *maker, ci.Offer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.ctx.Err() == nil {
		var run *offered
		var from *maker
		now := time.Now()
		wait := time.Hour
		for _, o := range f.runs {
			for m := range o.places {
				if o.busy || m.busy {
					continue
				}
				if left := m.retry.Sub(now); left > 0 {
					wait = min(wait, left)
					continue
				}
				if run == nil || cmp.Or(cmp.Compare(m.fails, from.fails), cmp.Compare(run.end, o.end), cmp.Compare(o.nth, run.nth)) < 0 {
					run, from = o, m
				}
			}
		}
		if run != nil {
			run.busy, from.busy = true, true
			return run, from, run.places[from]
		}
		changed := f.changed
		f.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-t.C:
		case <-f.ctx.Done():
		}
		t.Stop()
		f.mu.Lock()
	}
	return nil, nil, ci.Offer{}
}

// adopt fetches a run from m, and notes what came of it.
func (f *following) adopt(run *offered, m *maker, o ci.Offer) {
	r := f.a.Replayer()
	done, err := f.fetch(m.ctx, r, o, time.Unix(run.end, 0).UTC())
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wake()
	run.busy, m.busy = false, false
	switch {
	case done:
		m.fails = 0
		for m := range maps.Clone(run.places) {
			f.drop(run, m)
		}
	case m.ctx.Err() != nil:
		// It has left: others may have the run.
	default:
		m.retry = time.Now().Add(min(failedFirst<<min(m.fails, 16), failedMost))
		m.fails++
		if m.refused[o.Score]++; m.refused[o.Score] == 1 {
			r.Say("%s is not adopted: %v", o.Path(), err)
		}
		if m.refused[o.Score] >= adoptTries {
			f.drop(run, m)
		}
	}
	if len(run.places) == 0 {
		delete(f.runs, run.what)
	}
}

// fetch adopts a run. With done it need not be fetched again: it is in the store, or
// not wanted there.
func (f *following) fetch(ctx context.Context, r *Replayer, o ci.Offer, end time.Time) (done bool, err error) {
	if r.Store.HasScore(o.Score) {
		return true, nil
	}
	size, err := f.size(ctx, o)
	if err != nil {
		return false, err
	}
	if ok, err := r.Store.Wants(end, size); !ok || err != nil {
		return err == nil, err
	}
	w := wanted{namespaces: f.a.Namespaces, state: "passed", score: o.Score, end: end}
	left := newPatience(f.a.Config)
	var run store.Entry
	err = again(ctx, left, func() error {
		run, err = r.take(ctx, f.mux, o, w, f.a.Config, left)
		return err
	})
	if err != nil {
		return false, err
	}
	f.a.note(o.Score, end)
	r.Say("ci/%s is adopted from n/%s, signed by %s", run.ID, o.Executor, run.Signer)
	return true, nil
}

// size returns how many bytes the run is said to have.
func (f *following) size(ctx context.Context, o ci.Offer) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	n, err := fs.Walk(ctx, f.mux, o.Path()+".tar")
	if err != nil {
		return 0, err
	}
	st, err := n.Stat(ctx)
	return st.Size, err
}

// was reports whether the run with that score was adopted before.
func (a *Adopter) was(score string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.adopted[score]
	return ok
}

// note remembers that a run was adopted, for as long as it may be offered.
func (a *Adopter) note(score string, end time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.adopted == nil {
		a.adopted = make(map[string]time.Time)
	}
	a.adopted[score] = end
	if len(a.adopted) > maxAdopted {
		scores := slices.SortedFunc(maps.Keys(a.adopted), func(x, y string) int { return a.adopted[x].Compare(a.adopted[y]) })
		for _, s := range scores[:len(scores)/2] { // the oldest
			delete(a.adopted, s)
		}
	}
}
