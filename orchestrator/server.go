package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// Limits on connections as a whole.
const (
	loginGrace    = 10 * time.Second // to have authenticated
	startupsBegin = 64               // unauthenticated connections from which some are dropped at random,
	startupsFull  = 512              // and from which all are
	maxConns      = 16384
	maxConnsOfKey = 4096 // of one key, so that it cannot take them all
	maxAuthTries  = 3
)

// A Server is an orchestrator.
type Server struct {
	host    ssh.Signer
	config  *ssh.ServerConfig
	keys    *keyring
	sources sources
	dir     directory
	log     *slog.Logger
	trace   io.Writer

	startups atomic.Int64 // connections that have not authenticated
	conns    tally        // connections that have
}

// Options are what a Server may be told.
type Options struct {
	Authorities string       // a file of keys whose certificates are trusted, lines as in authorized_keys
	Log         *slog.Logger // nil: nowhere
	Trace       io.Writer    // 9P messages, one a line; nil: nowhere
}

// New returns a server whose state is in dir, which it makes on a first start.
func New(dir string, o Options) (*Server, error) {
	host, err := openState(dir)
	if err != nil {
		return nil, fmt.Errorf("orchestrator: state: %w", err)
	}
	s := &Server{host: host, log: o.Log, trace: o.Trace}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.keys = &keyring{log: s.log, files: []keyfile{{path: filepath.Join(dir, authorizedKeysFile)}}}
	if o.Authorities != "" {
		s.keys.files = append(s.keys.files, keyfile{path: o.Authorities, authorities: true})
	}
	s.keys.load() // a bad line is told of now, not at the first login
	s.dir.log = s.log
	s.config = &ssh.ServerConfig{
		Config:            ssh.Config{Ciphers: ciphers()},
		MaxAuthTries:      maxAuthTries,
		ServerVersion:     "SSH-2.0-9ci",
		PublicKeyCallback: s.authenticate,
	}
	s.config.AddHostKey(host)
	return s, nil
}

// ciphers returns what is offered. The client's order decides, and OpenSSH puts
// chacha20 first, which costs Go two to three times the CPU of AES: it is
// offered only where AES would be slow.
func ciphers() []string {
	c := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	if !(cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM) {
		c = append(c, ssh.CipherChaCha20Poly1305)
	}
	return c
}

// HostKey returns the key by which clients know the server.
func (s *Server) HostKey() ssh.PublicKey { return s.host.PublicKey() }

type grantKey struct{}

// authenticate is asked for each key that a client offers. The user's name
// means nothing.
func (s *Server) authenticate(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	g, err := s.keys.authorize(key)
	if err != nil {
		return nil, err
	}
	p := &ssh.Permissions{ExtraData: map[any]any{grantKey{}: &login{key: key, grant: g}}}
	if cert, ok := key.(*ssh.Certificate); ok {
		p.CriticalOptions = cert.CriticalOptions
	}
	return p, nil
}

// Serve answers the connections that arrive on l until ctx is done. It closes l
// and every connection, and returns only when each has ended. It may run on
// several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	defer cancel()
	var delay time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, most likely: it passes.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Error("accept", "err", err)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
			continue
		}
		delay = 0
		if !s.admit(nc.RemoteAddr()) {
			nc.Close()
			continue
		}
		s.startups.Add(1)
		wg.Go(func() { s.serve(ctx, nc) })
	}
}

// admit drops some connections, and then all, when many have not authenticated:
// a flood of half-open ones then does not keep out everybody else.
func (s *Server) admit(addr net.Addr) bool {
	n := s.startups.Load()
	if n >= startupsBegin && rand.Int64N(startupsFull-startupsBegin) < n-startupsBegin || n >= startupsFull {
		return false
	}
	return s.sources.admit(addr)
}

// serve takes one connection from its first byte to its last.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	log := s.log.With("addr", nc.RemoteAddr().String())

	// The ssh package never gives up on a client that says nothing.
	nc.SetDeadline(time.Now().Add(loginGrace))
	sc, chans, reqs, err := ssh.NewServerConn(nc, s.config)
	s.startups.Add(-1)
	if err != nil {
		s.sources.punish(nc.RemoteAddr(), penalty(err))
		log.Debug("login", "err", err)
		return
	}
	nc.SetDeadline(time.Time{})
	c := newConn(s, sc, log)
	if err := s.conns.enter(c.login.fingerprint()); err != nil {
		log.Warn("login", "key", c.login.fingerprint(), "err", err)
		return
	}
	defer s.conns.leave(c.login.fingerprint())
	log.Debug("login", "key", c.login.fingerprint(), "uname", c.login.grant.name)
	c.serve(ctx, chans, reqs)
}

// A tally counts connections, and those of each key.
type tally struct {
	mu    sync.Mutex // guards what follows
	all   int
	byKey map[string]int
}

func (t *tally) enter(key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.all >= maxConns:
		return errors.New("too many connections")
	case t.byKey[key] >= maxConnsOfKey:
		return errors.New("too many connections of one key")
	}
	if t.byKey == nil {
		t.byKey = map[string]int{}
	}
	t.all++
	t.byKey[key]++
	return nil
}

func (t *tally) leave(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.byKey[key]--; t.byKey[key] == 0 {
		delete(t.byKey, key)
	}
}

// count returns how many connections there are.
func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

// penalty returns what a login that ended with err costs.
func penalty(err error) time.Duration {
	var auth *ssh.ServerAuthError
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return penaltyGrace
	case errors.As(err, &auth) && len(auth.Errors) > 1: // the first is the method none
		return penaltyAuth
	}
	return penaltyNoAuth
}
