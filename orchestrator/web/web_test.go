package web

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

const testURL = "https://ci.example.org"

// A site is a page over a state directory of its own.
type site struct {
	*Page
	t      testing.TB
	dir    string
	forges *doubleForges
	log    *lockedBuffer
}

// A lockedBuffer is written by handlers and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSite(t testing.TB, at string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), log: &lockedBuffer{}, forges: &doubleForges{t: t, people: map[string]account.Person{}}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	accounts, err := account.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := access.OpenAuthority(s.dir, nil, "", log)
	if err != nil {
		t.Fatal(err)
	}
	approvals, err := NewApprovals(at)
	if err != nil {
		t.Fatal(err)
	}
	if s.Page, err = New(Options{URL: at, Accounts: accounts, Forges: s.forges, Authority: authority, Approvals: approvals, Log: log}); err != nil {
		t.Fatal(err)
	}
	return s
}

// doubleForges are forges that know who has which code. They check that what begins a
// login is what ends it, as PKCE does.
type doubleForges struct {
	t testing.TB

	mu        sync.Mutex
	people    map[string]account.Person // by code
	begun     map[string]string         // by state: name, redirect URI, nonce, verifier
	forgotten []string
	busy      bool
}

var evilForge = Forge{"x%2f..&?next=//evil", `<script>alert("forge")</script>`}

func (d *doubleForges) List() []Forge {
	return []Forge{{"github.com", "GitHub"}, {"git.example.org", "Forgejo"}, evilForge}
}

func (d *doubleForges) Begin(name, redirectURI, state, nonce, verifier string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun == nil {
		d.begun = map[string]string{}
	}
	if len(verifier) < 43 || len(nonce) < 20 { // RFC 7636 §4.1
		d.t.Errorf("Begin with the verifier %q and the nonce %q", verifier, nonce)
	}
	d.begun[state] = strings.Join([]string{name, redirectURI, nonce, verifier}, " ")
	return "https://forge.example/authorize?" + url.Values{"state": {state}, "redirect_uri": {redirectURI}}.Encode(), nil
}

func (d *doubleForges) Finish(_ context.Context, name, redirectURI string, answer url.Values, nonce, verifier string) (account.Person, []byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		return account.Person{}, nil, fmt.Errorf("the forge is down: %w", fs.ErrBusy)
	}
	if got := strings.Join([]string{name, redirectURI, nonce, verifier}, " "); d.begun[answer.Get("state")] != got {
		return account.Person{}, nil, fmt.Errorf("begun as %q, and ended as %q", d.begun[answer.Get("state")], got)
	}
	p, ok := d.people[answer.Get("code")]
	if !ok {
		return account.Person{}, nil, errors.New("no such code")
	}
	delete(d.people, answer.Get("code"))
	return p, []byte("token of " + p.Principal), nil
}

func (d *doubleForges) Forget(_ context.Context, principal string, token []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgotten = append(d.forgotten, principal+" "+string(token))
	return nil
}

// A browser keeps cookies and asks a site.
type browser struct {
	s       *site
	addr    string
	cookies map[string]string
	header  http.Header // of each request
}

func (s *site) browser() *browser {
	return &browser{s: s, addr: "192.0.2.1:1234", cookies: map[string]string{}, header: http.Header{"User-Agent": {"test browser"}}}
}

// An answer is what a browser got.
type answer struct {
	*httptest.ResponseRecorder
	text string
}

// do asks, and keeps the cookies that come.
func (b *browser) do(method, target, kind, body string) answer {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if strings.HasPrefix(target, "/") {
		r.Host = b.s.url.Host
	}
	r.RemoteAddr = b.addr
	maps.Copy(r.Header, b.header.Clone())
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if kind == "application/json" {
		r.Header.Set("Accept", kind)
	}
	if h := b.header.Get("Host"); h != "" {
		r.Host = h
	}
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	b.s.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c.Value
		}
	}
	return answer{w, w.Body.String()}
}

func (b *browser) get(target string) answer { return b.do("GET", target, "", "") }

func (b *browser) post(target string, form url.Values) answer {
	return b.do("POST", target, "application/x-www-form-urlencoded", form.Encode())
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// token returns the token of a form of a page.
func (b *browser) token(target string) string {
	b.s.t.Helper()
	a := b.get(target)
	m := tokenField.FindStringSubmatch(a.text)
	if m == nil {
		b.s.t.Fatalf("%s has no form: %d %s", target, a.Code, a.text)
	}
	return m[1]
}

// login logs in by a forge, and returns the answer of the callback.
func (b *browser) login(p account.Person, next string) answer {
	b.s.t.Helper()
	a := b.get("/login/github.com?next=" + url.QueryEscape(next))
	to, err := url.Parse(a.Header().Get("Location"))
	if err != nil || to.Host != "forge.example" {
		b.s.t.Fatalf("GET /login/github.com = %d, Location %s: %s", a.Code, to, a.text)
	}
	code := newSecret()
	b.s.forges.mu.Lock()
	b.s.forges.people[code] = p
	b.s.forges.mu.Unlock()
	return b.get("/callback/github.com?" + url.Values{"code": {code}, "state": {to.Query().Get("state")}}.Encode())
}

func (b *browser) loggedIn() bool { return b.get("/account").Code == http.StatusOK }

var alice, bob = account.Person{Principal: "github:1", Login: "alice", Name: "Alice"}, account.Person{Principal: "github:2", Login: "bob", Name: "Bob"}

func newKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wants(t testing.TB, what string, a answer, status int, words string) {
	t.Helper()
	if a.Code != status || !strings.Contains(html.UnescapeString(a.text), words) {
		t.Errorf("%s: status %d, want %d and %q:\n%s", what, a.Code, status, words, a.text)
	}
}

// A person logs in by a forge, sees the account, and logs out: the forge's token goes with
// the last session.
func TestLogin(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	if a := b.get("/"); a.Code != http.StatusSeeOther || a.Header().Get("Location") != "/account" {
		t.Errorf("GET / = %d %s", a.Code, a.Header().Get("Location"))
	}
	if a := b.get("/account"); a.Code != http.StatusSeeOther || a.Header().Get("Location") != "/login?next=%2Faccount" {
		t.Errorf("GET /account without a login = %d %s", a.Code, a.Header().Get("Location"))
	}
	a := b.get("/login")
	wants(t, "the login page", a, http.StatusOK, "Log in with GitHub")
	a = b.login(alice, "/approve")
	if a.Code != http.StatusSeeOther || a.Header().Get("Location") != "/approve" {
		t.Fatalf("the callback: %d %s %s", a.Code, a.Header().Get("Location"), a.text)
	}
	wants(t, "the account", b.get("/account"), http.StatusOK, "github:1")
	if got, err := s.accounts.Get("github:1"); err != nil || string(got.ForgeToken) != "token of github:1" || len(got.Sessions) != 1 || got.Sessions[0].Agent != "test browser" || got.Sessions[0].From != "192.0.2.1" {
		t.Errorf("the account is %+v, %v", got, err)
	}
	if a := b.get("/login?next=/approve"); a.Header().Get("Location") != "/approve" {
		t.Errorf("the login page, logged in: %d %s", a.Code, a.Header().Get("Location"))
	}
	other := s.browser()
	other.login(alice, "")
	out := func(b *browser) {
		t.Helper()
		if a := b.post("/logout", url.Values{"token": {b.token("/account")}}); a.Code != http.StatusSeeOther || b.loggedIn() {
			t.Errorf("POST /logout = %d", a.Code)
		}
	}
	out(b)
	if !other.loggedIn() || len(s.forges.forgotten) > 0 {
		t.Error("the other browser was logged out too, or the forge's token was forgotten")
	}
	out(other)
	if got, err := s.accounts.Get("github:1"); err != nil || got.ForgeToken != nil || fmt.Sprint(s.forges.forgotten) != "[github:1 token of github:1]" {
		t.Errorf("after the last logout: %+v, %v, forgotten %v", got, err, s.forges.forgotten)
	}
	for _, line := range []string{`msg=page what=login principal=github:1 addr=192.0.2.1 by=github.com`, `msg=page what=logout principal=github:1`} {
		if !strings.Contains(s.log.String(), line) {
			t.Errorf("the log has no %s:\n%s", line, s.log)
		}
	}
}

// The token of a forge stays while a certificate's reading depends on it.
func TestLogoutWithCertificate(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	s.certificate(7, "github:1", "SHA256:x")
	b.post("/logout", url.Values{"token": {b.token("/account")}})
	if got, err := s.accounts.Get("github:1"); err != nil || got.ForgeToken == nil {
		t.Errorf("the account is %+v, %v", got, err)
	}
}

// certificate writes a line of a certificate, as an Authority does.
func (s *site) certificate(serial int, principal, key string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, "issued"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintf(f, "%d %s %s %s\n", serial, principal, key, ci.FormatTime(time.Now().Add(time.Hour)))
}

// A login leads to a path of the page, whatever a link says.
func TestOpenRedirect(t *testing.T) {
	s := newSite(t, testURL)
	id := newRequestID()
	for next, want := range map[string]string{
		"":                         "/account",
		"/account":                 "/account",
		"/approve":                 "/approve",
		"/approve/" + id:           "/approve/" + id,
		"/approve/" + id + "/..":   "/account",
		"/approve/../evil":         "/account",
		"/approve?x":               "/account",
		"//evil.example":           "/account",
		"/\\evil.example":          "/account",
		"https://evil.example/":    "/account",
		"https:evil.example":       "/account",
		"javascript:alert(1)":      "/account",
		"/approve//evil.example":   "/account",
		"\t//evil.example":         "/account",
		"/account\r\nX-Evil: yes":  "/account",
		testURL + "@evil.example/": "/account",
	} {
		b := s.browser()
		if got := b.login(alice, next).Header(); got.Get("Location") != want || got.Get("X-Evil") != "" {
			t.Errorf("next=%q leads to %q, want %q", next, got.Get("Location"), want)
		}
		if got := b.get("/login?next=" + url.QueryEscape(next)).Header().Get("Location"); got != want {
			t.Errorf("logged in, next=%q leads to %q, want %q", next, got, want)
		}
		s.limits = newLimits()
	}
	b := s.browser()
	for _, path := range []string{"//evil.example", "//evil.example/..", "/%2f/evil.example", "/login/..//evil.example", "/\\evil.example", "/.//evil.example/", "//evil.example/account/.."} {
		a := b.get(testURL + path)
		to, err := url.Parse(a.Header().Get("Location"))
		if err != nil || to.Host != "" || strings.HasPrefix(to.Path, "//") || strings.HasPrefix(to.Path, "/\\") {
			t.Errorf("GET %s leads to %q", path, a.Header().Get("Location"))
		}
	}
}

// A browser that has been given cookies by somebody else is logged in under a new session,
// and the one it showed is worth nothing.
func TestSessionFixation(t *testing.T) {
	s := newSite(t, testURL)
	evil := s.browser()
	evil.login(bob, "")
	planted := evil.cookies["__Host-9ci"]
	b := s.browser()
	b.cookies["__Host-9ci"] = planted // as far as an attacker can
	if a := b.login(alice, ""); a.Code != http.StatusSeeOther {
		t.Fatalf("login: %d %s", a.Code, a.text)
	}
	if now := b.cookies["__Host-9ci"]; now == planted || now == "" {
		t.Errorf("the session is %q after the login, and was %q", now, planted)
	}
	wants(t, "the account", b.get("/account"), http.StatusOK, "github:1")
	if evil.loggedIn() {
		t.Error("the session that was shown at the login is still logged in")
	}
	for _, made := range []string{"x", "Z2l0aHViOjE.x", "Z2l0aHViOjE." + newSecret()} {
		b := s.browser()
		b.cookies["__Host-9ci"] = made
		if b.loggedIn() {
			t.Errorf("the session %q was taken", made)
		}
		b.login(alice, "")
		if b.cookies["__Host-9ci"] == made {
			t.Errorf("the session %q was made good by a login", made)
		}
	}
	// A name without the prefix is what a page on the same machine, or without TLS, could set.
	b = s.browser()
	evil.login(bob, "")
	b.cookies["9ci"] = evil.cookies["__Host-9ci"]
	if b.loggedIn() {
		t.Error("a cookie without __Host- was taken")
	}
}

// What a forge says counts for the browser that began the login, at that forge, once.
func TestState(t *testing.T) {
	s := newSite(t, testURL)
	begin := func(b *browser, forge string) string {
		t.Helper()
		to, err := url.Parse(b.get("/login/" + forge).Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		if got := to.Query().Get("redirect_uri"); got != testURL+"/callback/"+forge {
			t.Errorf("the redirect URI of %s is %s", forge, got)
		}
		return to.Query().Get("state")
	}
	callback := func(b *browser, forge, code, state string) answer {
		s.forges.mu.Lock()
		s.forges.people[code] = alice
		s.forges.mu.Unlock()
		return b.get("/callback/" + forge + "?" + url.Values{"code": {code}, "state": {state}}.Encode())
	}
	b, evil := s.browser(), s.browser()
	state := begin(b, "github.com")
	wants(t, "a login that another browser began", callback(evil, "github.com", "1", state), http.StatusForbidden, "Begin again")
	wants(t, "the answer of another forge", callback(b, "git.example.org", "2", state), http.StatusForbidden, "Begin again")
	for _, bad := range []string{"", "x", state[1:], state + "A", strings.Repeat("A", len(state))} {
		wants(t, "a state that was made up", callback(b, "github.com", "3", bad), http.StatusForbidden, "Begin again")
	}
	wants(t, "a code that the forge does not know", b.get("/callback/github.com?code=no&state="+begin(b, "github.com")), http.StatusForbidden, "did not say who you are")
	wants(t, "a refusal", b.get("/callback/github.com?error=access_denied&error_description=%3Cscript%3E&state="+begin(b, "github.com")), http.StatusForbidden, "You did not log in at GitHub")
	if b.loggedIn() || evil.loggedIn() {
		t.Fatal("somebody is logged in")
	}
	if a := callback(b, "github.com", "4", state); a.Code != http.StatusSeeOther {
		t.Fatalf("the right answer: %d %s", a.Code, a.text)
	}
	wants(t, "the answer again", callback(b, "github.com", "5", state), http.StatusForbidden, "Begin again")
	wants(t, "no forge", b.get("/login/none"), http.StatusNotFound, "no such page")
	wants(t, "no forge's answer", b.get("/callback/none?code=x"), http.StatusNotFound, "no such page")

	s.forges.busy = true
	wants(t, "a forge that is down", callback(b, "github.com", "6", begin(b, "github.com")), http.StatusBadGateway, "Try again")
	s.forges.busy = false
	for _, p := range []string{"token:1", "passkey:1", "github:repo:1", "alice", ":1", "github:", "github:1,github:2", "github:1\nx"} {
		s.limits = newLimits()
		if a := s.browser().login(account.Person{Principal: p}, ""); a.Code != http.StatusForbidden {
			t.Errorf("a forge that vouches for %q: %d", p, a.Code)
		}
	}
}

// A login at a forge is not begun by another site, which could choose the account.
func TestLoginFromElsewhere(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.header.Set("Sec-Fetch-Site", "cross-site")
	if a := b.get("/login/github.com?next=/approve"); a.Header().Get("Location") != "/login?next=%2Fapprove" {
		t.Errorf("Location %s", a.Header().Get("Location"))
	}
}

// Who is barred is logged in no more, and logs in no more.
func TestBarred(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	if _, err := access.Revoke(s.dir, []string{"github:1"}); err != nil {
		t.Fatal(err)
	}
	if b.loggedIn() {
		t.Error("a barred account is logged in")
	}
	wants(t, "a login", s.browser().login(alice, ""), http.StatusForbidden, "barred")
	if a, err := s.accounts.Get("github:1"); err != nil || len(a.Sessions) != 1 {
		t.Errorf("the account is %+v, %v", a, err)
	}
}

// Every answer says that it may be kept nowhere, framed nowhere, and runs nothing but our
// own script; what may be kept has its digest in its name.
func TestHeaders(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	check := func(what string, a answer) {
		t.Helper()
		h := a.Header()
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Strict-Transport-Security": "max-age=31536000", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", what, name, h.Get(name), want)
			}
		}
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; ") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "base-uri 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "data:") {
			t.Errorf("%s: Content-Security-Policy %q", what, csp)
		}
		if strings.Contains(a.text, "<style") || strings.Contains(a.text, " style=") || strings.Contains(a.text, "<script>") || regexp.MustCompile(`<[^>]* on[a-z]+=`).MatchString(a.text) {
			t.Errorf("%s has something inline:\n%s", what, a.text)
		}
		for _, c := range a.Result().Cookies() {
			if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
				t.Errorf("%s: the cookie %v", what, c)
			}
		}
	}
	check("/", b.get("/"))
	check("/login", b.get("/login"))
	check("nothing", b.get("/nothing"))
	check("a foreign post", b.post("/approve", nil))
	check("the way to a forge", b.get("/login/github.com"))
	check("a login", b.login(alice, ""))
	for _, path := range []string{"/account", "/approve", "/nothing"} {
		check(path, b.get(path))
	}
	for name, f := range files {
		a := b.get(f.path)
		if a.Code != http.StatusOK || a.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" || a.Header().Get("Content-Type") != f.kind || len(a.Result().Cookies()) > 0 {
			t.Errorf("%s: %d %v", name, a.Code, a.Header())
		}
	}
	local := newSite(t, "http://localhost:8080")
	lb := local.browser()
	lb.login(alice, "")
	a := lb.get("/account")
	if a.Code != http.StatusOK || a.Header().Get("Strict-Transport-Security") != "" || lb.cookies["9ci"] == "" {
		t.Errorf("on this machine: %d %v, cookies %v", a.Code, a.Header(), lb.cookies)
	}
}

// The page answers to its name alone, and makes no URL of another.
func TestHost(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	for _, host := range []string{"evil.example", "ci.example.org.evil.example", "ci.example.org:8443", "192.0.2.7", "localhost", "ci.example.org@evil.example"} {
		b.header.Set("Host", host)
		a := b.get("/login/github.com")
		wants(t, "Host: "+host, a, http.StatusMisdirectedRequest, testURL)
		if strings.Contains(a.text, "evil") || len(a.Result().Cookies()) > 0 || a.Header().Get("Location") != "" {
			t.Errorf("Host: %s: %v\n%s", host, a.Header(), a.text)
		}
	}
	for _, host := range []string{"ci.example.org", "CI.example.org", "ci.example.org:443"} {
		b.header.Set("Host", host)
		wants(t, "Host: "+host, b.get("/login"), http.StatusOK, "Log in")
	}
	// X-Forwarded-* counts from a proxy on this machine, and from nobody else.
	b.header.Set("Host", "evil.example")
	b.header.Set("X-Forwarded-Host", "ci.example.org")
	wants(t, "a forged X-Forwarded-Host", b.get("/login"), http.StatusMisdirectedRequest, testURL)
	b.addr = "127.0.0.1:9"
	wants(t, "a proxy's X-Forwarded-Host", b.get("/login"), http.StatusOK, "Log in")
	b.header.Set("X-Forwarded-Host", "evil.example")
	wants(t, "a proxy's X-Forwarded-Host of another name", b.get("/login"), http.StatusMisdirectedRequest, testURL)
}

// What came to a proxy without TLS is sent to where TLS is, and what it carries counts for
// nothing.
func TestPlainBehindProxy(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	token := b.token("/account")
	b.addr = "[::1]:9"
	b.header.Set("X-Forwarded-Proto", "http")
	if a := b.get("/account"); a.Code != http.StatusSeeOther || a.Header().Get("Location") != testURL+"/" || strings.Contains(a.text, "github") {
		t.Errorf("GET: %d %s", a.Code, a.Header().Get("Location"))
	}
	wants(t, "POST", b.post("/logout", url.Values{"token": {token}}), http.StatusForbidden, "without TLS")
	b.header.Set("X-Forwarded-Proto", "https")
	wants(t, "TLS", b.get("/account"), http.StatusOK, "github:1")
}

// The address that counts is the one that the proxy on this machine has seen, and not what
// a client claims.
func TestForwardedFor(t *testing.T) {
	for _, test := range []struct {
		remote string
		chain  []string
		want   string
	}{
		{"198.51.100.7:1", nil, "198.51.100.7"},
		{"198.51.100.7:1", []string{"203.0.113.1"}, "198.51.100.7"},
		{"127.0.0.1:1", nil, "127.0.0.1"},
		{"127.0.0.1:1", []string{"203.0.113.1"}, "203.0.113.1"},
		{"127.0.0.1:1", []string{"10.0.0.1, 203.0.113.1"}, "203.0.113.1"},
		{"127.0.0.1:1", []string{"10.0.0.1", "203.0.113.1"}, "203.0.113.1"},
		{"[::1]:1", []string{"203.0.113.1:4711"}, "203.0.113.1"},
		{"[::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"[::1]:1", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"[::ffff:127.0.0.1]:1", []string{"::ffff:203.0.113.1"}, "203.0.113.1"},
		{"127.0.0.1:1", []string{"203.0.113.1, unknown"}, "127.0.0.1"},
		{"@", []string{"203.0.113.1"}, "203.0.113.1"},
		{"", nil, "::1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = test.remote
		r.Header["X-Forwarded-For"] = test.chain
		if got, _ := client(r); got.String() != test.want {
			t.Errorf("client(%q, %q) = %s, want %s", test.remote, test.chain, got, test.want)
		}
	}
}

// What people and forges call themselves is text, wherever it is shown.
func TestEscape(t *testing.T) {
	s := newSite(t, testURL)
	const evil = `<script>alert(1)</script>"><img src=x onerror=alert(2)>`
	b := s.browser()
	b.header.Set("User-Agent", evil)
	b.login(account.Person{Principal: "github:1", Login: evil, Name: evil + " " + evil}, "")
	err := s.accounts.Change("github:1", func(a *account.Account) error {
		a.Forge = evil
		a.Passkeys = []account.Passkey{{ID: []byte{1}, Name: evil}}
		a.Keys = []account.Key{{Fingerprint: evil, From: evil}}
		a.Namespaces = []access.Pattern{"github.com/<b>x/..."}
		a.Sessions[0].From = evil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out := s.browser()
	r, err := s.approvals.New(newKey(t), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9)})
	if err != nil {
		t.Fatal(err)
	}
	code, err := account.NewInvite(s.dir, account.Invite{Name: evil, Namespaces: []access.Pattern{"github.com/<b>x/..."}, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for what, a := range map[string]answer{
		"account": b.get("/account?did=" + url.QueryEscape(evil)),
		"login":   out.get("/login?next=" + url.QueryEscape(evil)),
		"invite":  out.get("/invite/" + code),
		"confirm": b.post("/approve", url.Values{"token": {b.token("/approve")}, "code": {r.Code}}),
		"nothing": b.get("/" + url.PathEscape(evil)),
		"code":    b.post("/approve", url.Values{"token": {b.token("/approve")}, "code": {evil}}),
	} {
		for _, bad := range []string{"<script>", "<img", "<b>x"} {
			if strings.Contains(a.text, bad) {
				t.Errorf("%s has %s:\n%s", what, bad, a.text)
			}
		}
	}
	// A forge's name is one element of a path, and leads to that forge.
	m := regexp.MustCompile(`href="([^"]+)">Log in with &lt;script`).FindStringSubmatch(out.get("/login").text)
	if m == nil {
		t.Fatal("the login page has no link of the forge")
	}
	to, err := url.Parse(out.get(html.UnescapeString(m[1])).Header().Get("Location"))
	if err != nil || to.Query().Get("redirect_uri") != testURL+"/callback/x%252f..&%3Fnext=%2F%2Fevil" {
		t.Errorf("the link %s leads to %s, %v", m[1], to, err)
	}
}

// A request of any size or form gets an answer, and takes no more than it may.
func TestSizes(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	token := b.token("/approve")
	wants(t, "a long form", b.post("/approve", url.Values{"token": {token}, "code": {strings.Repeat("A", 1<<20)}}), http.StatusRequestEntityTooLarge, "too long")
	if a := b.do("POST", "/passkey/login/begin", "application/json", `{"token":"`+strings.Repeat("A", 1<<20)); a.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a long answer of WebAuthn: %d %s", a.Code, a.text)
	}
	if a := b.do("POST", "/passkey/login/begin", "application/json", `nonsense`); a.Code != http.StatusBadRequest {
		t.Errorf("no JSON: %d %s", a.Code, a.text)
	}
	wants(t, "another form", b.do("POST", "/approve", "multipart/form-data; boundary=x", "--x--"), http.StatusUnsupportedMediaType, "form of this page")
}

// A URL is https with a name, or http on this machine.
func TestURL(t *testing.T) {
	for _, good := range []string{testURL, testURL + "/", "https://CI.example.org:443", "https://192.0.2.1:8443", "http://localhost", "http://127.0.0.1:8080", "http://[::1]:1"} {
		if _, err := parseURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "ci.example.org", "http://ci.example.org", "http://192.0.2.1", "https://", "https://a@b", "https://ci.example.org/path", "https://ci.example.org?x", "ftp://x", "https://ci.example.org#x"} {
		if u, err := parseURL(bad); err == nil {
			t.Errorf("%q is taken, as %s", bad, u)
		}
	}
	if u, err := parseURL("https://CI.example.org:443/"); err != nil || u.String() != testURL {
		t.Errorf("parseURL = %s, %v", u, err)
	}
}

// Passkeys have no IP address, and the page says so where one would be.
func TestPasskeysOfAddress(t *testing.T) {
	s := newSite(t, "https://192.0.2.7")
	b := s.browser()
	b.get("/login")
	wants(t, "a login", b.do("POST", "/passkey/login/begin", "application/json", "{}"), http.StatusConflict, "-url https://NAME")
	code, err := account.NewInvite(s.dir, account.Invite{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "an invitation", b.get("/invite/"+code), http.StatusOK, "-url https://NAME")
	if !strings.Contains(s.log.String(), "passkeys are bound to a host's name") {
		t.Errorf("log: %s", s.log)
	}
	b.login(alice, "")
	wants(t, "the account", b.get("/account"), http.StatusOK, "-url https://NAME")
}
