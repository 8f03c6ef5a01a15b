package orchestrator

import (
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/mux"
	"9ci/proto/ninep"
)

// All that read an executor share its wire.MaxChannels channels, and together they
// never take them all. The first few requesters, and the executor's owner, get
// channels of their own. All others share those by which the orchestrator itself
// reads: to the executor they are one anonymous user, and its tree is the same for
// all of these. So a requester can be kept waiting by others, but not kept out. Of
// the 64 channels
//
//	15  are those of maxSeats requesters: 9P2000, 9P2000.L, and the mux's own reading
//	12  those of the owners of maxMembers exports
//	12  the shared ones of maxMembers exports
//	24  are maxCarried connections to the executor's own SSH server.
const (
	maxSeats        = 5  // requesters with channels of their own
	maxCarried      = 24 // channels of kind wire.ChannelSSH
	maxCarriedOfOne = 8  // of one requester
)

// A reader is what the sessions of one requester have in common at one member, or
// of all those without channels of their own.
type reader struct {
	m     *member
	login *access.Login // nil: of all, as the orchestrator itself
	key   string        // in member.readers
	seat  bool          // it is among maxSeats
	owner bool

	refs int // guarded by the conn's readersMu

	mu       sync.Mutex   // guards what follows
	raw      *mux.Backend // at the root: for what the mux forwards
	backends map[string]*mux.Backend
	links    map[string]*sharedLink // by what they attach
}

// hold returns the reader of a login, or with nil the orchestrator's own. LetGo must
// be called.
func (m *member) hold(l *access.Login) *reader {
	c := m.conn
	key, owner := "", false
	if _, ok := m.exporter.(reverseExport); ok && l != nil { // stock ssh does not tell the requester
		key, owner = backendKey(l), m.ownedBy(l)
	}
	c.readersMu.Lock()
	defer c.readersMu.Unlock()
	r := m.readers[key]
	seat := key != "" && !owner
	if r == nil && seat && c.seats >= maxSeats {
		key, seat = "", false
		r = m.readers[key]
	}
	if r == nil {
		r = &reader{m: m, key: key, seat: seat, owner: owner}
		if key != "" {
			r.login = l
		}
		r.raw = r.newRaw()
		if m.readers == nil {
			m.readers = map[string]*reader{}
		}
		m.readers[key] = r
		if seat {
			c.seats++
		}
	}
	r.refs++
	return r
}

// letGo undoes hold. The last letGo closes the connections to the executor.
func (r *reader) letGo() {
	c := r.m.conn
	c.readersMu.Lock()
	r.refs--
	last := r.refs == 0
	if last {
		delete(r.m.readers, r.key)
		if r.seat {
			c.seats--
		}
	}
	c.readersMu.Unlock()
	if last {
		r.mu.Lock()
		raw := r.raw
		r.mu.Unlock()
		raw.Close()
	}
}

// reset ends the connections by which the mux forwards. They are dialled again
// when they are needed.
func (r *reader) reset() {
	r.mu.Lock()
	old := r.raw
	r.raw, r.backends = r.newRaw(), nil
	r.mu.Unlock()
	old.Close()
}

func (r *reader) newRaw() *mux.Backend {
	b := mux.NewBackend(r.dial, "")
	b.ReadOnly = !r.owner // an executor takes commands from its owner alone
	b.Own = r.login != nil
	b.Local = isLive
	return b
}

// leave ends what the mux forwards to a namespace that the executor exports no
// more.
func (m *member) leave(ns string) {
	var all []*reader
	m.conn.readersMu.Lock()
	for _, r := range m.readers {
		r.mu.Lock()
		if r.backends[ns] != nil {
			all = append(all, r)
		}
		r.mu.Unlock()
	}
	m.conn.readersMu.Unlock()
	for _, r := range all {
		r.reset()
	}
}

// at returns the backend of a namespace.
func (r *reader) at(ns string) *mux.Backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.backends[ns]
	if b == nil {
		b = r.raw.At(ns)
		if r.backends == nil {
			r.backends = map[string]*mux.Backend{}
		}
		r.backends[ns] = b
	}
	return b
}

// dial opens a connection to the executor for a backend.
func (r *reader) dial(ctx context.Context, _ ninep.Dialect) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	c := r.m.conn
	msg := r.m.message("", r.login)
	ch, err := c.dial(ctx, wire.ChannelExport, ssh.Marshal(&msg))
	if err != nil {
		err = r.m.fail(err)
		r.m.judge(err)
		return nil, err
	}
	return newWatchedConn(ch, r.m), nil
}

// attach returns a link to the share's tree. The sessions of r share it. The tree
// of a member that exports several namespaces is read through its root: a channel
// for each namespace would leave none for others.
func (r *reader) attach(ctx context.Context, sh *share) (*link, error) {
	ns := sh.ns
	if r.m.several.Load() {
		ns = ""
	}
	s, err := r.link(ctx, ns)
	if err != nil {
		return nil, err
	}
	hangup := sync.OnceFunc(func() { r.put(ns, s) })
	root := s.link.root
	if ns != sh.ns {
		if root, err = door.AsDir(fs.Walk(ctx, root, sh.ns)); err != nil {
			hangup()
			return nil, err
		}
	}
	return &link{root: root, done: s.link.done, hangup: hangup}, nil
}

// A sharedLink is a link that several sessions use, or will be.
type sharedLink struct {
	ready chan struct{} // closed when link or err is set
	link  *link
	err   error
	refs  int // guarded by the reader's mu
}

// over reports whether the link could not be made, or is down.
func (s *sharedLink) over() bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	if s.err != nil {
		return true
	}
	select {
	case <-s.link.done:
		return true
	default:
		return false
	}
}

// link returns the link that attaches ns. Put must be called, unless link reports
// an error.
func (r *reader) link(ctx context.Context, ns string) (*sharedLink, error) {
	r.mu.Lock()
	s := r.links[ns]
	if s == nil || s.over() {
		s = &sharedLink{ready: make(chan struct{})}
		if r.links == nil {
			r.links = map[string]*sharedLink{}
		}
		r.links[ns] = s
		go func() { // outlives the session that asked first: others wait for it too
			s.link, s.err = r.m.attach(context.WithoutCancel(ctx), ns, r.login)
			close(s.ready)
		}()
	}
	s.refs++
	r.mu.Unlock()
	err := error(nil)
	select {
	case <-s.ready:
		err = s.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		r.put(ns, s)
		return nil, err
	}
	return s, nil
}

// put gives back a link. The last put hangs up.
func (r *reader) put(ns string, s *sharedLink) {
	r.mu.Lock()
	s.refs--
	last := s.refs == 0
	if last && r.links[ns] == s {
		delete(r.links, ns)
	}
	r.mu.Unlock()
	if !last {
		return
	}
	hangup := func() {
		if <-s.ready; s.link != nil {
			s.link.hangup()
		}
	}
	select {
	case <-s.ready:
		hangup()
	default:
		go hangup() // when it has been made
	}
}

// carryFor takes a place for a connection of a login to the executor's own SSH server.
// Release must be called, unless carryFor reports an error.
func (c *conn) carryFor(l *access.Login) (release func(), err error) {
	key := l.String()
	c.readersMu.Lock()
	defer c.readersMu.Unlock()
	switch {
	case c.carriedAll >= maxCarried:
		return nil, fmt.Errorf("too many connections to the executor: %w", fs.ErrBusy)
	case c.carried[key] >= maxCarriedOfOne:
		return nil, fmt.Errorf("too many connections of one key to the executor: %w", fs.ErrBusy)
	}
	if c.carried == nil {
		c.carried = map[string]int{}
	}
	c.carried[key]++
	c.carriedAll++
	return sync.OnceFunc(func() {
		c.readersMu.Lock()
		defer c.readersMu.Unlock()
		c.carriedAll--
		if c.carried[key]--; c.carried[key] == 0 {
			delete(c.carried, key)
		}
	}), nil
}
