package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"sort"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access/account"
)

// Limits of what lives.
const (
	liveKept    = 512 << 10        // bytes of events that are kept for readers that are behind
	liveRows    = 200              // of an event
	liveRoom    = 32 << 10         // bytes of HTML of these
	liveLife    = 10 * time.Minute // of an answer; the browser then asks again, and whether it may is looked up anew
	liveLook    = time.Second      // before something is sent, whether the visitor may still read the run is looked up as often at most
	liveBeat    = 20 * time.Second // between signs of life, for proxies and to find out who has gone
	liveRuns    = 1024             // that are followed at once
	liveBehind  = 64               // readers that are further behind than what is kept, and read for themselves at once
	behindOfOne = 8                // of these of one account, or of one address without a login
	retryMillis = 3000             // after which a browser asks again

	// For each reader the follower waits that long before it looks for more, so that a log
	// which is written a line at a time takes a tenth of a processor or so, however many
	// read it: ten thousand get their lines once a second.
	livePause = 100 * time.Microsecond
)

// An event is one of an EventSource: what stands between two places in the logs of a run.
type event struct {
	from, to pos
	kind     string // rows, step or end
	rows     []row
	wire     []byte // as browsers get it
}

// newEvent returns an event. Its data is JSON, which has no newline.
func newEvent(from, to pos, kind string, rows []row, data any) event {
	b, err := json.Marshal(data)
	if err != nil {
		panic(err) // of text alone
	}
	return event{from, to, kind, rows, fmt.Appendf(nil, "id: %s\nevent: %s\ndata: %s\n\n", to, kind, b)}
}

type rowsEvent struct {
	Step int   `json:"step"`
	Rows []row `json:"rows"`
}

type stepEvent struct {
	Step  int    `json:"step"`
	State string `json:"state"`
	Took  string `json:"took"`
}

type endEvent struct {
	State string `json:"state"`
}

// before reports whether a place comes before another one.
func (p pos) before(q pos) bool { return p.Step < q.Step || p.Step == q.Step && p.Line < q.Line }

// A follower reads the logs of one run for all browsers that follow it. It reads by the
// tree of the one that came first, from the end that the logs have then, and what it reads
// is kept for a while. A browser that is further behind than that reads for itself.
type follower struct {
	at    place
	refs  int // guarded by the followers' mu
	close context.CancelFunc
	done  chan struct{} // closed when it has ended

	mu     sync.Mutex // guards what follows
	events []event
	start  pos           // where they begin
	size   int           // bytes of events
	come   chan struct{} // closed when there are more, or the follower has ended
	ended  bool
}

// followers are those of runs that go on.
type followers struct {
	behind chan struct{} // has an element for each reader that reads for itself

	mu    sync.Mutex // guards what follows
	runs  map[place]*follower
	lanes map[string]*lane // of readers that read for themselves, by visit.who
}

// A lane is where the readers of one account or address wait for their turn to read for
// themselves: however many they are, those of others do not wait behind them.
type lane struct {
	turns chan struct{}
	refs  int // guarded by the followers' mu
}

// turn waits for a turn of who's to read for itself. The caller calls done.
func (x *followers) turn(ctx context.Context, who string) (done func(), err error) {
	x.mu.Lock()
	l := x.lanes[who]
	if l == nil {
		if x.lanes == nil {
			x.lanes = map[string]*lane{}
		}
		l = &lane{turns: make(chan struct{}, behindOfOne)}
		x.lanes[who] = l
	}
	l.refs++
	x.mu.Unlock()
	leave := func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if l.refs--; l.refs == 0 {
			delete(x.lanes, who)
		}
	}
	select {
	case l.turns <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	select {
	case x.behind <- struct{}{}:
	case <-ctx.Done():
		<-l.turns
		leave()
		return nil, ctx.Err()
	}
	return func() { <-x.behind; <-l.turns; leave() }, nil
}

// join returns the follower of a run, nil if there are too many others. The caller calls leave.
func (p *Page) join(at place, a *account.Account, from netip.Addr) *follower {
	x := &p.followers
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.runs[at]
	if f == nil && len(x.runs) >= liveRuns {
		return nil
	}
	if f == nil {
		ctx, cancel := context.WithCancel(context.Background())
		f = &follower{at: at, close: cancel, done: make(chan struct{}), come: make(chan struct{}), start: pos{len(ci.Steps), 1, 0}}
		if x.runs == nil {
			x.runs = map[place]*follower{}
		}
		x.runs[at] = f
		go func() { // leave waits for it
			defer close(f.done)
			defer x.forget(f)
			err := p.follow(ctx, f, a, from)
			if err != nil && ctx.Err() == nil {
				p.note(from, slog.LevelInfo, "path", "/live", "run", at.Path(), "err", clip(err.Error()))
			}
			f.end()
		}()
	}
	f.refs++
	return f
}

// leave undoes join. The last to leave ends the follower.
func (x *followers) leave(f *follower) {
	x.mu.Lock()
	f.refs--
	last := f.refs == 0
	if last && x.runs[f.at] == f {
		delete(x.runs, f.at)
	}
	x.mu.Unlock()
	if last {
		f.close()
		<-f.done
	}
}

// forget lets the next reader begin another follower.
func (x *followers) forget(f *follower) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.runs[f.at] == f {
		delete(x.runs, f.at)
	}
	f.close()
}

// readers returns how many read what a follower reads.
func (x *followers) readers(f *follower) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return f.refs
}

// follow reads the logs of a run from their present end on, until the run or ctx has ended. What
// tells that there is more are the run's live file and the namespace's event file: neither
// is enough, for the output of boot and clone is not in live.
func (p *Page) follow(ctx context.Context, f *follower, a *account.Account, from netip.Addr) error {
	root, release, err := p.trees.Tree(ctx, a, from)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer release()
	defer wg.Wait()
	defer cancel()
	woken := make(chan struct{}, 1)
	wake := func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	for path, about := range map[string]string{f.at.Path() + "/live": "", f.at.Namespace + "/event": "/n/" + f.at.Executor + "/ci/" + f.at.ID + " "} {
		n, err := fs.Walk(ctx, root, path)
		if err != nil {
			return err
		}
		file, err := n.Open(ctx, fs.OpenRead)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer file.Close()
			buf := make([]byte, 16<<10)
			kept := 0 // bytes before buf's that may begin what is looked for
			for off := int64(0); ; {
				n, err := file.ReadAt(ctx, buf[kept:], off)
				off += int64(n)
				got := buf[:kept+n]
				if err != nil || bytes.Contains(got, []byte(about)) {
					wake()
				}
				if err != nil {
					return
				}
				kept = copy(buf, got[max(0, len(got)-len(about)):])
			}
		})
	}
	at, err := p.present(ctx, root, f.at)
	if err != nil {
		return err
	}
	f.begin(at)
	for {
		e, err := nextEvent(ctx, root, f.at, at)
		switch {
		case err != nil:
			return err
		case e == nil:
			select {
			case <-time.After(time.Duration(p.followers.readers(f)) * livePause):
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-woken:
			case <-time.After(liveBeat): // an executor may tell of a change late, or not at all
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		at = e.to
		if f.add(*e); e.kind == "end" {
			return nil
		}
	}
}

// present returns the place where the logs of a run end at present. It is that of a step
// that goes on, or has not begun.
func (p *Page) present(ctx context.Context, root fs.Dir, run place) (pos, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	r := &reading{&visit{page: p}, ctx, root}
	for i, name := range ci.Steps {
		switch st, err := r.status(run.Path() + "/step/" + name); {
		case errors.Is(err, iofs.ErrNotExist):
			return pos{i, 1, 0}, nil
		case err != nil:
			return pos{}, err
		case ci.Finished(st.State), st.State == "skipped":
			continue
		}
		path, _ := stepLog(run, name)
		l, err := r.openLog(path)
		if errors.Is(err, iofs.ErrNotExist) {
			return pos{i, 1, 0}, nil
		}
		if err != nil {
			return pos{}, err
		}
		defer l.Close()
		lr, line, err := l.seek(ctx, math.MaxInt)
		if err != nil && !errors.Is(err, errFar) {
			return pos{}, err
		}
		return pos{i, line, lr.off}, nil
	}
	return pos{len(ci.Steps), 1, 0}, nil
}

// begin says where the events begin.
func (f *follower) begin(at pos) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start = at
	close(f.come)
	f.come = make(chan struct{})
}

// add gives an event to all that wait.
func (f *follower) add(e event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	f.size += len(e.wire)
	for f.size > liveKept && len(f.events) > 1 {
		f.size -= len(f.events[0].wire)
		f.events = slices.Delete(f.events, 0, 1)
		f.start = f.events[0].from
	}
	close(f.come)
	f.come = make(chan struct{})
}

// end tells all that wait that there is no more.
func (f *follower) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	close(f.come)
}

// from returns the events behind a place, and what is closed when there are more. Behind
// reports that the place comes before all that is kept.
func (f *follower) from(at pos) (events []event, come <-chan struct{}, ended, behind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.before(f.start) {
		return nil, f.come, f.ended, true
	}
	i := sort.Search(len(f.events), func(i int) bool { return at.before(f.events[i].to) || f.events[i].kind == "end" })
	if i == len(f.events) {
		return nil, f.come, f.ended, false
	}
	events = slices.Clone(f.events[i:])
	if e := &events[0]; e.from.before(at) && len(e.rows) > 0 { // it has some of these rows
		*e = newRowsEvent(at, e.to, e.rows[min(len(e.rows), at.Line-e.from.Line):])
	}
	return events, f.come, f.ended, false
}

func newRowsEvent(from, to pos, rows []row) event {
	return newEvent(from, to, "rows", rows, rowsEvent{from.Step, rows})
}

// nextEvent returns what comes behind a place in the logs of a run, or nil if there is
// nothing yet.
func nextEvent(ctx context.Context, root fs.Dir, run place, at pos) (*event, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	r := &reading{ctx: ctx, root: root}
	if at.Step == len(ci.Steps) {
		st, err := r.status(run.Path())
		if err != nil || !st.Finished() {
			return nil, err
		}
		e := newEvent(at, at, "end", nil, endEvent{st.State})
		return &e, nil
	}
	step := ci.Steps[at.Step]
	// A step that has ended writes no more: what its log has not after that, it never has.
	st, err := r.status(run.Path() + "/step/" + step)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	over := err == nil && (ci.Finished(st.State) || st.State == "skipped")
	rows, next, err := readRows(ctx, root, run, at)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	if len(rows) > 0 {
		e := newRowsEvent(at, next, rows)
		return &e, nil
	}
	if !over {
		if errors.Is(err, iofs.ErrNotExist) { // the step has not begun, or the run is gone with its executor
			_, err = r.status(run.Path())
			return nil, err
		}
		return nil, nil
	}
	e := newEvent(at, pos{at.Step + 1, 1, 0}, "step", nil, stepEvent{at.Step, st.State, took(st.Took)})
	return &e, nil
}

// readRows reads rows of a step's log from a place on. If no line begins there, it reads
// from the beginning: the place is what a browser says.
func readRows(ctx context.Context, root fs.Dir, run place, at pos) ([]row, pos, error) {
	path, _ := stepLog(run, ci.Steps[at.Step])
	n, err := fs.Walk(ctx, root, path)
	if err != nil {
		return nil, at, err
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, at, err
	}
	defer f.Close()
	if at.Off > 0 {
		var b [1]byte
		if n, err := f.ReadAt(ctx, b[:], at.Off-1); n == 0 || b[0] != '\n' {
			if err != nil && err != io.EOF {
				return nil, at, err
			}
			at = pos{at.Step, 1, 0}
		}
	}
	lr := &lineReader{ctx: ctx, f: f, off: at.Off}
	l := log{f, &marks{stride: 1 << 30, at: []int64{0}}}
	rows, line, err := l.rows(lr, at.Line, liveRows, liveRoom)
	return rows, pos{at.Step, line, lr.off}, err
}

// endingKey is the key of the context, in a request's, that is done when the server is to
// end.
type endingKey struct{}

// live sends what comes of a run as server-sent events, from the place at, or behind the
// last event that the browser has had. While it waits it holds nothing of the tree: before
// it sends something it sees whether the visitor may still read the run.
func (p *Page) live(v *visit) error {
	if p.trees == nil {
		return errNoPage
	}
	at, err := v.place()
	if err != nil {
		return err
	}
	give, err := v.take(&p.limits.live)
	if err != nil {
		return err
	}
	defer give()
	ctx, cancel := context.WithTimeout(v.r.Context(), liveLife)
	defer cancel()
	if ending, ok := ctx.Value(endingKey{}).(context.Context); ok {
		defer context.AfterFunc(ending, cancel)()
	}
	if err := p.withTree(ctx, v, func(ctx context.Context, root fs.Dir) error {
		_, err := (&reading{v, ctx, root}).status(at.Path())
		return err
	}); errors.Is(err, iofs.ErrNotExist) {
		return errNoPage
	} else if err != nil {
		return v.unread(err)
	}
	place := parsePos(v.r.URL.Query().Get("at"))
	if id := v.r.Header.Get("Last-Event-ID"); id != "" {
		place = parsePos(id)
	}
	f := p.join(at, v.account, v.from)
	if f == nil {
		return errTooMany
	}
	defer p.followers.leave(f)
	v.w.Header().Set("Content-Type", "text/event-stream")
	v.w.Header().Set("X-Accel-Buffering", "no") // a proxy is to pass on each event
	s := stream{patient{v.w, http.NewResponseController(v.w)}}
	if err := s.send(fmt.Appendf(nil, "retry: %d\n\n", retryMillis)); err != nil {
		return nil
	}
	beat := time.NewTicker(liveBeat)
	defer beat.Stop()
	for seen := time.Now(); ; {
		if time.Since(seen) >= liveLook {
			if !p.mayFollow(ctx, v, at) {
				return nil
			}
			seen = time.Now()
		}
		events, come, ended, behind := f.from(place)
		if behind {
			if events, err = p.catchUp(ctx, v, at, place); err != nil {
				return nil
			}
		}
		for _, e := range events {
			if place = e.to; s.send(e.wire) != nil || e.kind == "end" {
				return nil
			}
		}
		if len(events) > 0 {
			continue
		}
		if ended {
			return nil // the browser asks again
		}
		select {
		case <-come:
		case <-beat.C:
			if s.send([]byte(":\n\n")) != nil {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// withTree calls f with the tree of a visitor, and the time that a page has.
func (p *Page) withTree(ctx context.Context, v *visit, f func(ctx context.Context, root fs.Dir) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	root, release, err := p.trees.Tree(ctx, v.account, v.from)
	if err != nil {
		return err
	}
	defer release()
	return f(ctx, root)
}

// catchUp returns what comes behind a place in the logs of a run, for a reader that is behind
// all that is kept. If too many others are, it waits.
func (p *Page) catchUp(ctx context.Context, v *visit, run place, at pos) (events []event, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	done, err := p.followers.turn(ctx, v.who())
	if err != nil {
		return nil, err
	}
	defer done()
	err = p.withTree(ctx, v, func(ctx context.Context, root fs.Dir) error {
		e, err := nextEvent(ctx, root, run, at)
		if e != nil {
			events = []event{*e}
		}
		return err
	})
	return events, err
}

// mayFollow reports whether a visitor is still logged in, and may read a run.
func (p *Page) mayFollow(ctx context.Context, v *visit, at place) bool {
	if v.account != nil {
		if _, _, err := p.session(v.secret); err != nil {
			return false
		}
	}
	return p.withTree(ctx, v, func(ctx context.Context, root fs.Dir) error {
		_, err := fs.Walk(ctx, root, at.Namespace+"/n/"+at.Executor)
		return err
	}) == nil
}

// A stream is an answer of server-sent events.
type stream struct{ patient }

func (s stream) send(b []byte) error {
	if _, err := s.patient.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}
