package orchestrator

import (
	"io"
	"sync"
	"time"

	"9ci/orchestrator/access"
	"9ci/proto/mux"
)

// Proto/mux forwards a 9P session's messages for an executor's tree as they are:
// a burst stays a burst, and nothing waits for a round trip of the mux's own.
// Commands and sftp read through remote instead. So do all sessions at
// an export by stock ssh: it does not learn the requester, so the mux itself keeps
// other keys than the exporter's from writing there.

// backendKey tells apart the logins that an executor tells apart: several keys may
// have certificates of one identity.
func backendKey(l *access.Login) string { return l.String() + " " + l.Owner() }

// A watchedConn is a connection to an executor that is expected to answer. It is
// closed if nothing has been read from it openTimeout after its dial. After that,
// a write that is not followed by a read within opTimeout has the executor
// probed.
type watchedConn struct {
	io.ReadWriteCloser
	suspect func()
	first   *time.Timer // closes it unless something is read

	mu      sync.Mutex  // guards waiting
	waiting *time.Timer // runs while something was written and nothing read since
}

func newWatchedConn(ch io.ReadWriteCloser, m *member) *watchedConn {
	return &watchedConn{
		ReadWriteCloser: ch, suspect: m.conn.suspect,
		first: time.AfterFunc(openTimeout, func() {
			m.judge(errSilent)
			ch.Close()
		}),
	}
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
	w.first.Stop()
	w.rest()
	return w.ReadWriteCloser.Close()
}

// A forwarder finds the backends of one session.
type forwarder struct{ v *view }

// find returns the backend at a path of the mux's tree that ends in n/<executor>,
// or nil.
func (f *forwarder) find(path []string) *mux.Backend {
	if len(path) < 2 || path[len(path)-2] != "n" {
		return nil
	}
	ns, ok := f.v.spaceAt(path[:len(path)-2])
	if !ok {
		return nil
	}
	sh := f.v.c.s.dir.share(ns, path[len(path)-1])
	if sh == nil || f.v.hides(sh) { // what is forwarded, nobody looks at
		return nil
	}
	if _, ok := sh.m.exporter.(reverseExport); !ok {
		return nil
	}
	r := f.v.reader(sh.m)
	if r == nil {
		return nil // closed
	}
	return r.at(sh.ns)
}

// alias reports whether a path of the mux's tree ends in ci/<rev> or
// artifacts/<rev>, and returns the version of what the namespace has of runs.
func (f *forwarder) alias(path []string) (version uint64, ok bool) {
	if len(path) < 2 || path[len(path)-2] != "ci" && path[len(path)-2] != "artifacts" {
		return 0, false
	}
	ns, ok := f.v.spaceAt(path[:len(path)-2])
	if !ok {
		return 0, false
	}
	return f.v.c.s.dir.version(ns)
}

// abandon gives up executors that keep the session from ending: they have not
// answered its flushes. Other sessions attach there anew.
func (f *forwarder) abandon() {
	for _, r := range f.v.held() {
		r.reset()
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
