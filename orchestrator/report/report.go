// Package report tells forges how runs ended: the commit of a run that has passed or
// failed gets a status there.
//
// A Reporter reads the tree of all namespaces, as any client could: their events and
// indexes, and the key of a run. What executors show there is of those that may publish
// in the namespace, which is all that is asked of them. Of the runs of a commit with equal
// targets and architecture the newest counts: they have one context at the forge, and a
// run that ended before the one that was told is not told any more. Copies of a run, which
// others have adopted, ended when it did: they are the same.
//
// What is to be told, what the orchestrator is about to tell and what it has told is in a
// file. Of a status that it was about to tell when it was killed, or of which no answer
// came, it first asks the forge whether it has that, and so it does of runs that ended
// before it began. So none is told twice, nor lost once it is in the file.
package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// A Forge takes statuses. Its methods may be called from several goroutines.
type Forge interface {
	// Tells reports whether runs of a namespace are to be told. It does not block.
	Tells(namespace string) bool

	// Tell gives a commit a status. The error is access.ErrNoCommit, an
	// *access.ForbiddenError, an *access.RejectedError, or else it is not known whether
	// the forge has taken it, and Tell may be called later.
	Tell(ctx context.Context, s access.CommitStatus) error

	// Told reports whether Tell of that status has been done, and of no other one of its
	// commit and context after it. The error is as that of Tell.
	Told(ctx context.Context, s access.CommitStatus) (bool, error)
}

// Options are what a Reporter needs.
type Options struct {
	Dir   string // the state directory
	URL   string // of the page, without a slash at its end
	Forge Forge
	Log   *slog.Logger
}

// A Reporter tells forges how runs ended.
type Reporter struct {
	Options
	root   fs.Dir // the tree of all namespaces
	record *record
	known  atomic.Pointer[record] // record, once it is read; nil before and after Run
	ctx    context.Context        // of Run
	began  time.Time
	wg     sync.WaitGroup // of goroutines; added to with mu held, while not closed

	mu       sync.Mutex                 // guards what follows, and is taken before a teller's
	exported map[string]map[string]bool // executors, by namespace
	watched  map[string]context.CancelFunc
	tellers  map[string]*teller
	hosts    map[string]chan struct{} // a token for each that asks one forge
	closed   bool                     // nothing is started any more
}

// maxAtOnce is how many namespaces of a forge are told of at once.
const maxAtOnce = 4

// lookEvery is how often a Reporter looks whether the runs of a namespace are to be told
// now, or are no more.
const lookEvery = 5 * time.Second

// New returns a Reporter, which tells nothing before Run.
func New(o Options) *Reporter {
	return &Reporter{Options: o, exported: map[string]map[string]bool{}, watched: map[string]context.CancelFunc{},
		tellers: map[string]*teller{}, hosts: map[string]chan struct{}{}}
}

// Run tells forges how the runs in root, the tree of all namespaces, ended, until ctx is
// done. It returns when all that it has begun has ended, and an error if what was told
// cannot be read. It is called once.
func (r *Reporter) Run(ctx context.Context, root fs.Dir) error {
	r.root = root
	var err error
	if r.record, err = openRecord(ctx, r.Dir, r.Log); err != nil {
		return fmt.Errorf("statuses: %w", err)
	}
	defer r.record.close()
	r.known.Store(r.record)
	defer r.known.Store(nil)
	r.began = time.Now()
	ctx, cancel := context.WithCancel(ctx)
	r.ctx = ctx
	defer r.wait()
	defer cancel()
	for _, ns := range r.record.waiting() {
		r.wake(ns)
	}
	r.wg.Go(r.lookAgain)
	return r.lines(ctx, "event", r.rootEvent)
}

func (r *Reporter) wait() {
	r.mu.Lock()
	r.closed = true
	tellers := slices.Collect(maps.Values(r.tellers))
	r.mu.Unlock()
	for _, t := range tellers {
		t.stop()
	}
	r.wg.Wait()
}

// lines calls f with each line of a file of the tree, until ctx is done or the file ends,
// and returns why.
func (r *Reporter) lines(ctx context.Context, path string, f func(line string)) error {
	n, err := fs.FileAt(ctx, r.root, path)
	if err != nil {
		return err
	}
	file, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return err
	}
	defer file.Close()
	var text []byte
	buf := make([]byte, 4096)
	for off := int64(0); ; {
		n, err := file.ReadAt(ctx, buf, off)
		off += int64(n)
		text = append(text, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(text, []byte("\n"))
			if !ok {
				break
			}
			f(string(line))
			text = rest
		}
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s: it has ended", path)
		case err != nil:
			return err
		case len(text) > maxLine:
			return fmt.Errorf("%s: a line without an end", path)
		}
	}
}

const maxLine = 64 << 10 // bytes

// rootEvent takes a line of all namespaces' events: /NAMESPACE/n/EXECUTOR join TIME.
func (r *Reporter) rootEvent(line string) {
	path, _, _ := strings.Cut(line, " ")
	i := strings.LastIndex(path, "/n/")
	if i < 1 {
		return
	}
	ns := path[1:i]
	e, err := ci.ParseMuxEvent(line[i:])
	if err != nil || e.What == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.What == "join" {
		if r.exported[ns] == nil {
			r.exported[ns] = map[string]bool{}
		}
		r.exported[ns][e.Executor] = true
	} else if delete(r.exported[ns], e.Executor); len(r.exported[ns]) == 0 {
		delete(r.exported, ns)
	}
	r.look(ns)
}

// look watches a namespace, if its runs are to be told and an executor exports it, or
// ends that. r.mu is held.
func (r *Reporter) look(ns string) {
	wants := len(r.exported[ns]) > 0 && r.Forge.Tells(ns)
	end := r.watched[ns]
	switch {
	case wants && end == nil:
		if r.closed {
			return
		}
		ctx, end := context.WithCancel(r.ctx)
		r.watched[ns] = end
		r.wg.Go(func() {
			r.watch(ctx, ns)
			r.mu.Lock()
			defer r.mu.Unlock()
			if ctx.Err() == nil { // it is not to end: look begins it anew
				end()
				delete(r.watched, ns)
			}
		})
	case !wants && end != nil:
		end()
		delete(r.watched, ns)
	}
}

// lookAgain looks at all namespaces now and then: the operator may have changed what is
// told.
func (r *Reporter) lookAgain() {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-r.ctx.Done():
			return
		}
		r.mu.Lock()
		for ns := range r.exported {
			r.look(ns)
		}
		maps.DeleteFunc(r.tellers, func(ns string, t *teller) bool { return r.exported[ns] == nil && t.idle() })
		r.mu.Unlock()
	}
}

// turn waits for a turn to ask the forge of a namespace. The caller calls done.
func (r *Reporter) turn(ctx context.Context, ns string) (done func(), err error) {
	host, _, _ := strings.Cut(ns, "/")
	r.mu.Lock()
	c := r.hosts[host]
	if c == nil {
		c = make(chan struct{}, maxAtOnce)
		r.hosts[host] = c
	}
	r.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
