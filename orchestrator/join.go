package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// joinKey is the key of the ssh.PublicKey in ssh.Permissions.ExtraData of a client that
// has logged in as wire.UserJoin.
type joinKey struct{}

// mayJoin is asked for each key that wire.UserJoin offers. Any is let in that signs, to
// ask for a certificate and nothing else. Of a certificate the client has the key too,
// which ssh offers next.
func (s *Server) mayJoin(key ssh.PublicKey) (*ssh.Permissions, error) {
	err := s.policy.Revoked(key)
	if _, ok := key.(*ssh.Certificate); ok {
		err = errors.New("the user " + wire.UserJoin + " logs in by a key without a certificate")
	}
	if err != nil {
		return nil, &keyError{wire.Fingerprint(key), err}
	}
	return &ssh.Permissions{ExtraData: map[any]any{joinKey{}: key}}, nil
}

// errJoin answers what wire.UserJoin may not do.
func (j *joining) errJoin() error {
	if j.s.approvals != nil {
		return errors.New("log in first: ssh join@HOST login >KEY-cert.pub says how on the page, or with <TOKEN-FILE takes a token; and then without join@")
	}
	return errors.New("log in with a token first: ssh join@HOST login <TOKEN-FILE >KEY-cert.pub, and then without join@")
}

// A joining is the connection of a client that has logged in as wire.UserJoin. It may show
// one token, once. Until it has, or has asked for the page, it counts as half-open.
type joining struct {
	s   *Server
	nc  *access.Conn
	ssh ssh.Conn
	key ssh.PublicKey
	wg  sync.WaitGroup // of sessions and what they have started

	tried atomic.Bool // it has shown a token, or has begun to
	waits sync.Once   // of wait
	paged atomic.Bool // it has asked for a request of NewHere

	mu   sync.Mutex // guards here
	here *Approval  // of NewHere; nil: none, or it was redeemed
}

// maxJoinSessions is how many sessions a joining may have at once.
const maxJoinSessions = 4

// join serves a joining until it has had its answer, or the deadline of its login is
// over.
func (s *Server) join(ctx context.Context, nc *access.Conn, sc ssh.Conn, key ssh.PublicKey, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	j := &joining{s: s, nc: nc, ssh: sc, key: key}
	defer j.endHere()
	defer j.wg.Wait()
	defer cancel()
	defer sc.Close()
	slots := wire.NewSlots(maxJoinSessions)
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			switch {
			case !ok:
				chans = nil
			case nc.ChannelType() != "session":
				nc.Reject(ssh.Prohibited, j.errJoin().Error())
			case s.stopping():
				wire.Refuse(nc, errStopping)
			case !slots.Take():
				wire.Refuse(nc, wire.ErrBusy)
			default:
				j.wg.Go(func() {
					defer slots.Give()
					j.session(ctx, nc)
				})
			}
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			r.Reply(false, []byte(j.errJoin().Error()))
		case <-ctx.Done():
			return
		}
	}
}

// session serves a session channel: one command.
func (j *joining) session(ctx context.Context, nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer ch.Close()
	started := false
	t := &terminal{Channel: ch}
	for r := range reqs {
		var arg struct{ Text string }
		switch r.Type {
		case "pty-req":
			if !started {
				t.pty = true
			}
			r.Reply(!started, nil)
			continue
		case "exec":
			if ssh.Unmarshal(r.Payload, &arg) != nil {
				r.Reply(false, nil)
				continue
			}
		case "shell", "subsystem":
		default:
			r.Reply(false, nil)
			continue
		}
		r.Reply(!started, nil)
		if started {
			continue
		}
		started = true
		wg.Go(func() {
			words := append(strings.Fields(arg.Text), "")
			status, err := j.exec(ctx, t, words[:len(words)-1])
			if err != nil {
				command := wire.CommandLogin
				if words[0] == wire.CommandPage {
					command = wire.CommandPage
				}
				t.say("%s: %v", command, err)
			}
			ch.SendRequest("exit-status", false, ssh.Marshal(&struct{ Status uint32 }{uint32(status)})) // RFC 4254 §6.10
			ch.Close()
		})
	}
}

// exec runs a command, and returns its exit status and what to tell the client.
func (j *joining) exec(ctx context.Context, t *terminal, words []string) (status int, err error) {
	switch {
	case len(words) > 0 && words[0] == wire.CommandPage:
		return j.page(t, words[1:])
	case len(words) == 0 || words[0] != wire.CommandLogin:
		return wire.LoginRefused, j.errJoin()
	case len(words) > 1: // a token there is seen by all that list processes
		return wire.LoginRefused, errors.New("it takes no arguments: the token is read from standard input")
	}
	if j.tried.Swap(true) {
		return wire.LoginRefused, errors.New("one login a connection: connect again")
	}
	// After this the connection counts as half-open no more.
	defer func() { j.nc.SetDeadline(time.Now().Add(openTimeout)) }()
	in := j.input(t)
	token, err := j.token(in)
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted, err
	case err != nil:
		return wire.LoginRefused, err
	case token == "":
		return j.approve(ctx, t, in)
	case strings.HasPrefix(token, wire.CodePrefix):
		return j.redeem(ctx, t, strings.TrimPrefix(token, wire.CodePrefix))
	}
	return j.show(ctx, t, token)
}

// show logs in with a token.
func (j *joining) show(ctx context.Context, t *terminal, token string) (status int, err error) {
	cert, err := j.s.own.Login(ctx, token, j.key)
	if err != nil {
		return j.refused("token", err)
	}
	return j.give(t, cert)
}

// give gives the client its certificate.
func (j *joining) give(t *terminal, cert *ssh.Certificate) (status int, err error) {
	// From here on the address is one that has logged in.
	j.nc.LoggedIn()
	l := &access.Login{Identity: access.Identity{Key: cert, Name: cert.KeyId}}
	j.s.metrics.logins.WithLabelValues("issued").Inc()
	j.s.audit.of(l, j.nc.RemoteAddr(), slog.LevelInfo, "issue", append(serialOf(l), slog.String("expires", ci.FormatTime(l.Ends())))...)
	if _, err := t.Write(ssh.MarshalAuthorizedKey(cert)); err != nil {
		return wire.LoginRefused, err
	}
	return 0, fmt.Errorf("this key is %s until %s", cert.KeyId, ci.FormatTime(l.Ends()))
}

// token returns the token, "" if the client gives none: then there is a page.
func (j *joining) token(in *input) (string, error) {
	late, pause := time.NewTimer(wire.TokenTime), time.NewTimer(wire.TokenPause)
	defer late.Stop()
	defer pause.Stop()
	begun := in.begun
	for {
		select {
		case r := <-in.got:
			if token, err := j.check(r); token != "" || err != nil || j.s.approvals != nil {
				return token, err
			}
			return "", errors.New("there is no token on standard input: ssh join@HOST login <TOKEN-FILE >KEY-cert.pub, with a repository token or the id_token of a CI job in the file; and this orchestrator has no page to log in on")
		case <-begun:
			begun = nil
			pause.Stop()
		case <-pause.C:
			select {
			case <-in.begun:
			default:
				if j.s.approvals != nil {
					return "", nil
				}
			}
		case <-late.C:
			j.guessed("token", errors.New("no whole token came in time"), access.TooSlow)
			return "", fmt.Errorf("the end of the token has not come within %v", wire.TokenTime)
		}
	}
}

// check returns the token that was read.
func (j *joining) check(r written) (string, error) {
	if r.err != nil {
		return "", r.err
	}
	if len(r.b) > wire.MaxToken {
		j.guessed("token", fmt.Errorf("a token of over %d bytes", wire.MaxToken), access.NoAuth)
		return "", fmt.Errorf("a token has %d bytes at most", wire.MaxToken)
	}
	return strings.TrimSpace(string(r.b)), nil
}

// refused returns the status of a login, by what is said, that err has ended, and what the
// client is told.
func (j *joining) refused(what string, err error) (status int, words error) {
	var refused *access.RefusedError
	switch {
	case errors.As(err, &refused):
		j.guessed(what, err, access.NoAuth)
		return wire.LoginRefused, errors.New(refused.Words)
	case errors.Is(err, fs.ErrBusy):
		j.s.metrics.busy.WithLabelValues("login").Inc()
		j.audit(what, err)
		return wire.LoginBusy, errors.New("the token cannot be checked at present: try again")
	}
	j.s.log.Error(what, "addr", j.nc.RemoteAddr().String(), "err", err)
	return wire.LoginBusy, errors.New("the orchestrator could not write its state, as its log says: try again")
}

// guessed writes the line of a token, or an approval, that lets nobody in. It counts as a
// login that has failed.
func (j *joining) guessed(what string, err error, f access.Failure) {
	j.nc.Failed(f)
	j.s.metrics.logins.WithLabelValues("refused").Inc()
	j.s.metrics.refusals.WithLabelValues(what).Inc()
	j.audit(what, err)
}

// audit writes the line of a token, or an approval, that gave no certificate.
func (j *joining) audit(what string, err error) {
	j.s.audit.ofStranger(j.nc.RemoteAddr(), slog.LevelWarn, "refuse", wire.Fingerprint(j.key), slog.String("what", what), slog.String("err", clip(err.Error())))
}

// auditRevoked writes a line for each certificate, token and account that an operator
// has revoked.
func (s *Server) auditRevoked() {
	all, err := s.own.Revoked()
	if err != nil {
		s.log.Error("state file", "err", err)
	}
	for _, r := range all {
		var attrs []any
		if r.Serial != 0 {
			attrs = append(attrs, "serial", r.Serial)
		}
		s.log.Info("revoke", append([]any{"key", ci.Dash(r.Key), "principal", r.Principal, "addr", "-"}, attrs...)...)
	}
}

// hostOf returns the host name of the orchestrator's URL, "" of none.
func hostOf(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("-url %.200q: want https://HOST[:PORT], the name by which clients reach the orchestrator", text)
	}
	return strings.ToLower(u.Hostname()), nil
}
