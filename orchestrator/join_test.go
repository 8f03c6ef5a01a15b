package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// token makes a repository token.
func (m *testMux) token(namespace string, read bool) string {
	m.t.Helper()
	secret, err := access.NewToken(m.dir, namespace, "", read, time.Time{})
	if err != nil {
		m.t.Fatal(err)
	}
	return secret
}

// revoke does what orchestrator revoke does.
func (m *testMux) revoke(words ...string) {
	m.t.Helper()
	if _, err := access.Revoke(m.dir, words); err != nil {
		m.t.Fatal(err)
	}
}

// tokenPrincipal returns the principal of the only token.
func (m *testMux) tokenPrincipal() string {
	m.t.Helper()
	all, err := access.Tokens(m.dir)
	if err != nil || len(all) != 1 {
		m.t.Fatalf("tokens: %v, %v, want one", all, err)
	}
	return all[0].Principal()
}

// ask runs ssh with args, which has input, and returns what it printed and its status.
func (m *testMux) ask(keyFile, input string, args ...string) (stdout, stderr string, status int) {
	m.t.Helper()
	cmd := m.openssh(m.t.Context(), keyFile, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// joined makes a key that has a certificate by the token, as its user would.
func (m *testMux) joined(token string) (key ssh.Signer, file string) {
	m.t.Helper()
	key, file = m.stranger()
	out, errs, status := m.ask(file, token+"\n", "join@127.0.0.1", "login")
	if status != 0 {
		m.t.Fatalf("login: status %d, %s", status, errs)
	}
	if err := os.WriteFile(file+"-cert.pub", []byte(out), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return key, file
}

// A key gets a certificate by a token with stock ssh, and does with it all that a key
// may: commands, sftp, 9P, exports, and jumps to an executor.
func TestOpenSSHLogin(t *testing.T) {
	m := startMux(t)
	token := m.token(hello, false)
	key, file := m.stranger()
	out, errs, status := m.ask(file, token, "join@127.0.0.1", "login")
	principal := m.tokenPrincipal()
	if status != 0 || strings.Count(out, "\n") != 1 || !regexp.MustCompile(`^login: this key is `+principal+` until 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\n$`).MatchString(errs) {
		t.Fatalf("login: status %d, stdout %q, stderr %q", status, out, errs)
	}
	cert := file + "-cert.pub"
	os.WriteFile(cert, []byte(out), 0o600)
	list, err := exec.Command("ssh-keygen", "-L", "-f", cert).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen -L: %v: %s", err, list)
	}
	for _, want := range []string{"user certificate", "Public key: ED25519-CERT " + wire.Fingerprint(key.PublicKey()), "Key ID: \"" + principal + "\"", "Serial: 1", "Principals: \n                " + principal, "Critical Options: (none)", "Extensions: (none)"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("ssh-keygen -L has no %q:\n%s", want, list)
		}
	}

	if out, errs, status := m.run(file, "whoami"); status != 0 || !strings.Contains(out, "key="+principal+"@SHA256:") || !strings.Contains(out, "rights='read publish'\nnamespaces="+hello+"\nexpires=") {
		t.Fatalf("whoami: %d %q %q", status, out, errs)
	}
	// An executor of ours, with the certificate.
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	conn := m.dialWith(certified(t, key, file), key)
	ev := watchEvents(t, m.tree(conn, hello))
	m.export(conn, dial.Announce{Name: "box", Namespaces: []string{hello}}, tree.root())
	ev.await("/n/box/ci/3f2a9c1d0b7e.1")
	for command, want := range map[string]string{
		"cat ci/last/stdout": "ok 3f2a9c1d0b7e.1\n", "ls n": "box\n", "tail -n 1 ci/last/stdout": "ok 3f2a9c1d0b7e.1\n",
		"find n -maxdepth 1": "n\nn/box\n", "stat ci/last": "-> ../n/box/ci/3f2a9c1d0b7e.1", "wait last": "passed 0 41.250 ",
	} {
		if out, errs, status := m.run(file, command); status != 0 || !strings.Contains(out, want) {
			t.Errorf("ssh HOST %s: %d %q %q, want %q", command, status, out, errs, want)
		}
	}
	get := filepath.Join(t.TempDir(), "size")
	sftp := exec.CommandContext(t.Context(), "sftp", append(m.opensshArgs(file), "127.0.0.1:"+hello+"/ci/last/artifacts/size", get)...)
	if out, err := sftp.CombinedOutput(); err != nil {
		t.Errorf("sftp: %v: %s", err, out)
	} else if b, _ := os.ReadFile(get); string(b) != "42\n" {
		t.Errorf("sftp: %q", b)
	}
	cl, err := ninep.Import(t.Context(), startPipe(t, m.openssh(t.Context(), file, "-s", "127.0.0.1", "9p")), ninep.ImportOptions{Aname: hello})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, cl.Root(), "n/box/ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
		t.Errorf("9p: %q", got)
	}
	cl.Close()
	config := m.sshConfig(file, file, map[string]ssh.PublicKey{"box": key.PublicKey()})
	if out, err := exec.CommandContext(t.Context(), "ssh", "-F", config, "-J", "mux", "box", "cat ci/3f2a9c1d0b7e.1/stdout").CombinedOutput(); err != nil || string(out) != "ok 3f2a9c1d0b7e.1\n" {
		t.Errorf("ssh -J: %q, %v", out, err)
	}
	// A 9P server that ssh itself exports.
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "9p"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &ninep.Server{User: fs.User{Name: "local", UID: -1}, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ServeListener(ctx, l)
	}()
	defer func() { cancel(); <-done }()
	forward := m.openssh(ctx, file, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "/9p/"+hello+"/n/stock:"+l.Addr().String(), "127.0.0.1")
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	ev.await("/n/stock join")
	cancel()
	forward.Wait()
}

// The user join logs in by a token on standard input, once a connection, and does
// nothing else.
func TestJoinRefused(t *testing.T) {
	m := startMux(t)
	token := m.token(hello, false)
	_, file := m.stranger()
	const first = "log in with a token first: ssh join@HOST login <TOKEN-FILE >KEY-cert.pub"
	const wrong = "login: the token lets this key in nowhere"
	login := []string{"join@127.0.0.1", "login"}
	for _, test := range []struct {
		name, input string
		args        []string
		stderr      string
		status      int
	}{
		{"nothing", "", login, "login: there is no token on standard input: ssh join@HOST login", 1},
		{"blanks", " \n\n", login, "login: there is no token on standard input", 1},
		{"a wrong token", wire.TokenPrefix + strings.Repeat("A", 43), login, wrong, 1},
		{"a short token", token[:20], login, wrong, 1},
		{"a long token", token + token, login, wrong, 1},
		{"binary", "9ci_\x00\xff\xfe" + token, login, wrong, 1},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", login, wrong, 1},
		{"a flood", strings.Repeat("9ci_", wire.MaxToken/4) + "x", login, "login: a token has 16384 bytes at most", 1},
		{"a token of a CI job", "eyJ.eyJ.sig", login, wrong, 1},
		{"an argument", token, append(login, token), "login: it takes no arguments", 1},
		{"the page", "", []string{"join@127.0.0.1", "page"}, "page: this orchestrator has no page: log in with a token", 1},
		{"another command", token, []string{"join@127.0.0.1", "cat ci/last/stdout"}, first, 1},
		{"a shell", "", []string{"join@127.0.0.1"}, first, 1},
		{"9P", "", []string{"-s", "join@127.0.0.1", "9p"}, first, 1},
		{"sftp", "", []string{"-s", "join@127.0.0.1", "sftp"}, first, 1},
		{"an export", "", []string{"-s", "join@127.0.0.1", "9p-export"}, first, 1},
		{"a way through", "", []string{"-W", "box:22", "join@127.0.0.1"}, "stdio forwarding failed", 255},
		{"a forward", token, []string{"-o", "ExitOnForwardFailure=yes", "-R", "/9p:/nowhere", "join@127.0.0.1", "login"}, "", 255},
	} {
		out, errs, status := m.ask(file, test.input, test.args...)
		if out != "" || status != test.status || !strings.Contains(errs, test.stderr) || strings.Contains(errs, token) || test.status == 1 && strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: stdout %q, stderr %q, status %d, want %q and %d", test.name, out, errs, status, test.stderr, test.status)
		}
	}
	if out, errs, status := m.ask(file, token[:20]+"\r", "-tt", "join@127.0.0.1", "login"); out != "" || status != 1 || !strings.Contains(errs, wrong) || !strings.Contains(errs, "says why\r\n") {
		t.Errorf("on a terminal: %d %q %q", status, out, errs)
	}
	for _, stop := range []string{"\x03", "\x1c"} {
		if out, errs, status := m.ask(file, token[:20]+stop, "-tt", "join@127.0.0.1", "login"); out != "" || status != exitInterrupted {
			t.Errorf("%q on a terminal: %d %q %q", stop, status, out, errs)
		}
	}
	if out, errs, status := m.ask(file, token+"\r", "-tt", "join@127.0.0.1", "login"); status != 0 || !strings.HasPrefix(out, "ssh-ed25519-cert-v01@openssh.com ") {
		t.Errorf("a token on a terminal: %d %q %q", status, out, errs)
	}
	// The token and the key are not what logs in elsewhere.
	if _, errs, status := m.run(file, "whoami"); status != 255 || !strings.Contains(errs, "Permission denied") {
		t.Errorf("the key without its certificate: %d %q", status, errs)
	}
}

// The key of a certificate logs in as join again: ssh offers the certificate first.
func TestJoinAgain(t *testing.T) {
	m := startMux(t)
	token := m.token(hello, false)
	_, file := m.joined(token)
	out, errs, status := m.ask(file, token, "join@127.0.0.1", "login")
	if status != 0 || !strings.HasPrefix(out, "ssh-ed25519-cert-v01@openssh.com ") {
		t.Errorf("login: %d %q %q", status, out, errs)
	}
	// A key that the operator has revoked does not.
	m.keygen("-k", "-q", "-f", filepath.Join(m.dir, "revoked"), file+".pub")
	if _, errs, status := m.ask(file, token, "join@127.0.0.1", "login"); status != 255 || !strings.Contains(errs, "Permission denied") {
		t.Errorf("a revoked key: %d %q", status, errs)
	}
}

// The log has which key got a certificate, which logged in with it, and why others did
// not, which their clients are not told.
func TestJoinAudit(t *testing.T) {
	m, book := startAudited(t)
	token := m.token(hello, true)
	key, file := m.joined(token)
	principal := m.tokenPrincipal()
	line := book.await("level=INFO msg=issue key="+wire.Fingerprint(key.PublicKey())+" principal="+principal+"@SHA256:", "addr=127.0.0.1:", " expires=20")
	serial := regexp.MustCompile(` serial=\d+`).FindString(line)
	m.run(file, "whoami")
	book.await("level=INFO msg=login key="+wire.Fingerprint(key.PublicKey())+" principal="+principal+"@", serial+"\n")

	m.ask(file, wire.TokenPrefix+strings.Repeat("A", 43), "join@127.0.0.1", "login")
	book.await("level=WARN msg=refuse key="+wire.Fingerprint(key.PublicKey()), `what=token err="a repository token that is not known, or no more"`)
	m.revoke(principal)
	book.await("level=INFO msg=revoke key="+wire.Fingerprint(key.PublicKey())+" principal="+principal+" addr=-", serial)
	book.await("level=INFO msg=revoke key=- principal=" + principal + " addr=-")
	m.run(file, "whoami")
	book.await("level=WARN msg=refuse", "what=login", "this certificate is revoked")
	if found, _ := book.lines(token); len(found) > 0 {
		t.Errorf("the log has the token: %q", found)
	}
}

// A CI job's token, which the forge vouches for, gives a certificate for its repository
// and its commit.
func TestJobLogin(t *testing.T) {
	jobs := &oneJob{job: testJob}
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	m.start(listen(t), Options{Jobs: jobs, URL: "https://CI.example.org:8443/"})
	key, file := m.joined("aaa.bbb.ccc")
	if want := "aaa.bbb.ccc ci.example.org " + wire.Fingerprint(key.PublicKey()); jobs.asked != want {
		t.Errorf("the forge was asked for %q, want %q", jobs.asked, want)
	}
	if out, _, _ := m.run(file, "whoami"); !strings.Contains(out, "key=github:repo:7@SHA256:") || !strings.Contains(out, "rights='read publish'\nnamespaces="+hello+"\ncommit="+testCommit+"\nexpires=") {
		t.Errorf("whoami: %q", out)
	}
	list, err := exec.Command("ssh-keygen", "-L", "-f", file+"-cert.pub").CombinedOutput()
	if err != nil || !strings.Contains(string(list), "namespace@9ci") || !strings.Contains(string(list), "commit@9ci") {
		t.Errorf("ssh-keygen -L: %v: %s", err, list)
	}
	jobs.err = fmt.Errorf("the issuer is down: %w", fs.ErrBusy)
	if out, errs, status := m.ask(file, "aaa.bbb.ccc", "join@127.0.0.1", "login"); out != "" || status != wire.LoginBusy || errs != "login: the token cannot be checked at present: try again\n" {
		t.Errorf("while the issuer is down: %d %q %q", status, out, errs)
	}
	jobs.err = errors.New("made out to another orchestrator")
	if out, errs, status := m.ask(file, "aaa.bbb.ccc", "join@127.0.0.1", "login"); out != "" || status != wire.LoginRefused || strings.Contains(errs, "another") {
		t.Errorf("a token for another orchestrator: %d %q %q", status, out, errs)
	}
	m.revoke("github:repo:7")
	if _, _, status := m.run(file, "whoami"); status != 255 {
		t.Errorf("a barred account: status %d", status)
	}
}

var testJob = access.Job{Principal: "github:repo:7", Host: "github.com", Namespace: hello, RepositoryID: "7", OwnerID: "1", Commit: testCommit, Publish: true}

// A oneJob is a forge that vouches for one job, whatever its token.
type oneJob struct {
	job   access.Job
	err   error
	asked string
}

func (j *oneJob) Job(_ context.Context, token, host, fingerprint string) (access.Job, error) {
	j.asked = token + " " + host + " " + fingerprint
	return j.job, j.err
}

func TestURL(t *testing.T) {
	for url, want := range map[string]string{
		"": "", "https://ci.example.org": "ci.example.org", "https://CI.Example.org:8443/": "ci.example.org", "http://[::1]:80": "::1",
		"ci.example.org": "!", "ssh://ci.example.org": "!", "https://": "!", "https://ci.example.org/page": "!", "https://me@ci.example.org": "!", "https://ci.example.org?x": "!",
	} {
		host, err := hostOf(url)
		if err != nil {
			host = "!"
		}
		if host != want {
			t.Errorf("hostOf(%q) = %q, %v, want %q", url, host, err, want)
		}
	}
}

// loginFrom logs in as join from an address with a token, and returns the session's
// answer, or why there was none.
func (m *bubbleMux) loginFrom(ip string, key ssh.Signer, token string) (stdout, stderr string, err error) {
	m.t.Helper()
	nc := m.l.dialFrom(ip)
	sc, chans, reqs, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{
		User: wire.UserJoin, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
	})
	if err != nil {
		nc.Close()
		return "", "", err
	}
	cl := ssh.NewClient(sc, chans, reqs)
	defer cl.Close()
	s, err := cl.NewSession()
	if err != nil {
		return "", "", err
	}
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(token), &out, &errs
	err = s.Run(wire.CommandLogin)
	return out.String(), errs.String(), err
}

// Guesses of tokens get an address refused, and one from which a token has logged in
// stays.
func TestJoinPenalty(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		token := m.token(hello, false)
		key := newSigner(t)
		guess := func(ip string, n int) (refused int) {
			t.Helper()
			for i := range n {
				out, errs, err := m.loginFrom(ip, key, fmt.Sprintf("%s%043d", wire.TokenPrefix, i))
				var exit *ssh.ExitError
				if out != "" || err == nil {
					t.Fatalf("a guess: %q %q %v", out, errs, err)
				}
				if !errors.As(err, &exit) {
					refused++
				}
			}
			return refused
		}
		if n := guess("192.0.2.66", 10000); n != 10000-3 {
			t.Errorf("%d of 10000 guesses got no answer, want all but 3", n)
		}
		if _, _, err := m.loginFrom("192.0.2.66", key, token); err == nil {
			t.Error("an address with a penalty logs in")
		}
		if _, errs, err := m.loginFrom("192.0.2.67", key, token); err != nil {
			t.Fatalf("another address: %v: %s", err, errs)
		}
		guess("192.0.2.67", 20)
		if _, errs, err := m.loginFrom("192.0.2.67", key, token); err != nil {
			t.Errorf("an address from which a token has logged in: %v: %s", err, errs)
		}
		time.Sleep(10*time.Minute + time.Second)
		if _, errs, err := m.loginFrom("192.0.2.66", key, token); err != nil {
			t.Errorf("after the penalty: %v: %s", err, errs)
		}
	})
}

// A client that gives no end of a token is put out in time, and is half-open until then,
// however many sessions it opens.
func TestJoinSlow(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		began := time.Now()
		nc := m.l.dialFrom("192.0.2.66")
		sc, chans, reqs, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{
			User: wire.UserJoin, Auth: []ssh.AuthMethod{ssh.PublicKeys(newSigner(t))}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
		})
		if err != nil {
			t.Fatal(err)
		}
		cl := ssh.NewClient(sc, chans, reqs)
		defer cl.Close()
		synctest.Wait()
		if n := m.s.sources.HalfOpen(); n != 1 {
			t.Errorf("%d connections are half-open, want this one", n)
		}
		ends := make(chan string, 2*maxJoinSessions)
		for range 2 * maxJoinSessions {
			s, err := cl.NewSession()
			if err != nil {
				if !strings.Contains(err.Error(), "too many channels") {
					t.Errorf("one session more: %v", err)
				}
				continue
			}
			in, _ := s.StdinPipe()
			errs, _ := s.StderrPipe()
			if err := s.Start(wire.CommandLogin); err != nil {
				t.Fatal(err)
			}
			in.Write([]byte("9ci_"))
			go func() {
				b, _ := io.ReadAll(errs)
				ends <- string(b)
			}()
		}
		for range 3 { // each takes the place of one that has ended
			if got := <-ends; got != "login: one login a connection: connect again\n" {
				t.Errorf("a second login: %q", got)
			}
		}
		synctest.Wait()
		for len(ends) > 0 {
			<-ends
		}
		if got := <-ends; got != "login: the end of the token has not come within 30s\n" {
			t.Errorf("a login without an end: %q", got)
		}
		if took := time.Since(began); took != wire.TokenTime {
			t.Errorf("it took %v", took)
		}
		cl.Wait()
		if took := time.Since(began); took > wire.TokenTime+openTimeout {
			t.Errorf("the connection ended after %v", took)
		}
		// Nobody says a word.
		idle := m.l.dialFrom("192.0.2.66")
		began = time.Now()
		if _, _, _, err := ssh.NewClientConn(idle, "mux:22", &ssh.ClientConfig{
			User: wire.UserJoin, Auth: []ssh.AuthMethod{ssh.PublicKeys(newSigner(t))}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
		}); err != nil {
			t.Fatal(err)
		}
		for m.s.sources.HalfOpen() > 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took < 110*time.Second || took > 121*time.Second {
			t.Errorf("a silent client was put out after %v, want the time of a login", took)
		}
	})
}

// A stolen is another's certificate with a key that is not its own.
type stolen struct {
	ssh.Signer
	cert *ssh.Certificate
}

func (s stolen) PublicKey() ssh.PublicKey { return s.cert }

// A certificate lets in the key that it is for and no other.
func TestStolenCertificate(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		key := newSigner(t)
		cert := m.certify(key, m.token(hello, false))
		enter := func(key ssh.Signer) error {
			nc := m.l.dialFrom("192.0.2.66")
			defer nc.Close()
			sc, _, _, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey())})
			if err == nil {
				sc.Close()
			}
			return err
		}
		if err := enter(stolen{newSigner(t), cert}); err == nil {
			t.Error("a certificate lets another key in")
		}
		if err := enter(stolen{key, cert}); err != nil {
			t.Errorf("a certificate with its key: %v", err)
		}
	})
}
