package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"9ci/orchestrator/access/account"
	"9ci/orchestrator/access/forge/forgetest"
)

// People log in on the page by a forge. What it gives is sealed in the account, and taken
// back when they log out.
func TestForges(t *testing.T) {
	site := forgetest.NewSite("github", "")
	server := httptest.NewServer(site)
	defer server.Close()
	site.URL = server.URL
	site.AddPerson(forgetest.Person{ID: 12, Login: "alice", Name: "Alice <b>A.</b>"})

	state := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"forges":        "kind=github\nurl=" + site.URL + "\nclient-id=" + site.ClientID + "\nclient-secret-file=github.secret\n",
		"github.secret": site.Secret + "\n",
	} {
		if err := os.WriteFile(filepath.Join(state, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	at := fmt.Sprintf("http://localhost:%d", port)
	p := runProcess(t, exec.Command(os.Args[0]), "-state", state, "-a", "tcp!127.0.0.1!0", "-web", fmt.Sprintf("tcp!127.0.0.1!%d", port), "-url", at)
	p.await(`msg=listen web=\S+ url=(\S+)`) // which prints little before that

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	open := func(path string, form url.Values) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+path, nil)
		if form != nil {
			req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, at+path, strings.NewReader(form.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", at)
		}
		if err != nil {
			t.Fatal(err)
		}
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %d\n%s", resp.Request.URL.Path, resp.StatusCode, text)
	}
	if out := open("/login", nil); !strings.Contains(out, "GitHub") || !strings.Contains(out, "/login/github.com") {
		t.Fatalf("the login page: %s", out)
	}
	site.LogIn("")
	if out := open("/login/github.com", nil); !strings.Contains(out, "403") || !strings.Contains(out, "You did not log in at GitHub") {
		t.Errorf("a login that is refused: %s", out)
	}
	site.LogIn("alice")
	out := open("/login/github.com?next=/account", nil)
	if !strings.HasPrefix(out, "/account 200") || !strings.Contains(out, "Alice &lt;b&gt;A.&lt;/b&gt;") {
		t.Fatalf("a login: %s", out)
	}
	file, err := os.ReadFile(filepath.Join(state, "accounts", "github:12"))
	if err != nil || !strings.Contains(string(file), "forge-token=") {
		t.Errorf("the account: %s, %v", file, err)
	}
	if access, refresh := site.Tokens(); access != 1 || refresh != 1 {
		t.Errorf("%d access tokens and %d refresh tokens", access, refresh)
	}
	logout := func(page string) {
		t.Helper()
		m := regexp.MustCompile(`(?s)action="/logout".*?name="([^"]+)" value="([^"]+)"`).FindStringSubmatch(page)
		if m == nil {
			t.Fatalf("no way out: %s", page)
		}
		open("/logout", url.Values{m[1]: {m[2]}})
	}
	// Another browser: what the forge gives then takes the place of what it gave before.
	if browser.Jar, err = cookiejar.New(nil); err != nil {
		t.Fatal(err)
	}
	second := open("/login/github.com?next=/account", nil)
	if access, refresh := site.Tokens(); access != 1 || refresh != 1 || !strings.HasPrefix(second, "/account 200") {
		t.Errorf("%d access tokens and %d refresh tokens after a second login: %s", access, refresh, second)
	}
	logout(second)
	browser.Jar = jar
	if access, _ := site.Tokens(); access != 1 {
		t.Errorf("%d access tokens after one of two has logged out", access)
	}
	logout(out)
	if access, refresh := site.Tokens(); access+refresh != 0 {
		t.Errorf("%d access tokens and %d refresh tokens after a logout", access, refresh)
	}
	accounts, err := account.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := accounts.Get("github:12"); err != nil || a.ForgeToken != nil {
		t.Errorf("the account after a logout: %+v, %v", a, err)
	}
	// A revocation does the same, beside the server.
	if out := open("/login/github.com?next=/account", nil); !strings.HasPrefix(out, "/account 200") {
		t.Errorf("logged in again: %s", out)
	}
	if access, _ := site.Tokens(); access != 1 {
		t.Errorf("%d access tokens after a second login", access)
	}
	if out, errs, status := do(t, "revoke", "-state", state, "github:12"); status != 0 || errs != "" || !strings.Contains(out, "is logged out of the page") {
		t.Errorf("revoke: %d %q %q", status, out, errs)
	}
	if access, refresh := site.Tokens(); access+refresh != 0 {
		t.Errorf("%d access tokens and %d refresh tokens after a revocation", access, refresh)
	}
	check, _, status := do(t, "check", "-state", state)
	if want := "forges:1: github.com: (github, by https://token.actions.githubusercontent.com) lets in CI jobs of any repository, each to its own namespace, and people, to the namespaces that they may see there\n"; status != 0 || !strings.Contains(check, want) {
		t.Errorf("check: %d %s", status, check)
	}
	p.term()
	said := check + string(file)
	for line := range p.lines {
		said += line + "\n"
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
	for _, s := range site.Secrets() {
		if strings.Contains(said, s) {
			t.Errorf("a secret is in %s", said)
		}
	}
}
