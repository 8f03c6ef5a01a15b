package orchestrator

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/limit"
	"9ci/orchestrator/internal/wire"
)

// How many lines of the audit there are of one key that has logged in, and of one
// network's and all networks' connections that have not. A line is about 250
// bytes, so a key that does nothing else fills 43 MB a day, and all strangers
// together 216.
const (
	auditBurst      = 2048 // two announcements of as many namespaces as one may have
	auditRate       = 2.0  // a second
	strangerBurst   = 20
	strangerRate    = 0.1
	strangersBurst  = 1000
	strangersRate   = 10
	walkBurst       = 32 // walks of one key, or of one network's strangers, that failed, and for which all namespaces are looked through
	walkRate        = 1.0
	maxAuditText    = 300 // bytes of an attribute
	maxRefusedPaths = 16  // elements of a path that are looked at
	maxHidden       = 64  // namespaces below one
)

// An audit writes a line of the log for each thing that an operator may be asked
// about later:
//
//	login    a key or certificate has logged in
//	refuse   what=login|announce|forward|namespace was refused, and err says why
//	join     an executor shows its runs in a namespace
//	leave    it no longer does
//	adopt    it has a run that the key of another signed, by its own account
//
// and for what went wrong with an executor or client:
//
//	follow   an executor's index or events cannot be read, and err says why
//	silent   a client did not answer, and its connection ends
//
// Each has the key (over TLS, the identity), the principal (of a key, the comment of its
// line) and the address, and a namespace where there is one. Lines over the rates above
// are left out: the next one of the same key or network says how many.
type audit struct {
	log       *slog.Logger
	metrics   *metrics
	keys      limit.Rate    // by what access.Identity's Owner returns
	networks  limit.Rate    // of strangers
	strangers *rate.Limiter // all
	walks     limit.Rate    // as keys
}

func newAudit(log *slog.Logger, m *metrics) *audit {
	return &audit{
		log:       log,
		metrics:   m,
		keys:      limit.Rate{Burst: auditBurst, PerSecond: auditRate},
		networks:  limit.Rate{Burst: strangerBurst, PerSecond: strangerRate},
		strangers: rate.NewLimiter(strangersRate, strangersBurst),
		walks:     limit.Rate{Burst: walkBurst, PerSecond: walkRate},
	}
}

// of writes a line of one that has logged in, or of a visitor of the page that has not.
func (a *audit) of(l *access.Login, addr net.Addr, level slog.Level, msg string, attrs ...slog.Attr) {
	if l.URI == publicName {
		a.ofStranger(addr, level, msg, l.Owner(), attrs...)
		return
	}
	missed, ok := a.keys.Take(l.Owner())
	if !ok {
		a.metrics.missed.Inc()
		return
	}
	principal := l.Name
	if _, ok := l.Key.(*ssh.Certificate); ok {
		principal = l.String()
	}
	a.write(addr, level, msg, l.Owner(), principal, missed, attrs)
}

// ofStranger writes a line of one that has not logged in, with the keys that it
// offered.
func (a *audit) ofStranger(addr net.Addr, level slog.Level, msg, keys string, attrs ...slog.Attr) {
	missed, ok := a.networks.Take(network(addr))
	if !ok || !a.strangers.Allow() {
		a.metrics.missed.Inc()
		return
	}
	a.write(addr, level, msg, keys, "", missed, attrs)
}

func (a *audit) write(addr net.Addr, level slog.Level, msg, key, principal string, missed int, attrs []slog.Attr) {
	all := []slog.Attr{slog.String("key", ci.Dash(key)), slog.String("principal", ci.Dash(clip(principal))), slog.String("addr", addr.String())}
	all = append(all, attrs...)
	if missed > 0 {
		all = append(all, slog.Int("missed", missed))
	}
	a.log.LogAttrs(context.Background(), level, msg, all...)
}

// clip cuts what a peer has sent. The log's handler quotes it.
func clip(s string) string {
	if len(s) > maxAuditText {
		return s[:maxAuditText] + "..."
	}
	return s
}

// network returns what a stranger's address is counted under: all of IPv4, and the
// /64 of IPv6, which one host may have.
func network(addr net.Addr) string {
	var ip netip.Addr
	switch a := addr.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	case *net.IPAddr: // a visitor of the page
		ip, _ = netip.AddrFromSlice(a.IP)
	}
	if !ip.IsValid() {
		return addr.Network()
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}

// A keyError is why a key that was offered may not enter.
type keyError struct {
	key string // its fingerprint
	err error
}

func (e *keyError) Error() string { return e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// errLate is why a client that has not logged in within door.LoginGrace is put out.
const errLate = "not logged in within the time that there is"

// refusedLogin writes the line of a connection that ended before it was let in,
// unless it offered no key and hung up in time, as scanners do.
func (s *Server) refusedLogin(addr net.Addr, err error) {
	var auth *ssh.ServerAuthError
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		s.metrics.logins.WithLabelValues("late").Inc()
		s.metrics.refusals.WithLabelValues("login").Inc()
		s.audit.ofStranger(addr, slog.LevelWarn, "refuse", "", slog.String("what", "login"), slog.String("err", errLate))
		return
	case errors.Is(err, errNotSSH):
		s.metrics.logins.WithLabelValues("left").Inc()
		s.metrics.refusals.WithLabelValues("login").Inc()
		s.audit.ofStranger(addr, slog.LevelWarn, "refuse", "", slog.String("what", "login"), slog.String("err", errNotSSH.Error()))
		return
	case !errors.As(err, &auth):
		s.metrics.logins.WithLabelValues("left").Inc()
		s.log.Debug("login", "addr", addr.String(), "err", err)
		return
	}
	var keys, reasons []string
	for _, err := range auth.Errors {
		var k *keyError
		if errors.As(err, &k) && !slices.Contains(keys, k.key) {
			keys = append(keys, k.key)
		}
		if k != nil && !slices.Contains(reasons, k.Error()) {
			reasons = append(reasons, k.Error())
		}
	}
	if len(keys) == 0 {
		s.metrics.logins.WithLabelValues("left").Inc()
		s.log.Debug("login", "addr", addr.String(), "err", err)
		return
	}
	s.metrics.logins.WithLabelValues("refused").Inc()
	s.metrics.refusals.WithLabelValues("login").Inc()
	s.audit.ofStranger(addr, slog.LevelWarn, "refuse", strings.Join(keys, ","), slog.String("what", "login"), slog.String("err", clip(strings.Join(reasons, "; "))))
}

// audit writes a line of the connection's.
func (c *conn) audit(level slog.Level, msg string, attrs ...slog.Attr) {
	c.s.audit.of(c.login, c.ssh.RemoteAddr(), level, msg, attrs...)
}

// refused writes the line of something that the connection asked for and did not
// get.
func (c *conn) refused(what string, err error) {
	c.s.metrics.refusals.WithLabelValues(what).Inc()
	attrs := []slog.Attr{slog.String("what", what)}
	var space *spaceError
	if errors.As(err, &space) {
		attrs = append(attrs, slog.String("namespace", clip(space.ns)))
	}
	c.audit(slog.LevelWarn, "refuse", append(attrs, slog.String("err", clip(err.Error())))...)
}

// A spaceError is an error that has to do with one namespace.
type spaceError struct {
	ns  string
	err error
}

func (e *spaceError) Error() string { return e.err.Error() }
func (e *spaceError) Unwrap() error { return e.err }

// refusedRequest writes the line of a global request that was refused.
func (c *conn) refusedRequest(kind string, err error) {
	switch kind {
	case wire.RequestAnnounce:
		c.refused("announce", err)
	case "tcpip-forward", "streamlocal-forward@openssh.com":
		c.refused("forward", err)
	default:
		c.s.log.Debug("request", "addr", c.ssh.RemoteAddr().String(), "type", kind, "err", err)
	}
}

// mayNotRead writes the line of a namespace that the connection's key may not
// read. The client is not told: absent and forbidden answer alike.
func (c *conn) mayNotRead(ns string) {
	c.refused("namespace", &spaceError{ns, errors.New("this key may not read it")})
}

type notedKey struct{}

// note writes the line of a path in a namespace that the session may not read, if
// path is one. Walks in the ctx that it returns write none.
func (v *view) note(ctx context.Context, path string) context.Context {
	elems := strings.Split(strings.Trim(path, "/"), "/")
	if v.c.login.Asks(elems[0]) {
		return ctx // the walk learns it, and writes the line
	}
	ctx = context.WithValue(ctx, notedKey{}, true)
	elems = elems[:min(len(elems), maxRefusedPaths)]
	forbidden := ""
	for n := 3; n <= len(elems); n++ {
		ns, err := ci.CleanNamespace(strings.Join(elems[:n], "/"))
		if err != nil {
			break // a file below one
		}
		if v.mayRead(ns) {
			return ctx
		}
		if forbidden == "" || len(v.c.s.dir.shares(ns)) > 0 && len(v.c.s.dir.shares(forbidden)) == 0 {
			forbidden = ns
		}
	}
	if forbidden != "" && !slices.Contains(homeNames, elems[0]) {
		v.c.mayNotRead(forbidden)
	}
	return ctx
}

// noteWalk writes the line of a walk to prefix, if that is a namespace that the
// session may not read, or leads to such.
func (v *view) noteWalk(ctx context.Context, prefix string) {
	if ctx.Value(notedKey{}) != nil {
		return
	}
	who := v.c.login.Owner()
	if who == publicName { // that is all who have not logged in
		who = network(v.c.ssh.RemoteAddr())
	}
	if _, ok := v.c.s.audit.walks.Take(who); !ok {
		return
	}
	hidden := slices.DeleteFunc(v.c.s.dir.namespaces(access.Grant{Read: true}, prefix, maxHidden), v.mayRead)
	switch {
	case slices.Contains(hidden, prefix):
		v.c.mayNotRead(prefix)
	case len(hidden) > 0:
		v.c.mayNotRead(prefix + "/...")
	}
}

// auditShare writes the line of a share that joins or leaves.
func auditShare(sh *share, what string, generation uint64) {
	sh.m.conn.audit(slog.LevelInfo, what, sh.attrs(generation)...)
}

// shared returns the attributes of a line of a share.
func (sh *share) shared() []slog.Attr { return sh.attrs(sh.m.announced.Load().generation) }

func (sh *share) attrs(generation uint64) []slog.Attr {
	return []slog.Attr{
		slog.String("namespace", sh.ns), slog.String("executor", sh.m.name), slog.Uint64("generation", generation),
	}
}

// unread writes the line of a share whose index or events cannot be read.
func (sh *share) unread(level slog.Level, err error) {
	sh.m.conn.audit(level, "follow", append(sh.shared(), slog.String("err", clip(err.Error())))...)
}

// adopted writes the line of a finished run of the share that its executor says
// another key has signed. Nobody has checked that: one that replays it does.
func (sh *share) adopted(r *run) {
	own := sh.m.announced.Load().signer
	if r.signer == "" || own == "" || r.signer == own {
		return
	}
	sh.m.conn.audit(slog.LevelInfo, "adopt", append(sh.shared(), slog.String("run", r.id), slog.String("score", r.score), slog.String("signer", clip(r.signer)))...)
}
