//go:build gitea

package forge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"9ci/fs"
)

// A gitea is one that runs: GITEA is the program, and GITEA_ROOT has its templates. mk gitea
// sets both.
type gitea struct {
	*testing.T
	dir, url string
}

func startGitea(t *testing.T) *gitea {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	g := &gitea{T: t, dir: t.TempDir(), url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	config := fmt.Sprintf(`
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
WORK_PATH = %[1]s
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[2]d
ROOT_URL = %[3]s/
STATIC_ROOT_PATH = %[4]s
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false
[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.db
[security]
INSTALL_LOCK = true
SECRET_KEY = x
INTERNAL_TOKEN = eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJuYmYiOjE1NTk5MTgzNzZ9.N_UdtCVmIJQgPx4Qm2zqrhYb4vhnEmVNAFF1CwGOmXM
[oauth2]
JWT_SECRET = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
INVALIDATE_REFRESH_TOKENS = true
[log]
MODE = console
LEVEL = Info
[cron]
ENABLED = false
[indexer]
REPO_INDEXER_ENABLED = false
ISSUE_INDEXER_TYPE = db
`, g.dir, port, g.url, os.Getenv("GITEA_ROOT"))
	if err := os.WriteFile(filepath.Join(g.dir, "app.ini"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := g.command(args...).CombinedOutput(); err != nil {
			t.Fatalf("gitea %q: %v\n%s", args, err, out)
		}
	}
	run("migrate")
	for _, login := range []string{"alice", "bob"} {
		run("admin", "user", "create", "--username", login, "--password", "password-of-"+login, "--email", login+"@example.org", "--must-change-password=false")
	}
	web := g.command("web")
	out, err := web.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	web.Stderr = web.Stdout
	if err := web.Start(); err != nil {
		t.Fatal(err)
	}
	up := make(chan bool, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		var log bytes.Buffer
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			fmt.Fprintln(&log, lines.Text())
			if strings.Contains(lines.Text(), "Starting new Web server") {
				up <- true
			}
		}
		up <- false
		if t.Failed() {
			t.Logf("gitea: %s", log.String())
		}
	})
	t.Cleanup(func() {
		web.Process.Kill()
		wg.Wait()
		web.Wait()
	})
	if !<-up {
		t.Fatal("gitea has ended")
	}
	// It listens just after it has said so.
	for began := time.Now(); time.Since(began) < time.Minute; {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			break
		}
	}
	return g
}

func (g *gitea) command(args ...string) *exec.Cmd {
	c := exec.Command(os.Getenv("GITEA"), append([]string{"--config", filepath.Join(g.dir, "app.ini"), "--work-path", g.dir}, args...)...)
	c.Dir = g.dir
	c.Env = append(os.Environ(), "HOME="+g.dir, "USER=root", "GITEA_WORK_DIR="+g.dir)
	return c
}

// api does a request as somebody with a password.
func (g *gitea) api(login, method, path string, body, v any) {
	g.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		g.Fatal(err)
	}
	req, err := http.NewRequestWithContext(g.Context(), method, g.url+"/api/v1"+path, bytes.NewReader(text))
	if err != nil {
		g.Fatal(err)
	}
	req.SetBasicAuth(login, "password-of-"+login)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 {
		g.Fatalf("%s %s: status %d: %s", method, path, resp.StatusCode, answer)
	}
	if v != nil {
		if err := json.Unmarshal(answer, v); err != nil {
			g.Fatal(err)
		}
	}
}

// browser returns a browser in which somebody is logged in.
func (g *gitea) browser(login string) *http.Client {
	g.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		g.Fatal(err)
	}
	b := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	g.open(b, g.url+"/user/login", nil)
	g.open(b, g.url+"/user/login", url.Values{"user_name": {login}, "password": {"password-of-" + login}})
	return b
}

var field = regexp.MustCompile(`<input[^>]*name="(\w+)"[^>]*value="([^"]*)"`)

// open gets a page, or sends a form, and returns where that leads, and the fields of the
// page's forms.
func (g *gitea) open(b *http.Client, page string, form url.Values) (next *url.URL, fields url.Values) {
	g.Helper()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		at, _ := url.Parse(page)
		for _, c := range b.Jar.Cookies(at) {
			if c.Name == "_csrf" {
				form.Set("_csrf", c.Value)
			}
		}
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(g.Context(), method, page, body)
	if err != nil {
		g.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 400 {
		g.Fatalf("%s %s: status %d: %.2000s", method, page, resp.StatusCode, text)
	}
	fields = url.Values{}
	for _, m := range field.FindAllSubmatch(text, -1) {
		fields.Set(string(m[1]), strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&amp;", "&").Replace(string(m[2])))
	}
	next, _ = resp.Location()
	return next, fields
}

// visit logs in at the page as whoever is at the browser, and returns what it brings back.
func (g *gitea) visit(b *http.Client, page string) url.Values {
	g.Helper()
	next, fields := g.open(b, page, nil)
	if next == nil { // it asks whether it may
		fields.Set("granted", "true")
		next, _ = g.open(b, g.url+"/login/oauth/grant", fields)
	}
	if next == nil || !strings.HasPrefix(next.String(), callback+"?") {
		g.Fatalf("%s leads to %v", page, next)
	}
	return next.Query()
}

// A real forge: people log in, what they may see is what it says, names move, tokens are
// renewed once and taken back.
func TestGitea(t *testing.T) {
	g := startGitea(t)
	var app struct {
		ID     int64  `json:"id"`
		Client string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	g.api("alice", "POST", "/user/applications/oauth2", map[string]any{"name": "9ci", "redirect_uris": []string{callback}, "confidential_client": true}, &app)
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": app.Secret, "forges": "kind=forgejo\nhost=forge.example\nurl=" + g.url + "\nclient-id=" + app.Client + "\nclient-secret-file=secret\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	f, err := Open(filepath.Join(dir, "forges"), slog.New(slog.NewTextHandler(&log, nil)))
	kept := &keeper{tokens: map[string][]byte{}}
	if err == nil {
		err = f.Keep(kept)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	login := func(who string) string {
		t.Helper()
		page, err := f.Begin("forge.example", callback, state, nonce, verifier)
		if err != nil {
			t.Fatal(err)
		}
		answer := g.visit(g.browser(who), page)
		if answer.Get("state") != state {
			t.Errorf("the answer is %v", answer)
		}
		p, sealed, err := f.Finish(t.Context(), "forge.example", callback, answer, nonce, verifier)
		if err != nil || p.Login != who || !strings.HasPrefix(p.Principal, "forge.example:") {
			t.Fatalf("Finish = %+v, %v", p, err)
		}
		if p, _, err := f.Finish(t.Context(), "forge.example", callback, answer, nonce, verifier); err == nil {
			t.Errorf("the answer was good twice: %+v", p)
		}
		kept.set(p.Principal, sealed)
		return p.Principal
	}
	alice, bob := login("alice"), login("bob") // the first two grants of this Gitea
	if alice == bob {
		t.Fatalf("both are %s", alice)
	}
	want := func(what, principal, path, want string) Access {
		t.Helper()
		f.unlearn(principal)
		a, err := f.Access(t.Context(), principal, "forge.example/"+path, time.Time{})
		got := map[Access]string{{Read: true}: "read", {Read: true, Publish: true}: "publish"}[Access{Read: a.Read, Publish: a.Publish}]
		switch {
		case errors.Is(err, iofs.ErrNotExist):
			got = "absent"
		case errors.Is(err, ErrLogin):
			got = "login"
		case err != nil:
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s may %s %s, want %s", what, principal, got, path, want)
		}
		return a
	}
	create := func(name string, private bool) {
		t.Helper()
		g.api("alice", "POST", "/user/repos", map[string]any{"name": name, "private": private, "auto_init": true}, nil)
	}
	create("hello", true)
	create("open", false)
	first := want("one's own", alice, "alice/hello", "publish")
	want("another's", bob, "alice/hello", "absent")
	want("public", bob, "alice/open", "read")
	want("none", bob, "alice/none", "absent")
	want("in other letters", alice, "Alice/HELLO", "publish")
	for _, level := range []string{"read", "write"} {
		g.api("alice", "PUT", "/repos/alice/hello/collaborators/bob", map[string]any{"permission": level}, nil)
		want("a collaborator", bob, "alice/hello", map[string]string{"read": "read", "write": "publish"}[level])
	}
	g.api("alice", "DELETE", "/repos/alice/hello/collaborators/bob", nil, nil)
	want("one no more", bob, "alice/hello", "absent")

	g.api("alice", "PATCH", "/repos/alice/hello", map[string]any{"name": "bye"}, nil)
	want("renamed", alice, "alice/hello", "absent")
	if again := want("its new name", alice, "alice/bye", "publish"); again.RepositoryID != first.RepositoryID {
		t.Errorf("its number was %s and is %s", first.RepositoryID, again.RepositoryID)
	}
	create("hello", true)
	want("another takes its name", alice, "alice/hello", "absent")
	if !strings.Contains(log.String(), "delete line") {
		t.Errorf("the log: %s", log.String())
	}
	g.api("alice", "DELETE", "/repos/alice/bye", nil, nil)
	want("deleted", alice, "alice/bye", "absent")

	// Its tokens are renewed, and a refresh token is good once.
	sealed, _ := kept.Token(alice)
	tok, err := f.openToken(alice, sealed)
	if err != nil || tok.Refresh == "" || time.Until(tok.Expires) > 2*time.Hour {
		t.Fatalf("openToken = %v, %v", tok, err)
	}
	tok.Expires = time.Now()
	old, err := f.sealToken(alice, tok)
	if err != nil {
		t.Fatal(err)
	}
	kept.set(alice, old)
	want("renewed", alice, "alice/open", "publish")
	if now, _ := kept.Token(alice); bytes.Equal(now, old) {
		t.Error("the token is still the old one")
	}
	kept.set(alice, old)
	want("a spent token", alice, "alice/open", "login")
	alice = login("alice")
	want("logged in again", alice, "alice/open", "publish")
	// It holds us to PKCE where it does not ask the person again.
	page, err := f.Begin("forge.example", callback, state, nonce, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if p, _, err := f.Finish(t.Context(), "forge.example", callback, g.visit(g.browser("alice"), page), nonce, verifier+"x"); err == nil {
		t.Errorf("another verifier: %+v", p)
	}

	// The grant is taken back.
	b := g.browser("bob")
	g.open(b, g.url+"/user/settings/applications", nil)
	g.open(b, fmt.Sprintf("%s/user/settings/applications/oauth2/%d/revoke/2", g.url, app.ID), url.Values{})
	want("taken back", bob, "alice/open", "login")
	if sealed, _ := kept.Token(bob); sealed != nil {
		t.Error("the token is kept")
	}
	// Without the application nobody's token can be renewed, until the operator mends that.
	g.api("alice", "DELETE", fmt.Sprintf("/user/applications/oauth2/%d", app.ID), nil, nil)
	f.unlearn(alice)
	if _, err := f.Access(t.Context(), alice, "forge.example/alice/open", time.Time{}); !errors.Is(err, fs.ErrBusy) {
		t.Errorf("Access without the application: %v", err)
	}
	if !strings.Contains(log.String(), "correct client-id=") {
		t.Errorf("the log: %s", log.String())
	}
	for _, s := range []string{app.Secret, string(tok.Access), string(tok.Refresh)} {
		if strings.Contains(log.String(), s) {
			t.Errorf("a secret is in the log: %s", log.String())
		}
	}
}
