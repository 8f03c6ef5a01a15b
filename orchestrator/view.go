package orchestrator

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/door"
	"9ci/proto/mux"
	"9ci/proto/ninep"
)

// A view is the tree as one session of a client sees it. It holds the session's
// own links to executors, so that a slow session delays no other. It makes each
// link when the session first needs it.
type view struct {
	c      *conn
	ctx    context.Context // of the session: links end with it
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	peers   map[*share]*peer
	readers map[*member]*reader // nil once the view is closed
	uses    map[string]func()   // namespaces that it has entered, and what ends that
}

// A peer is a session's link to one executor.
type peer struct {
	ready chan struct{} // closed when root or err is set
	root  fs.Dir
	err   error
}

func newView(ctx context.Context, c *conn) *view {
	v := &view{c: c, peers: map[*share]*peer{}, readers: map[*member]*reader{}}
	v.ctx, v.cancel = context.WithCancel(ctx)
	return v
}

// door returns the view as a session's tree.
func (v *view) door() *door.Tree {
	return &door.Tree{
		User:    v.c.login.User(),
		Whoami:  v.whoami,
		Logout:  v.c.logout,
		Told:    v.told,
		Trace:   v.c.s.trace,
		Walk:    v.walk,
		Await:   v.await,
		Serve9P: v.serve9P,
		Export:  v.export,
		Close:   v.close,
	}
}

// close ends the session's links.
func (v *view) close() {
	v.cancel()
	v.wg.Wait()
	v.mu.Lock()
	held, uses := v.readers, v.uses
	v.readers, v.uses = nil, nil
	v.mu.Unlock()
	for _, release := range uses {
		release()
	}
	for _, r := range held {
		r.letGo()
	}
}

// reader returns what the session reads a member by, or nil if it has ended.
func (v *view) reader(m *member) *reader {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.readers == nil {
		return nil
	}
	r := v.readers[m]
	if r == nil {
		r = m.hold(v.c.login)
		v.readers[m] = r
	}
	return r
}

// held returns the readers that the session holds.
func (v *view) held() []*reader {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Values(v.readers))
}

// root returns the tree of all namespaces.
func (v *view) root() fs.Dir { return place{v: v}.dir() }

// attach answers a Tattach: an aname enters a namespace, or what is below it. A
// namespace that the key may read can be entered before it is exported: the
// first executor finds nothing there, and may wait for others.
func (v *view) attach(ctx context.Context, _, aname string) (fs.Dir, error) {
	aname = strings.Trim(aname, "/")
	if ns, err := ci.CleanNamespace(aname); err == nil {
		if ok, err := v.enter(ctx, ns); err != nil {
			return nil, err
		} else if ok {
			return place{v: v, path: ns, entered: true}.dir(), nil
		}
	}
	return door.AsDir(fs.Walk(v.note(ctx, aname), v.root(), aname))
}

// walk returns what stands at a command's path. If namespace is not "", it is
// the home namespace of the root.
func (v *view) walk(ctx context.Context, namespace, path string) (fs.Node, error) {
	if namespace != "" {
		ctx = v.note(ctx, namespace)
	} else {
		ctx = v.note(ctx, path)
	}
	return door.Walk(ctx, place{v: v, home: namespace}.dir(), path)
}

// homeAfter is home that learns of what it has to know.
func (v *view) homeAfter(ctx context.Context, named string) (string, error) {
	err := error(nil)
	if named == "" && v.c.login.Home() == "" {
		err = v.learnBelow(ctx, "")
	}
	ns, herr := v.home(named)
	if herr != nil && err != nil {
		return "", err
	}
	return ns, herr
}

// home returns the home namespace: named unless it is "", else the one that the
// key's line names, else the only one that it is known that the key may read.
func (v *view) home(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	if ns := v.c.login.Home(); ns != "" {
		return ns, nil
	}
	switch all := v.namespaces(2); len(all) {
	case 0:
		return "", iofs.ErrNotExist
	case 1:
		return all[0], nil
	default:
		return "", fmt.Errorf("in which namespace? Begin the path with one, or say namespace=%s before it", all[0])
	}
}

// spaceAt returns the namespace of the elements space, or the home namespace if
// there are none. ok reports whether the session may read it.
func (v *view) spaceAt(space []string) (ns string, ok bool) {
	ns = strings.Join(space, "/")
	if ns == "" {
		var err error
		if ns, err = v.home(""); err != nil {
			return "", false
		}
	}
	return ns, v.mayRead(ns)
}

// serve9P serves the tree on rwc.
func (v *view) serve9P(ctx context.Context, rwc io.ReadWriteCloser) error {
	f := &forwarder{v}
	h := &hangup{ReadWriteCloser: rwc, f: f.abandon}
	defer h.done()
	srv := mux.Server{Local: &ninep.Server{User: v.c.login.User(), Trace: v.c.s.trace, Attach: v.attach}, Quota: &v.c.requester.quota, Stalled: v.c.stalled, Find: f.find, Alias: f.alias}
	return srv.Serve(ctx, h)
}

// export makes rwc the 9P server of an executor, until rwc hangs up or ctx is
// done. It leaves rwc open: the session says there why an export ends.
func (v *view) export(ctx context.Context, rwc io.ReadWriteCloser, path string) (err error) {
	defer func() {
		if err != nil {
			v.c.refused("announce", err)
		}
	}()
	a, err := v.c.exportPath(path)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	v.wg.Go(func() {
		_, err := io.Copy(w, rwc) // until the session closes rwc
		w.CloseWithError(err)
	})
	h := &hangupCloser{ReadWriteCloser: struct {
		*io.PipeReader
		io.Writer
	}{r, rwc}, done: make(chan struct{})}
	defer h.Close()
	e := newStdioExport(ctx, h, a.Namespaces[0])
	if _, err := e.once(); err != nil {
		return err // the exporter sees it
	}
	if _, err = v.c.join(ctx, a, e); err != nil {
		return err
	}
	select {
	case <-h.done:
	case <-ctx.Done():
	}
	v.c.withdraw(a.Name)
	return nil
}

// mayRead reports whether the session's key may read ns.
func (v *view) mayRead(ns string) bool { return v.c.login.MayRead(ns) }

// has reports whether the session sees the namespace ns: whether it may read ns,
// and ns is exported or named by the key's line.
func (v *view) has(ns string) bool {
	g := v.c.login
	return g.MayRead(ns) && (slices.Contains(g.Literals(), ns) || v.c.s.dir.exported(ns))
}

// namespaces returns up to n of the namespaces that the session sees, sorted.
func (v *view) namespaces(n int) []string {
	all := append(v.c.s.dir.namespaces(v.c.login.Grant, "", n), v.named()...)
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(n, len(all))]
}

// named returns the namespaces that the key's line names, whether or not they are
// exported.
func (v *view) named() []string {
	if !v.c.login.Read {
		return nil
	}
	return v.c.login.Literals()
}

// leads reports whether a path is a namespace that the session sees, or leads to
// one.
func (v *view) leads(path string) bool {
	return slices.ContainsFunc(v.named(), func(ns string) bool { return ns == path || strings.HasPrefix(ns, path+"/") }) ||
		len(v.c.s.dir.namespaces(v.c.login.Grant, path, 1)) > 0
}

// next returns the names in the directory path that lead to namespaces which the
// session sees, sorted.
func (v *view) next(path string) []string {
	all := v.c.s.dir.next(v.c.login.Grant, path)
	for _, ns := range v.named() {
		if rest, ok := strings.CutPrefix(ns, strings.TrimPrefix(path+"/", "/")); ok {
			name, _, _ := strings.Cut(rest, "/")
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mayWrite reports whether the session may write to files of the share. An
// executor takes commands through the orchestrator from its owner alone.
func (v *view) mayWrite(sh *share) bool { return sh.m.ownedBy(v.c.login) }

// attached returns the root of the executor's tree. If the link could not be made
// or has ended, the next call makes another.
func (v *view) attached(ctx context.Context, sh *share) (fs.Dir, error) {
	v.mu.Lock()
	p := v.peers[sh]
	if p == nil {
		p = &peer{ready: make(chan struct{})}
		v.peers[sh] = p
		v.wg.Go(func() { v.hold(sh, p) })
	}
	v.mu.Unlock()
	select {
	case <-p.ready:
		return p.root, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hold makes p's link and keeps it until the session, the share or the link
// ends.
func (v *view) hold(sh *share, p *peer) {
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.peers, sh)
	}()
	r := v.reader(sh.m)
	if r == nil {
		p.err = context.Canceled
		close(p.ready)
		return
	}
	l, err := r.attach(v.ctx, sh)
	sh.m.judge(err)
	if err != nil {
		p.err = err
		close(p.ready)
		return
	}
	defer l.hangup()
	p.root = l.root
	close(p.ready)
	select {
	case <-l.done:
	case <-sh.ctx.Done():
	case <-v.ctx.Done():
	}
}
