package dial

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

const theToken = "9ci_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A line is one direction of a connection in memory.
type line struct {
	mu     sync.Mutex
	cond   *sync.Cond
	sent   []byte
	closed bool
}

func newLine() *line {
	l := &line{}
	l.cond = sync.NewCond(&l.mu)
	return l
}

func (l *line) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.sent) == 0 && !l.closed {
		l.cond.Wait()
	}
	if len(l.sent) == 0 {
		return 0, io.EOF
	}
	n := copy(p, l.sent)
	l.sent = l.sent[n:]
	return n, nil
}

func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	l.sent = append(l.sent, p...)
	l.cond.Broadcast()
	return len(p), nil
}

func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.cond.Broadcast()
	return nil
}

// An end is one end of a connection in memory.
type end struct{ in, out *line }

func (e end) Read(p []byte) (int, error)       { return e.in.Read(p) }
func (e end) Write(p []byte) (int, error)      { return e.out.Write(p) }
func (e end) Close() error                     { e.in.Close(); return e.out.Close() }
func (end) LocalAddr() net.Addr                { return proxyAddr("192.0.2.1:22") }
func (end) RemoteAddr() net.Addr               { return proxyAddr("192.0.2.1:22") }
func (end) SetDeadline(t time.Time) error      { return nil }
func (end) SetReadDeadline(t time.Time) error  { return nil }
func (end) SetWriteDeadline(t time.Time) error { return nil }

// A given is what the double answers to a login.
type given struct {
	out    []byte
	words  string
	status uint32
	asks   string // words that are written before, and then ten seconds pass
	hang   bool   // it never answers
	hangUp bool   // it closes the connection instead
}

// A double is an orchestrator, as far as logins and what is exported go.
type double struct {
	t     *testing.T
	host  ssh.Signer
	hosts string // a known_hosts file
	wg    sync.WaitGroup

	mu     sync.Mutex // guards what follows
	ca     ssh.Signer
	life   time.Duration
	down   bool
	keys   [][]byte                                    // that may enter by themselves
	give   func(token string, key ssh.PublicKey) given // nil: certify
	page   func(command string) given                  // nil: there is none
	exec   func(command string) given                  // of those that have entered; nil: there are no sessions
	person func(cert *ssh.Certificate) ([]byte, bool)  // answers a person's renewal; nil: not known
	open   map[net.Conn]bool
	logins []time.Time // as the user join
	tokens []string
	enters []string    // the fingerprints or principals that entered
	renews []uint64    // serials
	asks   []time.Time // renewals of people
	serial uint64
	lost   int // connections that ended because their certificate did
	read   int // bytes of what is exported
	ends   int // channels of exports that have ended
}

func newDouble(t *testing.T) *double {
	d := &double{t: t, host: newSigner(t), ca: newSigner(t), life: time.Hour, open: map[net.Conn]bool{}}
	d.hosts = filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(d.hosts, []byte(knownhosts.Line([]string{"mux:22", "Mux:22"}, d.host.PublicKey())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// set changes the double.
func (d *double) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// cut ends all connections.
func (d *double) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for nc := range d.open {
		nc.Close()
	}
}

// dial is Options.Dial.
func (d *double) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return nil, errors.New("connection refused")
	}
	a, b := newLine(), newLine()
	theirs := end{a, b}
	d.open[theirs] = true
	d.wg.Go(func() {
		d.serve(theirs)
		theirs.Close()
		d.set(func() { delete(d.open, theirs) })
	})
	return end{b, a}, nil
}

// options are those of a client of the double.
func (d *double) options(p *Pass, log io.Writer) Options {
	return Options{Key: p.key, Pass: p, KnownHosts: d.hosts, Dial: d.dial, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

func (d *double) serve(nc net.Conn) {
	var by ssh.PublicKey
	config := &ssh.ServerConfig{PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		cert, ok := key.(*ssh.Certificate)
		switch {
		case m.User() == wire.UserJoin && !ok:
		case ok && bytes.Equal(cert.SignatureKey.Marshal(), d.ca.PublicKey().Marshal()):
			if err := new(ssh.CertChecker).CheckCert(cert.ValidPrincipals[0], cert); err != nil {
				return nil, err
			}
		case !ok && len(d.keys) > 0 && bytes.Equal(key.Marshal(), d.keys[0]):
		default:
			return nil, errors.New("not let in")
		}
		by = key
		return nil, nil
	}}
	config.AddHostKey(d.host)
	sc, chans, reqs, err := ssh.NewServerConn(nc, config)
	if err != nil {
		return
	}
	defer sc.Close()
	if sc.User() == wire.UserJoin {
		go ssh.DiscardRequests(reqs)
		d.join(by, chans)
		return
	}
	d.set(func() { d.enters = append(d.enters, ssh.FingerprintSHA256(by)) })
	go func() {
		for nc := range chans {
			if d.exec == nil || nc.ChannelType() != "session" {
				nc.Reject(ssh.UnknownChannelType, "")
				continue
			}
			ch, reqs, err := nc.Accept()
			if err != nil {
				return
			}
			for r := range reqs {
				r.Reply(true, nil)
				d.answer(sc, ch, d.exec(string(r.Payload[4:])))
			}
		}
	}()
	expire := time.AfterFunc(1<<62, func() {
		d.set(func() { d.lost++ })
		sc.SendRequest(wire.RequestEnded, false, []byte("the certificate has ended"))
		sc.Close()
	})
	defer expire.Stop()
	until := func(cert *ssh.Certificate) { expire.Reset(time.Until(time.Unix(int64(cert.ValidBefore), 0))) }
	if cert, ok := by.(*ssh.Certificate); ok {
		until(cert)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for r := range reqs {
		switch r.Type {
		case wire.RequestAnnounce:
			a, err := wire.ParseAnnounce(r.Payload)
			if err != nil {
				d.t.Error(err)
			}
			r.Reply(true, wire.Joined{Generation: 1, Shown: a.Name}.Text())
			wg.Go(func() { d.follow(sc, a.Name) })
		case wire.RequestRenew:
			if mine, ok := by.(*ssh.Certificate); ok && len(r.Payload) == 0 && d.person != nil {
				answer, ok := d.renewPerson(mine)
				if key, err := ssh.ParsePublicKey(answer); ok && err == nil {
					by = key
					until(key.(*ssh.Certificate))
				}
				r.Reply(ok, answer)
				continue
			}
			key, err := ssh.ParsePublicKey(r.Payload)
			cert, ok := key.(*ssh.Certificate)
			if err != nil || !ok {
				r.Reply(false, []byte("no certificate"))
				continue
			}
			d.set(func() { d.renews = append(d.renews, cert.Serial) })
			by = cert
			until(cert)
			r.Reply(true, nil)
		default:
			r.Reply(false, nil)
		}
	}
}

// renewPerson answers the renewal of a person's certificate.
func (d *double) renewPerson(cert *ssh.Certificate) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asks = append(d.asks, time.Now())
	return d.person(cert)
}

// follow reads what is exported until it ends.
func (d *double) follow(sc ssh.Conn, name string) {
	ch, reqs, err := sc.OpenChannel(wire.ChannelExport, ssh.Marshal(&wire.ExportMsg{Name: name}))
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(ch, b); err != nil {
			d.set(func() { d.ends++ })
			return
		}
		d.set(func() { d.read++ })
	}
}

// certify makes a certificate for key.
func (d *double) certify(key ssh.PublicKey, change func(*ssh.Certificate)) []byte {
	d.serial++
	c := &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, Serial: d.serial, KeyId: "token:0123", ValidPrincipals: []string{"token:0123"},
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(d.life).Unix()),
	}
	change(c)
	if err := c.SignCert(rand.Reader, d.ca); err != nil {
		d.t.Error(err)
	}
	return ssh.MarshalAuthorizedKey(c)
}

func as(*ssh.Certificate) {}

// join serves a connection of the user join.
func (d *double) join(key ssh.PublicKey, chans <-chan ssh.NewChannel) {
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			var exec struct{ Command string }
			if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
				r.Reply(false, nil)
				continue
			}
			r.Reply(true, nil)
			shown, _ := io.ReadAll(ch)
			var a given
			if exec.Command == wire.CommandLogin {
				a = d.login(string(shown), key)
			} else if d.page != nil {
				a = d.page(exec.Command)
			} else {
				a = given{words: "page: log in with a token first", status: wire.LoginRefused}
			}
			if a.hangUp {
				return
			}
			d.answer(nil, ch, a)
		}
	}
}

// answer answers a command.
func (d *double) answer(sc ssh.Conn, ch ssh.Channel, a given) {
	if a.hangUp {
		sc.Close()
		return
	}
	if a.asks != "" {
		io.WriteString(ch.Stderr(), a.asks)
		time.Sleep(10 * time.Second)
	}
	if a.hang {
		return
	}
	ch.Write(a.out)
	io.WriteString(ch.Stderr(), a.words)
	ch.SendRequest("exit-status", false, ssh.Marshal(&struct{ Status uint32 }{a.status}))
	ch.Close()
}

// login answers a login by what is shown.
func (d *double) login(shown string, key ssh.PublicKey) given {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logins, d.tokens = append(d.logins, time.Now()), append(d.tokens, shown)
	if d.give != nil {
		return d.give(shown, key)
	}
	return given{out: d.certify(key, as)}
}

// A tally is how often each thing has happened.
type tally struct {
	logins, enters, renews, lost, ends, read int
}

func (d *double) tally() tally {
	d.mu.Lock()
	defer d.mu.Unlock()
	return tally{len(d.logins), len(d.enters), len(d.renews), d.lost, d.ends, d.read}
}

// tokenPass returns a Pass of a token that is always the same, and checks what it is
// asked for.
func tokenPass(t *testing.T, key ssh.Signer) *Pass {
	return NewPass(key, Token{Name: "CI_TOKEN", Mend: "make another", Get: func(_ context.Context, audience string) (string, error) {
		if want := "mux:" + ssh.FingerprintSHA256(key.PublicKey()); audience != want {
			t.Errorf("audience %q, want %q", audience, want)
		}
		return theToken, nil
	}})
}

// beatEvery is the time between the bytes of beat.
const beatEvery = 10 * time.Second

// beat writes a byte now and then, as a live file might.
func beat(ctx context.Context, rwc io.ReadWriteCloser, _ string, _ fs.User) {
	for {
		select {
		case <-time.After(beatEvery):
			if _, err := rwc.Write([]byte{'.'}); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// inDouble runs f with a double, and an executor that exports what beats, whose log is
// to have no secret in it.
func inDouble(t *testing.T, prepare func(*double), f func(d *double, p *Pass, log *syncBuffer)) {
	t.Helper()
	dir := t
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(dir)
		d.t = t
		prepare(d)
		p := tokenPass(t, newSigner(t))
		var log syncBuffer
		c, err := Open("ssh://Mux", d.options(p, &log))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			c.Export(ctx, Announce{Name: "box", Namespaces: []string{"example.org/alice/hello"}, Waits: true, Lost: func(err error) {
				fmt.Fprintln(&log, err)
			}}, beat)
		})
		synctest.Wait()
		f(d, p, &log)
		cancel()
		wg.Wait()
		c.Close()
		d.cut()
		d.wg.Wait()
		if s := log.String(); strings.Contains(s, theToken) {
			t.Errorf("the log has the token:\n%s", s)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log.String())
		}
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// An executor that logs in with a token renews its certificate three times, and a
// reader of what it exports notices nothing.
func TestRenewals(t *testing.T) {
	inDouble(t, func(*double) {}, func(d *double, p *Pass, log *syncBuffer) {
		began := time.Now()
		renewed := func(n int) tally {
			for {
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := d.tally(); got.renews >= n {
					return got
				}
			}
		}
		got := renewed(3)
		if want := (tally{logins: 4, enters: 1, renews: 3, read: got.read}); got != want {
			d.t.Errorf("%+v, want %+v", got, want)
		}
		took := time.Since(began)
		if took < 100*time.Minute || took > 125*time.Minute {
			d.t.Errorf("three renewals took %v, want some two hours", took)
		}
		if want := int(took / beatEvery); got.read < want-2 {
			d.t.Errorf("%d bytes were read, want %d", got.read, want)
		}
		for _, token := range d.tokens {
			if token != theToken {
				d.t.Errorf("shown: %q", token)
			}
		}
		// A second connection uses the certificate that there is, and both renew by one
		// login.
		other, err := Dial(d.t.Context(), "ssh://mux", d.options(p, log))
		if err != nil {
			d.t.Fatal(err)
		}
		defer other.Close()
		if got := d.tally(); got.logins != 4 || got.enters != 2 {
			d.t.Errorf("a second connection: %+v, want 4 logins, 2 connections", got)
		}
		if got := renewed(5); got.logins != 5 || d.renews[3] != d.renews[4] {
			d.t.Errorf("two connections: %+v, %v, want 5 logins, and one certificate for both", got, d.renews)
		}
	})
}

// A renewal that goes wrong is tried again while the certificate is good, and what is
// served goes on. If it never works, the connection ends, and comes back when a login
// works again.
func TestRenewalFails(t *testing.T) {
	other := newSigner(t)
	for _, tt := range []struct {
		name string
		give func(d *double, token string, key ssh.PublicKey) given
		says string // what the log says
	}{
		{"refused", func(*double, string, ssh.PublicKey) given {
			return given{status: wire.LoginRefused, words: "login: this token is unknown, revoked or has expired\nand more\n"}
		}, `CI_TOKEN: it may not log in: the orchestrator says \"this token is unknown, revoked or has expired\": make another`},
		{"an echo of the token", func(_ *double, token string, _ ssh.PublicKey) given {
			return given{status: wire.LoginRefused, words: "what is " + token + "?\n"}
		}, `what is ***?`},
		{"busy", func(*double, string, ssh.PublicKey) given {
			return given{status: wire.LoginBusy, words: "the issuer is down\n"}
		}, `the issuer is down`},
		{"no such command", func(*double, string, ssh.PublicKey) given {
			return given{status: 127, words: "login: there is no such command here\n"}
		}, "it has no logins by token or page"},
		{"nothing", func(*double, string, ssh.PublicKey) given { return given{} }, "no certificate"},
		{"garbage", func(*double, string, ssh.PublicKey) given { return given{out: []byte("Welcome!\n")} }, "no certificate"},
		{"a flood", func(*double, string, ssh.PublicKey) given { return given{out: bytes.Repeat([]byte("x"), 64<<10)} }, "more than 16384 bytes"},
		{"the key", func(_ *double, _ string, key ssh.PublicKey) given { return given{out: ssh.MarshalAuthorizedKey(key)} }, "without a user certificate"},
		{"another's", func(d *double, _ string, _ ssh.PublicKey) given { return given{out: d.certify(other.PublicKey(), as)} }, "is a certificate for the key SHA256:"},
		{"expired", func(d *double, _ string, key ssh.PublicKey) given {
			return given{out: d.certify(key, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) })}
		}, "one of the two clocks is wrong"},
		{"good never", func(d *double, _ string, key ssh.PublicKey) given {
			return given{out: d.certify(key, func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = ssh.CertTimeInfinity, ssh.CertTimeInfinity-1 })}
		}, "one of the two clocks is wrong"},
		{"silence", func(*double, string, ssh.PublicKey) given { return given{hang: true} }, "did not answer within 30s"},
		{"a hangup", func(*double, string, ssh.PublicKey) given { return given{hangUp: true} }, "the login is cut short"},
		{"down", nil, "connection refused"},
	} {
		for _, forever := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, forever=%t", tt.name, forever), func(t *testing.T) {
				inDouble(t, func(*double) {}, func(d *double, _ *Pass, log *syncBuffer) {
					d.set(func() {
						if d.down = tt.give == nil; tt.give != nil {
							d.give = func(token string, key ssh.PublicKey) given { return tt.give(d, token, key) }
						}
					})
					mend := func() { d.set(func() { d.down, d.give = false, nil }) }
					if forever {
						time.Sleep(90 * time.Minute)
					} else {
						time.Sleep(50 * time.Minute) // the first renewal was due after 40 at most
					}
					synctest.Wait()
					if s := log.String(); !strings.Contains(s, tt.says) || strings.Contains(s, theToken) {
						t.Errorf("the log has no %q, or the token:\n%s", tt.says, s)
					}
					got := d.tally()
					if got.renews != 0 {
						t.Errorf("%d renewals", got.renews)
					}
					if most := 100; tt.name == "refused" && got.logins > most {
						t.Errorf("a token that is refused was shown %d times, want once a minute at most", got.logins)
					}
					if forever {
						if got.lost != 1 || got.ends != 1 {
							t.Errorf("%+v, want the connection to end whose certificate did", got)
						}
						if words := `is lost: the orchestrator has ended it: "the certificate has ended"`; !strings.Contains(log.String(), words) {
							t.Errorf("the log has no %q", words)
						}
						mend()
						time.Sleep(2 * time.Minute) // refusedFor, and a backoff
						synctest.Wait()
						before := d.tally()
						time.Sleep(10 * beatEvery)
						synctest.Wait()
						if got := d.tally(); got.enters != 2 || got.read-before.read < 9 {
							t.Errorf("%+v, and %+v later: it has not come back", before, got)
						}
						return
					}
					mend()
					time.Sleep(30 * time.Minute) // beyond the end of the first certificate
					synctest.Wait()
					got = d.tally()
					if got.enters != 1 || got.renews != 1 || got.lost != 0 || got.ends != 0 {
						t.Errorf("%+v, want one connection, renewed once", got)
					}
					if want := int(80 * time.Minute / beatEvery); got.read < want-2 {
						t.Errorf("%d bytes were read, want %d", got.read, want)
					}
				})
			})
		}
	}
}

// A connection that is lost comes back by the certificate that there is, without the
// token. An orchestrator that has another authority since gets the token again.
func TestRestart(t *testing.T) {
	inDouble(t, func(*double) {}, func(d *double, _ *Pass, log *syncBuffer) {
		d.set(func() { d.down = true })
		d.cut()
		time.Sleep(10 * time.Minute)
		d.set(func() { d.down = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := d.tally(); got.logins != 1 || got.enters != 2 {
			d.t.Errorf("after a restart: %+v, want 1 logins, 2 connections", got)
		}
		d.set(func() { d.ca = newSigner(d.t) })
		d.cut()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := d.tally(); got.logins != 2 || got.enters != 3 {
			d.t.Errorf("after a new start: %+v, want 2 logins, 3 connections", got)
		}
		// It is down when the certificate is to be renewed, and comes back after its end.
		d.set(func() { d.down = true })
		d.cut()
		time.Sleep(2 * time.Hour)
		d.set(func() { d.down = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := d.tally(); got.logins != 3 || got.enters != 4 {
			d.t.Errorf("after a long time: %+v, want 3 logins, 4 connections", got)
		}
	})
}

// What an orchestrator that takes no certificate of its own is told once more, it is
// not told without end.
func TestCertificateNotTaken(t *testing.T) {
	inDouble(t, func(d *double) {
		theirs := newSigner(d.t)
		d.give = func(_ string, key ssh.PublicKey) given {
			ours := d.ca
			d.ca = theirs
			defer func() { d.ca = ours }()
			return given{out: d.certify(key, as)}
		}
	}, func(d *double, p *Pass, log *syncBuffer) {
		_, err := Dial(d.t.Context(), "ssh://mux", d.options(p, io.Discard))
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), `does not take the certificate of "token:0123" that it has just made`) {
			d.t.Errorf("Dial: %v", err)
		}
	})
}

// A key that may enter does so, and no token is asked for. Without that the token logs
// in, and the error of both says both.
func TestKeyFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(t)
		key := newSigner(t)
		var bad error
		p := NewPass(key, Token{Name: "the job's token", Mend: "ask", Get: func(context.Context, string) (string, error) { return theToken, bad }})
		o := d.options(p, io.Discard)
		o.Signers = []ssh.Signer{key}
		enter := func() error {
			c, err := Dial(t.Context(), "ssh://mux", o)
			if err == nil {
				c.Close()
			}
			return err
		}
		d.set(func() { d.keys = [][]byte{key.PublicKey().Marshal()} })
		if err := enter(); err != nil || d.tally().logins != 0 || p.Signer() != nil {
			t.Errorf("a key that may enter: %v, and %+v", err, d.tally())
		}
		d.set(func() { d.keys = nil })
		bad = errors.New("give it the permission")
		if err := enter(); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "authorized_keys") || !strings.HasSuffix(err.Error(), "; the job's token: give it the permission") {
			t.Errorf("neither: %v", err)
		}
		bad = nil
		if err := enter(); err != nil || d.tally().logins != 1 {
			t.Errorf("a token: %v, and %+v", err, d.tally())
		}
		if s := p.Signer(); s == nil || s.PublicKey().(*ssh.Certificate).Serial != 1 {
			t.Errorf("Signer = %v", s)
		}
		time.Sleep(2 * time.Hour)
		if s := p.Signer(); s != nil {
			t.Errorf("Signer after the end = %v", s)
		}
		d.set(func() { d.keys = [][]byte{key.PublicKey().Marshal()} })
		if err := enter(); err != nil || d.tally().logins != 2 {
			t.Errorf("once a token has logged in: %v, and %+v, want 2 logins", err, d.tally())
		}
		d.wg.Wait()
	})
}

// A run signed just after a renewal may have ended before it: Signer gives the older
// certificate as long as that is good.
func TestSignerOverlap(t *testing.T) {
	inDouble(t, func(*double) {}, func(d *double, p *Pass, log *syncBuffer) {
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		serial := func() uint64 {
			s := p.Signer()
			if s == nil {
				return 0
			}
			return s.PublicKey().(*ssh.Certificate).Serial
		}
		if n := serial(); d.tally().renews != 1 || n != 1 {
			d.t.Errorf("%+v, and the signer's serial is %d, want 1 and 1", d.tally(), n)
		}
		time.Sleep(16 * time.Minute)
		if n := serial(); n != 2 {
			d.t.Errorf("after the end of the first, the signer's serial is %d, want 2", n)
		}
	})
}

// A clock that is some minutes off does no harm: the life of a certificate is as long.
func TestSkew(t *testing.T) {
	for _, skew := range []time.Duration{-30 * time.Minute, -2 * time.Minute, 2 * time.Minute, 30 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			d := newDouble(t)
			p := tokenPass(t, newSigner(t))
			c, err := take(d.certify(p.key.PublicKey(), func(c *ssh.Certificate) {
				c.ValidAfter = uint64(int64(c.ValidAfter) + int64(skew/time.Second))
				c.ValidBefore = uint64(int64(c.ValidBefore) + int64(skew/time.Second))
			}), p.key)
			if err != nil {
				t.Fatalf("%v: %v", skew, err)
			}
			if due := time.Until(c.due); due > 41*time.Minute || due < 15*time.Minute {
				t.Errorf("a clock that is %v behind: renewed after %v", skew, due)
			}
		})
	}
}

// A login goes on for those that wait for it though the one that began it gives up.
// One that is closed leaves its login to the next.
func TestLoginShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(t)
		key := newSigner(t)
		asked, answer := 0, make(chan string, 1)
		p := NewPass(key, Token{Name: "x", Get: func(ctx context.Context, _ string) (string, error) {
			d.set(func() { asked++ })
			select {
			case s := <-answer:
				return s, nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}})
		o := d.options(p, io.Discard)
		a, err := Open("ssh://mux", o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := a.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Connect: %v", err)
		}
		b, err := Open("ssh://mux", o)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.Connect(t.Context()); err != nil {
				t.Errorf("Connect of the other: %v", err)
			}
		})
		synctest.Wait()
		if asked != 1 {
			t.Errorf("the token was asked for %d times, want once for both", asked)
		}
		a.Close() // and with it the login
		synctest.Wait()
		if asked != 2 {
			t.Errorf("the token was asked for %d times, want once more", asked)
		}
		answer <- theToken
		wg.Wait()
		b.Close()
		d.wg.Wait()
	})
}

// A server that known_hosts does not know, or knows by another key, is shown no token.
func TestTokenToStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(t)
		p := tokenPass(t, newSigner(t))
		for name, tt := range map[string]struct {
			lines string
			is    error
		}{
			"unknown": {"", ErrUnknownHost},
			"changed": {knownhosts.Line([]string{"mux:22"}, newSigner(t).PublicKey()) + "\n", ErrHostKeyChanged},
		} {
			if err := os.WriteFile(d.hosts, []byte(tt.lines), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Dial(t.Context(), "ssh://mux", d.options(p, io.Discard))
			if !errors.Is(err, tt.is) {
				t.Errorf("%s: %v, want %v", name, err, tt.is)
			}
			if err == nil {
				c.Close()
			}
		}
		d.wg.Wait()
		if len(d.tokens) > 0 {
			t.Errorf("it is shown %q", d.tokens)
		}
	})
}

// Whatever answers a login, what is taken is a certificate for the key that is good now.
func FuzzTake(f *testing.F) {
	_, private, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		f.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		f.Fatal(err)
	}
	for _, before := range []uint64{0, 1, 1 << 33, 1<<63 - 1, 1 << 63, ssh.CertTimeInfinity} {
		for _, after := range []uint64{0, 1 << 62, ssh.CertTimeInfinity} {
			c := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, ValidAfter: after, ValidBefore: before}
			if err := c.SignCert(rand.Reader, key); err != nil {
				f.Fatal(err)
			}
			f.Add(ssh.MarshalAuthorizedKey(c))
		}
	}
	p := NewPass(key, Token{})
	f.Fuzz(func(t *testing.T, answer []byte) {
		c, err := take(answer, p.key)
		if err != nil {
			return
		}
		if !c.lives() || !bytes.Equal(c.Key.Marshal(), key.PublicKey().Marshal()) || time.Until(c.due) < renewAtLeast/2 {
			t.Errorf("take(%q) = %+v", answer, c)
		}
		principal(c.Certificate)
	})
}

// The form of a repository token, whose error does not repeat it.
func TestCheckToken(t *testing.T) {
	if err := CheckToken(theToken); err != nil {
		t.Errorf("CheckToken(%q): %v", theToken, err)
	}
	for _, bad := range []string{"", "9ci_", theToken + "x", theToken[:len(theToken)-1], theToken + "\n", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", strings.Replace(theToken, "a", "+", 1), "x" + theToken[1:]} {
		if err := CheckToken(bad); err == nil || len(bad) > 4 && strings.Contains(err.Error(), bad) {
			t.Errorf("CheckToken(%q): %v", bad, err)
		}
	}
}

// The user join can do nothing but log in with a token.
func TestUserJoin(t *testing.T) {
	if _, err := Open("ssh://join@mux", Options{}); err == nil || !strings.Contains(err.Error(), "leave join@ out") {
		t.Errorf("Open(ssh://join@mux): %v", err)
	}
}
