// Package mux is a 9P mux: one tree that is made of a local tree and of other
// servers' trees, bound at directories of it.
//
// A walk that comes to such a directory goes on at the backend, and from there
// on messages are forwarded as they are: only tags, fids, and the paths of qids
// are rewritten in place, and nothing is translated. So a backend has one
// session for each dialect, which all clients share. The local tree is served
// by package ninep, a session for each client.
//
// A client's requests reach a session in their order, so a burst works through
// the mux as it does without it. A client that does not read its replies is not
// read from any more, and its reads ask for less; nobody else waits for it.
package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// A Server is the mux as one client sees it.
type Server struct {
	// Local serves what is no backend's. Directories that backends are
	// bound at must be there too: they are what a listing shows, and who
	// may not walk to one does not reach the backend.
	Local *ninep.Server

	// Find returns the backend that is bound at a path, the names below
	// the root that an attach with an empty aname gets; nil if there is
	// none. It must not block.
	Find func(path []string) *Backend
}

// Serve answers the requests that arrive on rwc until it hangs up, breaks the
// protocol, or ctx is done. It closes rwc, and returns when the backends have
// forgotten the client: his requests are flushed and his fids clunked.
func (s *Server) Serve(ctx context.Context, rwc io.ReadWriteCloser) error {
	c := newClient(s, rwc)
	err := c.serve(ctx)
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

// A Backend is another server's tree. Its sessions are dialled when they are
// needed, and again after they were lost.
type Backend struct {
	// ReadOnly refuses to open any of its files for writing. It is set
	// before the Backend is used.
	ReadOnly bool

	dial  func(ctx context.Context, d ninep.Dialect) (io.ReadWriteCloser, error)
	aname string
	salt  uint64 // tells the qid.paths of backends apart

	mu       sync.Mutex // guards what follows
	sessions map[ninep.Dialect]*dialled
	closed   bool
}

// A dialled is a session, or will be.
type dialled struct {
	ready chan struct{} // closed when s or err is set
	s     *session
	err   error
}

// NewBackend returns the tree that aname names at the server that dial
// connects to. The server must answer in order, as package ninep's does.
func NewBackend(dial func(context.Context, ninep.Dialect) (io.ReadWriteCloser, error), aname string) *Backend {
	return &Backend{
		dial: dial, aname: aname, salt: rand.Uint64() & (1<<56 - 1),
		sessions: make(map[ninep.Dialect]*dialled),
	}
}

// Close ends the sessions. What clients have open there is lost, and new
// walks fail.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	var all []*dialled
	for _, d := range b.sessions {
		all = append(all, d)
	}
	b.mu.Unlock()
	for _, d := range all {
		if <-d.ready; d.s != nil {
			d.s.close()
		}
	}
	return nil
}

// session returns the session of dialect d, which several may wait for.
func (b *Backend) session(ctx context.Context, d ninep.Dialect) (*session, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, fmt.Errorf("backend is closed: %w", fs.ErrIO)
	}
	ds := b.sessions[d]
	if ds == nil || ds.over() {
		ds = &dialled{ready: make(chan struct{})}
		b.sessions[d] = ds
		go func() { // outlives whoever asked first: others wait for it too
			ds.s, ds.err = b.open(context.WithoutCancel(ctx), d)
			close(ds.ready)
		}()
	}
	b.mu.Unlock()
	select {
	case <-ds.ready:
		return ds.s, ds.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// over reports whether a new session must be dialled.
func (ds *dialled) over() bool {
	select {
	case <-ds.ready:
	default:
		return false
	}
	if ds.s == nil {
		return true
	}
	select {
	case <-ds.s.done:
		return true
	default:
		return false
	}
}

func (b *Backend) open(ctx context.Context, d ninep.Dialect) (*session, error) {
	rwc, err := b.dial(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrIO, err)
	}
	return openSession(ctx, rwc, d, wire.MaxMsize, b.salt)
}

// local starts the session of one client with the local tree.
func (s *Server) local(ctx context.Context, d ninep.Dialect, msize uint32, peer fs.User) (*session, <-chan struct{}, error) {
	near, far := net.Pipe()
	srv := &ninep.Server{Root: s.Local.Root, Attach: s.Local.Attach, User: peer}
	ended := make(chan struct{})
	go func() {
		srv.Serve(ctx, far)
		close(ended)
	}()
	l, err := openSession(ctx, near, d, msize, 0)
	if err != nil {
		near.Close()
		<-ended
	}
	return l, ended, err
}

var errLost = fmt.Errorf("backend is gone: %w", fs.ErrIO)

// isError reports whether typ tells of an error.
func isError(typ uint8) bool { return typ == plan9.Rerror || typ == wire.Rlerror }
