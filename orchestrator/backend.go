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

// Proto/mux forwards a 9P session's messages for an executor's tree as they are:
// a burst stays a burst, and nothing waits for a round trip of the mux's own.
// Commands, sftp and ci/<rev> read through remote instead. So do all sessions at
// an export by stock ssh: it does not learn the requester, so the mux itself keeps
// other keys than the exporter's from writing there.

// A backend is what the sessions of one key have in common at one share: a
// connection to the executor for each dialect.
type backend struct {
	*mux.Backend
	refs int // sessions that hold it; guarded by backends' mu
}

// backends are the backends of one share.
type backends struct {
	mu    sync.Mutex          // guards what follows
	byKey map[string]*backend // by the identity and the key of the login
}

// backendKey tells apart the logins that an executor tells apart: several keys may
// have certificates of one identity.
func backendKey(l *access.Login) string { return l.String() + " " + l.Owner() }

// hold returns the backend of a login. The session must call letGo.
func (sh *share) hold(l *access.Login) *backend {
	key := backendKey(l)
	sh.backends.mu.Lock()
	defer sh.backends.mu.Unlock()
	b := sh.backends.byKey[key]
	if b == nil {
		dial := func(ctx context.Context, _ ninep.Dialect) (io.ReadWriteCloser, error) { return sh.dial(ctx, l) }
		b = &backend{Backend: mux.NewBackend(dial, sh.ns)}
		b.ReadOnly = !sh.m.ownedBy(l) // an executor takes commands from its owner alone
		if sh.backends.byKey == nil {
			sh.backends.byKey = map[string]*backend{}
		}
		sh.backends.byKey[key] = b
		sh.m.conn.backends.Store(b, nil)
	}
	b.refs++
	return b
}

// letGo undoes hold. The last letGo closes the backend's connections.
func (sh *share) letGo(l *access.Login, b *backend) {
	sh.backends.mu.Lock()
	b.refs--
	last := b.refs == 0
	if key := backendKey(l); last && sh.backends.byKey[key] == b {
		delete(sh.backends.byKey, key)
	}
	sh.backends.mu.Unlock()
	if last {
		sh.m.conn.backends.Delete(b)
		b.Close()
	}
}

// dial opens a connection to the share's executor for a backend. The connection
// ends with the share.
func (sh *share) dial(ctx context.Context, l *access.Login) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	defer context.AfterFunc(sh.ctx, cancel)()
	msg := sh.m.message(sh.ns, l)
	ch, err := sh.m.conn.dialAnyway(ctx, wire.ChannelExport, ssh.Marshal(&msg))
	if err != nil {
		err = sh.m.fail(err)
		sh.judge(err)
		return nil, err
	}
	w := &watchedConn{ReadWriteCloser: ch, suspect: sh.m.conn.suspect}
	w.first = time.AfterFunc(openTimeout, func() {
		sh.judge(errSilent)
		ch.Close()
	})
	w.stop = context.AfterFunc(sh.ctx, func() { ch.Close() })
	return w, nil
}

// A watchedConn is a connection to an executor that is expected to answer. It is
// closed if nothing has been read from it openTimeout after its dial. After that,
// a write that is not followed by a read within opTimeout has the executor
// probed.
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
	l    *access.Login // of the session
}

func newForwarder(v *view) *forwarder {
	return &forwarder{v: v, held: map[*share]*backend{}, l: v.c.login}
}

// find returns the backend at a path of the mux's tree that ends in n/<executor>,
// or nil.
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

// close lets go of all backends: the session has ended.
func (f *forwarder) close() {
	f.mu.Lock()
	held := f.held
	f.held = nil
	f.mu.Unlock()
	for sh, b := range held {
		sh.letGo(f.l, b)
	}
}

// abandon gives up executors that keep the session from ending: they have not
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

// unlist keeps hold from finding b again.
func (sh *share) unlist(b *backend) {
	sh.backends.mu.Lock()
	defer sh.backends.mu.Unlock()
	for key, x := range sh.backends.byKey {
		if x == b {
			delete(sh.backends.byKey, key)
		}
	}
}

// A hangup is a client's connection that calls f if done has not been called
// opTimeout after the client has gone.
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
