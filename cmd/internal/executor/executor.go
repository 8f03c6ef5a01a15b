// Package executor runs a repository's mk targets at a revision, in a machine
// of its own, and keeps what came out as a run of the store.
package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/fs"
)

// An Executor runs the revisions of one repository, of which SetRepo names a
// clone. Its fields are set before its first use and do not change.
type Executor struct {
	Namespace string
	Store     *fs.Store
	Config    *config.Config
	Mode      string // run, or daemon
	Host      string // who we are, in a run's info
	Version   string

	// Tool returns the path of a static binary that a machine is given:
	// guest or mk.
	Tool func(name string) (string, error)

	// Sign signs a manifest.
	Sign fs.SignFunc

	// Replay returns the id in Store of a run that can stand for one with
	// that key of that clone, or "" where there is none. It may be nil.
	Replay func(ctx context.Context, r *repo.Repo, key fs.Attrs, c *config.Config) (id string, err error)

	// Await waits while an executor that comes before this one is running
	// the same key, and returns the id in Store of what that made. With an
	// empty id it is our turn, and release is to be called when our run,
	// whose id is given, has ended. It may be nil.
	Await func(ctx context.Context, r *repo.Repo, key fs.Attrs, c *config.Config, own string) (id string, release func(), err error)

	// Queue lets the runs of all Executors that share it go one at a time.
	Queue *Queue

	Log *slog.Logger

	// Context ends every run.
	Context context.Context

	treeOnce sync.Once
	tree     fs.Dir

	wg sync.WaitGroup

	mu     sync.Mutex      // guards what follows
	jobs   map[string]*job // by id; those that have not ended
	repo   *repo.Repo      // the clone last named
	head   revision        // what head and green are about
	warned map[string]bool // what Warn has told
}

// A revision is a commit of a clone, which another clone need not have. An
// empty commit is the clone's HEAD.
type revision struct {
	repo   *repo.Repo
	commit string
}

// A Request asks for a run. All of it is of one clone, which another may name
// in the meantime: that one decides neither what is run nor whose run is
// replayed.
type Request struct {
	Repo    *repo.Repo
	Commit  string
	Tree    string
	Targets []string // at least one
	Force   bool     // even where another run could stand for it
	Config  *config.Config
}

// A job is a run that has not ended.
type job struct {
	id      string
	key     string // its digest, where other requests may have this run
	ctx     context.Context
	cancel  context.CancelCauseFunc
	decided chan struct{} // closed when it is known whether this run goes
	goes    bool          // set before decided is closed
	done    chan struct{} // closed when the run is sealed, or will not be
	err     error         // set before done is closed: the run could not be kept
}

// Signalled is the cause of a context that a signal ended.
type Signalled struct{ Signal syscall.Signal }

func (s Signalled) Error() string { return "cancelled by " + s.Signal.String() }

// A Queue lets one run go at a time, first come first served. The zero Queue
// is ready.
type Queue struct {
	mu      sync.Mutex // guards what follows
	waiting []chan struct{}
	busy    bool
	accel   string // what the last machine ran under, kvm or tcg
}

// Accel is what the machine of the last run ran under, kvm or tcg, or "-" where
// none has started.
func (q *Queue) Accel() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return cmp.Or(q.accel, "-")
}

func (q *Queue) setAccel(accel string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accel = accel
}

func (q *Queue) enter(ctx context.Context) error {
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	q.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, w := range q.waiting {
		if w == turn {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return context.Cause(ctx)
		}
	}
	q.leaveLocked() // our turn came as we gave up
	return context.Cause(ctx)
}

func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaveLocked()
}

func (q *Queue) leaveLocked() {
	if len(q.waiting) == 0 {
		q.busy = false
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}

// Submit finds or starts a run and returns its id, which can be walked to by
// then. Where the same run goes on already, here or at an executor that is
// trusted, it is that one. ctx is for the search alone: the run ends when
// e.Context does, if not before.
func (e *Executor) Submit(ctx context.Context, req Request) (id string, err error) {
	e.setHead(req.Repo, req.Commit)
	key := replay.Key(req.Config, req.Commit, req.Tree, req.Targets)
	share := !req.Force && !req.Config.Runs
	for {
		if share && e.Replay != nil {
			if id, err := e.Replay(ctx, req.Repo, key, req.Config); id != "" || err != nil {
				return id, err
			}
		}
		run, j, err := e.create(req, key, share)
		if err != nil {
			return "", err
		}
		if run == nil { // another request of ours is for the same
			select {
			case <-j.decided:
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
			if j.goes {
				return j.id, nil
			}
			continue
		}
		release := func() {}
		if share && e.Await != nil {
			if id, release, err = e.Await(ctx, req.Repo, key, req.Config, run.ID()); id != "" || err != nil {
				e.forget(j)
				close(j.decided)
				return id, errors.Join(err, run.Discard())
			}
		}
		e.start(run, req, j, release)
		return run.ID(), nil
	}
}

// start lets a run go when its turn has come. release is called when it has
// ended.
func (e *Executor) start(run *fs.Run, req Request, j *job, release func()) {
	j.goes = true
	close(j.decided)
	e.wg.Go(func() {
		defer release()
		defer e.forget(j)
		if e.Queue.enter(j.ctx) == nil { // else it was cancelled, and ends in its first step
			defer e.Queue.leave()
		}
		j.err = e.do(run, req, j)
	})
}

// Resume starts the runs that were queued when the process that had taken
// them was killed. One that cannot be started as it was asked for is sealed in
// error.
func (e *Executor) Resume(ctx context.Context) error {
	runs, err := e.Store.Resume()
	for _, run := range runs {
		req, rerr := e.request(ctx, run)
		if rerr != nil {
			run.Enter("boot")
			fmt.Fprintf(run.Stderr(), "9ci: %v\n", rerr)
			run.Leave("boot", "error", 125)
			err = errors.Join(err, run.Seal(ctx, "error", 125, e.Sign))
			continue
		}
		e.mu.Lock()
		j := e.addJob(run.ID(), replay.Digest(run.Key()))
		e.mu.Unlock()
		e.start(run, req, j, func() {})
	}
	return err
}

// load reads the configuration for a run of a clone, of which some is given.
func (e *Executor) load(ctx context.Context, r *repo.Repo, set map[string]string) (*config.Config, error) {
	c, err := config.Load(ctx, r, set)
	if err == nil {
		e.Warn(c)
	}
	return c, err
}

// Warn logs each of a configuration's warnings, once.
func (e *Executor) Warn(c *config.Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range c.Warnings {
		if e.warned == nil {
			e.warned = make(map[string]bool)
		}
		if !e.warned[w] {
			e.warned[w] = true
			e.Log.Warn("configuration", "warning", w)
		}
	}
}

// asked is what of a request is kept while it is queued: all but the values of
// secrets, which no file has.
func asked(c *config.Config) fs.Attrs {
	return c.Attrs().With(fs.Attr{Name: "secrets", Value: fs.QuoteWords(replay.Secrets(c))})
}

// request makes of a queued run what was asked for.
func (e *Executor) request(ctx context.Context, run *fs.Run) (Request, error) {
	targets, err := fs.SplitWords(run.Key().Get("target"))
	if err != nil {
		return Request{}, err
	}
	attrs, err := run.Asked()
	if err != nil {
		return Request{}, err
	}
	set := make(map[string]string)
	for _, a := range attrs {
		set[config.Name(a.Name)] = a.Value
	}
	if set["CI_SECRETS"] != "" {
		return Request{}, errors.New("the values of its secrets went with the process that had taken it: ask for it again")
	}
	r := e.Repo()
	c, err := e.load(ctx, r, set)
	if err != nil {
		return Request{}, err
	}
	commit, tree, err := r.Resolve(ctx, run.Info().Get("commit"))
	return Request{Repo: r, Commit: commit, Tree: tree, Targets: targets, Config: c}, err
}

// create makes a run for req, or returns the job of one that goes on for the
// same key, where that will do.
func (e *Executor) create(req Request, key fs.Attrs, share bool) (*fs.Run, *job, error) {
	digest := replay.Digest(key)
	e.mu.Lock()
	defer e.mu.Unlock()
	if share {
		for _, j := range e.jobs {
			if j.key == digest && j.ctx.Err() == nil { // not one that is being cancelled
				return nil, j, nil
			}
		}
	}
	run, err := e.Store.Create(req.Commit)
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(run.SetKey(key), run.SetAsked(asked(req.Config)))
	if err == nil {
		err = run.SetInfo(fs.Attrs{
			{Name: "tree", Value: req.Tree},
			{Name: "repo", Value: e.Namespace},
			{Name: "host", Value: e.Host},
			{Name: "version", Value: e.Version},
		})
	}
	if err != nil {
		return nil, nil, errors.Join(err, run.Discard())
	}
	if !share {
		digest = ""
	}
	return run, e.addJob(run.ID(), digest), nil
}

// addJob notes that a run has not ended. The caller holds e.mu.
func (e *Executor) addJob(id, key string) *job {
	j := &job{id: id, key: key, decided: make(chan struct{}), done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(e.Context)
	if e.jobs == nil {
		e.jobs = make(map[string]*job)
	}
	e.jobs[id] = j
	return j
}

func (e *Executor) do(run *fs.Run, req Request, j *job) error {
	dir, err := scratch()
	if err != nil {
		return err
	}
	r := &activeRun{e: e, req: req, cfg: req.Config, run: run, dir: dir, mask: newMask(req.Config.Secrets)}
	r.stdout, r.stderr = r.mask.writer(run.Stdout()), r.mask.writer(run.Stderr())
	e.Log.Info("run", "run", j.id, "commit", req.Commit)
	err = r.live(j.ctx)
	if err != nil {
		e.Log.Error("run", "run", j.id, "err", err)
	}
	return err
}

// scratch makes a directory for what a run needs on the host while it lives,
// and removes those of processes that were killed.
func scratch() (string, error) {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), "9ci-*-*"))
	if err != nil {
		return "", err
	}
	for _, name := range old {
		var pid int
		if n, _ := fmt.Sscanf(filepath.Base(name), "9ci-%d-", &pid); n == 1 && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(name)
		}
	}
	return os.MkdirTemp("", fmt.Sprintf("9ci-%d-*", os.Getpid()))
}

func (e *Executor) forget(j *job) {
	j.cancel(nil)
	e.mu.Lock()
	delete(e.jobs, j.id)
	e.mu.Unlock()
	close(j.done)
}

// Tree is what this executor serves.
func (e *Executor) Tree() fs.Dir {
	e.treeOnce.Do(func() { e.tree = fs.NewTree(e.Store, e) })
	return e.tree
}

// Find returns the run that a name below /ci stands for.
func (e *Executor) Find(ctx context.Context, rev string) (fs.Entry, error) {
	n, err := fs.Walk(ctx, e.Tree(), "ci/"+rev)
	if err != nil {
		return fs.Entry{}, fmt.Errorf("ci/%s: %w", rev, err)
	}
	st, err := n.Stat(ctx)
	if err != nil {
		return fs.Entry{}, err
	}
	if st.Target != "" {
		rev = st.Target
	}
	return e.Store.Get(rev)
}

// sealed is Find for runs that have ended.
func (e *Executor) sealed(ctx context.Context, rev string) (id string, ok bool) {
	run, err := e.Find(ctx, rev)
	return run.ID, err == nil && run.Run == nil
}

// SetRepo makes a clone of the repository the one that revisions are taken
// from. Head and green are about its HEAD, until a run is asked for, or about
// the commit that a run was last asked for if that was in this clone too.
func (e *Executor) SetRepo(r *repo.Repo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.repo = r
	if e.head.repo == nil || e.head.repo.Top != r.Top {
		e.head.commit = ""
	}
	e.head.repo = r
}

// Repo is the clone that SetRepo last named, or nil.
func (e *Executor) Repo() *repo.Repo {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.repo
}

// setHead makes a commit of a clone the one that head and green are about.
func (e *Executor) setHead(r *repo.Repo, commit string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.head = revision{r, commit}
}

// Wait blocks until a run that Submit started has ended, and reports why it
// could not be kept. Of a run that has ended already, or was never started
// here, there is no more to say.
func (e *Executor) Wait(id string) error {
	e.mu.Lock()
	j := e.jobs[id]
	e.mu.Unlock()
	if j == nil {
		return nil
	}
	<-j.done
	return j.err
}

// Close waits until every run has ended; end the context of Submit first.
func (e *Executor) Close() { e.wg.Wait() }

// Cancel ends a run that has not ended.
func (e *Executor) Cancel(id string) error {
	e.mu.Lock()
	j := e.jobs[id]
	e.mu.Unlock()
	if j == nil {
		return fmt.Errorf("%s is not running here", id)
	}
	j.cancel(errors.New("cancelled by a message to ctl"))
	return nil
}
