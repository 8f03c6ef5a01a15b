package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"9ci/fs"
	"9ci/orchestrator/internal/statedir"
	"9ci/orchestrator/internal/wire"
)

// A testAuthority is an Authority and its Policy, in a state directory of its own.
type testAuthority struct {
	*Authority
	t      testing.TB
	dir    string
	policy *Joint
}

func newAuthority(t testing.TB, jobs Jobs) *testAuthority {
	t.Helper()
	return openAuthority(t, t.TempDir(), jobs)
}

func openAuthority(t testing.TB, dir string, jobs Jobs) *testAuthority {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a, err := OpenAuthority(dir, jobs, "ci.example.org", log)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeys(Files{Keys: filepath.Join(dir, "authorized_keys"), Revoked: filepath.Join(dir, "revoked")}, log)
	if err != nil {
		t.Fatal(err)
	}
	return &testAuthority{a, t, dir, NewJoint(keys, a)}
}

// token makes a token.
func (a *testAuthority) token(namespace string, read bool, expires time.Time) string {
	a.t.Helper()
	secret, err := NewToken(a.dir, namespace, "", read, expires)
	if err != nil {
		a.t.Fatal(err)
	}
	return secret
}

// login returns a certificate for a new key.
func (a *testAuthority) login(token string) *ssh.Certificate {
	a.t.Helper()
	cert, err := a.Login(a.t.Context(), token, newSigner(a.t).PublicKey())
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// refused fails the test unless key may not enter because of err.
func (a *testAuthority) refused(what string, key ssh.PublicKey, err string) {
	a.t.Helper()
	if l, got := Enter(a.policy, key, nil); got == nil || !strings.Contains(got.Error(), err) {
		a.t.Errorf("%s: Enter = %v, %v, want %q", what, l, got, err)
	}
}

// enters fails the test unless key may enter.
func (a *testAuthority) enters(key ssh.PublicKey) *Login {
	a.t.Helper()
	l, err := Enter(a.policy, key, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return l
}

// file returns the text of a file of the state directory.
func (a *testAuthority) file(name string) string {
	a.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(b)
}

// edit changes a file as an editor does.
func (a *testAuthority) edit(name, old, new string) {
	a.t.Helper()
	text := a.file(name)
	if !strings.Contains(text, old) {
		a.t.Fatalf("%s has no %q: %s", name, old, text)
	}
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(strings.Replace(text, old, new, 1)), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// A token is 9ci_ and 43 characters, of which only the digest is kept; its certificate is
// for the key that asked, for an hour, and may do what the token's line says at the time.
func TestToken(t *testing.T) {
	a := newAuthority(t, nil)
	secret := a.token(hello, false, time.Time{})
	if !regexp.MustCompile(`^9ci_[A-Za-z0-9_-]{43}$`).MatchString(secret) {
		t.Errorf("a token is %q", secret)
	}
	if strings.Contains(a.file(tokensFile), strings.TrimPrefix(secret, wire.TokenPrefix)) {
		t.Error("the token itself is kept")
	}
	key := newSigner(t).PublicKey()
	began := time.Now().Truncate(time.Second)
	cert, err := a.Login(t.Context(), secret, key)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Tokens(a.dir)
	if err != nil || len(all) != 1 || all[0].Used.Before(began) || all[0].Name != hello {
		t.Fatalf("Tokens = %v, %v", all, err)
	}
	principal := "token:" + all[0].ID
	if wire.Fingerprint(cert) != ssh.FingerprintSHA256(key) || cert.KeyId != principal || !slices.Equal(cert.ValidPrincipals, []string{principal}) ||
		cert.ValidBefore-cert.ValidAfter != 3660 || len(cert.Extensions)+len(cert.CriticalOptions) > 0 {
		t.Errorf("the certificate is %+v", cert)
	}
	l := a.enters(cert)
	if l.Name != principal || l.String() != principal+"@"+ssh.FingerprintSHA256(a.Key()) || !l.MayRead(hello) || !l.MayPublish(hello) || l.MayRead("github.com/alice/other") || l.Home() != hello || l.Ends() != time.Unix(int64(cert.ValidBefore), 0) {
		t.Errorf("the login is %+v", l)
	}
	a.refused("the bare key", key, "not in authorized_keys")

	changed := a.policy.Changed()
	a.edit(tokensFile, "rights='read publish'", "rights=read")
	a.policy.Changed()
	select {
	case <-changed:
	default:
		t.Error("an edit of tokens is not told of")
	}
	if l := a.enters(cert); !l.MayRead(hello) || l.MayPublish(hello) {
		t.Errorf("the login is %+v after an edit that takes publish away", l)
	}
	a.edit(tokensFile, "expires=never", "expires=2020-01-01T00:00:00Z")
	a.refused("an expired token", cert, "has expired")
	a.edit(tokensFile, "expires=2020", "expires=never,2020")
	a.refused("a line that cannot be read", cert, "is revoked")
	if all, err := Tokens(a.dir); err == nil || len(all) != 0 || !strings.Contains(err.Error(), "tokens:4: ") {
		t.Errorf("Tokens with such a line = %v, %v", all, err)
	}
	a.edit(tokensFile, a.file(tokensFile), "")
	a.refused("a deleted line", cert, "is revoked")
	for _, name := range []string{tokensFile, usedFile, issuedFile, krlFile, statedir.LockFile, authorityFile} {
		if fi, err := os.Stat(filepath.Join(a.dir, name)); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", name, fi.Mode(), err)
		}
	}
}

// What is no token, or none any more, gets no certificate, and the client is told the
// same of all but one that has expired.
func TestTokenRefused(t *testing.T) {
	a := newAuthority(t, nil)
	good := a.token(hello, false, time.Time{})
	old := a.token("github.com/alice/...", true, time.Now().Add(time.Hour))
	a.edit(tokensFile, "expires=2", "expires=1")
	gone := a.token(hello, false, time.Time{})
	if _, err := Revoke(a.dir, []string{tokenOf(t, a, gone)}); err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{
		"nothing": "", "another": wire.TokenPrefix + strings.Repeat("A", 43), "a short one": good[:len(good)-1], "a long one": good + "A",
		"one with a blank": good[:20] + " " + good[21:], "bytes": wire.TokenPrefix + "\xff\xfe\x00", "another case": strings.ToUpper(good),
		"padded": good + "=", "the prefix": wire.TokenPrefix, "another prefix": "8" + good[1:], "twice": good + "\n" + good,
		"expired": old, "revoked": gone, "other trailing bits": otherBits(good), "its digest": fmt.Sprintf("%x", good),
	} {
		cert, err := a.Login(t.Context(), token, newSigner(t).PublicKey())
		var refused *RefusedError
		if cert != nil || !errors.As(err, &refused) {
			t.Errorf("%s: Login = %v, %v, want a refusal", what, cert, err)
			continue
		}
		want := refusedWords
		if what == "expired" {
			want = "the token has expired: ask for another"
		}
		if refused.Words != want {
			t.Errorf("%s: the client is told %q", what, refused.Words)
		}
	}
	if _, err := a.Login(t.Context(), good, a.login(good)); err == nil {
		t.Error("a certificate gets a certificate")
	}
	a.login(good)
}

// otherBits returns a token that decodes to the same bytes by a lax decoder: the last
// character has two bits that mean nothing.
func otherBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[i^1])
}

// tokenOf returns the id of a token.
func tokenOf(t testing.TB, a *testAuthority, secret string) string {
	t.Helper()
	all := a.policy.own.tokens.get()
	tok := all.find(secret)
	if tok == nil {
		t.Fatalf("%s is not known", secret)
	}
	return tok.ID
}

// What orchestrator token is told in nonsense, it says.
func TestNewTokenErrors(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		namespace, name string
		expires         time.Time
		err             string
	}{
		{"github.com/alice", "", time.Time{}, "there can be no such namespace"},
		{"github.com/*", "", time.Time{}, "matches nothing"},
		{"", "", time.Time{}, "namespace pattern"},
		{"github.com/[x", "", time.Time{}, "namespace pattern"},
		{hello, "a\nb", time.Time{}, "-name"},
		{hello, "\xff", time.Time{}, "-name"},
		{hello, "", time.Now().Add(-time.Second), "has passed"},
	} {
		if secret, err := NewToken(dir, test.namespace, test.name, false, test.expires); secret != "" || err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("NewToken(%q, %q, %v) = %q, %v, want %q", test.namespace, test.name, test.expires, secret, err, test.err)
		}
	}
	// Names may hold what the file itself quotes by.
	for _, name := range []string{"it's", "a b", "id=x", "#"} {
		if _, err := NewToken(dir, hello, name, false, time.Time{}); err != nil {
			t.Errorf("a token named %q: %v", name, err)
		}
	}
	all, err := Tokens(dir)
	if err != nil || len(all) != 4 || all[0].Name != "it's" || !strings.Contains(all[1].String(), " 'a b' "+hello+" 'read publish' ") {
		t.Errorf("Tokens = %v, %v", all, err)
	}
}

// Certificates of tokens, accounts and numbers are revoked by a KRL that ssh-keygen reads,
// and a word that names nothing revokes nothing.
func TestRevoke(t *testing.T) {
	jobs := &testJobs{}
	a := newAuthority(t, jobs)
	one, two := a.token(hello, false, time.Time{}), a.token("github.com/alice/other", false, time.Time{})
	certs := map[string]*ssh.Certificate{"one": a.login(one), "one again": a.login(one), "two": a.login(two), "two again": a.login(two)}
	jobs.job = testJob()
	certs["job"] = a.login("a.b.c")
	state := func(want ...string) {
		t.Helper()
		for name, cert := range certs {
			file := filepath.Join(t.TempDir(), "cert.pub")
			os.WriteFile(file, ssh.MarshalAuthorizedKey(cert), 0o600)
			out, err := exec.Command("ssh-keygen", "-Q", "-f", filepath.Join(a.dir, krlFile), file).CombinedOutput()
			gone := slices.Contains(want, name)
			if gone != (err != nil) {
				t.Errorf("%s: ssh-keygen -Q: %v: %s, want revoked %t", name, err, out, gone)
			}
			if _, err := Enter(a.policy, cert, nil); gone != (err != nil) {
				t.Errorf("%s: Enter: %v, want revoked %t", name, err, gone)
			}
		}
	}
	revoke := func(words ...string) []string {
		t.Helper()
		done, err := Revoke(a.dir, words)
		if err != nil {
			t.Fatalf("Revoke(%q): %v", words, err)
		}
		return done
	}
	state()
	before := a.file(tokensFile)
	for _, words := range [][]string{{"nothing"}, {"token:000000000000"}, {"000000000000"}, {"12"}, {"a b:c"}, {tokenOf(t, a, one), "nothing"}, {""}} {
		if done, err := Revoke(a.dir, words); err == nil || !strings.Contains(err.Error(), "orchestrator tokens lists") {
			t.Errorf("Revoke(%q) = %v, %v, want an error that says how to list", words, done, err)
		}
	}
	// They are in the log, and bar no account of that name.
	for _, word := range []string{wire.Fingerprint(certs["one"]), "github:repo:1@" + wire.Fingerprint(newSigner(t).PublicKey())} {
		if done, err := Revoke(a.dir, []string{word}); err == nil || !strings.Contains(err.Error(), filepath.Join(a.dir, "revoked")) {
			t.Errorf("Revoke(%s) = %v, %v, want an error that names the file revoked", word, done, err)
		}
	}
	if a.file(tokensFile) != before {
		t.Error("a word that names nothing has revoked something")
	}
	if _, err := os.Stat(filepath.Join(a.dir, barredFile)); err == nil {
		t.Errorf("a word that names nothing has barred something: %s", a.file(barredFile))
	}
	state()
	serial := strconv.FormatUint(certs["two"].Serial, 10)
	if done := revoke(serial); len(done) != 1 || !strings.HasPrefix(done[0], "certificate "+serial+" token:") {
		t.Errorf("Revoke(%s) = %q", serial, done)
	}
	state("two")
	id := tokenOf(t, a, one)
	if done := revoke("token:" + id); len(done) != 3 || done[0] != "token "+id+" "+hello {
		t.Errorf("Revoke(token:%s) = %q", id, done)
	}
	state("two", "one", "one again")
	if _, err := a.Login(t.Context(), one, newSigner(t).PublicKey()); err == nil {
		t.Error("a revoked token logs in")
	}
	if done := revoke("github:repo:1", "github.com/alice/other"); len(done) != 1+1+3 {
		t.Errorf("Revoke of an account and a name = %q", done)
	}
	state("two", "one", "one again", "two again", "job")
	_, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey())
	if err == nil || !strings.Contains(err.Error(), "github:repo:1 is barred") {
		t.Errorf("a barred account: Login: %v", err)
	}
	if done := revoke("github:repo:1@" + ssh.FingerprintSHA256(a.Key())); len(done) != 2 || !strings.HasSuffix(done[0], "as before") {
		t.Errorf("Revoke once more = %q", done)
	}
	// Without its line an account is let in again; its old certificate is not.
	a.edit(barredFile, "github:repo:1", "# github:repo:1")
	certs["job"] = a.login("a.b.c")
	state("two", "one", "one again", "two again")
	// A line that an operator writes counts at once.
	a.edit(barredFile, "# github:repo:1 ", "github:repo:1 ")
	a.refused("barred by hand", certs["job"], "is barred")
}

// A killed Revoke has left the files whole, and can be started again.
func TestRevokeKilled(t *testing.T) {
	a := newAuthority(t, nil)
	secret := a.token(hello, false, time.Time{})
	cert := a.login(secret)
	id := tokenOf(t, a, secret)
	// It was killed once the token's line was gone.
	a.edit(tokensFile, "id="+id, "#")
	os.WriteFile(filepath.Join(a.dir, "."+issuedFile+".new"), []byte("half a li"), 0o600)
	a.refused("a token without a line", cert, "is revoked")
	for _, word := range []string{"token:" + id, id} {
		if done, err := Revoke(a.dir, []string{word}); err != nil || len(done) != 1 {
			t.Errorf("Revoke(%s) = %q, %v", word, done, err)
		}
	}
	if !a.krl.get().Has(cert) {
		t.Error("the certificate is not in the KRL")
	}
}

// A command follows no link out of the state directory, which root would read, change and
// give to the user of the server.
func TestLinks(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("a secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{statedir.LockFile, tokensFile, issuedFile, barredFile, "." + tokensFile + ".new"} {
		a := newAuthority(t, nil)
		a.login(a.token(hello, false, time.Time{}))
		path := filepath.Join(a.dir, name)
		os.Remove(path)
		if err := os.Symlink(elsewhere, path); err != nil {
			t.Fatal(err)
		}
		_, err := NewToken(a.dir, hello, "", false, time.Time{})
		if err == nil {
			_, err = Revoke(a.dir, []string{hello, "github:1"})
		}
		// What a killed process may have left is taken away.
		if left := name[0] == '.'; left != (err == nil) || !left && !strings.Contains(err.Error(), path+": want a plain file") {
			t.Errorf("%s is a link: %v", name, err)
		}
		if text, err := os.ReadFile(elsewhere); string(text) != "a secret\n" {
			t.Errorf("%s is a link: the file that it leads to has %q, %v", name, text, err)
		}
		for _, name := range OwnFiles {
			if text, _ := os.ReadFile(filepath.Join(a.dir, name)); path != filepath.Join(a.dir, name) && strings.Contains(string(text), "secret") {
				t.Errorf("%s has the text of another file", name)
			}
		}
	}
}

// What has been revoked is told once, whoever asks first.
func TestRevoked(t *testing.T) {
	a := newAuthority(t, nil)
	one, two := a.token(hello, false, time.Time{}), a.token(hello, false, time.Time{})
	cert := a.login(one)
	a.login(two)
	ids := []string{tokenOf(t, a, one), tokenOf(t, a, two)}
	if r, err := a.Revoked(); len(r) != 0 || err != nil {
		t.Errorf("Revoked = %v, %v", r, err)
	}
	if _, err := Revoke(a.dir, []string{ids[0], "github:7"}); err != nil {
		t.Fatal(err)
	}
	want := []Revocation{{Principal: "github:7"}, {Principal: "token:" + ids[0]}, {"token:" + ids[0], cert.Serial, wire.Fingerprint(cert)}}
	if r, err := a.Revoked(); !slices.Equal(r, want) || err != nil {
		t.Errorf("Revoked = %v, %v, want %v", r, err, want)
	}
	if r, _ := a.Revoked(); len(r) != 0 {
		t.Errorf("Revoked again = %v", r)
	}
	if r, _ := openAuthority(t, a.dir, nil).Revoked(); len(r) != 0 {
		t.Errorf("Revoked after a start = %v", r)
	}
}

// A revocation is told of, and counts, while logins wait for the lock.
func TestRevokedAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, dir, nil)
		secret := a.token(hello, false, time.Time{})
		cert := a.login(secret)
		stopped := make(chan struct{})
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { statedir.Dir(dir).Locked(func() error { <-stopped; return nil }) })
		synctest.Wait()
		wg.Go(func() { a.Login(t.Context(), secret, newSigner(t).PublicKey()) })
		synctest.Wait()
		a.edit(tokensFile, "id=", "# id=")
		start := time.Now()
		a.refused("a token without a line", cert, "is revoked")
		if r, err := a.Revoked(); len(r) != 1 || err != nil || time.Since(start) != 0 {
			t.Errorf("Revoked = %v, %v after %v, want a token at once", r, err, time.Since(start))
		}
		close(stopped)
	})
}

// An operator is told of a line whose certificate cannot be revoked by its number.
func TestCheckIssued(t *testing.T) {
	a := newAuthority(t, nil)
	a.login(a.token(hello, false, time.Time{}))
	os.WriteFile(filepath.Join(a.dir, issuedFile), []byte(a.file(issuedFile)+"x token:1 SHA256:x 2026-01-01T00:00:00Z\n"), 0o600)
	found, err := CheckOwn(a.dir, issuedFile, time.Now())
	if err != nil || len(found) != 2 || found[0].Err != nil || found[1].Err == nil || found[1].Line != 2 {
		t.Errorf("CheckOwn = %+v, %v, want an error of line 2", found, err)
	}
}

// Serial numbers ascend, after a crash that cut the file short, after a restart, after
// the file was trimmed, and without the file.
func TestSerials(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, dir, nil)
		secret := a.token(hello, false, time.Time{})
		last := uint64(0)
		next := func(what string) {
			t.Helper()
			if serial := a.login(secret).Serial; serial <= last {
				t.Errorf("%s: serial %d, and %d was before", what, serial, last)
			} else {
				last = serial
			}
		}
		next("the first")
		next("the second")
		text := a.file(issuedFile)
		os.WriteFile(filepath.Join(dir, issuedFile), []byte(text[:len(text)-5]), 0o600)
		last-- // that certificate was never signed
		next("a line that was cut short")
		os.WriteFile(filepath.Join(dir, issuedFile), []byte(a.file(issuedFile)+strings.Repeat("x", 20000)), 0o600)
		next("an end that cannot be read")
		a = openAuthority(t, dir, nil)
		next("a restart")
		time.Sleep(3 * time.Hour)
		next("all have expired")
		if n := strings.Count(a.file(issuedFile), "\n"); n != 2 {
			t.Errorf("%d certificates are kept, of which one has not expired:\n%s", n, a.file(issuedFile))
		}
		os.Remove(filepath.Join(dir, issuedFile))
		next("without the file")
		// A number after which there is none is not begun with again.
		text = a.file(issuedFile)
		line := strings.Fields(text)
		a.edit(issuedFile, line[0], strconv.FormatUint(math.MaxUint64, 10))
		if cert, err := a.Login(t.Context(), secret, newSigner(t).PublicKey()); err == nil || !strings.Contains(err.Error(), "take its line out") {
			t.Errorf("after the last number: Login = %v, %v", cert, err)
		}
		os.WriteFile(filepath.Join(dir, issuedFile), []byte(text), 0o600)
		if cert := a.login(secret); !a.enters(cert).MayRead(hello) {
			t.Error("the last certificate may not read")
		}
	})
}

// One token has no more certificates than many executors need, and another's do not count.
func TestIssueRate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, dir, nil)
		a.issues.Burst = 3
		secret, other := a.token(hello, false, time.Time{}), a.token(hello, false, time.Time{})
		key := newSigner(t).PublicKey()
		for range 3 {
			a.login(secret)
		}
		if cert, err := a.Login(t.Context(), secret, key); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("over the rate: Login = %v, %v, want busy", cert, err)
		}
		if n := strings.Count(a.file(issuedFile), "\n"); n != 3 {
			t.Errorf("%d certificates are noted, want 3", n)
		}
		a.login(other)
		time.Sleep(time.Second / issueRate)
		a.login(secret)
	})
}

// A use of a token is written once a minute at most.
func TestTokenUsed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, dir, nil)
		secret := a.token(hello, false, time.Time{})
		used := func() time.Time {
			t.Helper()
			all, err := Tokens(dir)
			if err != nil {
				t.Fatal(err)
			}
			return all[0].Used
		}
		if at := used(); !at.IsZero() {
			t.Errorf("a new token was used at %v", at)
		}
		a.login(secret)
		first := used()
		time.Sleep(usedEvery - time.Second)
		a.login(secret)
		if at := used(); at != first {
			t.Errorf("used at %v, want %v", at, first)
		}
		time.Sleep(time.Second)
		a.login(secret)
		if at := used(); at.Sub(first) != usedEvery {
			t.Errorf("used at %v, want a minute after %v", at, first)
		}
		os.WriteFile(filepath.Join(dir, usedFile), []byte("nonsense\n"), 0o600)
		if at := used(); !at.IsZero() {
			t.Errorf("used at %v by a file that cannot be read", at)
		}
	})
}

// A certificate counts for an hour and no longer, and a clock that is a minute late takes it.
func TestCertificateLife(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, dir, nil)
		cert := a.login(a.token(hello, false, time.Time{}))
		if before := time.Now().Add(-time.Minute).Unix(); int64(cert.ValidAfter) > before {
			t.Errorf("it holds from %d on, want %d", cert.ValidAfter, before)
		}
		time.Sleep(time.Hour - time.Second)
		a.enters(cert)
		time.Sleep(time.Second)
		a.refused("after an hour", cert, "expired")
	})
}

// testJobs are Jobs of a forge in memory.
type testJobs struct {
	mu   sync.Mutex
	job  Job
	err  error
	wait chan struct{} // nil: the forge answers at once
}

func (j *testJobs) Job(ctx context.Context, token, host, fingerprint string) (Job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.wait != nil {
		j.mu.Unlock()
		select {
		case <-j.wait:
		case <-ctx.Done():
		}
		j.mu.Lock()
		if ctx.Err() != nil {
			return Job{}, ctx.Err()
		}
	}
	if host != "ci.example.org" || !strings.HasPrefix(fingerprint, "SHA256:") {
		return Job{}, fmt.Errorf("asked for %s:%s", host, fingerprint)
	}
	return j.job, j.err
}

const testCommit = "3f2a9c1d0b7e5f6a7b8c9d0e1f2a3b4c5d6e7f80"

func testJob() Job {
	return Job{Principal: "github:repo:1", Host: "github.com", Namespace: hello, RepositoryID: "1", OwnerID: "2", Commit: testCommit, Publish: true}
}

// A job's certificate says what the job may do, and nothing else decides it.
func TestJobLogin(t *testing.T) {
	jobs := &testJobs{job: testJob()}
	a := newAuthority(t, jobs)
	l := a.enters(a.login("a.b.c"))
	if l.Name != "github:repo:1" || !l.MayPublish(hello) || !l.MayRead(hello) || l.Commit != testCommit || l.Home() != hello || l.MayRead("github.com/alice/other") {
		t.Errorf("the login is %+v", l)
	}
	jobs.job.Publish, jobs.job.Commit = false, ""
	if l := a.enters(a.login("a.b.c")); !l.MayRead(hello) || l.MayPublish(hello) || l.Commit != "" {
		t.Errorf("the login of a fork's job is %+v", l)
	}
	for what, change := range map[string]func(*Job){
		"a token's principal":      func(j *Job) { j.Principal = "token:123456789abc" },
		"two principals":           func(j *Job) { j.Principal = "github:repo:1,github:repo:2" },
		"no principal":             func(j *Job) { j.Principal = "" },
		"publishes any commit":     func(j *Job) { j.Commit = "" },
		"a short commit":           func(j *Job) { j.Commit = testCommit[:12] },
		"no namespace":             func(j *Job) { j.Namespace = "" },
		"a pattern":                func(j *Job) { j.Namespace = "github.com/alice/*" },
		"all namespaces":           func(j *Job) { j.Namespace = "..." },
		"a namespace of another's": func(j *Job) { j.Namespace = "local/x-12345678" },
		"upper case":               func(j *Job) { j.Namespace = "github.com/Alice/hello" },
		"no repository":            func(j *Job) { j.RepositoryID = "" },
		"two words":                func(j *Job) { j.RepositoryID = "1 2" },
	} {
		jobs.job = testJob()
		change(&jobs.job)
		if cert, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey()); err == nil {
			t.Errorf("%s: Login = %v", what, cert)
		}
	}
	// The forge's own words are for the log alone.
	jobs.job, jobs.err = testJob(), errors.New("the audience is another's")
	_, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey())
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Words != refusedWords || !strings.Contains(err.Error(), "audience") {
		t.Errorf("Login = %v", err)
	}
	jobs.err = fmt.Errorf("the issuer is down: %w", fs.ErrBusy)
	if _, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey()); !errors.Is(err, fs.ErrBusy) || errors.As(err, &refused) {
		t.Errorf("while the issuer is down, Login = %v, want busy", err)
	}
	if _, err := newAuthority(t, nil).Login(t.Context(), "a.b.c", newSigner(t).PublicKey()); err == nil || !strings.Contains(err.Error(), "no forge is known") {
		t.Errorf("without forges: %v", err)
	}
	b := newAuthority(t, jobs)
	b.host = ""
	if _, err := b.Login(t.Context(), "a.b.c", newSigner(t).PublicKey()); err == nil || !strings.Contains(err.Error(), "-url") {
		t.Errorf("without -url: %v", err)
	}
}

// A forge that does not answer costs a login its time, and not all logins theirs.
func TestJobSlow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		jobs := &testJobs{job: testJob(), wait: make(chan struct{})}
		a := openAuthority(t, dir, jobs)
		secret := a.token(hello, false, time.Time{})
		var wg sync.WaitGroup
		for range maxChecks {
			wg.Go(func() {
				if _, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey()); !errors.Is(err, fs.ErrBusy) {
					t.Errorf("Login = %v, want busy", err)
				}
			})
		}
		synctest.Wait()
		if _, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey()); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("one more: %v, want busy", err)
		}
		a.login(secret)
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > checkTime {
			t.Errorf("they took %v", took)
		}
	})
}

// A repository that takes another's name gets no certificate until the operator deletes
// the line.
func TestRepositories(t *testing.T) {
	jobs := &testJobs{job: testJob()}
	a := newAuthority(t, jobs)
	a.login("a.b.c")
	a.login("a.b.c")
	if text := a.file(repositoriesFile); strings.Count(text, hello+" github.com 1\n") != 1 {
		t.Errorf("repositories: %s", text)
	}
	jobs.job.RepositoryID, jobs.job.Principal = "9", "github:repo:9"
	_, err := a.Login(t.Context(), "a.b.c", newSigner(t).PublicKey())
	if want := "delete line 3 of " + filepath.Join(a.dir, repositoriesFile); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("another repository of that name: %v, want %q", err, want)
	}
	a.edit(repositoriesFile, hello+" github.com 1\n", "")
	a.login("a.b.c")
	if text := a.file(repositoriesFile); !strings.Contains(text, hello+" github.com 9\n") {
		t.Errorf("repositories: %s", text)
	}
}

// Only what the authority itself has signed counts as its certificate, and its extensions
// count in no other authority's.
func TestForgedCertificate(t *testing.T) {
	a := newAuthority(t, nil)
	good := a.login(a.token(hello, false, time.Time{}))
	foreign := newSigner(t)
	line := `cert-authority,namespace="github.com/alice/other",read ` + string(ssh.MarshalAuthorizedKey(foreign.PublicKey()))
	os.WriteFile(filepath.Join(a.dir, "authorized_keys"), []byte(line), 0o600)
	sign := func(by ssh.Signer, change func(*ssh.Certificate)) *ssh.Certificate {
		t.Helper()
		c := *good
		c.Extensions = map[string]string{wire.ExtensionNamespace: hello, wire.ExtensionRights: "read publish", wire.ExtensionCommit: testCommit}
		change(&c)
		if err := c.SignCert(rand.Reader, by); err != nil {
			t.Fatal(err)
		}
		return &c
	}
	// The same certificate of a trusted authority may do what that one's line says.
	if l := a.enters(sign(foreign, func(*ssh.Certificate) {})); l.MayRead(hello) || l.MayPublish("github.com/alice/other") || !l.MayRead("github.com/alice/other") || l.Commit != "" {
		t.Errorf("a certificate of a foreign authority: %+v", l)
	}
	bad := sign(foreign, func(*ssh.Certificate) {})
	bad.SignatureKey = a.Key()
	a.refused("another's signature", bad, "signature")
	bad = new(ssh.Certificate)
	*bad = *good
	bad.Key = newSigner(t).PublicKey()
	a.refused("another key", bad, "signature")
	for what, change := range map[string]func(*ssh.Certificate){
		"no principal":       func(c *ssh.Certificate) { c.ValidPrincipals = nil },
		"two principals":     func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a:b", "c:d"} },
		"an empty principal": func(c *ssh.Certificate) { c.ValidPrincipals = []string{""} },
		"a comma":            func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a:b,c:d"} },
		"of a host":          func(c *ssh.Certificate) { c.CertType = ssh.HostCert },
		"critical":           func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "ls"} },
		"no namespace":       func(c *ssh.Certificate) { c.ValidPrincipals, c.Extensions = []string{"github:1"}, nil },
		"a pattern": func(c *ssh.Certificate) {
			c.ValidPrincipals, c.Extensions[wire.ExtensionNamespace] = []string{"github:1"}, "..."
		},
		"no rights": func(c *ssh.Certificate) {
			c.ValidPrincipals, c.Extensions[wire.ExtensionRights] = []string{"github:1"}, ""
		},
		"any commit": func(c *ssh.Certificate) {
			c.ValidPrincipals, c.Extensions[wire.ExtensionCommit] = []string{"github:1"}, ""
		},
		"not yet": func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Minute).Unix()) },
	} {
		if l, err := Enter(a.policy, sign(a.key, change), nil); err == nil {
			t.Errorf("%s: Enter = %+v", what, l)
		}
	}
	// What the operator has revoked counts here too: the key, and the authority itself.
	for what, key := range map[string]ssh.PublicKey{"the key": good.Key, "the authority": a.Key()} {
		a.enters(good)
		os.WriteFile(filepath.Join(a.dir, "revoked"), ssh.MarshalAuthorizedKey(key), 0o600)
		a.refused(what, good, "revoked")
		os.WriteFile(filepath.Join(a.dir, "revoked"), nil, 0o600)
	}
}

// A process that holds the lock for long is named, and nothing is written.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, nil)
	secret := a.token(hello, false, time.Time{})
	f, err := os.Open(filepath.Join(dir, statedir.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := a.Login(t.Context(), secret, newSigner(t).PublicKey()); !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), "locked by another process") {
			t.Errorf("Login = %v, want busy", err)
		}
	})
	f.Close()
	a.login(secret)
}

// Files that root makes belong to the one whose directory it is.
func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a file away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4712); err != nil {
		t.Fatal(err)
	}
	if _, err := NewToken(dir, hello, "", false, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{tokensFile, statedir.LockFile} {
		out, err := exec.Command("stat", "-c", "%u:%g %a", filepath.Join(dir, name)).Output()
		if err != nil || string(out) != "4711:4712 600\n" {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
}

// A line of tokens that can be read is written as it was read, and one of issued too.
func FuzzStateLines(f *testing.F) {
	t := Token{ID: "000000000000", Name: "it's", Grant: Grant{Namespaces: []Pattern{hello}, Read: true}}
	f.Add(t.line())
	f.Add(strings.TrimSpace(issued{serial: 7, principal: "token:x", key: "SHA256:x", revoked: true}.line()))
	f.Fuzz(func(t *testing.T, line string) {
		if tok, err := parseToken([]byte(line)); err == nil {
			again, err := parseToken([]byte(tok.line()))
			if err != nil || again.line() != tok.line() || again.sum != tok.sum || again.Rights() != tok.Rights() || !again.Expires.Equal(tok.Expires) {
				t.Errorf("%q is read as %+v, and that as %+v, %v", line, tok, again, err)
			}
		}
		all := parseIssued([]byte(line + "\n"))
		if again := parseIssued(formatIssued(all)); !slices.Equal(again, all) {
			t.Errorf("%q is read as %v, and that as %v", line, all, again)
		}
	})
}

// Whatever a client gives as a token, it gets in with the right one alone.
func FuzzLogin(f *testing.F) {
	a := newAuthority(f, &testJobs{err: errors.New("no job's")})
	good := a.token(hello, false, time.Time{})
	key := newSigner(f).PublicKey()
	f.Add(good)
	f.Add(good[:46] + "A")
	f.Add("a.b.c")
	f.Add("9ci_\x00")
	f.Fuzz(func(t *testing.T, token string) {
		cert, err := a.Login(t.Context(), token, key)
		if (err == nil) != (token == good) || err == nil && cert == nil {
			t.Errorf("Login(%q) = %v, %v", token, cert, err)
		}
	})
}

// BenchmarkLogin is logins by a repository token, with as many certificates out that have
// not expired.
func BenchmarkLogin(b *testing.B) {
	for _, n := range []int{0, 10000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			a := newAuthority(b, nil)
			secret := a.token(hello, false, time.Time{})
			var all []issued
			for i := range n {
				all = append(all, issued{serial: uint64(i + 1), principal: "token:000000000000", key: ssh.FingerprintSHA256(a.Key()), expires: time.Now().Add(time.Hour)})
			}
			if err := os.WriteFile(filepath.Join(a.dir, issuedFile), formatIssued(all), 0o600); err != nil {
				b.Fatal(err)
			}
			key := newSigner(b).PublicKey()
			a.issues.Burst = math.MaxInt
			for b.Loop() {
				if _, err := a.Login(b.Context(), secret, key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
