// Package daemon is an executor for many repositories: 9ci serve. They share one queue,
// and one tree has them at their namespaces.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
)

// A Daemon has a host for each repository. Its methods may be called by several
// goroutines at once.
type Daemon struct {
	options host.Options
	config  *config.Config
	ctx     context.Context // ends every run
	cancel  context.CancelCauseFunc
	trees   fs.Namespaces
	root    fs.Dir
	repos   repoList

	mu      sync.Mutex // guards members
	members map[string]*member
}

// A member is a repository that has been named, by its namespace.
type member struct {
	changing sync.Mutex                // held while host is made, is given another clone, or is closed
	host     atomic.Pointer[host.Host] // nil: it could not be made yet
}

// Options are what a daemon is made of besides its user's configuration.
type Options struct {
	Version string                            // of this program
	Tool    func(name string) (string, error) // see executor.Executor
	Direct  *dial.Direct                      // see host.Options
	Adopt   bool                              // take in the passed runs of others
	Jobs    int                               // see executor.Queue
	Log     *slog.Logger
}

// New makes the daemon, and takes up every repository that this user's daemons
// served before. One that cannot be opened is logged and stays in the list. The
// runs end with ctx, or when Close is called.
func New(ctx context.Context, o Options) (*Daemon, error) {
	c, err := config.Load(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	state, err := home.State()
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		options: host.Options{Mode: "daemon", Version: o.Version, Tool: o.Tool, Queue: &executor.Queue{Jobs: o.Jobs}, Adopts: o.Adopt, Direct: o.Direct, Log: o.Log},
		config:  c,
		repos:   repoList{filepath.Join(state, ".repos")}, // no namespace has a name with a dot before it
		members: make(map[string]*member),
	}
	tops, err := d.repos.read()
	if err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	d.root = d.trees.Root([]fs.Node{
		fs.CtlFile("ctl", "repo PATH\n", d.command),
		fs.TextFile("status", d.status),
		d.trees.Gather("event", ci.NamespaceEvent),
	}, "event")
	for _, top := range tops {
		if _, err := d.add(ctx, top); err != nil {
			err = fmt.Errorf("%w: it is tried again when the daemon next starts, unless its line is taken out of %s", err, d.repos.name)
			o.Log.Error("repository", "path", top, "err", err)
		}
	}
	return d, nil
}

// Root is the tree that the daemon serves.
func (d *Daemon) Root() fs.Dir { return d.root }

// Executor returns the executor of a namespace, or nil.
func (d *Daemon) Executor(namespace string) *executor.Executor {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.members[namespace]; m != nil {
		if h := m.host.Load(); h != nil {
			return h.Executor
		}
	}
	return nil
}

// drainGrace is how long those that wait for a run may take to read how it has ended.
const drainGrace = 2 * time.Second

// Drain ends every run, and waits for it and for those that wait for it. What was queued
// and has not begun stays so for the next daemon.
func (d *Daemon) Drain() {
	var wg sync.WaitGroup
	for _, m := range d.end() {
		if h := m.host.Load(); h != nil {
			wg.Go(func() { h.Executor.Drain(drainGrace) })
		}
	}
	wg.Wait()
}

// end cancels all that goes on, and returns the members.
func (d *Daemon) end() []*member {
	d.cancel(errors.New("the daemon ends"))
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.members))
}

// Close ends every run and waits for it.
func (d *Daemon) Close() {
	for _, m := range d.end() {
		m.changing.Lock() // no host is made once d.ctx has ended
		if h := m.host.Swap(nil); h != nil {
			h.Close()
		}
		m.changing.Unlock()
	}
}

// member returns that of a namespace.
func (d *Daemon) member(namespace string) *member {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.members[namespace]
	if m == nil {
		m = new(member)
		d.members[namespace] = m
	}
	return m
}

// add serves the repository at path, if the daemon does not do so already, and
// returns its namespace.
func (d *Daemon) add(ctx context.Context, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("repo %s: want an absolute path", path)
	}
	if strings.ContainsRune(path, '\n') { // the list has one a line
		return "", fmt.Errorf("repo %q: a path with a newline cannot be kept: rename the directory", path)
	}
	rp, err := repo.Open(ctx, path)
	if err != nil {
		return "", err
	}
	c, err := config.Load(ctx, rp, nil)
	if err != nil {
		return "", err
	}
	if _, err := sign.LoadKey(c.Key); err != nil { // which it makes, if this is the first use
		return "", err
	}
	ns, err := host.Namespace(rp, c)
	if err != nil {
		return "", err
	}
	m := d.member(ns)
	m.changing.Lock() // those of other namespaces do not wait for the disk that has this one
	defer m.changing.Unlock()
	if err := context.Cause(d.ctx); err != nil {
		return "", err
	}
	if h := m.host.Load(); h != nil {
		// This may be another clone of the same repository: the one last
		// named has the revisions that are asked for.
		old := h.Executor.Repo().Top
		h.Executor.SetRepo(rp)
		return ns, d.repos.replace(old, rp.Top)
	}
	o := d.options
	o.Log = o.Log.With("repo", ns)
	o.Say = func(format string, args ...any) { o.Log.Info(fmt.Sprintf(format, args...)) }
	h, err := host.New(d.ctx, rp, c, o)
	if err != nil {
		return "", err
	}
	h.Executor.Warn(c)
	d.trees.Add(ns, h.Executor.Tree())
	m.host.Store(h)
	h.Export(d.ctx)
	h.Start(d.ctx)
	if o.Adopts {
		h.Adopt(d.ctx)
	}
	return ns, d.repos.replace(rp.Top, rp.Top)
}

// command does what a line written to the daemon's own ctl says.
func (d *Daemon) command(ctx context.Context, line string) (string, error) {
	words, err := ci.SplitWords(line)
	if err != nil {
		return "", err
	}
	if len(words) != 2 || words[0] != "repo" {
		return "", errors.New("want repo PATH")
	}
	return d.add(ctx, words[1])
}

// counts are the attributes of a status that the daemon adds up.
var counts = []string{"running", "queued", "kept"}

// status is the text of the daemon's own status: the runs of all its
// repositories are counted.
func (d *Daemon) status(ctx context.Context) ([]byte, error) {
	sums := make([]int, len(counts))
	for _, ns := range d.trees.Names() {
		st, err := ask.Attrs(ctx, d.root, ns+"/status")
		if err != nil {
			return nil, err
		}
		for i, name := range counts {
			n, err := strconv.Atoi(st.Get(name))
			if err != nil {
				return nil, fmt.Errorf("%s/status: %s: %w", ns, name, err)
			}
			sums[i] += n
		}
	}
	var all ci.Attrs
	for i, name := range counts {
		all = append(all, ci.Attr{Name: name, Value: strconv.Itoa(sums[i])})
	}
	o := d.options
	return executor.Status(o.Mode, o.Version, d.config, o.Queue, all).Text(), nil
}
