package access

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asking returns an authority at which people log in.
func asking(t testing.TB) (*testAuthority, *testPeople) {
	a := newAuthority(t, nil)
	people := &testPeople{may: map[string]Rights{hello: {Read: true}}}
	a.Ask(people)
	return a, people
}

// A person has a certificate for twelve hours, by which the forge is asked.
func TestPerson(t *testing.T) {
	a, people := asking(t)
	key := newSigner(t).PublicKey()
	cert, err := a.Person("github:123", key)
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(time.Unix(int64(cert.ValidBefore), 0)); life < PersonLife-time.Minute || life > PersonLife || cert.KeyId != "github:123" || len(cert.Extensions) != 0 {
		t.Errorf("the certificate holds for %v: %+v", life, cert)
	}
	l := a.enters(cert)
	if l.MayRead(hello) || l.MayPublish("github.com/any/thing") || l.MayRead("local/x") {
		t.Error("it may do something that was not asked")
	}
	if err := l.Learn(t.Context(), hello, false); err != nil || !l.MayRead(hello) || l.MayPublish(hello) {
		t.Errorf("Learn: %v", err)
	}
	if !a.enters(cert).MayRead(hello) {
		t.Error("what is known is of one login alone")
	}
	people.set(func() { people.out = errors.New("the account is gone") })
	a.refused("without its account", cert, "the account is gone")
	people.set(func() { people.out = nil })
	a.enters(cert)
	// It is barred like any other.
	if _, err := Revoke(a.dir, []string{"github:123"}); err != nil {
		t.Fatal(err)
	}
	a.refused("barred", cert, "revoked")
	if _, err := a.Person("github:123", key); err == nil || !strings.Contains(err.Error(), "barred") {
		t.Errorf("a barred account: %v", err)
	}
}

// No other principal gets a person's certificate, and none of another kind asks.
func TestPersonRefused(t *testing.T) {
	a, _ := asking(t)
	key := newSigner(t).PublicKey()
	for _, p := range []string{"", "github", "github:", "token:0123456789ab", "github:repo:7", "git.example.org:repo:7", "a:b,c:d", "a:b\nc", "github:1 2"} {
		if cert, err := a.Person(p, key); err == nil {
			t.Errorf("Person(%q) = %v", p, cert)
		}
	}
	for _, p := range []string{"github:1", "gitlab.example.org:45", "passkey:8a6f", "idp.example.org:a/b"} {
		if _, err := a.Person(p, key); err != nil {
			t.Errorf("Person(%q): %v", p, err)
		}
	}
	if l := a.enters(a.login(a.token(hello, true, time.Time{}))); l.Asks(hello) || l.AskedHost() != "" {
		t.Error("a forge is asked for a token")
	}
	none := newAuthority(t, nil)
	if _, err := none.Person("github:1", key); err == nil {
		t.Error("people log in where nobody knows them")
	}
	cert, err := a.Person("github:1", key)
	if err != nil {
		t.Fatal(err)
	}
	again := openAuthority(t, a.dir, nil) // without people
	again.refused("where people do not log in", cert, "people do not log in here")
}

// The next certificate is had by the one before as long as the account's session allows.
func TestPersonRenew(t *testing.T) {
	a, people := asking(t)
	key := newSigner(t).PublicKey()
	cert, err := a.Person("github:123", key)
	if err != nil {
		t.Fatal(err)
	}
	next, err := a.Renew(cert)
	if err != nil || next.Serial <= cert.Serial || next.KeyId != cert.KeyId || string(next.Key.Marshal()) != string(key.Marshal()) {
		t.Fatalf("Renew = %v, %v", next, err)
	}
	a.enters(next)
	people.set(func() { people.ended = &RefusedError{"log in again", errors.New("ended")} })
	var refused *RefusedError
	if _, err := a.Renew(next); !errors.As(err, &refused) || refused.Words != "log in again" {
		t.Errorf("when the session has ended: %v", err)
	}
	people.set(func() { people.ended = nil })
	if _, err := a.Renew(a.login(a.token(hello, true, time.Time{}))); !errors.As(err, &refused) {
		t.Errorf("a token's certificate: %v", err)
	}
	other, _ := asking(t)
	if _, err := other.Renew(cert); !errors.As(err, &refused) {
		t.Errorf("another authority's: %v", err)
	}
	if err := a.RevokeOf("github:123", func(c Certificate) bool { return c.Serial == cert.Serial }); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-Qlf", filepath.Join(a.dir, krlFile)).CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen -Q: %v: %s", err, out)
	}
	if _, err := a.Renew(cert); !errors.As(err, &refused) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a revoked one: %v", err)
	}
	if _, err := a.Renew(next); err != nil {
		t.Errorf("another of the same account: %v", err)
	}
	forged := *next
	forged.ValidPrincipals, forged.KeyId = []string{"github:1"}, "github:1"
	if _, err := a.Renew(&forged); err == nil {
		t.Error("a forged one is renewed")
	}
}

// An account is logged out when its last certificate is revoked by its person: then there
// is nothing to ask its forge for.
func TestPersonLogout(t *testing.T) {
	a, people := asking(t)
	first, err := a.Person("github:123", newSigner(t).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Person("github:123", newSigner(t).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Logout(first); err != nil || len(people.left) > 0 {
		t.Errorf("the first of two keys: %v, %q", err, people.left)
	}
	a.enters(second)
	if err := a.Logout(second); err != nil || len(people.left) != 1 || people.left[0] != "github:123" {
		t.Errorf("the second: %v, %q", err, people.left)
	}
	if err := a.Logout(a.login(a.token(hello, true, time.Time{}))); err != nil || len(people.left) != 1 {
		t.Errorf("a token's: %v, %q", err, people.left)
	}
}
