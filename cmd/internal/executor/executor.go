// Package executor runs a repository's mk targets at a revision, in a machine
// of its own, and keeps what came out as a run of the store.
package executor

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// An Executor runs the revisions of one repository, of which SetRepo names a
// clone. Its fields are set before its first use and do not change.
type Executor struct {
	Namespace string
	Store     *store.Store
	Config    *config.Config
	Mode      string // run, or daemon
	Host      string // this machine's name, in a run's info
	Version   string

	// Tool returns the path of a static binary for the machine: guest or mk.
	Tool func(name string) (string, error)

	// Start starts the machine of a run from all of its configuration but the
	// core OS. Nil: a vm.Machine with the core OS.
	Start func(ctx context.Context, c vm.Config) (Machine, error)

	// Sign signs a manifest.
	Sign store.SignFunc

	// Seek returns what looks for a run that can stand for one of the clone r with
	// the key, on behalf of one request. It may be nil.
	Seek func(r *repo.Repo, key ci.Attrs, c *config.Config) Seeker

	// Queue is shared by the Executors of a process.
	Queue *Queue

	Log *slog.Logger

	// When Context is done, every run ends.
	Context context.Context

	treeOnce sync.Once
	tree     fs.Dir

	wg sync.WaitGroup

	mu         sync.Mutex             // guards what follows
	unfinished map[string]*unfinished // by id
	repo       *repo.Repo             // the clone last named
	clones     map[string]*repo.Repo  // all that were named, by their Top
	head       revision               // what head and green are about
	warned     map[string]bool        // what Warn has told
}

// A revision is a commit of a clone, which another clone need not have. An
// empty commit is the clone's HEAD.
type revision struct {
	repo   *repo.Repo
	commit string
}

// A Request asks for a run. Repo decides what is run and whose run is replayed,
// even if SetRepo names another clone in the meantime.
type Request struct {
	Repo    *repo.Repo
	Commit  string
	Tree    string
	Targets []string // at least one
	Force   bool     // run, even if another run could stand for this one
	Config  *config.Config

	// Wanted ends when the one that asks wants the run no more: a run is cancelled
	// once nobody wants it. Nil: the run is wanted to its end.
	Wanted context.Context
}

// Check reports a target that is none: one that begins with - is a flag in the wrong
// place, and mk would take it for one of its own.
func (r Request) Check() error {
	for _, t := range r.Targets {
		if strings.HasPrefix(t, "-") {
			return fmt.Errorf("%.40q is no target: flags stand before the revision", t)
		}
	}
	return nil
}

// shared reports whether another run may stand for the one that is asked for.
func (r Request) shared() bool { return !r.Force && !r.Config.Runs }

// An unfinished is a run that has not ended, and what others wait for of it.
type unfinished struct {
	id      string
	key     string // the key's digest; empty if no other request may share the run
	told    bool   // a process before this one has told its id to those that asked
	ctx     context.Context
	cancel  context.CancelCauseFunc
	decided chan struct{} // closed when it is known whether this run starts
	goes    bool          // it starts; set before decided is closed
	done    chan struct{} // closed when the run is sealed, or will not be
	err     error         // why the run could not be kept; set before done is closed

	// Guarded by the Executor's mu:
	wanted     map[context.Context]bool // the Wanted of those that asked
	configured time.Duration            // CI_HOLD
	wished     *wish                    // in its place; nil: nobody has said otherwise
	past       bool                     // whether the machine is held is decided
}

// Signalled is the cause of a context that a signal has ended.
type Signalled struct{ Signal syscall.Signal }

func (s Signalled) Error() string { return "cancelled by " + s.Signal.String() }

// A Seeker looks for a run that can stand for the one that was asked for.
type Seeker interface {
	// Replay returns the id in Store of such a run, or "" if there is none.
	Replay(ctx context.Context) (id string, err error)

	// Await waits while another executor, whose turn comes before ours, runs
	// the same key, and returns the id in Store of that run. An empty id
	// means that it is our turn. Release, which is never nil, must be called
	// when our run, whose id is own, has ended or is discarded.
	Await(ctx context.Context, own string) (id string, release func(), err error)
}

// Submit finds or starts a run and returns its id. By then ci/ID can be walked
// to. If a run with the same key goes on, here or at a trusted executor, that run
// is returned. ctx bounds the search alone: a run that starts here ends with
// e.Context at the latest.
func (e *Executor) Submit(ctx context.Context, req Request) (id string, err error) {
	if e.ends() {
		return "", errEnds
	}
	if err := req.Check(); err != nil {
		return "", err
	}
	e.setHead(req.Repo, req.Commit)
	key := replay.Key(req.Config, req.Commit, req.Tree, req.Targets)
	if err := key.Check(); err != nil {
		return "", err
	}
	share := req.shared()
	elsewhere := e.seeker(req, key)
	for {
		if elsewhere != nil {
			if id, err := elsewhere.Replay(ctx); id != "" || err != nil {
				return id, err
			}
		}
		run, u, err := e.create(req, key, share)
		if err != nil {
			return "", err
		}
		if run == nil { // another request here has the same key
			select {
			case <-u.decided:
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
			if u.goes {
				e.wishAtLeast(u, req.Config.Hold)
				return u.id, nil
			}
			continue
		}
		return e.begin(ctx, run, req, u, elsewhere)
	}
}

// errEnds is that of a request for a run that a daemon which ends does not begin any more.
var errEnds = errors.New("the daemon ends, and the next one runs what was asked for before")

// ends reports whether this is a daemon that ends: it begins no run.
func (e *Executor) ends() bool { return e.Mode == "daemon" && e.Context.Err() != nil }

// seeker returns what looks for a run that can stand for req's, or nil if none may.
func (e *Executor) seeker(req Request, key ci.Attrs) Seeker {
	if !req.shared() || e.Seek == nil {
		return nil
	}
	return e.Seek(req.Repo, key, req.Config)
}

// begin starts a run and returns its id. It first waits while another executor runs the
// same key: then that run's id is returned, and this run is gone.
func (e *Executor) begin(ctx context.Context, run *store.Run, req Request, u *unfinished, elsewhere Seeker) (id string, err error) {
	release := func() {}
	if elsewhere != nil {
		wctx, cancel := context.WithCancelCause(ctx)
		stop := context.AfterFunc(u.ctx, func() { cancel(context.Cause(u.ctx)) })
		id, release, err = elsewhere.Await(wctx, run.ID())
		stop()
		cancel(nil)
		if id != "" || err != nil && !u.told {
			err = errors.Join(err, e.drop(run, u, id))
			release() // after that: one that looks for the run must not find it
			return id, err
		}
		// What was told of and is cancelled ends in its first step.
	}
	e.start(run, req, u, release)
	return run.ID(), nil
}

// drop discards a run that was not started. by, if not empty, is the run that is replayed
// instead: those that know its id find that.
func (e *Executor) drop(run *store.Run, u *unfinished, by string) error {
	e.forget(u)
	close(u.decided)
	if u.told && by != "" {
		return run.Replace(by)
	}
	return run.Discard()
}

// start queues a run. release is called when the run has ended.
func (e *Executor) start(run *store.Run, req Request, u *unfinished, release func()) {
	e.mu.Lock()
	u.configured = req.Config.Hold
	e.mu.Unlock()
	_, number, _ := ci.SplitID(u.id)
	place := e.Queue.join(e.Namespace, number, req.Config) // before those that are asked for from now on
	u.goes = true
	close(u.decided)
	e.wg.Go(func() {
		defer release()
		defer e.forget(u)
		if leave, err := e.Queue.wait(u.ctx, place); err == nil { // if not, the run was cancelled: it ends in its first step
			defer leave()
		}
		if e.ends() {
			run.Abandon() // the next daemon takes it up: Resume
			u.err = errEnds
			return
		}
		u.err = e.do(run, req, u)
	})
}

// searchTime is how long a run that Resume has taken over holds up those behind it while
// it looks for another that could stand for it, or waits for one.
const searchTime = 10 * time.Second

// Resume starts the runs that were queued by processes that have died, as Submit does, in
// the order in which they were asked for: one for which another run stands meanwhile is
// gone. It waits for none. A run that cannot be started as it was asked for is sealed in
// state error.
func (e *Executor) Resume(ctx context.Context) error {
	runs, err := e.Store.Resume()
	before := make(chan struct{}) // closed when the one before has been decided on
	close(before)
	for _, run := range runs {
		req, rerr := e.request(ctx, run)
		if rerr != nil {
			run.Enter("boot")
			fmt.Fprintf(run.Stderr(), "9ci: %v\n", rerr)
			run.Leave("boot", "error", 125)
			err = errors.Join(err, run.Seal(ctx, "error", 125, e.Sign))
			continue
		}
		digest := ""
		if req.shared() {
			digest = replay.Digest(run.Key())
		}
		e.mu.Lock()
		u := e.addUnfinished(run.ID(), digest)
		u.told = true
		u.wanted[nil] = true // those that asked went with the process, and did not leave
		e.mu.Unlock()
		ahead := before
		before = u.decided
		e.wg.Go(func() {
			late := time.NewTimer(searchTime)
			defer late.Stop()
			select {
			case <-ahead:
			case <-late.C:
			case <-u.ctx.Done():
			}
			if err := e.resume(run, req, u); err != nil {
				e.Log.Error("resume", "run", u.id, "err", err)
			}
		})
	}
	return err
}

// resume starts a run that Resume has taken over, unless another stands for it.
func (e *Executor) resume(run *store.Run, req Request, u *unfinished) error {
	elsewhere := e.seeker(req, run.Key())
	if elsewhere != nil {
		if id, err := elsewhere.Replay(u.ctx); id != "" {
			return errors.Join(err, e.drop(run, u, id))
		}
	}
	_, err := e.begin(u.ctx, run, req, u, elsewhere)
	return err
}

// load reads the configuration for a run of a clone. What set holds goes before
// all else.
func (e *Executor) load(ctx context.Context, r *repo.Repo, set map[string]string) (*config.Config, error) {
	c, err := config.Load(ctx, r, set)
	if err == nil {
		e.Warn(c)
	}
	return c, err
}

// Warn logs the warnings of a configuration that it has not logged before.
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

// asked returns what is kept of a request while its run is queued: all but the
// values of secrets, which are in no file.
func asked(req Request) ci.Attrs {
	a := req.Config.Attrs().With(ci.Attr{Name: "secrets", Value: ci.QuoteWords(replay.Secrets(req.Config))})
	if req.Force {
		a = a.With(ci.Attr{Name: "force", Value: "1"})
	}
	if !strings.Contains(req.Repo.Top, "\n") { // which a daemon does not take
		a = a.With(ci.Attr{Name: "repo", Value: req.Repo.Top})
	}
	return a
}

// request returns the Request that a queued run was made for.
func (e *Executor) request(ctx context.Context, run *store.Run) (Request, error) {
	targets, err := ci.SplitWords(run.Key().Get("target"))
	if err != nil {
		return Request{}, err
	}
	attrs, err := run.Asked()
	if err != nil {
		return Request{}, err
	}
	if attrs.Get("secrets") != "" {
		return Request{}, errors.New("the process that queued this run has died, and the values of its secrets with it: ask for the run again")
	}
	req, err := e.read(ctx, attrs, e.reopen)
	if err != nil {
		return Request{}, err
	}
	req.Targets = targets
	req.Commit, req.Tree, err = req.Repo.Resolve(ctx, run.Info().Get("commit"))
	return req, err
}

// read returns the request that attributes of run, or those of asked, describe, but for its
// revision and targets. clone returns the clone of the attribute repo.
func (e *Executor) read(ctx context.Context, attrs ci.Attrs, clone func(ctx context.Context, top string) (*repo.Repo, error)) (req Request, err error) {
	set := make(map[string]string)
	req.Repo = e.Repo()
	for _, a := range attrs {
		if (a.Name == "force" || a.Name == "wait") && a.Value != "0" && a.Value != "1" {
			return Request{}, fmt.Errorf("%s=%s: want 0 or 1", a.Name, ci.Quote(a.Value))
		}
		switch a.Name {
		case "force":
			req.Force = a.Value == "1"
		case "repo":
			if req.Repo, err = clone(ctx, a.Value); err != nil {
				return Request{}, err
			}
		case "wait":
			if a.Value == "1" {
				req.Wanted = fs.CtlLife(ctx)
			}
		default:
			set[config.Name(a.Name)] = a.Value
		}
	}
	req.Config, err = e.load(ctx, req.Repo, set)
	return req, err
}

// clone returns a clone that SetRepo has named.
func (e *Executor) clone(_ context.Context, top string) (*repo.Repo, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.clones[top]; r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("repo=%s is no clone of %s that was added here: write repo PATH to the daemon's ctl first", top, e.Namespace)
}

// reopen returns the clone that a run was queued in by a process which has died. Another
// one of the namespace may have been added since.
func (e *Executor) reopen(ctx context.Context, top string) (*repo.Repo, error) {
	if r, err := e.clone(ctx, top); err == nil {
		return r, nil
	}
	r, err := repo.Open(ctx, top)
	if err != nil {
		return nil, fmt.Errorf("the clone in which the run was asked for: %w", err)
	}
	if ns, ok := r.Origin(); ok && ns != e.Namespace || !ok && !ci.LocalNamespace(e.Namespace) {
		return nil, fmt.Errorf("%s, in which the run was asked for, is no clone of %s any more", top, e.Namespace)
	}
	return r, nil
}

// create makes a run for req. With share it returns instead the unfinished run with the
// same key, if there is one.
func (e *Executor) create(req Request, key ci.Attrs, share bool) (*store.Run, *unfinished, error) {
	digest := replay.Digest(key)
	e.mu.Lock()
	defer e.mu.Unlock()
	if share {
		for _, u := range e.unfinished {
			if u.key == digest && u.ctx.Err() == nil { // a run that is being cancelled does not count
				e.want(u, req.Wanted)
				return nil, u, nil
			}
		}
	}
	run, err := e.Store.Create(req.Commit)
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(run.SetKey(key), run.SetAsked(asked(req)))
	if err == nil {
		err = run.SetInfo(ci.Attrs{
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
	u := e.addUnfinished(run.ID(), digest)
	e.want(u, req.Wanted)
	return run, u, nil
}

// want notes that one more wants a run, until wanted ends. The caller holds e.mu.
func (e *Executor) want(u *unfinished, wanted context.Context) {
	u.wanted[wanted] = true
	if wanted != nil {
		context.AfterFunc(wanted, func() { e.leave(u.id, wanted) })
	}
}

// leave notes that one wants a run no more, and cancels the run if it was the last. ok is
// false if that one did not want it, and others reports whether the run goes on.
func (e *Executor) leave(id string, wanted context.Context) (others, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.unfinished[id]
	if u == nil || wanted == nil || !u.wanted[wanted] {
		return false, false
	}
	delete(u.wanted, wanted)
	if len(u.wanted) == 0 {
		u.cancel(errors.New("cancelled: nobody waits for it any more"))
	}
	return len(u.wanted) > 0, true
}

// addUnfinished notes that a run has not ended. The caller holds e.mu.
func (e *Executor) addUnfinished(id, key string) *unfinished {
	u := &unfinished{id: id, key: key, wanted: make(map[context.Context]bool), decided: make(chan struct{}), done: make(chan struct{})}
	u.ctx, u.cancel = context.WithCancelCause(e.Context)
	if e.unfinished == nil {
		e.unfinished = make(map[string]*unfinished)
	}
	e.unfinished[id] = u
	return u
}

// do runs the steps of a run. Whatever goes wrong, those that wait for the run see its
// end.
func (e *Executor) do(run *store.Run, req Request, u *unfinished) error {
	defer run.Abandon() // if it could not be sealed
	r := &activeRun{e: e, req: req, cfg: req.Config, run: run, mask: newMask(req.Config.Secrets)}
	r.stdout, r.stderr = r.mask.writer(run.Stdout()), r.mask.writer(run.Stderr())
	e.Log.Info("run", "run", u.id, "commit", req.Commit)
	err := r.live(u.ctx)
	if err != nil {
		e.Log.Error("run", "run", u.id, "err", err)
	}
	return err
}

// scratch makes a directory for what a run needs on the host while it goes on,
// and removes those that killed processes left.
func scratch() (string, error) {
	old, err := iofs.Glob(os.DirFS(os.TempDir()), "9ci-*-*")
	if err != nil {
		return "", err
	}
	for _, name := range old {
		var pid int
		if n, _ := fmt.Sscanf(name, "9ci-%d-", &pid); n == 1 && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(filepath.Join(os.TempDir(), name))
		}
	}
	return home.TempDir("")
}

func (e *Executor) forget(u *unfinished) {
	u.cancel(nil)
	e.mu.Lock()
	delete(e.unfinished, u.id)
	e.mu.Unlock()
	close(u.done)
}

// Tree returns ci(4) of the store, with this executor behind its ctls.
func (e *Executor) Tree() fs.Dir {
	e.treeOnce.Do(func() { e.tree = store.NewTree(e.Store, e) })
	return e.tree
}

// Find returns the run that rev, a name below /ci, stands for.
func (e *Executor) Find(ctx context.Context, rev string) (store.Entry, error) {
	n, err := fs.Walk(ctx, e.Tree(), "ci/"+rev)
	if err != nil {
		return store.Entry{}, fmt.Errorf("ci/%s: %w", rev, err)
	}
	st, err := n.Stat(ctx)
	if err != nil {
		return store.Entry{}, err
	}
	if st.Target != "" {
		rev = st.Target
	}
	return e.Store.Get(rev)
}

// sealed returns the id of the run that rev stands for, if that has ended.
func (e *Executor) sealed(ctx context.Context, rev string) (id string, ok bool) {
	run, err := e.Find(ctx, rev)
	return run.ID, err == nil && run.Run == nil
}

// SetRepo names the clone that revisions are taken from. From then on head and
// green are about the HEAD of that clone, or, if the last run was asked for in
// that clone, about the commit of that run.
func (e *Executor) SetRepo(r *repo.Repo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.repo = r
	if e.clones == nil {
		e.clones = make(map[string]*repo.Repo)
	}
	e.clones[r.Top] = r
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

// Wait blocks until a run that Submit started has ended. The error says why the
// run could not be kept. Wait returns nil at once for a run that has ended or was
// not started here.
func (e *Executor) Wait(id string) error {
	e.mu.Lock()
	u := e.unfinished[id]
	e.mu.Unlock()
	if u == nil {
		return nil
	}
	<-u.done
	return u.err
}

// Close waits until every run has ended. End e.Context first.
func (e *Executor) Close() { e.wg.Wait() }

// Drain waits until the runs that go on have ended, and then, for as long as the grace, until
// those that wait for them have left: they may still be reading how. End e.Context first.
func (e *Executor) Drain(grace time.Duration) {
	e.mu.Lock()
	going := slices.Collect(maps.Values(e.unfinished))
	e.mu.Unlock()
	for _, u := range going {
		<-u.done
	}
	over := time.After(grace)
	for _, u := range going {
		e.mu.Lock()
		wanted := slices.Collect(maps.Keys(u.wanted))
		e.mu.Unlock()
		for _, w := range wanted {
			if w == nil { // it does not wait
				continue
			}
			select {
			case <-w.Done():
			case <-over:
				return
			}
		}
	}
}

// Cancel ends a run of this executor that goes on. It is an error if none has
// that id.
func (e *Executor) Cancel(id string) error {
	e.mu.Lock()
	u := e.unfinished[id]
	e.mu.Unlock()
	if u == nil {
		return fmt.Errorf("%s is not running here", id)
	}
	u.cancel(errors.New("cancelled by a message to ctl"))
	return nil
}
