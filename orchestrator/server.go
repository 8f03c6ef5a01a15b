package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/wire"
	"9ci/orchestrator/report"
)

// Limits on connections as a whole.
const (
	maxConns      = 16384
	maxConnsOfKey = 4096 // of one key, so that it cannot take them all

	refuseFor = 2 * time.Second // for as long a connection over these is told so
)

// A Server is an orchestrator.
type Server struct {
	hosts     hostKeys
	config    *ssh.ServerConfig
	policy    *access.Joint
	own       *access.Authority
	public    *access.Public
	approvals Approvals
	reporter  Reporter    // nil: no forge is told
	tls       *access.TLS // nil: no TLS
	sources   *access.Sources
	dir       directory
	log       *slog.Logger
	audit     *audit
	metrics   *metrics
	trace     io.Writer

	state       string // the directory
	authorities string // as in Options

	conns  tally                        // connections that have authenticated
	live   underWay                     // these, and their channels
	failed atomic.Pointer[failedAccept] // of late

	stop context.Context // done when the server takes nothing new
	end  func()          // ends stop
}

// A Reporter knows what forges were told of the runs of a commit.
type Reporter interface {
	// Told returns that. The error is fs.ErrBusy.
	Told(namespace, commit string) (report.Answer, error)
}

// Tells has the server say what r knows. It is called before the server serves.
func (s *Server) Tells(r Reporter) { s.reporter = r }

// Options are the optional settings of a Server.
type Options struct {
	TLS         bool          // ServeTLS is going to be called
	Authorities string        // a file of keys, as in authorized_keys, whose certificates are trusted; "": none
	URL         string        // of the orchestrator, as others reach it; its host is the one that CI jobs' tokens are made out to. "": not known
	Jobs        access.Jobs   // which know the tokens of CI jobs; nil: the forges of the state
	People      access.People // whose accounts may log in; nil: none
	Approvals   Approvals     // by which these log in on the page; nil: there is no page
	Log         *slog.Logger  // nil: nowhere
	Trace       io.Writer     // 9P messages, one a line; nil: nowhere
}

// New returns a server whose state is in dir. On a first start it makes dir, the
// host key and authorized_keys.
func New(dir string, o Options) (*Server, error) {
	hosts, err := openState(dir)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: state: %w", err)
	}
	s := &Server{hosts: hosts, approvals: o.Approvals, log: o.Log, trace: o.Trace, state: dir, authorities: o.Authorities}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.stop, s.end = context.WithCancel(context.Background())
	s.metrics = newMetrics(s)
	s.audit = newAudit(s.log, s.metrics)
	keys, err := access.NewKeys(access.Files{
		Keys: filepath.Join(dir, authorizedKeysFile), Authorities: o.Authorities, Revoked: filepath.Join(dir, revokedFile),
	}, s.log)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: state: %w", err)
	}
	host, err := hostOf(o.URL)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: %w", err)
	}
	if o.Jobs == nil {
		if o.Jobs, err = forge.Open(filepath.Join(dir, forge.File), s.log); err != nil {
			return nil, fmt.Errorf("orchestrator: state: %w", err)
		}
	}
	if s.own, err = access.OpenAuthority(dir, o.Jobs, host, s.log); err != nil {
		return nil, fmt.Errorf("orchestrator: state: %w", err)
	}
	if o.People != nil {
		s.own.Ask(o.People)
	}
	s.policy = access.NewJoint(keys, s.own)
	if s.public, err = access.OpenPublic(dir, s.log); err != nil {
		return nil, fmt.Errorf("orchestrator: state: %w", err)
	}
	if s.sources, err = access.NewSources(filepath.Join(dir, sourcesFile), s.log); err != nil {
		return nil, fmt.Errorf("orchestrator: state: %w", err)
	}
	s.dir = newLocalDirectory(auditShare)
	s.config = door.Config(hosts[0], s.authenticate)
	anyUser := s.config.PublicKeyCallback
	s.config.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if m.User() == wire.UserJoin {
			return s.mayJoin(key)
		}
		return anyUser(m, key)
	}
	for _, k := range hosts.shown() {
		s.config.AddHostKey(k)
	}
	if o.TLS {
		if s.tls, err = access.NewTLS(dir, s.log); err != nil {
			return nil, fmt.Errorf("orchestrator: TLS: %w", err)
		}
	}
	return s, nil
}

// HostKey returns the key by which clients know the server, the first if it has
// several.
func (s *Server) HostKey() ssh.PublicKey { return s.hosts[0].PublicKey() }

// Authority returns the server's own authority: who may log in on the page, and their
// certificates.
func (s *Server) Authority() *access.Authority { return s.own }

// loginKey is the key of the *access.Login in ssh.Permissions.ExtraData.
type loginKey struct{}

// authenticate is asked for each key that a client at from offers.
func (s *Server) authenticate(from net.Addr, key ssh.PublicKey) (*ssh.Permissions, error) {
	l, err := s.permit(key, from)
	if err != nil {
		return nil, &keyError{wire.Fingerprint(key), err}
	}
	p := &ssh.Permissions{ExtraData: map[any]any{loginKey{}: l}}
	if cert, ok := key.(*ssh.Certificate); ok {
		p.CriticalOptions = cert.CriticalOptions // the ssh package enforces source-address
	}
	return p, nil
}

// permit returns what a login by key is at present.
func (s *Server) permit(key ssh.PublicKey, from net.Addr) (*access.Login, error) {
	l, err := access.Enter(s.policy, key, from)
	if err != nil {
		return nil, err
	}
	l.Grant = s.public.Add(l.Grant)
	return l, nil
}

// Serve answers the connections that arrive on l until ctx is done. It closes l, at
// Drain or then, and every connection, and returns only when each has ended. It may run on
// several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, s.policy, s.serve)
}

// accept is Serve for any protocol. It calls serve for each connection that the
// sources admit, and closes the connection when serve returns or ctx is done. Serve
// says how the login went: LoggedIn, or Failed. Policy says who may log in.
func (s *Server) accept(ctx context.Context, l net.Listener, policy changing, serve func(context.Context, *access.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer context.AfterFunc(s.stop, func() { l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	defer cancel()
	wg.Go(func() { s.watch(ctx, policy) })
	var delay time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if s.stopping() {
				<-ctx.Done() // what is under way goes on
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, most likely, which passes.
			delay = min(max(2*delay, 5*time.Millisecond), acceptWait)
			s.failed.Store(&failedAccept{l.Addr(), err, time.Now()})
			s.log.Error("accept", "err", err)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
			continue
		}
		if delay > 0 {
			delay = 0
			s.failed.Store(nil)
		}
		wg.Go(func() {
			defer nc.Close()
			defer context.AfterFunc(ctx, func() { nc.Close() })()
			c, err := s.sources.Admit(nc) // which logs what it refuses
			if err != nil {
				s.metrics.dropped.Inc()
				return
			}
			defer c.Failed(access.Left) // if serve has said nothing
			serve(ctx, c)
		})
	}
}

// watchEvery is how often the files that say who may enter are looked at, besides
// at each login and each channel, and whether certificates have ended.
const watchEvery = 500 * time.Millisecond

// A changing is an access.Policy or an *access.TLS.
type changing interface{ Changed() <-chan struct{} }

// watch has policy find that its files have changed though no client does anything,
// and ends the connections of keys that may not enter any more, or no longer.
func (s *Server) watch(ctx context.Context, policy changing) {
	changed, public := policy.Changed(), s.public.Changed()
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			policy.Changed()
			s.public.Changed()
			for _, c := range s.live.all() {
				c.expire(time.Now())
			}
		case <-changed:
			changed = policy.Changed()
			s.auditRevoked()
			s.recheck()
		case <-public:
			public = s.public.Changed()
			s.recheck()
		case <-ctx.Done():
			return
		}
	}
}

// recheck ends the connections that may not do what they do any more.
func (s *Server) recheck() {
	for _, c := range s.live.all() {
		c.recheck()
	}
}

// serve serves one connection from its first byte to its last.
func (s *Server) serve(ctx context.Context, nc *access.Conn) {
	c, chans, reqs := s.login(ctx, nc)
	if c == nil {
		return
	}
	defer s.logout(nc, c, c.begin())
	c.serve(ctx, chans, reqs, nil)
}

// logout ends what login and begin began.
func (s *Server) logout(nc *access.Conn, c *conn, end func()) {
	end()
	s.conns.leave(c.requester)
	nc.LoggedIn()
}

// login makes a connection of one that logs in, or returns nil, also once it has served
// wire.UserJoin. S.conns.leave must be called for what is not nil. It needs much stack, so
// it is a goroutine of its own.
func (s *Server) login(ctx context.Context, nc *access.Conn) (c *conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	apart(func() {
		// The ssh package itself waits for a silent client without end.
		nc.SetDeadline(time.Now().Add(door.LoginGrace))
		k := &knock{Conn: nc}
		var sc *ssh.ServerConn
		var err error
		if sc, chans, reqs, err = ssh.NewServerConn(k, k.config(s.config)); err != nil {
			nc.Failed(k.failure(err))
			s.refusedLogin(nc.RemoteAddr(), err)
			return
		}
		if key, ok := sc.Permissions.ExtraData[joinKey{}].(ssh.PublicKey); ok {
			s.join(ctx, nc, sc, key, chans, reqs)
			return
		}
		nc.SetDeadline(time.Time{})
		nc.LoggedIn()
		l := sc.Permissions.ExtraData[loginKey{}].(*access.Login)
		enter := func(key ssh.PublicKey) (*access.Login, error) { return s.permit(key, nc.RemoteAddr()) }
		r, err := s.enter(l)
		if c = newConn(s, sc.Conn, l, enter, r); err != nil {
			c.busy(err)
			nc.SetDeadline(time.Now().Add(refuseFor))
			refuse(sc, chans, reqs, err)
			nc.LoggedIn()
			c = nil
		}
	})
	return c, chans, reqs
}

// enter counts a connection that has logged in. S.conns.leave must be called, unless
// enter reports an error.
func (s *Server) enter(l *access.Login) (*requester, error) {
	r, err := s.conns.enter(l.String())
	if err == nil && s.stopping() {
		s.conns.leave(r)
		return nil, errStopping
	}
	return r, err
}

// busy writes the line of a connection that may not stay, as enter says.
func (c *conn) busy(err error) {
	c.s.metrics.logins.WithLabelValues("busy").Inc()
	c.s.metrics.busy.WithLabelValues("login").Inc()
	c.refused("login", err)
}

// begin makes the connection known, until end is called.
func (c *conn) begin(attrs ...slog.Attr) (end func()) {
	c.s.live.enter(c)
	c.s.metrics.logins.WithLabelValues("accepted").Inc()
	c.audit(slog.LevelInfo, "login", append(attrs, serialOf(c.login)...)...)
	c.recheck() // the files may have changed before live knew of it
	return func() { c.s.live.leave(c) }
}

// apart runs f on a goroutine of its own and waits for it. The stack that f needs goes
// with that goroutine: one that waits for ever after stays as small as it was, and
// there are as many of those as connections.
func apart(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	wg.Wait()
}

// refuse tells a client why it may not stay, in answer to all that it asks until
// it hangs up. SSH has no other way that clients would show.
func refuse(sc ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, err error) {
	defer sc.Close()
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			wire.Refuse(nc, err)
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			r.Reply(false, []byte(err.Error()))
		}
	}
}
