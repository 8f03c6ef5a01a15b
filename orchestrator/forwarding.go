package orchestrator

import (
	"context"
	"io"
	"maps"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/mux"
	"9ci/proto/ninep"
)

// A 9P session's messages for an executor's tree are forwarded as they are, by
// proto/mux: a burst stays a burst, and nothing waits for a round trip of the
// mux's own. What commands and sftp read, and ci/<rev>, goes by remote instead,
// and so does an export by stock ssh, which cannot tell who asks: there the mux
// itself sees to it that nobody but the exporter writes.

// A backend is the way of one key's sessions to one share: they have a
// connection to the executor in common, for each dialect.
type backend struct {
	*mux.Backend
	refs int // sessions that hold it; guarded by backends' mu
}

// backends are those of one share, by the fingerprint of the key.
type backends struct {
	mu    sync.Mutex // guards what follows
	byKey map[string]*backend
}

// hold returns the backend of the session's key, which it holds until let go.
func (sh *share) hold(l *access.Login) *backend {
	requester := l.String()
	sh.backends.mu.Lock()
	defer sh.backends.mu.Unlock()
	b := sh.backends.byKey[requester]
	if b == nil {
		dial := func(ctx context.Context, _ ninep.Dialect) (io.ReadWriteCloser, error) { return sh.dial(ctx, requester) }
		b = &backend{Backend: mux.NewBackend(dial, sh.ns)}
		b.ReadOnly = requester != sh.m.key // an executor is commanded by its own key alone
		if sh.backends.byKey == nil {
			sh.backends.byKey = map[string]*backend{}
		}
		sh.backends.byKey[requester] = b
	}
	b.refs++
	return b
}

// letGo ends a hold. The last one closes the backend's connections.
func (sh *share) letGo(l *access.Login, b *backend) {
	sh.backends.mu.Lock()
	b.refs--
	last := b.refs == 0
	if requester := l.String(); last && sh.backends.byKey[requester] == b {
		delete(sh.backends.byKey, requester)
	}
	sh.backends.mu.Unlock()
	if last {
		b.Close()
	}
}

// dial opens a connection to the share's executor for a backend. It ends with
// the share.
func (sh *share) dial(ctx context.Context, requester string) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	defer context.AfterFunc(sh.ctx, cancel)()
	msg := sh.m.message(sh.ns, requester)
	ch, err := sh.m.conn.dial(ctx, wire.ChannelExport, ssh.Marshal(&msg))
	if err != nil {
		return nil, sh.m.fail(err)
	}
	w := &watchedConn{ReadWriteCloser: ch, suspect: sh.m.conn.suspect}
	w.first = time.AfterFunc(openTimeout, func() { ch.Close() })
	w.stop = context.AfterFunc(sh.ctx, func() { ch.Close() })
	return w, nil
}

// A watchedConn is a connection to an executor from which answers are expected.
// One that does not begin to answer is closed; while one that did is silent, the
// executor is asked whether it is there.
type watchedConn struct {
	io.ReadWriteCloser
	suspect func()
	stop    func() bool
	first   *time.Timer // closes it unless something is read

	mu      sync.Mutex  // guards waiting
	waiting *time.Timer // runs while something was written and nothing read since
}

func (w *watchedConn) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.waiting == nil {
		w.waiting = time.AfterFunc(opTimeout, func() {
			w.rest() // the next write waits anew
			w.suspect()
		})
	}
	w.mu.Unlock()
	return w.ReadWriteCloser.Write(p)
}

func (w *watchedConn) Read(p []byte) (int, error) {
	n, err := w.ReadWriteCloser.Read(p)
	w.first.Stop()
	w.rest()
	return n, err
}

func (w *watchedConn) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting != nil {
		w.waiting.Stop()
		w.waiting = nil
	}
}

func (w *watchedConn) Close() error {
	w.stop()
	w.first.Stop()
	w.rest()
	return w.ReadWriteCloser.Close()
}

// A forwarder finds the backends of one session.
type forwarder struct {
	v    *view
	mu   sync.Mutex // guards held
	held map[*share]*backend
	l    *access.Login // whose they are
}

func newForwarder(v *view) *forwarder {
	return &forwarder{v: v, held: map[*share]*backend{}, l: v.c.login}
}

// find returns the backend at a path of the mux's tree, n/<executor> of a
// namespace, or nil.
func (f *forwarder) find(path []string) *mux.Backend {
	if len(path) < 2 || path[len(path)-2] != "n" {
		return nil
	}
	sh := f.v.shareAt(path[:len(path)-2], path[len(path)-1])
	if sh == nil {
		return nil
	}
	if _, ok := sh.m.exporter.(reverseExport); !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		return nil // closed
	}
	b := f.held[sh]
	if b == nil {
		b = sh.hold(f.l)
		f.held[sh] = b
	}
	return b.Backend
}

// close lets go of all. The session has ended.
func (f *forwarder) close() {
	f.mu.Lock()
	held := f.held
	f.held = nil
	f.mu.Unlock()
	for sh, b := range held {
		sh.letGo(f.l, b)
	}
}

// abandon gives up executors that do not let the session go: they have not
// answered its flushes. Other sessions of the same key attach there anew.
func (f *forwarder) abandon() {
	f.mu.Lock()
	held := maps.Clone(f.held)
	f.mu.Unlock()
	for sh, b := range held {
		sh.unlist(b)
		b.Close()
	}
}

// unlist keeps b from being found again.
func (sh *share) unlist(b *backend) {
	sh.backends.mu.Lock()
	defer sh.backends.mu.Unlock()
	for key, x := range sh.backends.byKey {
		if x == b {
			delete(sh.backends.byKey, key)
		}
	}
}

// A hangup is a client's connection that calls f when the client has been gone
// for opTimeout and is not done with.
type hangup struct {
	io.ReadWriteCloser
	f func()

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

func (h *hangup) Read(p []byte) (int, error) {
	n, err := h.ReadWriteCloser.Read(p)
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.timer == nil {
			h.timer = time.AfterFunc(opTimeout, h.f)
		}
	}
	return n, err
}

func (h *hangup) done() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
	}
}
