package orchestrator

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/tlsmux"
	"9ci/orchestrator/internal/wire"
)

// The protocols that are spoken over TLS (RFC 7301), besides tlsmux.Proto. A client
// that names none gets 9P.
const (
	proto9P     = "9p"
	protoExport = "9p-export" // or that and /NAMESPACE[/n/NAME]
)

// writeTimeout is how long a client over TLS may take to read what waits for it. A
// stock 9P client answers no keepalives.
const writeTimeout = 75 * time.Second

// ServeTLS is Serve for 9P over mutual TLS 1.3: see package access for what the
// clients are known by. Options.TLS must have been set.
func (s *Server) ServeTLS(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, s.tls, s.serveTLS)
}

// protocol returns the first protocol of those offered that is known here, or "".
func protocol(offered []string) string {
	i := slices.IndexFunc(offered, func(p string) bool {
		return p == proto9P || p == tlsmux.Proto || p == protoExport || strings.HasPrefix(p, protoExport+"/")
	})
	if i < 0 {
		return ""
	}
	return offered[i]
}

// serveTLS serves one connection from its first byte to its last.
func (s *Server) serveTLS(ctx context.Context, nc *access.Conn) {
	tc := tls.Server(patientConn{nc}, s.tls.Config(protocol))
	defer tc.Close()
	grace, cancel := context.WithTimeout(ctx, door.LoginGrace)
	var err error
	apart(func() { err = tc.HandshakeContext(grace) })
	cancel()
	state := tc.ConnectionState()
	enter := func(ssh.PublicKey) (*access.Login, error) {
		l, err := s.tls.Enter(state.PeerCertificates, nc.RemoteAddr())
		if err == nil {
			l.Grant = s.public.Add(l.Grant)
		}
		return l, err
	}
	var login *access.Login
	if err == nil {
		if login, err = enter(nil); err != nil { // it changed since the handshake
			err = &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
	}
	if err != nil {
		nc.Failed(failureTLS(err))
		s.refusedTLS(nc.RemoteAddr(), err)
		return
	}
	nc.LoggedIn()
	defer nc.LoggedIn()
	r, err := s.enter(login)
	mine := state.NegotiatedProtocol == tlsmux.Proto
	if err != nil {
		newConn(s, lone{tc}, login, enter, r).busy(err)
		if mine {
			tlsmux.Greet(tc, err.Error())
		}
		return
	}
	defer s.conns.leave(r)
	if mine {
		s.serveMux(ctx, tc, login, enter, r)
		return
	}
	c := newConn(s, lone{tc}, login, enter, r)
	m := &meter{traffic: s.metrics.client}
	s.live.open(m)
	defer s.live.close(m)
	defer c.begin(slog.String("alpn", state.NegotiatedProtocol))()
	c.serveLone(ctx, func(ctx context.Context, v *view) error {
		if path, ok := strings.CutPrefix(state.NegotiatedProtocol, protoExport); ok {
			return v.exportTLS(ctx, meteredStream{tc, m}, path)
		}
		return v.serve9P(ctx, meteredStream{tc, m})
	})
}

// failureTLS returns what a handshake that ended with err was.
func failureTLS(err error) access.Failure {
	var late net.Error
	var refused *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &refused):
		return access.NoAuth
	case errors.As(err, &record):
		return access.NoSpeech
	case errors.As(err, &late) && late.Timeout():
		return access.TooSlow
	}
	return access.Left
}

// refusedTLS writes the line of a connection that ended before it was let in, unless it
// showed no certificate and hung up in time.
func (s *Server) refusedTLS(addr net.Addr, err error) {
	uri, result, why := "", "refused", ""
	switch failureTLS(err) {
	case access.NoAuth:
		var refused *tls.CertificateVerificationError
		errors.As(err, &refused)
		uri, _ = wire.Identity(refused.UnverifiedCertificates[0])
		why = refused.Err.Error()
	case access.NoSpeech:
		result, why = "left", "the client does not speak TLS"
	case access.TooSlow:
		result, why = "late", errLate
	default:
		s.metrics.logins.WithLabelValues("left").Inc()
		s.log.Debug("login", "addr", addr.String(), "err", err)
		return
	}
	s.metrics.logins.WithLabelValues(result).Inc()
	s.metrics.refusals.WithLabelValues("login").Inc()
	s.audit.ofStranger(addr, slog.LevelWarn, "refuse", clip(uri), slog.String("what", "login"), slog.String("err", clip(why)))
}

// serveMux serves a client of ours.
func (s *Server) serveMux(ctx context.Context, tc *tls.Conn, login *access.Login, enter func(ssh.PublicKey) (*access.Login, error), r *requester) {
	if tlsmux.Greet(tc, "") != nil {
		return
	}
	asks := make(chan ask)
	over := make(chan struct{})
	defer close(over)
	sc, chans, err := tlsmux.New(tc, true, func(name string, payload []byte) (bool, []byte) {
		answered := make(chan answer, 1)
		select {
		case asks <- ask{name, payload, answered}:
			r := <-answered
			return r.ok, r.reply
		case <-over:
			return false, nil
		}
	})
	if err != nil {
		s.log.Debug("login", "addr", tc.RemoteAddr().String(), "err", err)
		return
	}
	c := newConn(s, sc, login, enter, r)
	defer c.begin(slog.String("alpn", tlsmux.Proto))()
	c.serve(ctx, chans, nil, asks)
}

// An ask is a global request that came over TLS.
type ask struct {
	kind    string
	payload []byte
	answer  chan<- answer // is sent one
}

type answer struct {
	ok    bool
	reply []byte
}

// serveLone serves a connection that is one stream, by serve.
func (c *conn) serveLone(ctx context.Context, serve func(context.Context, *view) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer c.wg.Wait()
	defer cancel()
	defer c.leave()
	defer c.ssh.Close()
	c.keepalive.begin()
	defer c.keepalive.end()
	if err := c.serveView(ctx, serve); err != nil && ctx.Err() == nil {
		c.s.log.Debug("hangup", "addr", c.ssh.RemoteAddr().String(), "err", err)
	}
}

// exportTLS makes rwc the 9P server of an executor. If path, /NAMESPACE[/n/NAME], does
// not say which, the namespace is the one that the client's line names, and the name
// is the last element of its identity.
func (v *view) exportTLS(ctx context.Context, rwc io.ReadWriteCloser, path string) error {
	if path == "" && v.c.login.Home() == "" {
		err := errors.New("export to which namespace? The protocol 9p-export/HOST/OWNER/REPO names it (openssl s_client -alpn), or a line of authorized_tls with one namespace= and no wildcard")
		v.c.refused("announce", err)
		return err
	}
	defer rwc.Close() // ends what export has started
	return v.export(ctx, rwc, "9p"+path)
}

// A lone is a TLS connection that is one 9P connection: it has no channels and no
// requests.
type lone struct{ *tls.Conn }

func (l lone) User() string          { return "" }
func (l lone) SessionID() []byte     { return nil }
func (l lone) ClientVersion() []byte { return nil }
func (l lone) ServerVersion() []byte { return nil }
func (l lone) Wait() error           { return nil }

func (l lone) SendRequest(string, bool, []byte) (bool, []byte, error) { return false, nil, nil }

func (l lone) OpenChannel(string, []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	return nil, nil, io.ErrClosedPipe
}

// A patientConn gives each write writeTimeout.
type patientConn struct{ net.Conn }

func (c patientConn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.Conn.Write(p)
}
