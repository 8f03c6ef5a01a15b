package report

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

const (
	maxRuns     = 4096             // of a namespace that are looked at: the newest of its index, or under way
	maxFileText = 64 << 10         // bytes of a key, which an executor may make as long as it likes
	maxIndex    = 64 << 20         // bytes of an index
	lookTime    = 10 * time.Second // for an executor to say what a run is
	looksAtOnce = 64               // runs of a namespace of which that is asked at once
	scanEvery   = 10 * time.Minute // the index is read, in case an event or an executor's answer was lost

	passesAtOnce = 20 // how often an index is read at once, whatever executors tell of,
	passesPer    = 5  // and then in a second
)

// A space is a namespace that is watched.
type space struct {
	*Reporter
	ctx   context.Context // done when it is watched no more
	ns    string
	asked chan struct{} // holds a token when a run waits to be looked up
	turns chan struct{} // holds a token for each key that is read

	mu   sync.Mutex      // guards what follows
	runs map[string]*run // by path below the namespace
	done map[sealed]bool // whose keys were read: the record has them, or newer ones
}

// A sealed is a run that has ended, and all its copies. A job can claim no score of a run of
// a commit other than its own.
type sealed struct{ commit, score string }

// maxDone is how many of these are remembered; of more all are forgotten, and read again.
const maxDone = 4 * maxRuns

// A run is one that goes on, or has ended and is looked up.
type run struct {
	key   key        // once known is set
	score string     // "": not known
	known bool       // of which commit it is, and its context
	waits bool       // to be looked up
	reads bool       // its key is being read
	ended *ci.Status // nil: it goes on
}

// watch takes the events of a namespace until ctx is done, or their file ends.
func (r *Reporter) watch(ctx context.Context, ns string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &space{Reporter: r, ctx: ctx, ns: ns, asked: make(chan struct{}, 1), turns: make(chan struct{}, looksAtOnce), runs: map[string]*run{}, done: map[sealed]bool{}}
	began := sync.OnceFunc(func() { wg.Go(func() { s.look(&wg) }) }) // behind the event file's opening, so that nothing is lost between
	err := r.lines(ctx, ns+"/event", func(line string) {
		began()
		e, err := ci.ParseMuxEvent(line)
		switch {
		case err != nil:
		case e.What == "leave":
			s.left("/n/" + e.Executor + "/ci/")
		case e.What == "":
			s.event("/n/"+e.Executor+"/ci/"+e.ID, e.Status)
		}
	})
	if ctx.Err() == nil && !errors.Is(err, iofs.ErrNotExist) { // the last executor may have left
		r.Log.Warn("statuses", "namespace", ns, "err", err)
	}
}

// left forgets the runs of an executor that has left, but for those whose keys are read.
func (s *space) left(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, r := range s.runs {
		if strings.HasPrefix(path, prefix) && !r.reads {
			delete(s.runs, path)
		}
	}
}

// event takes the status of a run. What the run is of is looked up when it is first heard
// of: an executor may leave as soon as its run has ended.
func (s *space) event(path string, st ci.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Finished() && !s.record.wants(st, time.Now()) {
		delete(s.runs, path)
		return
	}
	r := s.runs[path]
	if r == nil {
		if r = s.add(path); r == nil {
			return
		}
	}
	if st.Finished() {
		r.ended = &st
	}
	switch {
	case r.known && r.ended != nil:
		s.note(path, r)
	case !r.known && !r.reads:
		r.waits = true
		select {
		case s.asked <- struct{}{}:
		default:
		}
	}
}

// add adds a run, in the place of any other if there are too many: a scan finds that. It is
// nil if all of these are looked up. s.mu is held.
func (s *space) add(path string) *run {
	for p, x := range s.runs {
		if len(s.runs) < maxRuns {
			break
		}
		if !x.reads {
			delete(s.runs, p)
		}
	}
	if len(s.runs) >= maxRuns {
		return nil
	}
	r := &run{}
	s.runs[path] = r
	return r
}

// note notes a run that is known and has ended. s.mu is held.
func (s *space) note(path string, r *run) {
	delete(s.runs, path)
	news, err := s.record.note(r.key, *r.ended)
	if err != nil {
		s.Log.Error("statuses", "namespace", s.ns, "err", err)
	}
	if err == nil && r.score != "" {
		if len(s.done) >= maxDone {
			clear(s.done)
		}
		s.done[sealed{r.key.commit, r.score}] = true
	}
	if news {
		s.wake(s.ns)
	}
}

// look looks up the runs that wait for it, and at first and now and then all that the
// index has.
func (s *space) look(wg *sync.WaitGroup) {
	t := time.NewTicker(scanEvery)
	defer t.Stop()
	limit := rate.NewLimiter(passesPer, passesAtOnce)
	for all := true; ; {
		if limit.Wait(s.ctx) != nil {
			return
		}
		if err := s.pass(wg, all); err != nil && s.ctx.Err() == nil && !errors.Is(err, iofs.ErrNotExist) {
			s.Log.Warn("statuses", "namespace", s.ns, "err", err)
		}
		select {
		case <-s.asked:
			all = false
		case <-t.C:
			all = true
		case <-s.ctx.Done():
			return
		}
	}
}

// pass reads the index for the commits of the runs that wait, and has their keys read. If
// all is set, so it does for the newest runs that have ended and are not done.
func (s *space) pass(wg *sync.WaitGroup, all bool) error {
	s.mu.Lock()
	waiting := map[string]*run{}
	for path, r := range s.runs {
		if r.waits {
			waiting[path], r.waits = r, false
		}
	}
	s.mu.Unlock()
	if len(waiting) == 0 && !all {
		return nil
	}
	type found struct {
		path, commit string
		r            *run
	}
	var list []found
	now, n := time.Now(), 0
	err := s.index(s.ctx, func(path string, l ci.IndexLine) bool {
		n++
		r := waiting[path]
		delete(waiting, path)
		s.mu.Lock()
		defer s.mu.Unlock()
		wanted := l.Commit != "" && s.record.wants(l.Status, now)
		done := wanted && s.done[sealed{l.Commit, l.Score}]
		if r == nil && all && n <= maxRuns && wanted && !done && s.runs[path] == nil {
			if r = s.add(path); r != nil {
				r.ended = &l.Status
			}
		}
		switch {
		case r == nil || s.runs[path] != r:
		case l.Commit == "": // its next event looks again
		case done: // it is a copy
			delete(s.runs, path)
		default:
			r.reads, r.score = true, l.Score
			list = append(list, found{path, l.Commit, r})
		}
		return len(waiting) > 0 || all && n < maxRuns
	})
	s.mu.Lock()
	for path, r := range waiting { // these are gone
		if s.runs[path] == r && r.ended != nil {
			delete(s.runs, path)
		}
	}
	s.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- { // the oldest first
		f := list[i]
		select {
		case s.turns <- struct{}{}:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
		wg.Go(func() {
			defer func() { <-s.turns }()
			s.read(f.path, f.commit, f.r)
		})
	}
	return err
}

// read reads the key of a run of a commit.
func (s *space) read(path, commit string, r *run) {
	ctx, cancel := context.WithTimeout(s.ctx, lookTime)
	defer cancel()
	text, err := s.text(ctx, s.ns+path+"/key")
	var attrs ci.Attrs
	if err == nil {
		attrs, err = ci.ParseAttrs(text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.reads = false
	if s.runs[path] != r {
		return
	}
	if err != nil {
		delete(s.runs, path) // its next event looks again, or a scan
		if r.ended != nil && s.ctx.Err() == nil {
			s.Log.Warn("statuses", "namespace", s.ns, "run", path, "err", err)
		}
		return
	}
	r.key, r.known = key{s.ns, commit, access.StatusContext(attrs)}, true
	if r.ended != nil {
		s.note(path, r)
	}
}

// text returns what a file has.
func (s *space) text(ctx context.Context, path string) ([]byte, error) {
	n, err := fs.FileAt(ctx, s.root, path)
	if err != nil {
		return nil, err
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(fs.NewReader(ctx, f), maxFileText+1))
	if err == nil && len(b) > maxFileText {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFileText)
	}
	return b, err
}

// index calls f with the newest lines of the namespace's index, and the path of the run
// below the namespace, until f returns false.
func (s *space) index(ctx context.Context, f func(path string, l ci.IndexLine) bool) error {
	n, err := fs.FileAt(ctx, s.root, s.ns+"/index")
	if err != nil {
		return err
	}
	file, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(fs.NewReader(ctx, file), maxIndex))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		// The path of the run is in the place of its id.
		dir, id, ok := cutLast(lines.Text())
		if !ok {
			continue
		}
		if l, err := ci.ParseIndexLine(id); err == nil && !f(dir+l.ID, l) {
			return nil
		}
	}
	return lines.Err()
}

// cutLast cuts a line behind the last slash of its first word.
func cutLast(line string) (dir, rest string, ok bool) {
	word, _, _ := strings.Cut(line, " ")
	i := strings.LastIndexByte(word, '/')
	return line[:i+1], line[i+1:], i >= 0
}
