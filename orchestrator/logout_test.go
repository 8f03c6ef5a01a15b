package orchestrator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/wire"
)

// A person logs out with stock ssh: from then on the key's certificates are good nowhere,
// and others of the account still are.
func TestOpenSSHLogout(t *testing.T) {
	m, page, _, book := startWithPage(t)
	login := func() (file string) {
		t.Helper()
		_, file = m.stranger()
		d := m.device(file, nil, "join@127.0.0.1", "login")
		page.answer(d.code, "github:1")
		out, _, status := d.end()
		if status != 0 {
			t.Fatal("no certificate")
		}
		os.WriteFile(file+"-cert.pub", []byte(out), 0o600)
		return file
	}
	file, other := login(), login()
	if _, errs, status := m.run(file, "logout now"); status != 2 || !strings.Contains(errs, "usage: logout") {
		t.Errorf("logout now: %d %q", status, errs)
	}
	if out, errs, status := m.run(file, "logout"); status != 0 || out != "github:1 is logged out with this key: its certificates are good no more\n" || errs != "" {
		t.Errorf("logout: %d %q %q", status, out, errs)
	}
	book.await("msg=revoke", "principal=github:1 ", " serial=")
	if _, errs, status := m.run(file, "whoami"); status != 255 || !strings.Contains(errs, "Permission denied") {
		t.Errorf("after logout: %d %q", status, errs)
	}
	if _, errs, status := m.run(other, "whoami"); status != 0 {
		t.Errorf("another key of the account: %d %q", status, errs)
	}
	if found, _ := book.lines("msg=refuse", "what=login", "is revoked"); len(found) > 1 {
		t.Errorf("a logout is not a refusal: %q", found)
	}
	// What has no certificate of ours cannot log out.
	_, plain := m.key("", "alice")
	if _, errs, status := m.run(plain, "logout"); status != 1 || !strings.Contains(errs, "logout: this connection was not made with a certificate") {
		t.Errorf("a key: %d %q", status, errs)
	}
	ca, _ := m.key(`cert-authority`, "ca")
	key, foreign := m.stranger()
	cert := mustSign(t, ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "x", ValidPrincipals: []string{"github:1"}, ValidBefore: ssh.CertTimeInfinity}, ca)
	os.WriteFile(foreign+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o600)
	if _, errs, status := m.run(foreign, "logout"); status != 1 || !strings.Contains(errs, "logout: this certificate is not of the orchestrator") {
		t.Errorf("a foreign certificate: %d %q", status, errs)
	}
	if _, errs, status := m.run(other, "whoami"); status != 0 {
		t.Errorf("another's logout: %d %q", status, errs)
	}
}

// A logout ends all connections of the key, whichever certificate they have logged in
// with, within a second; the one that asked has its answer.
func TestLogoutEnds(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		key := newSigner(t)
		login := func() testLink {
			t.Helper()
			cert, err := m.s.own.Person("github:1", key.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			l, _ := m.loginAs(withCert(t, cert, key), key)
			return l
		}
		first, second := login(), login()
		if ok, next, err := first.Ask(t.Context(), wire.RequestRenew, nil); !ok || err != nil {
			t.Fatalf("renewal: %s %v", next, err)
		}
		if err := m.exportOn(first, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		other := m.person("github:1")
		if out, errs, status := m.exec(second, "logout"); status != 0 || errs != "" || !strings.HasPrefix(out, "github:1 is logged out") {
			t.Errorf("logout: %d %q %q", status, out, errs)
		}
		m.ends("the connection that logged out", second, time.Second)
		m.ends("another one of the key", first, time.Second)
		if out, errs, status := m.exec(other, "whoami"); status != 0 {
			t.Errorf("another key: %d %q %q", status, out, errs)
		}
		text, err := os.ReadFile(filepath.Join(m.dir, "issued"))
		if err != nil || strings.Count(string(text), " revoked\n") != 3 {
			t.Errorf("issued: %v\n%s", err, text)
		}
	})
}

// A person's certificate is renewed on an open connection, without another one to show, as
// long as the account's session allows it, and nobody notices; then the person is told to
// log in again, and the connection goes on to the certificate's end.
func TestPersonRenewal(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		l := m.person("github:1")
		if err := m.exportOn(l, wire.Announce{Name: "box", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		reader, _ := m.key("", "reader")
		r, _ := m.login(reader)
		ev := watchEvents(t, m.treeOn(r, hello))
		ev.await("/n/box join")
		ev.text = ""
		serial := uint64(0)
		for range 3 {
			time.Sleep(8 * time.Hour)
			ok, reply, err := l.Ask(t.Context(), wire.RequestRenew, nil)
			if !ok || err != nil {
				t.Fatalf("renewal: %s %v", reply, err)
			}
			next, err := ssh.ParsePublicKey(reply)
			if err != nil {
				t.Fatal(err)
			}
			if last := next.(*ssh.Certificate); last.Serial <= serial || last.KeyId != "github:1" || time.Until(time.Unix(int64(last.ValidBefore), 0)) < 12*time.Hour-time.Second {
				t.Errorf("the certificate is %+v", last)
			}
			serial = next.(*ssh.Certificate).Serial
		}
		if out, _, _ := m.exec(l, "whoami"); !strings.Contains(out, fmt.Sprintf("\nserial=%d\n", serial)) {
			t.Errorf("whoami: %q", out)
		}
		if ev.text != "" {
			t.Errorf("others notice: %q", ev.text)
		}
		m.forge.set(func() {
			m.forge.ended = &access.RefusedError{Words: "log in on the page again", Err: errors.New("the session has ended")}
		})
		if ok, reply, err := l.Ask(t.Context(), wire.RequestRenew, nil); ok || err != nil || string(reply) != "renewal: log in on the page again" {
			t.Errorf("without a session: %v %s %v", ok, reply, err)
		}
		synctest.Wait()
		select {
		case <-l.Done():
			t.Error("a refused renewal ends the connection")
		default:
		}
		began := time.Now()
		m.ends("a certificate that is over", l, 13*time.Hour)
		if d := time.Since(began); d < 12*time.Hour-time.Minute || d > 12*time.Hour+time.Second {
			t.Errorf("it ends after %v", d)
		}
		m.book.await("msg=refuse", "what=login", errEnded.Error())
	})
}

// Others than persons get no next certificate for nothing.
func TestRenewalWithoutCertificate(t *testing.T) {
	withPeople(t, func(t *testing.T, m *peopleMux) {
		key := newSigner(t)
		token, _ := m.loginAs(withCert(t, m.certify(key, m.token(hello, false)), key), key)
		if ok, reply, _ := token.Ask(t.Context(), wire.RequestRenew, nil); ok || string(reply) != "renewal: only a person's certificate is renewed without another one: log in again" {
			t.Errorf("a token: %v %s", ok, reply)
		}
		plain, _ := m.key("", "alice")
		l, _ := m.login(plain)
		if ok, reply, _ := l.Ask(t.Context(), wire.RequestRenew, nil); ok || !strings.Contains(string(reply), "made with a key") {
			t.Errorf("a key: %v %s", ok, reply)
		}
		person := m.person("github:1")
		for range renewalsBurst {
			person.Ask(t.Context(), wire.RequestRenew, nil)
		}
		if ok, reply, _ := person.Ask(t.Context(), wire.RequestRenew, nil); ok || !strings.Contains(string(reply), "too many renewals") {
			t.Errorf("in a loop: %v %s", ok, reply)
		}
	})
}
