package orchestrator

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/wire"
)

// A testPage is a page on which the test approves keys. It takes eight of an address.
type testPage struct {
	mu   sync.Mutex // guards what follows
	n    int        // requests so far
	open map[string]*testRequest
	of   map[string]int // by address
	more chan struct{}  // closed and made anew when there is another request, or less
}

type testRequest struct {
	code      string // that is typed, or that the browser gets
	key       ssh.PublicKey
	port      uint16
	state     string
	answered  chan struct{}
	principal string
	err       error
}

func newTestPage() *testPage {
	return &testPage{open: map[string]*testRequest{}, of: map[string]int{}, more: make(chan struct{})}
}

func (p *testPage) URL() string { return "https://ci.example.org" }

var errTestRefused = errors.New("the key was refused on the page")

func (p *testPage) request(key ssh.PublicKey, from net.Addr, port uint16, state string) (*testRequest, func(ctx context.Context) (string, error), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	host, _, _ := net.SplitHostPort(from.String())
	if p.of[host] >= 8 {
		return nil, nil, fmt.Errorf("eight: %w", fs.ErrBusy)
	}
	p.n++
	r := &testRequest{code: fmt.Sprintf("WXYZ-%04d", p.n), key: key, port: port, state: state, answered: make(chan struct{})}
	p.open[r.code] = r
	p.of[host]++
	p.changed()
	return r, func(ctx context.Context) (string, error) {
		select {
		case <-r.answered:
		case <-ctx.Done():
			r.err = ctx.Err()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, r.code)
		p.of[host]--
		p.changed()
		return r.principal, r.err
	}, nil
}

// changed wakes those that wait. p.mu is held.
func (p *testPage) changed() {
	close(p.more)
	p.more = make(chan struct{})
}

func (p *testPage) New(key ssh.PublicKey, from net.Addr) (Approval, error) {
	r, wait, err := p.request(key, from, 0, "")
	if err != nil {
		return Approval{}, err
	}
	return Approval{Code: r.code, URL: p.URL() + "/approve", Wait: wait}, nil
}

func (p *testPage) NewHere(key ssh.PublicKey, from net.Addr, port uint16, state string) (Approval, error) {
	if port == 0 {
		return Approval{}, errors.New("want a port")
	}
	r, wait, err := p.request(key, from, port, state)
	if err != nil {
		return Approval{}, err
	}
	return Approval{URL: p.URL() + "/approve/" + r.code, Redeem: func(ctx context.Context, code string) (string, error) {
		principal, err := wait(ctx)
		if err == nil && code != "proof-"+r.code {
			return "", errors.New("this is not what the browser was given")
		}
		return principal, err
	}}, nil
}

// answer answers the request of a code, as a person; without a principal it refuses.
func (p *testPage) answer(code, principal string) (fingerprint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.open[code]
	if r == nil {
		return ""
	}
	if r.principal = principal; principal == "" {
		r.err = errTestRefused
	}
	close(r.answered)
	return wire.Fingerprint(r.key)
}

// awaitOpen waits until so many requests are open.
func (p *testPage) awaitOpen(t testing.TB, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		p.mu.Lock()
		got, more := len(p.open), p.more
		p.mu.Unlock()
		if got == n {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("%d requests are open, want %d", got, n)
		}
	}
}

// asked is what a login says to a person.
var asked = regexp.MustCompile(`^open (https://\S+) in any browser, and type the code (\S+) there within 10m0s\r?\napprove no other key there than this one: (SHA256:\S+)\r?\n$`)

// A device is ssh join@HOST login, which waits for a person.
type device struct {
	*exec.Cmd
	stdout      bytes.Buffer
	errs        *bufio.Reader
	code        string
	fingerprint string
}

// device starts ssh with args, and returns when it has said what a person has to do.
func (m *testMux) device(keyFile string, stdin io.Reader, args ...string) *device {
	m.t.Helper()
	d := &device{Cmd: m.openssh(m.t.Context(), keyFile, args...)}
	d.Stdin, d.Stdout = stdin, &d.stdout
	r, w, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	d.Stderr = w
	if err := d.Start(); err != nil {
		m.t.Fatal(err)
	}
	w.Close()
	m.t.Cleanup(func() { r.Close() })
	d.errs = bufio.NewReader(r)
	one, err := d.errs.ReadString('\n')
	two, err2 := d.errs.ReadString('\n')
	f := asked.FindStringSubmatch(one + two)
	if err := errors.Join(err, err2); f == nil || err != nil {
		m.t.Fatalf("ssh %q says %q, %v", args, one+two, err)
	}
	if f[1] != "https://ci.example.org/approve" {
		m.t.Errorf("the URL is %s", f[1])
	}
	d.code, d.fingerprint = f[2], f[3]
	return d
}

// end waits for the end of ssh, and returns what it printed since, and its status.
func (d *device) end() (stdout, stderr string, status int) {
	rest, _ := io.ReadAll(d.errs)
	d.Wait()
	return d.stdout.String(), string(rest), d.ProcessState.ExitCode()
}

func startWithPage(t testing.TB) (*testMux, *testPage, *testForge, *logbook) {
	t.Helper()
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	page, forge, book := newTestPage(), newTestForge(), newLogbook(t)
	m.start(listen(t), Options{People: forge, Approvals: page, Log: book.logger()})
	return m, page, forge, book
}

// With stock ssh and nothing else a person gets a certificate: the key is shown, a person
// approves it on the page, and ssh goes on by itself.
func TestOpenSSHApprove(t *testing.T) {
	m, page, _, book := startWithPage(t)
	for name, input := range map[string]func() io.Reader{
		"nothing":       func() io.Reader { return nil },
		"blanks":        func() io.Reader { return strings.NewReader(" \n\n") },
		"an open input": func() io.Reader { r, w, _ := os.Pipe(); t.Cleanup(func() { w.Close(); r.Close() }); return r },
	} {
		key, file := m.stranger()
		d := m.device(file, input(), "join@127.0.0.1", "login")
		if d.fingerprint != wire.Fingerprint(key.PublicKey()) {
			t.Errorf("%s: the key is %s, and %s is shown", name, wire.Fingerprint(key.PublicKey()), d.fingerprint)
		}
		if got := page.answer(d.code, "github:1"); got != d.fingerprint {
			t.Errorf("%s: the page is given the key %s", name, got)
		}
		out, errs, status := d.end()
		if status != 0 || !regexp.MustCompile(`^login: this key is github:1 until 20\S+Z\n$`).MatchString(errs) {
			t.Fatalf("%s: status %d, %q %q", name, status, out, errs)
		}
		cert, err := wire.ParseCertificate([]byte(out), key.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(time.Unix(int64(cert.ValidBefore), 0)); left < 12*time.Hour-time.Minute || left > 12*time.Hour {
			t.Errorf("%s: it holds for %v", name, left)
		}
		os.WriteFile(file+"-cert.pub", []byte(out), 0o600)
		if out, errs, status := m.run(file, "whoami"); status != 0 || !strings.Contains(out, fmt.Sprintf("\nprincipal=github:1\nserial=%d\n", cert.Serial)) {
			t.Errorf("%s: whoami: %d %q %q", name, status, out, errs)
		}
		book.await("level=INFO msg=ask key="+d.fingerprint, "addr=127.0.0.1:")
		book.await("level=INFO msg=issue key="+d.fingerprint, "principal=github:1@")
	}
	page.awaitOpen(t, 0)
}

// On a terminal it is the same; ^C ends it.
func TestOpenSSHApproveOnTerminal(t *testing.T) {
	m, page, _, _ := startWithPage(t)
	_, file := m.stranger()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := m.device(file, r, "-tt", "join@127.0.0.1", "login")
	page.answer(d.code, "github:1")
	if out, errs, status := d.end(); status != 0 || !strings.HasPrefix(out, "ssh-ed25519-cert-v01@openssh.com ") || !strings.Contains(errs, "this key is github:1") {
		t.Errorf("status %d, %q %q", status, out, errs)
	}
	io.WriteString(w, "\r") // Enter begins it at once
	d = m.device(file, r, "-tt", "join@127.0.0.1", "login")
	io.WriteString(w, "\x03")
	if out, _, status := d.end(); out != "" || status == 0 {
		t.Errorf("after ^C: status %d, %q", status, out)
	}
	page.awaitOpen(t, 0)
	w.Close()
}

// A client that goes away asks no more; and a token that comes late counts.
func TestApproveEnds(t *testing.T) {
	m, page, _, _ := startWithPage(t)
	_, file := m.stranger()
	d := m.device(file, nil, "join@127.0.0.1", "login")
	page.awaitOpen(t, 1)
	d.Process.Kill()
	d.end()
	page.awaitOpen(t, 0)

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d = m.device(file, r, "join@127.0.0.1", "login")
	r.Close()
	io.WriteString(w, m.token(hello, false)+"\n")
	w.Close()
	if out, errs, status := d.end(); status != 0 || !strings.HasPrefix(out, "ssh-ed25519-cert-v01@openssh.com ") || !strings.Contains(errs, "this key is token:") {
		t.Errorf("a token that comes late: %d %q %q", status, out, errs)
	}
	page.awaitOpen(t, 0)
	if got := page.answer(d.code, "github:1"); got != "" {
		t.Error("its request is still there")
	}
}

// A key that is refused, or is approved by an account that may not log in, gets nothing,
// and the log has why.
func TestApproveRefused(t *testing.T) {
	m, page, _, book := startWithPage(t)
	_, file := m.stranger()
	d := m.device(file, nil, "join@127.0.0.1", "login")
	page.answer(d.code, "")
	if out, errs, status := d.end(); out != "" || status != wire.LoginRefused || errs != "login: "+errTestRefused.Error()+"\n" {
		t.Errorf("refused: %d %q %q", status, out, errs)
	}
	book.await("level=WARN msg=refuse key="+d.fingerprint, "what=approve", errTestRefused.Error())
	m.revoke("github:1")
	for _, principal := range []string{"github:1", "github:repo:7", "token:0123456789ab"} {
		d = m.device(file, nil, "join@127.0.0.1", "login")
		page.answer(d.code, principal)
		if out, errs, status := d.end(); out != "" || status != wire.LoginRefused || errs != "login: this account may not log in here: the orchestrator's log says why\n" {
			t.Errorf("%s: %d %q %q", principal, status, out, errs)
		}
	}
	book.await("what=approve", "github:1 is barred")
	// What else the user join may not do, it is told.
	if _, errs, status := m.ask(file, "", "join@127.0.0.1", "cat ci/last/stdout"); status != 1 || errs != "login: log in first: ssh join@HOST login >KEY-cert.pub says how on the page, or with <TOKEN-FILE takes a token; and then without join@\n" {
		t.Errorf("another command: %d %q", status, errs)
	}
}

// A joined is a client's connection as the user join.
type joinedConn struct {
	*ssh.Client
	t testing.TB
}

func (m *bubbleMux) joinFrom(ip string, key ssh.Signer) (*joinedConn, *memConn, error) {
	m.t.Helper()
	nc := m.l.dialFrom(ip)
	sc, chans, reqs, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{
		User: wire.UserJoin, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
	})
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	c := &joinedConn{ssh.NewClient(sc, chans, reqs), m.t}
	m.t.Cleanup(func() {
		nc.freeze(false)
		c.Close()
	})
	return c, nc, nil
}

// exec runs a command with an input.
func (c *joinedConn) exec(command, input string) (stdout, stderr string, status int) {
	c.t.Helper()
	s, err := c.NewSession()
	if err != nil {
		return "", err.Error(), -1
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(input), &out, &errs
	err = s.Run(command)
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitStatus()
	case err != nil:
		status = -1
	}
	return out.String(), errs.String(), status
}

func withPage(t *testing.T, f func(t *testing.T, m *bubbleMux, page *testPage)) {
	forge := newTestForge()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		page := newTestPage()
		m := &bubbleMux{testMux: &testMux{t: t, dir: filepath.Join(dir, "state"), home: dir}, l: newMemListener()}
		m.start(m.l, Options{People: forge, Approvals: page})
		f(t, m, page)
	})
}

// here asks for a code of the page by a browser, and returns the code that it brings back.
func here(t testing.TB, c *joinedConn) (name string) {
	t.Helper()
	out, errs, status := c.exec("page 40123 st_ate", "")
	name, ok := strings.CutPrefix(strings.TrimSpace(out), "https://ci.example.org/approve/")
	if !ok || status != 0 || strings.Count(out, "\n") != 1 {
		t.Fatalf("page: %d %q %q", status, out, errs)
	}
	return name
}

// The client of a person with a browser gets back from there what it shows for a
// certificate: by the connection that has asked, for its key, once, and in time.
func TestApproveHere(t *testing.T) {
	withPage(t, func(t *testing.T, m *bubbleMux, page *testPage) {
		key, thief := newSigner(t), newSigner(t)
		join := func(k ssh.Signer) *joinedConn {
			t.Helper()
			c, _, err := m.joinFrom("192.0.2.7", k)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		c := join(key)
		if out, _, status := c.exec("page", ""); out != "https://ci.example.org\n" || status != 0 {
			t.Errorf("page: %d %q", status, out)
		}
		name := here(t, c)
		if r := page.open[name]; r.port != 40123 || r.state != "st_ate" || wire.Fingerprint(r.key) != wire.Fingerprint(key.PublicKey()) {
			t.Errorf("the page is given %+v", r)
		}
		if _, errs, status := c.exec("page 40123 state", ""); status != 1 || !strings.Contains(errs, "one request a connection") {
			t.Errorf("a second request: %d %q", status, errs)
		}
		time.Sleep(9 * time.Minute) // the person finds a passkey
		page.answer(name, "github:1")
		out, errs, status := c.exec("login", "code_proof-"+name+"\n")
		if _, err := wire.ParseCertificate([]byte(out), key.PublicKey()); err != nil || status != 0 || !strings.Contains(errs, "this key is github:1") {
			t.Fatalf("login: %d %q %q %v", status, out, errs, err)
		}
		if out, errs, status := c.exec("login", "code_proof-"+name); out != "" || status == 0 {
			t.Errorf("the same code on the same connection: %d %q %q", status, out, errs)
		}

		// The code is of no use elsewhere, or again.
		victim := join(key)
		name = here(t, victim)
		page.answer(name, "github:1")
		for what, k := range map[string]ssh.Signer{"another key": thief, "the same key on another connection": key} {
			if out, errs, status := join(k).exec("login", "code_proof-"+name); out != "" || status != wire.LoginRefused || !strings.Contains(errs, "asked for no code") {
				t.Errorf("%s: %d %q %q", what, status, out, errs)
			}
			time.Sleep(time.Minute) // the penalty
		}
		// Nor is that of another request.
		other := join(thief)
		stolen := name
		page.answer(here(t, other), "github:2")
		if out, errs, status := other.exec("login", "code_proof-"+stolen); out != "" || status != wire.LoginRefused || !strings.Contains(errs, "not what the browser was given") {
			t.Errorf("the code of another request: %d %q %q", status, out, errs)
		}
		// Before the key is approved a guess waits for nobody.
		guess := join(thief)
		here(t, guess)
		began := time.Now()
		if out, errs, status := guess.exec("login", "code_guess"); out != "" || status != wire.LoginRefused || time.Since(began) > openTimeout {
			t.Errorf("a guess: %d %q %q after %v", status, out, errs, time.Since(began))
		}
		for _, bad := range []string{"page x y", "page 70000 s", "page 0 s", "page 1", "page 1 2 3", "page -1 s"} {
			if out, errs, status := join(key).exec(bad, ""); out != "" || status != 1 || !strings.HasPrefix(errs, "page: ") {
				t.Errorf("%s: %d %q %q", bad, status, out, errs)
			}
		}
		victim.Close()
		other.Close()
		synctest.Wait()
		page.mu.Lock()
		defer page.mu.Unlock()
		if len(page.open) != 0 {
			t.Errorf("%d requests are left of connections that have ended", len(page.open))
		}
	})
}

// A key that nobody approves is refused after ten minutes, in which the client is probed;
// one that does not answer is given up.
func TestApproveLate(t *testing.T) {
	withPage(t, func(t *testing.T, m *bubbleMux, page *testPage) {
		c, _, err := m.joinFrom("192.0.2.7", newSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		out, errs, status := c.exec("login", "")
		if d := time.Since(began); out != "" || status != wire.LoginRefused || !strings.HasSuffix(errs, "\nlogin: the key was not approved in time: begin again\n") || d != wire.ApproveTime {
			t.Errorf("after %v: %d %q %q", d, status, out, errs)
		}
		c.Wait()
		if d := time.Since(began); d > wire.ApproveTime+openTimeout {
			t.Errorf("the connection ends after %v", d)
		}
		// One that is silent.
		c, nc, err := m.joinFrom("192.0.2.7", newSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.exec("login", "")
		}()
		synctest.Wait()
		page.awaitOpen(t, 1)
		nc.freeze(true)
		began = time.Now()
		page.awaitOpenAfter(0)
		if d := time.Since(began); d > keepaliveEvery+keepaliveSpread+keepaliveAnswer {
			t.Errorf("a silent client is given up after %v", d)
		}
		nc.freeze(false)
		<-done
	})
}

// awaitOpenAfter is awaitOpen in a bubble, however long it takes.
func (p *testPage) awaitOpenAfter(n int) {
	for {
		p.mu.Lock()
		got, more := len(p.open), p.more
		p.mu.Unlock()
		if got == n {
			return
		}
		<-more
	}
}

// A thousand clients of one address that ask for approval get eight requests, and keep
// nobody else from logging in, from there or elsewhere.
func TestApproveFlood(t *testing.T) {
	withPage(t, func(t *testing.T, m *bubbleMux, page *testPage) {
		key, _ := m.key("", "operator")
		busy := 0
		var wg sync.WaitGroup
		for range 8 {
			c, _, err := m.joinFrom("192.0.2.66", newSigner(t))
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { c.exec("login", "") })
			synctest.Wait()
		}
		for i := range 992 {
			c, _, err := m.joinFrom("192.0.2.66", newSigner(t))
			if err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			command := "login"
			if i%2 == 0 {
				command = "page 40123 state"
			}
			out, errs, status := c.exec(command, "")
			if out != "" || status != wire.LoginBusy || !strings.Contains(errs, "try again") {
				t.Fatalf("%d: %d %q %q", i, status, out, errs)
			}
			busy++
			c.Close()
			time.Sleep(100 * time.Millisecond)
		}
		if n := m.s.sources.HalfOpen(); n > 0 {
			t.Errorf("%d connections are half-open", n)
		}
		if len(page.open) != 8 {
			t.Errorf("%d requests are open, want 8", len(page.open))
		}
		for _, ip := range []string{"192.0.2.66", "192.0.2.7"} {
			if out, errs, err := m.loginFrom(ip, newSigner(t), m.token(hello, true)); err != nil {
				t.Errorf("a token from %s: %q %q %v", ip, out, errs, err)
			}
		}
		l, _ := m.login(key)
		m.treeOn(l, hello)
		c, _, err := m.joinFrom("192.0.2.8", newSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { c.exec("login", "") })
		synctest.Wait()
		if len(page.open) != 9 {
			t.Errorf("from elsewhere: %d requests are open, want 9", len(page.open))
		}
		wg.Wait()
	})
}

// Keys that are refused, and guesses of codes, are logins that have failed.
func TestApprovePenalty(t *testing.T) {
	withPage(t, func(t *testing.T, m *bubbleMux, page *testPage) {
		answered := 0
		for range 1000 {
			c, _, err := m.joinFrom("192.0.2.66", newSigner(t))
			if err != nil {
				continue
			}
			if _, errs, status := c.exec("login", "code_guess"); status == wire.LoginRefused && strings.Contains(errs, "asked for no code") {
				answered++
			}
			c.Close()
		}
		if answered > 4 {
			t.Errorf("%d of 1000 guesses were answered", answered)
		}
		// One who was refused on the page pays too, though it was not half-open.
		answered = 0
		for range 10 {
			c, _, err := m.joinFrom("192.0.2.67", newSigner(t))
			if err != nil {
				continue
			}
			var wg sync.WaitGroup
			wg.Go(func() { c.exec("login", "") })
			synctest.Wait()
			page.mu.Lock()
			codes := slices.Collect(maps.Keys(page.open))
			page.mu.Unlock()
			for _, code := range codes {
				page.answer(code, "")
				answered++
			}
			wg.Wait()
			c.Close()
		}
		if answered > 4 {
			t.Errorf("%d of 10 could ask again", answered)
		}
	})
}
