package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"9ci/orchestrator/access/account"
)

// The page is served behind a proxy by a Unix socket, and by TLS with the certificate of
// the state directory; an invitation that is made beside it opens there; revoke logs an
// account out of it, and check finds what is wrong with its files.
func TestWeb(t *testing.T) {
	dir := t.TempDir()
	state, sock := filepath.Join(dir, "state"), filepath.Join(dir, "web")
	if _, errs, status := do(t, "invite", "-state", state); status != 1 || !strings.Contains(errs, "there is no state in") {
		t.Errorf("invite without a state: %d %q", status, errs)
	}
	p := runProcess(t, exec.Command(os.Args[0]), "-state", state, "-a", "tcp!127.0.0.1!0", "-web", "unix!"+sock, "-url", "https://CI.example.org:443/")
	if got := p.await(`msg=listen web=\S+ url=(\S+)`); got != "https://ci.example.org" {
		t.Errorf("the URL is %s", got)
	}
	const page = "http://ci.example.org"
	if out := curl(t, "--unix-socket", sock, page+"/login"); !strings.Contains(out, "Log in with a passkey") {
		t.Errorf("the login page: %s", out)
	}
	out, errs, status := do(t, "invite", "-state", state, "-name", "Alice", "-expires", "12h", "github.com/alice/...", "gitlab.com/a/b")
	m := regexp.MustCompile(`^https://ci\.example\.org(/invite/[A-Za-z0-9_-]{43})\n$`).FindStringSubmatch(out)
	if status != 0 || errs != "" || m == nil {
		t.Fatalf("invite: %d %q %q", status, out, errs)
	}
	if out := curl(t, "--unix-socket", sock, page+m[1]); !strings.Contains(out, "gitlab.com/a/b") {
		t.Errorf("the invitation: %s", out)
	}
	if out := curl(t, "--unix-socket", sock, page+m[1]+"x"); !strings.HasSuffix(out, "404") {
		t.Errorf("another invitation: %s", out)
	}

	accounts, err := account.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := accounts.Enter(account.Person{Principal: "github:1", Login: "alice"}, "github.com", []byte("token")); err != nil {
		t.Fatal(err)
	}
	secret, err := accounts.NewSession("github:1", "github.com", "::1", "")
	if err != nil {
		t.Fatal(err)
	}
	session := func() string {
		return curl(t, "--unix-socket", sock, "-H", "Cookie: __Host-9ci="+secret, page+"/account")
	}
	if out := session(); !strings.Contains(out, "github:1") {
		t.Errorf("the account: %s", out)
	}
	// It reads the tree: there is no executor yet, and without a login nothing is public.
	if out := curl(t, "--unix-socket", sock, "-H", "Cookie: __Host-9ci="+secret, page+"/"); !strings.Contains(out, "You see no namespace yet") {
		t.Errorf("the namespaces: %s", out)
	}
	if out := curl(t, "--unix-socket", sock, page+"/badge/github.com/alice/hello.svg"); !strings.HasSuffix(out, "404") || !strings.Contains(out, "9ci: unknown") {
		t.Errorf("the badge of what is not public: %s", out)
	}
	out, errs, status = do(t, "invite", "-state", state, "-account", "github:1")
	if status != 0 || !strings.HasPrefix(out, "https://ci.example.org/invite/") {
		t.Errorf("invite -account: %d %q %q", status, out, errs)
	}
	for args, want := range map[string]string{
		"-account github:2":                 "there is no account github:2",
		"-account github:1 github.com/a/b":  "leave the namespaces out",
		"github.com/alice":                  "no such namespace",
		"-url https://192.0.2.7":            "not to an IP address",
		"-url nonsense":                     "want https://HOST",
		"-expires 2020-01-01":               "would have ended",
		"-expires never":                    "want a duration",
		"-state " + filepath.Join(dir, "x"): "there is no state in",
	} {
		out, errs, status := do(t, append([]string{"invite", "-state", state}, strings.Fields(args)...)...)
		if status == 0 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("invite %s: %d %q %q, want %q", args, status, out, errs, want)
		}
	}
	out, _, _ = do(t, "check", "-state", state)
	for _, want := range []string{"accounts: 1 accounts", "makes an account for Alice that may read and publish in github.com/alice/... and gitlab.com/a/b until ", "gives github:1 a passkey until "} {
		if !strings.Contains(out, want) {
			t.Errorf("check: no %q in %s", want, out)
		}
	}
	out, errs, status = do(t, "revoke", "-state", state, "github:1")
	if status != 0 || !strings.Contains(out, "account github:1 is logged out of the page\n") {
		t.Errorf("revoke: %d %q %q", status, out, errs)
	}
	if out := session(); strings.Contains(out, "github:1") || !strings.HasSuffix(out, "303") {
		t.Errorf("the account after that: %s", out)
	}
	if a, err := accounts.Get("github:1"); err != nil || a.ForgeToken != nil || len(a.Sessions) > 0 {
		t.Errorf("the account is %+v, %v", a, err)
	}
	if err := os.WriteFile(filepath.Join(state, "accounts", "github:7"), []byte("admin=true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, status := do(t, "check", "-state", state); status != 1 || !strings.Contains(out, `accounts/github:7: wrong: line 1: "admin" is not known: the account may not log in`) {
		t.Errorf("check of a bad account: %d %s", status, out)
	}
	p.term()
	if err := p.end(); err != nil {
		t.Error(err)
	}

	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=ci.example.org", "-addext", "subjectAltName=DNS:ci.example.org",
		"-keyout", filepath.Join(state, "web.key"), "-out", filepath.Join(state, "web.crt")).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	p = runProcess(t, exec.Command(os.Args[0]), "-state", state, "-a", "tcp!127.0.0.1!0", "-web", "tcp!*!0", "-url", "https://ci.example.org")
	addr := p.await(`msg=listen web=(\S+)`)
	port := addr[strings.LastIndexByte(addr, ':')+1:]
	if out := curl(t, "-k", "--connect-to", "ci.example.org:443:127.0.0.1:"+port, "https://ci.example.org/login"); !strings.HasSuffix(out, "200") {
		t.Errorf("by TLS: %s", out)
	}
	if out := curl(t, "-k", "https://127.0.0.1:"+port+"/login"); !strings.HasSuffix(out, "421") {
		t.Errorf("by another name: %s", out)
	}
	p.term()
	if err := p.end(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(state, "accounts", "github:7")); err != nil {
		t.Fatal(err)
	}
	if out, _, status := do(t, "check", "-state", state); status != 0 {
		t.Errorf("check of a good certificate: %d %s", status, out)
	}
	key := filepath.Join(state, "web.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _, status := do(t, "check", "-state", state); status != 1 || !strings.Contains(out, "chmod 600 "+key) {
		t.Errorf("check of a key that all may read: %d %s", status, out)
	}
	if err := os.WriteFile(key, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, status := do(t, "check", "-state", state); status != 1 || !strings.Contains(out, "web.crt: wrong: ") {
		t.Errorf("check of a bad key: %d %s", status, out)
	}
}

// The page says the port at which others reach the mux.
func TestSSHPort(t *testing.T) {
	listen := func(network, addr string) net.Listener {
		t.Helper()
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	sock, local, all := listen("unix", filepath.Join(t.TempDir(), "s")), listen("tcp", "127.0.0.1:0"), listen("tcp", ":0")
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
	for _, tt := range []struct {
		listeners []net.Listener
		want      int
	}{
		{nil, 0},
		{[]net.Listener{sock}, 0},
		{[]net.Listener{sock, local}, port(local)},
		{[]net.Listener{local, all}, port(all)},
	} {
		if got := sshPort(tt.listeners); got != tt.want {
			t.Errorf("sshPort(%v) = %d, want %d", tt.listeners, got, tt.want)
		}
	}
}

// What cannot be a page is told at the start.
func TestWebMisused(t *testing.T) {
	for args, want := range map[string]string{
		"-web tcp!127.0.0.1!0":                                                           "-web needs -url",
		"-web tcp!127.0.0.1!0 -url http://ci.example.org":                                "want https",
		"-web tcp!127.0.0.1!0 -url ci.example.org":                                       "want https",
		"-web tcp!*!0 -url https://ci.example.org":                                       "web.crt and web.key",
		"-acme https://ca.example.org/dir":                                               "it needs -web ADDR",
		"-web tcp!127.0.0.1!0 -url https://203.0.113.1 -acme https://ca.example.org/dir": "a CA certifies https://HOST",
		"-web tcp!127.0.0.1!0 -url https://ci.example.org -acme ca.example.org":          "-acme: \"ca.example.org\": want the URL of a CA's directory",
		"-web nonsense!x!y -url https://ci.example.org":                                  "-web: ",
		"-web tcp!127.0.0.1!0 -url https://ci.example.org/a/path":                        "want https",
	} {
		var stderr bytes.Buffer
		state := filepath.Join(t.TempDir(), "state")
		status := run(t.Context(), t.Context(), append(strings.Fields(args), "-a", "tcp!127.0.0.1!0", "-state", state), &stderr, &stderr)
		if status != 1 || !strings.Contains(stderr.String(), want) {
			t.Errorf("orchestrator %s: status %d, %q, want %q", args, status, &stderr, want)
		}
	}
	var stderr bytes.Buffer
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "web.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	status := run(t.Context(), t.Context(), []string{"-state", state, "-a", "tcp!127.0.0.1!0", "-web", "tcp!127.0.0.1!0", "-url", "https://ci.example.org"}, &stderr, &stderr)
	if status != 1 || !strings.Contains(stderr.String(), "web.key") {
		t.Errorf("with a bad certificate: status %d, %q", status, &stderr)
	}
	stderr.Reset()
	status = run(t.Context(), t.Context(), []string{"-state", state, "-a", "tcp!127.0.0.1!0", "-web", "tcp!127.0.0.1!0", "-url", "https://ci.example.org", "-acme", "https://ca.example.org/dir"}, &stderr, &stderr)
	if status != 1 || !strings.Contains(stderr.String(), "web.crt is there too") {
		t.Errorf("with a certificate and -acme: status %d, %q", status, &stderr)
	}
}
