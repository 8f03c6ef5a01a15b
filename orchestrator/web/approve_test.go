package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711} }

// An asking is a request whose client waits.
type asking struct {
	*Request
	key    string
	result chan result
}

type result struct {
	principal string
	err       error
}

// ask has a new key ask for approval.
func (s *site) ask(from string) *asking {
	s.t.Helper()
	key := newKey(s.t)
	r, err := s.approvals.New(key, tcp(from))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.await(&asking{Request: r, key: ssh.FingerprintSHA256(key)}, r.Wait)
}

func (s *site) await(a *asking, wait func(context.Context) (string, error)) *asking {
	a.result = make(chan result, 1)
	go func() {
		principal, err := wait(s.t.Context())
		a.result <- result{principal, err}
	}()
	return a
}

// waits fails the test if the client has an answer.
func (a *asking) waits(t testing.TB, when string) {
	t.Helper()
	if a.a.find(a.name) == nil {
		t.Errorf("%s: the request is over", when)
	}
}

// A person types the code, sees whose key it is, and approves it; nobody can use the code
// again.
func TestApprove(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	r := s.ask("198.51.100.9")
	if len(r.Code) != 9 || r.Code[4] != '-' || r.URL != testURL+"/approve" {
		t.Errorf("the request is %q at %s", r.Code, r.URL)
	}
	wants(t, "the page of codes", b.get("/approve"), http.StatusOK, "The code in your terminal")
	token := b.token("/approve")
	typed := strings.ToLower(strings.Replace(r.Code, "-", " ", 1))
	a := b.post("/approve", url.Values{"token": {token}, "code": {typed}})
	for _, words := range []string{"Is this your key?", r.key, "198.51.100.9", "this browser is at 192.0.2.1", "Alice", "ssh-ed25519"} {
		wants(t, "the key's page", a, http.StatusOK, words)
	}
	approve := url.Values{"token": {token}, "request": {r.name}, "key": {r.key}, "answer": {"approve"}}
	wants(t, "neither", b.post("/approve/answer", url.Values{"token": {token}, "request": {r.name}, "key": {r.key}}), http.StatusBadRequest, "nothing was done")
	r.waits(t, "after no answer")
	wants(t, "the approval", b.post("/approve/answer", approve), http.StatusOK, "Go back to the terminal")
	if got := <-r.result; got.principal != "github:1" || got.err != nil {
		t.Errorf("Wait = %q, %v", got.principal, got.err)
	}
	wants(t, "the approval again", b.post("/approve/answer", approve), http.StatusNotFound, "No key waits")
	wants(t, "the code again", b.post("/approve", url.Values{"token": {token}, "code": {r.Code}}), http.StatusNotFound, "No key waits")
	wants(t, "the account", b.get("/account"), http.StatusOK, r.key)
	if line := `msg=page what=approve principal=github:1 addr=192.0.2.1 key=` + r.key + " from=198.51.100.9"; !strings.Contains(s.log.String(), line) {
		t.Errorf("the log has no %s:\n%s", line, s.log)
	}

	refused := s.ask("198.51.100.9")
	wants(t, "a refusal", b.post("/approve/answer", url.Values{"token": {token}, "request": {refused.name}, "key": {refused.key}, "answer": {"refuse"}}), http.StatusOK, "gets nothing")
	if got := <-refused.result; !errors.Is(got.err, ErrNotApproved) {
		t.Errorf("Wait = %q, %v", got.principal, got.err)
	}
	if a, err := s.accounts.Get("github:1"); err != nil || len(a.Keys) != 1 || a.Keys[0].Fingerprint != r.key {
		t.Errorf("the account is %+v, %v", a, err)
	}
}

// An approval counts for the key that the page showed, and for no other that has the code.
func TestApproveOtherKey(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	token := b.token("/approve")
	r, other := s.ask("198.51.100.9"), s.ask("198.51.100.9")
	for _, key := range []string{other.key, "", r.key + "x", "SHA256:"} {
		wants(t, "another key", b.post("/approve/answer", url.Values{"token": {token}, "request": {r.name}, "key": {key}, "answer": {"approve"}}), http.StatusNotFound, "No key waits")
	}
	r.waits(t, "after approvals of other keys")
	other.waits(t, "after approvals with another code")
}

// Nothing is approved by a page that this browser has not been shown, whoever makes the
// browser send the form, nor without a login.
func TestApproveForged(t *testing.T) {
	s := newSite(t, testURL)
	b, evil := s.browser(), s.browser()
	b.login(alice, "")
	evil.login(bob, "")
	r := s.ask("198.51.100.9")
	form := func(token string) url.Values {
		return url.Values{"token": {token}, "request": {r.name}, "key": {r.key}, "answer": {"approve"}}
	}
	good := b.token("/approve")
	for name, token := range map[string]string{"none": "", "made up": newSecret(), "another's": evil.token("/approve"), "cut": good[1:]} {
		wants(t, name, b.post("/approve/answer", form(token)), http.StatusForbidden, "too old")
	}
	for name, values := range map[string][]string{"Sec-Fetch-Site": {"cross-site", "same-site"}, "Origin": {"https://evil.example", "https://sub.ci.example.org", "http://ci.example.org:81", "null"}} {
		for _, value := range values {
			b.header.Set(name, value)
			wants(t, name+": "+value, b.post("/approve/answer", form(good)), http.StatusForbidden, "another site")
			b.header.Del(name)
		}
	}
	for _, kind := range []string{"text/plain", "application/json", "multipart/form-data; boundary=x", ""} {
		if a := b.do("POST", "/approve/answer", kind, form(good).Encode()); a.Code != http.StatusUnsupportedMediaType {
			t.Errorf("Content-Type %q: %d", kind, a.Code)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		if a := b.do(method, "/approve/answer?"+form(good).Encode(), "", ""); a.Code == http.StatusOK {
			t.Errorf("%s: %d", method, a.Code)
		}
	}
	wants(t, "the token in the query", b.post("/approve/answer?"+form(good).Encode(), nil), http.StatusForbidden, "too old")
	out := s.browser()
	if a := out.post("/approve/answer", form(out.token("/login"))); a.Header().Get("Location") != "/login?next=%2Fapprove" {
		t.Errorf("without a login: %d %s", a.Code, a.Header().Get("Location"))
	}
	r.waits(t, "after all of these")
	b.header.Set("Origin", testURL)
	b.header.Set("Sec-Fetch-Site", "same-origin")
	wants(t, "the page's own form", b.post("/approve/answer", form(good)), http.StatusOK, "Go back")
}

// The same holds for every form: without the token of the page, nothing is done.
func TestForms(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	b.login(alice, "")
	s.certificate(7, "github:1", "SHA256:x")
	for path, form := range map[string]url.Values{
		"/logout":  {},
		"/account": {"do": {"everything"}},
		"/approve": {"code": {"BCDFGHJK"}},
	} {
		form.Set("token", newSecret())
		wants(t, path, b.post(path, form), http.StatusForbidden, "too old")
	}
	code, err := account.NewInvite(s.dir, account.Invite{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/passkey/login/begin", "/passkey/login", "/passkey/add/begin", "/passkey/add", "/invite/" + code + "/begin", "/invite/" + code} {
		if a := b.do("POST", path, "application/json", `{"token":"`+newSecret()+`"}`); a.Code != http.StatusForbidden || !strings.Contains(a.text, "too old") {
			t.Errorf("%s: %d %s", path, a.Code, a.text)
		}
		if a := b.do("POST", path, "text/plain", `{"token":"`+b.token("/account")+`"}`); a.Code != http.StatusUnsupportedMediaType {
			t.Errorf("%s as text/plain: %d %s", path, a.Code, a.text)
		}
	}
	if !b.loggedIn() {
		t.Error("the browser was logged out")
	}
	if _, err := s.accounts.Invite(code); err != nil {
		t.Errorf("the invitation: %v", err)
	}
}

// What is begun for one invitation ends no other, an invitation is no login for an account
// that is barred, and what is no answer of WebAuthn is told without words of ours.
func TestInviteForged(t *testing.T) {
	s := newSite(t, testURL)
	invite := func(of string) string {
		t.Helper()
		code, err := account.NewInvite(s.dir, account.Invite{Account: of, Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	b, other := s.browser(), s.browser()
	one, two := invite(""), invite("")
	begin := func(b *browser, code string) (token, ceremony string) {
		t.Helper()
		token = b.token("/invite/" + code)
		a := b.do("POST", "/invite/"+code+"/begin", "application/json", `{"token":"`+token+`"}`)
		var got begun
		if err := json.Unmarshal([]byte(a.text), &got); err != nil || a.Code != http.StatusOK {
			t.Fatalf("begin: %d %s", a.Code, a.text)
		}
		for _, want := range []string{`"residentKey":"required"`, `"userVerification":"required"`, `"id":"ci.example.org"`} {
			if !strings.Contains(a.text, want) {
				t.Errorf("the options have no %s: %s", want, a.text)
			}
		}
		return token, got.Ceremony
	}
	finish := func(b *browser, code, token, ceremony string) answer {
		body, err := json.Marshal(ask{Token: token, Ceremony: ceremony, Credential: json.RawMessage(`{"id":"x"}`)})
		if err != nil {
			t.Fatal(err)
		}
		return b.do("POST", "/invite/"+code, "application/json", string(body))
	}
	token, ceremony := begin(b, one)
	wants(t, "another invitation", finish(b, two, token, ceremony), http.StatusForbidden, "too old")
	wants(t, "no invitation", finish(b, newSecret(), token, ceremony), http.StatusNotFound, "invitation is wrong")
	otherToken, _ := begin(other, one)
	wants(t, "another browser", finish(other, one, otherToken, ceremony), http.StatusForbidden, "too old")
	wants(t, "a login's end", b.do("POST", "/passkey/login", "application/json", `{"token":"`+token+`","ceremony":"`+ceremony+`"}`), http.StatusForbidden, "too old")
	wants(t, "no answer of WebAuthn", finish(b, one, token, ceremony), http.StatusForbidden, "no passkey that could log in")
	if _, err := s.accounts.Invite(one); err != nil {
		t.Errorf("the invitation: %v", err)
	}

	b.login(alice, "")
	mine := invite("github:1")
	if _, err := access.Revoke(s.dir, []string{"github:1"}); err != nil {
		t.Fatal(err)
	}
	out := s.browser()
	token = out.token("/invite/" + mine)
	wants(t, "a barred account", out.do("POST", "/invite/"+mine+"/begin", "application/json", `{"token":"`+token+`"}`), http.StatusForbidden, "barred")
}

// Ten thousand guesses of a code are thirty in the ten minutes that a code lives: the rest
// is refused unread, the right code among it. Others are served meanwhile.
func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, testURL)
		b, other := s.browser(), s.browser()
		other.addr = "192.0.2.2:1"
		b.login(alice, "")
		other.login(bob, "")
		token := b.token("/approve")
		r := s.ask("198.51.100.9")
		read, refused := 0, 0
		guess := func(code string) int {
			a := b.post("/approve", url.Values{"token": {token}, "code": {code}})
			switch a.Code {
			case http.StatusNotFound:
				read++
			case http.StatusTooManyRequests:
				refused++
			default:
				t.Fatalf("a guess: %d %s", a.Code, a.text)
			}
			return a.Code
		}
		step := approvalLife / 10000
		for i := range 10000 - 1 {
			if i%2 == 0 {
				guess(newCode())
			} else { // the other form takes codes too
				a := b.post("/approve/answer", url.Values{"token": {token}, "request": {newCode()}, "key": {r.key}, "answer": {"approve"}})
				if a.Code == http.StatusNotFound {
					read++
				} else {
					refused++
				}
			}
			// Another address of the same account guesses no more.
			b.addr = fmt.Sprintf("192.0.2.1:%d", i+1)
			time.Sleep(step)
		}
		if read > 30 || read < 10 || read+refused != 9999 {
			t.Errorf("%d guesses were read and %d refused", read, refused)
		}
		if guess(r.Code) != http.StatusTooManyRequests {
			t.Error("the right code was taken after all that")
		}
		b.addr = "203.0.113.50:1"
		if guess(r.Code) != http.StatusTooManyRequests {
			t.Error("the same account is taken at another address")
		}
		wants(t, "another visitor", other.post("/approve", url.Values{"token": {other.token("/approve")}, "code": {r.Code}}), http.StatusOK, r.key)
	})
}

// A request ends after ten minutes, or with its client, and an address has a few at a
// time: the next then has a place.
func TestApprovalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, testURL)
		a := s.approvals
		var all []*asking
		for range maxApprovalsOf {
			all = append(all, s.ask("2001:db8::1"))
		}
		for _, from := range []string{"2001:db8::1", "2001:db8::ffff"} {
			if _, err := a.New(newKey(t), tcp(from)); !errors.Is(err, fs.ErrBusy) {
				t.Errorf("one more of %s: %v", from, err)
			}
		}
		s.ask("2001:db8:0:1::1")
		ctx, cancel := context.WithCancel(t.Context())
		gone, err := a.New(newKey(t), tcp("192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := gone.Wait(ctx); !errors.Is(err, context.Canceled) || a.find(gone.name) != nil {
			t.Errorf("a client that left: %v", err)
		}
		if _, ok := gone.answer("github:1"); ok {
			t.Error("the key of a client that left was approved")
		}
		time.Sleep(approvalLife)
		synctest.Wait()
		for _, r := range all {
			if got := <-r.result; !errors.Is(got.err, ErrApproveLate) {
				t.Errorf("after ten minutes: %v", got.err)
			}
			if _, ok := r.answer("github:1"); ok {
				t.Error("a key was approved after ten minutes")
			}
		}
		// Those that nobody waits for go too.
		for i := range maxApprovals {
			if _, err := a.New(newKey(t), tcp(fmt.Sprintf("10.0.%d.%d", i/250, i%250))); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.New(newKey(t), tcp("192.0.2.1")); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("one more than there may be: %v", err)
		}
		time.Sleep(approvalLife)
		s.ask("192.0.2.1")
		if len(a.open) != 1 || len(a.of) != 1 {
			t.Errorf("%d requests of %d sources are open, want 1", len(a.open), len(a.of))
		}
	})
}

// Of many answers to a request at once, one counts.
func TestApproveRace(t *testing.T) {
	s := newSite(t, testURL)
	r := s.ask("192.0.2.1")
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for i := range 20 {
		wg.Go(func() {
			if _, ok := r.answer(fmt.Sprintf("github:%d", i)); ok {
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := <-r.result; n != 1 || got.err != nil {
		t.Errorf("%d answers counted, and Wait = %v", n, got)
	}
}

// A client that opened the browser itself gets a code back through it, once, on the port
// that it listens on and on no other host.
func TestApproveHere(t *testing.T) {
	s := newSite(t, testURL)
	b := s.browser()
	key := newKey(t)
	ask := func() *Request {
		t.Helper()
		r, err := s.approvals.NewHere(key, tcp("192.0.2.1"), 34567, "the-state&x=y")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := ask()
	path := strings.TrimPrefix(r.URL, testURL)
	a := b.get(path)
	if to := a.Header().Get("Location"); to != "/login?next="+url.QueryEscape(path) {
		t.Fatalf("GET %s leads to %s", path, to)
	}
	if to := b.login(alice, path).Header().Get("Location"); to != path {
		t.Fatalf("the login leads to %s", to)
	}
	a = b.get(path)
	wants(t, "the key's page", a, http.StatusOK, ssh.FingerprintSHA256(key))
	if csp := a.Header().Get("Content-Security-Policy"); !strings.HasSuffix(csp, "; form-action 'self' http://127.0.0.1:34567") {
		t.Errorf("Content-Security-Policy %q", csp)
	}
	token := tokenField.FindStringSubmatch(a.text)[1]
	form := url.Values{"token": {token}, "request": {r.name}, "key": {ssh.FingerprintSHA256(key)}, "answer": {"approve"}}
	to, err := url.Parse(b.post("/approve/answer", form).Header().Get("Location"))
	if err != nil || to.Scheme != "http" || to.Host != "127.0.0.1:34567" || to.Query().Get("state") != "the-state&x=y" || to.Query().Get("x") != "" {
		t.Fatalf("the approval leads to %s, %v", to, err)
	}
	proof := to.Query().Get("code")
	for _, wrong := range []string{"", newSecret(), proof + "A"} {
		if p, err := r.Redeem(t.Context(), wrong); !errors.Is(err, ErrWrongProof) {
			t.Errorf("Redeem(%q) = %q, %v", wrong, p, err)
		}
	}
	if p, err := r.Wait(t.Context()); err == nil {
		t.Errorf("Wait without the code = %q", p)
	}
	if p, err := r.Redeem(t.Context(), proof); p != "github:1" || err != nil {
		t.Errorf("Redeem = %q, %v", p, err)
	}
	wants(t, "the page again", b.get(path), http.StatusNotFound, "No key waits")

	r = ask()
	form.Set("request", r.name)
	form.Set("answer", "refuse")
	to, err = url.Parse(b.post("/approve/answer", form).Header().Get("Location"))
	if err != nil || to.Query().Get("error") != "access_denied" || to.Query().Get("code") != "" {
		t.Errorf("the refusal leads to %s, %v", to, err)
	}
	if _, err := r.Redeem(t.Context(), proof); !errors.Is(err, ErrNotApproved) {
		t.Errorf("Redeem after a refusal: %v", err)
	}
	r = ask()
	wants(t, "its id as a code", b.post("/approve", url.Values{"token": {token}, "code": {r.name}}), http.StatusNotFound, "No key waits")
	for _, bad := range []struct {
		port  uint16
		state string
	}{{0, "x"}, {1, ""}, {1, "a b"}, {1, "a\r\nb"}, {1, strings.Repeat("a", 200)}} {
		if _, err := s.approvals.NewHere(key, tcp("192.0.2.1"), bad.port, bad.state); err == nil {
			t.Errorf("NewHere(%d, %q): no error", bad.port, bad.state)
		}
	}
	wants(t, "no id", b.get("/approve/x"), http.StatusNotFound, "no such page")
}

func TestCode(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		c := newCode()
		if seen[c] || len(c) != codeSize || strings.Trim(c, codeLetters) != "" {
			t.Fatalf("the code %q", c)
		}
		seen[c] = true
	}
	for typed, want := range map[string]string{
		"BCDF-GHJK": "BCDFGHJK", "bcdf ghjk": "BCDFGHJK", " b c d f – g h j k ": "BCDFGHJK", "BCDFGHJ": "", "BCDFGHJKL": "",
		"BCDF-GHJA": "", "": "", "-": "", "BCDFGHJ\x00": "", strings.Repeat("B", 1000): "",
	} {
		if got := cleanCode(typed); got != want {
			t.Errorf("cleanCode(%q) = %q, want %q", typed, got, want)
		}
	}
}

// An account takes back what lets it in: a key with its certificates, a certificate, a
// browser, all at once. What is another's it cannot name.
func TestAccountRevokes(t *testing.T) {
	s := newSite(t, testURL)
	b, other, evil := s.browser(), s.browser(), s.browser()
	b.login(alice, "")
	other.login(alice, "")
	evil.login(bob, "")
	s.certificate(7, "github:1", "SHA256:one")
	s.certificate(8, "github:1", "SHA256:one")
	s.certificate(9, "github:1", "SHA256:two")
	s.certificate(10, "github:2", "SHA256:one")
	if err := s.accounts.Change("github:1", func(a *account.Account) error { a.Approve("SHA256:one", "::1"); return nil }); err != nil {
		t.Fatal(err)
	}
	do := func(b *browser, what, id string) answer {
		return b.post("/account", url.Values{"token": {b.token("/account")}, "do": {what}, "id": {id}})
	}
	certificates := func(principal string) string {
		all, err := s.authority.Certificates(principal)
		if err != nil {
			t.Fatal(err)
		}
		var serials []uint64
		for _, c := range all {
			serials = append(serials, c.Serial)
		}
		return fmt.Sprint(serials)
	}
	wants(t, "the page", b.get("/account"), http.StatusOK, "Certificate 7")
	if a, _ := s.accounts.Get("github:1"); true {
		do(evil, "session", a.Sessions[0].ID)
		do(evil, "certificate", "7")
		do(evil, "key", "SHA256:one")
	}
	if got := certificates("github:1"); got != "[7 8 9]" || !b.loggedIn() || !other.loggedIn() {
		t.Errorf("another account has revoked something: %s left", got)
	}
	if got := certificates("github:2"); got != "[]" {
		t.Errorf("it has not revoked its own: %s", got)
	}
	wants(t, "the words", b.get(do(b, "certificate", "7").Header().Get("Location")), http.StatusOK, "The certificate was revoked.")
	if got := certificates("github:1"); got != "[8 9]" {
		t.Errorf("certificates %s", got)
	}
	do(b, "key", "SHA256:one")
	if got := certificates("github:1"); got != "[9]" {
		t.Errorf("certificates %s after their key was revoked", got)
	}
	if a, _ := s.accounts.Get("github:1"); len(a.Keys) > 0 {
		t.Errorf("keys %+v", a.Keys)
	} else {
		do(b, "session", a.Sessions[1].ID)
	}
	if other.loggedIn() || !b.loggedIn() {
		t.Error("the other browser is logged in, or this one is not")
	}
	wants(t, "nonsense", do(b, "nonsense", "x"), http.StatusBadRequest, "Nothing of that name")
	do(b, "everything", "")
	if a, _ := s.accounts.Get("github:1"); b.loggedIn() || certificates("github:1") != "[]" || a.ForgeToken != nil || len(s.forges.forgotten) != 1 {
		t.Errorf("after everything: %+v, certificates %s, forgotten %v", a, certificates("github:1"), s.forges.forgotten)
	}
	if !evil.loggedIn() {
		t.Error("another account was logged out")
	}
	for _, line := range []string{"msg=page what=revoke principal=github:1 addr=192.0.2.1 certificate=7\n", "msg=page what=logout principal=github:1 addr=192.0.2.1 everywhere=true\n"} {
		if !strings.Contains(s.log.String(), line) {
			t.Errorf("no line %q in\n%s", line, s.log)
		}
	}
}

func TestBrowserName(t *testing.T) {
	for agent, want := range map[string]string{
		"": "A browser without a name", "curl/8.5": "curl/8.5", "Windows": "Windows",
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                                  "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":           "Edge on Windows",
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36":                         "Chrome on Android",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1": "Safari on iOS",
	} {
		if got := browserName(account.Session{Agent: agent}); got != want {
			t.Errorf("browserName(%q) = %q, want %q", agent, got, want)
		}
	}
}
