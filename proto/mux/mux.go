// Package mux is a 9P mux: one tree that is made of a local tree and of the
// trees of other servers, its backends, bound at directories of the local one.
//
// A walk that comes to such a directory goes on at the backend, and so does one
// that goes on through an alias, a link of the local tree that leads to a file
// below such a directory. From there on
// the mux forwards messages as they are: it rewrites tags, fids and the paths of
// qids in place, and translates nothing. So a backend has one session for each
// dialect, which all clients share. The local tree is served by package ninep,
// with a session for each client.
//
// A client's requests reach a session in their order, so a burst works through
// the mux as it does without. From a client that does not read its replies the
// mux reads no more requests, and its reads ask for less. A session at which it is
// alone is not read on either; no other client waits for it.
//
// The mux checks what backends say: the layout and order of answers, their sizes,
// and the names in listings, which must be printable. An answer that nobody asked
// for or that has the wrong layout ends the session, and the clients' fids there
// with it. A name that no file may have fails the request alone.
package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// A Server is the mux as one client sees it.
type Server struct {
	// Local serves all that is not a backend's. It has the directories too
	// at which backends are bound: listings show them, and a client that
	// may not walk to one does not reach its backend. Its User is the
	// client's where the connection is no Unix socket, and its Trace gets
	// the messages of the client. Its Log is not used.
	Local *ninep.Server

	// Quota is that of the client's requester; nil: it may have what each of its
	// clients may.
	Quota *Quota

	// Stalled is called to hang up on a client that takes no replies for one
	// wire.StallTime or two, while its requester has more bytes than it may; nil:
	// the connection is closed.
	Stalled func()

	// Find returns the backend that is bound at a path, or nil. The path is
	// the names below the root that an attach with an empty aname gets; they
	// are as the client sent them and need not exist. Find is called for
	// each name of a walk with the client's lock held: it must not block. A
	// nil Find finds none.
	Find func(path []string) *Backend

	// Alias reports whether a path may be that of an alias: a directory of the
	// local tree that is a symbolic link in 9P2000.L. If its target is below a
	// directory at which Find has a backend, what is below the alias is that
	// backend's. Where it leads is looked up once for each version. Alias is
	// called as Find is. A nil Alias knows none.
	Alias func(path []string) (version uint64, ok bool)
}

// Serve answers the requests that arrive on rwc until rwc hangs up, its client
// breaks the protocol, or ctx is done. It closes rwc, and returns when the
// backends have forgotten the client: its requests are flushed and its fids are
// being clunked. A hangup between two frames, and the end of ctx, are no errors.
func (s *Server) Serve(ctx context.Context, rwc io.ReadWriteCloser) error {
	c := newClient(s, rwc)
	err := c.serve(ctx)
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

// A Quota is what one requester has, by all its clients together. The zero Quota
// has nothing.
type Quota struct {
	fids, requests atomic.Int64

	// Of data that is asked for, of requests that are held, and of replies that
	// clients have not taken.
	bytes atomic.Int64

	mu      sync.Mutex        // guards what follows; taken before that of a Sender
	clients map[*client]int64 // what each had taken when the timer was set; -1: it was not there
	timer   *time.Timer       // runs while there are more bytes than may be
}

func (q *Quota) enter(c *client) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.clients == nil {
		q.clients = make(map[*client]int64)
	}
	q.clients[c] = -1
}

func (q *Quota) leave(c *client) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.clients, c)
}

// watch has clients that stall hung up on if no bytes are left.
func (q *Quota) watch() {
	if q.left() > 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer == nil {
		q.note()
		q.timer = time.AfterFunc(wire.StallTime, q.check)
	}
}

// note notes what each client has taken. q.mu is held.
func (q *Quota) note() {
	for c := range q.clients {
		_, q.clients[c] = c.out.Progress()
	}
}

// check hangs up on the clients that have taken nothing since note.
func (q *Quota) check() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left() > 0 || len(q.clients) == 0 {
		q.timer = nil
		return
	}
	for c, before := range q.clients {
		if queued, taken := c.out.Progress(); queued > 0 && taken == before {
			go c.stalled() // to close an SSH channel may block
		}
	}
	q.note()
	q.timer.Reset(wire.StallTime)
}

// Limits of a Quota. The fewer bytes are left, the less a read gets, but it always
// gets leastRead, so bytes may go beyond quotaBytes by that for each of quotaRequests:
// only then requests are refused. Beyond quotaBytes a client has to take its replies
// before its next request is read, and is hung up on if it takes none between two
// looks, which are wire.StallTime apart.
//
// A session that several requesters share is crowded when it has half of what a server
// of package ninep grants one connection. From then on it takes no more from a
// requester that has over a fair share, so that one that comes later gets its own.
const (
	quotaFids     = 1 << 15
	quotaRequests = 1 << 14
	quotaBytes    = 256 << 20

	crowdedFids     = 1 << 15
	crowdedRequests = 1 << 11
	fairFids        = 1 << 10
	fairRequests    = 1 << 6
)

func (q *Quota) full() bool { return q != nil && q.fids.Load() >= quotaFids }

// left returns how many bytes are left.
func (q *Quota) left() int {
	if q == nil {
		return quotaBytes
	}
	return quotaBytes - int(q.bytes.Load())
}

// A Backend is another server's tree. It dials its sessions when they are needed,
// and again after they were lost. Any number of Servers may share one.
type Backend struct {
	// ReadOnly makes every open for writing fail with "Permission denied".
	// It is set before the Backend is used.
	ReadOnly bool

	// Own says that the sessions are of one requester alone. It is set before
	// the Backend is used.
	Own bool

	// Local reports whether the Server's local tree has what is at a path below
	// the Backend's root, in place of the Backend. It is asked for paths of up to
	// maxLocal names, and must not block. It is set before the Backend is used.
	Local func(path []string) bool

	aname string
	salt  uint64 // tells the qid.paths of backends apart
	*sessions
}

// sessions are those of one server, which the Backends of its trees share.
type sessions struct {
	dial func(ctx context.Context, d ninep.Dialect) (io.ReadWriteCloser, error)

	mu     sync.Mutex // guards what follows
	all    map[ninep.Dialect]*dialled
	closed bool
}

// A dialled is a session, or will be.
type dialled struct {
	ready chan struct{} // closed when s or err is set
	s     *session
	err   error
}

// NewBackend returns the tree that aname names at the server that dial
// connects to. The server must answer in order, as that of package ninep does.
// dial gets the dialect of the client that is first to need a session of it, and
// may block until ctx is done; that client may have gone by then, for others may
// wait too. Clients get its error, and fs.ErrIO with it. The connections are the
// Backend's to close.
func NewBackend(dial func(context.Context, ninep.Dialect) (io.ReadWriteCloser, error), aname string) *Backend {
	return newBackend(aname, &sessions{dial: dial, all: make(map[ninep.Dialect]*dialled)})
}

func newBackend(aname string, s *sessions) *Backend {
	return &Backend{aname: aname, salt: rand.Uint64() & (1<<56 - 1), sessions: s}
}

// At returns the tree that aname names at b's server. It has the sessions of b,
// which the Close of either ends, and what is set of b.
func (b *Backend) At(aname string) *Backend {
	a := newBackend(aname, b.sessions)
	a.ReadOnly, a.Own, a.Local = b.ReadOnly, b.Own, b.Local
	return a
}

// Close ends the sessions, and blocks until they have ended. Requests on what
// clients have open there fail, and so do new walks, with fs.ErrIO. It returns
// nil.
func (b *sessions) Close() error {
	b.mu.Lock()
	b.closed = true
	var all []*dialled
	for _, d := range b.all {
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

// session returns the session of dialect d, for which several clients may wait.
func (b *sessions) session(ctx context.Context, d ninep.Dialect) (*session, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, fmt.Errorf("backend is closed: %w", fs.ErrIO)
	}
	ds := b.all[d]
	if ds == nil || ds.over() {
		ds = &dialled{ready: make(chan struct{})}
		b.all[d] = ds
		go func() { // outlives the client that asked first: others wait for it too
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
	return ds.s == nil || ds.s.ended()
}

func (b *sessions) open(ctx context.Context, d ninep.Dialect) (*session, error) {
	rwc, err := b.dial(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrIO, err)
	}
	return openSession(ctx, rwc, d, wire.MaxMsize)
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
	l, err := openSession(ctx, near, d, msize)
	if err != nil {
		near.Close()
		<-ended
	}
	return l, ended, err
}

var errLost = fmt.Errorf("backend is gone: %w", fs.ErrIO)

// isError reports whether typ tells of an error.
func isError(typ uint8) bool { return typ == plan9.Rerror || typ == wire.Rlerror }
