package orchestrator

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
)

// certify gets a certificate for key by a token, as a client does.
func (m *bubbleMux) certify(key ssh.Signer, token string) *ssh.Certificate {
	m.t.Helper()
	out, errs, err := m.loginFrom("192.0.2.7", key, token)
	if err != nil {
		m.t.Fatalf("login: %v: %s", err, errs)
	}
	cert, err := wire.ParseCertificate([]byte(out), key.PublicKey())
	if err != nil {
		m.t.Fatal(err)
	}
	return cert
}

// withCert returns the signer of a key and its certificate.
func withCert(t testing.TB, cert *ssh.Certificate, key ssh.Signer) ssh.Signer {
	t.Helper()
	s, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// renew asks for a renewal, and returns why there was none.
func renew(t testing.TB, l testLink, cert ssh.PublicKey) string {
	t.Helper()
	ok, reason, err := l.Ask(t.Context(), wire.RequestRenew, cert.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if ok {
		return ""
	}
	return string(reason)
}

// A certificate that is renewed in time is noticed by nobody: not by an executor, nor by
// readers of what it exports, nor by one that waits, for three lives. The first one that is
// not renewed ends the connection within a second, and says why.
func TestRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		token := m.token(hello, false)
		key := newSigner(t)
		reader, _ := m.key("", "reader")
		tree := newTestTree()
		tree.add("3f2a9c1d0b7e.1", testCommit, "test")
		feed := tree.feed(testLive)
		feed.Write("begin\n")

		l, _ := m.loginAs(withCert(t, m.certify(key, token), key), key)
		began := time.Now()
		lost := make(chan error, 1)
		joined := make(chan string, 1)
		go func() {
			lost <- l.Export(t.Context(), wire.Announce{Name: "box", Namespaces: []string{hello}}, client.Told{Joined: func(shown string) { joined <- shown }}, serveTree(tree))
		}()
		<-joined
		r, _ := m.login(reader)
		root := m.treeOn(r, hello)
		ev := watchEvents(t, root)
		ev.await("/n/box/ci/3f2a9c1d0b7e.1", "test")
		mine := m.treeOn(l, hello)
		var files []fs.File
		for _, root := range []fs.Dir{root, mine} {
			n, err := door.Walk(t.Context(), root, "n/box/"+testLive)
			if err != nil {
				t.Fatal(err)
			}
			f, err := n.Open(t.Context(), fs.OpenRead)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files = append(files, f)
		}
		got := make([]string, len(files))
		var wg sync.WaitGroup
		for i, f := range files {
			wg.Go(func() {
				b := make([]byte, 4096)
				for off := int64(0); ; {
					n, err := f.ReadAt(t.Context(), b, off)
					got[i] += string(b[:n])
					off += int64(n)
					if err != nil {
						if err != io.EOF {
							got[i] += err.Error()
						}
						return
					}
				}
			})
		}
		waits := make(chan string, 1)
		go func() {
			answer, _, err := r.Find(t.Context(), wire.FindMsg{Namespace: hello, Question: "commit=" + testCommit + " wait=/n/box/ci/3f2a9c1d0b7e.1"})
			waits <- string(answer) + " " + errText(err)
		}()

		want := "begin\n"
		last := time.Now()
		for i := range 5 { // of 40 minutes: over three hours
			time.Sleep(40 * time.Minute)
			if why := renew(t, l, m.certify(key, token)); why != "" {
				t.Fatalf("renewal %d: %s", i, why)
			}
			last = time.Now()
			text := "after " + strconv.Itoa(i) + "\n"
			feed.Write(text)
			want += text
			synctest.Wait()
			if got[0] != want || got[1] != want {
				t.Fatalf("after renewal %d, %v: the readers have %q", i, time.Since(began), got)
			}
		}
		time.Sleep(30 * time.Minute)
		feed.Write("end\n")
		feed.Close()
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		wg.Wait()
		if want += "end\n"; got[0] != want || got[1] != want {
			t.Errorf("the readers have %q, want %q", got, want)
		}
		if answer := <-waits; !strings.HasPrefix(answer, "/n/box/ci/3f2a9c1d0b7e.1 passed") {
			t.Errorf("the one that waited: %q", answer)
		}
		if strings.Contains(ev.text, "leave") || strings.Count(ev.text, "join") != 1 {
			t.Errorf("event: %q", ev.text)
		}
		select {
		case err := <-lost:
			t.Fatalf("the executor lost its connection: %v", err)
		default:
		}
		err := <-lost
		// A certificate's end is a whole second.
		if took := time.Since(last); took < time.Hour-time.Second || took > time.Hour+time.Second {
			t.Errorf("the last certificate's connection ended after %v, want an hour", took)
		}
		if err == nil || !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), errEnded.Error()) {
			t.Errorf("the executor is told %v", err)
		}
		ev.await("/n/box leave")
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A certificate that could not be the next one of the connection is refused, and the
// connection goes on as it was.
func TestRenewalRefused(t *testing.T) {
	jobs := &oneJob{job: testJob}
	inBubbleOf(t, Options{Jobs: jobs, URL: "https://ci"}, func(t *testing.T, m *bubbleMux) {
		token := m.token(hello, false)
		id := m.tokenPrincipal()
		other := m.token("github.com/alice/other", false)
		key, stranger := newSigner(t), newSigner(t)
		first := m.certify(key, token)
		l, _ := m.loginAs(withCert(t, first, key), key)
		forged := *first
		forged.ValidBefore += 3600
		narrowed := *first
		narrowed.CriticalOptions = map[string]string{"source-address": "203.0.113.1/32"}
		if err := narrowed.SignCert(rand.Reader, newSigner(t)); err != nil {
			t.Fatal(err)
		}
		ca := newSigner(t)
		os.WriteFile(filepath.Join(m.dir, "authorized_keys"), append([]byte("cert-authority "), ssh.MarshalAuthorizedKey(ca.PublicKey())...), 0o600)
		foreign := *first
		if err := foreign.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		for what, test := range map[string]struct {
			cert ssh.PublicKey
			want string
		}{
			"another key of the token":  {m.certify(stranger, token), "and this connection of"},
			"another token of the key":  {m.certify(key, other), "and this connection of"},
			"a job of the key":          {m.certify(key, "a.b.c"), "and this connection of"},
			"the key itself":            {key.PublicKey(), "not a certificate"},
			"a forged one":              {&forged, "signature"},
			"another address":           {&narrowed, "critical options"},
			"another authority":         {&foreign, "and this connection of"},
			"one of nobody's authority": {mustSign(t, *first, newSigner(t)), "not trusted"},
		} {
			time.Sleep(time.Minute) // for the rate
			if why := renew(t, l, test.cert); !strings.HasPrefix(why, "renewal: ") || !strings.Contains(why, test.want) {
				t.Errorf("%s: renewal = %q, want %q", what, why, test.want)
			}
		}
		time.Sleep(time.Minute)
		if ok, why, err := l.Ask(t.Context(), wire.RequestRenew, []byte("nonsense")); ok || err != nil || !strings.HasPrefix(string(why), "renewal: ") {
			t.Errorf("nonsense: %v, %q, %v", ok, why, err)
		}
		if why := renew(t, l, first); why != "" {
			t.Errorf("the same one again: %s", why)
		}
		// A connection by a key has nothing to renew.
		alice, _ := m.key("", "alice")
		k, _ := m.login(alice)
		if why := renew(t, k, m.certify(alice, token)); !strings.Contains(why, "made with a key") {
			t.Errorf("a connection by a key: %q", why)
		}
		// A job's next certificate may be for another commit.
		job, _ := m.loginAs(withCert(t, m.certify(key, "a.b.c"), key), key)
		jobs.job.Commit = strings.Repeat("7", 40)
		if why := renew(t, job, m.certify(key, "a.b.c")); !strings.Contains(why, "may do something else") {
			t.Errorf("a job of another commit: %q", why)
		}
		// Too many.
		busy := 0
		for range 2 * renewalsBurst {
			if why := renew(t, l, first); strings.HasSuffix(why, fs.ErrBusy.Error()) {
				busy++
			} else if why != "" {
				t.Errorf("one of many: %s", why)
			}
		}
		if busy < renewalsBurst {
			t.Errorf("%d of %d renewals at once are refused as busy", busy, 2*renewalsBurst)
		}
		// One that is revoked does not do, and takes the connection with it.
		time.Sleep(time.Minute)
		next := m.certify(key, token)
		m.revoke(id)
		if ok, why, err := l.Ask(t.Context(), wire.RequestRenew, next.Marshal()); ok || err == nil && !strings.Contains(string(why), "revoked") {
			t.Errorf("a revoked one: %v %q %v", ok, why, err)
		}
	})
}

func mustSign(t testing.TB, cert ssh.Certificate, by ssh.Signer) *ssh.Certificate {
	t.Helper()
	if err := cert.SignCert(rand.Reader, by); err != nil {
		t.Fatal(err)
	}
	return &cert
}

// What an operator revokes, by token, account or number, or takes out of the file tokens,
// ends open connections within a second, though nothing comes, and no others.
func TestRevokedEnds(t *testing.T) {
	inBubbleOf(t, Options{Jobs: &oneJob{job: testJob}, URL: "https://ci"}, func(t *testing.T, m *bubbleMux) {
		one := m.token(hello, false)
		principal := m.tokenPrincipal()
		two, three := m.token("github.com/alice/two", false), m.token("github.com/alice/three", true)
		type client struct {
			testLink
			cert *ssh.Certificate
		}
		connect := func(token string) client {
			key := newSigner(t)
			cert := m.certify(key, token)
			l, _ := m.loginAs(withCert(t, cert, key), key)
			return client{l, cert}
		}
		open := map[string]client{"one": connect(one), "one again": connect(one), "two": connect(two), "two again": connect(two), "three": connect(three), "job": connect("a.b.c")}
		ends := func(what string, names ...string) {
			t.Helper()
			began := time.Now()
			for _, name := range names {
				<-open[name].Done()
				delete(open, name)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: the connections end after %v", what, took)
			}
			time.Sleep(time.Minute)
			for name, c := range open {
				select {
				case <-c.Done():
					t.Errorf("%s: %s has ended", what, name)
					delete(open, name)
				default:
				}
			}
		}
		time.Sleep(time.Minute)
		m.revoke(strconv.FormatUint(open["two"].cert.Serial, 10))
		ends("a number", "two")
		m.revoke(principal)
		ends("a token", "one", "one again")
		m.revoke("github:repo:7")
		ends("an account", "job")
		text, err := os.ReadFile(filepath.Join(m.dir, "tokens"))
		if err != nil {
			t.Fatal(err)
		}
		m.replace("tokens", strings.Replace(string(text), "namespace=github.com/alice/two ", "namespace=github.com/alice/2 ", 1))
		ends("an edit", "two again")
		m.replace("tokens", "")
		ends("an empty file", "three")
	})
}

// Stock ssh prints why its connection ends.
func TestRevokedWords(t *testing.T) {
	m := startMux(t)
	_, file := m.joined(m.token(hello, false))
	k, _ := m.key("", "box")
	m.exportTo(k, "box", hello)
	cmd := m.openssh(t.Context(), file, "127.0.0.1", "cat", hello+"/event")
	events, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	m.revoke(m.tokenPrincipal())
	text, _ := io.ReadAll(out)
	if err := cmd.Wait(); err == nil || !strings.Contains(string(text), "9ci: ") || !strings.Contains(string(text), "revoked") {
		t.Errorf("ssh: %v, %q, want why it ended", err, text)
	}
}
