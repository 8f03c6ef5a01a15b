package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Check says what each line grants, and finds what is wrong.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	check := func(want int, words ...string) string {
		t.Helper()
		var out, stderr bytes.Buffer
		if status := run(t.Context(), t.Context(), append([]string{"check", "-state", state}, words...), &out, &stderr); status != want || stderr.Len() > 0 {
			t.Errorf("check %q: status %d, %q, want %d; it says\n%s", words, status, &stderr, want, &out)
		}
		return out.String()
	}
	if out := check(0); !strings.Contains(out, "state: it is not there: the first start makes it") {
		t.Errorf("without a directory: %s", out)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("check made the directory")
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if out := check(0); strings.Count(out, "start makes it") != 2 {
		t.Errorf("without files: %s", out)
	}

	p := runProcess(t, exec.Command(os.Args[0]), "-state", state, "-a", "tcp!127.0.0.1!0")
	p.await("msg=listen")
	p.term()
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	if out := check(0); !strings.Contains(out, "ssh_host_ed25519_key: SHA256:") || !strings.Contains(out, "authorized_keys: it has no keys, so it lets nobody in") {
		t.Errorf("after a first start: %s", out)
	}

	var keys, prints []string
	for range 5 {
		file := filepath.Join(t.TempDir(), "id")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		b, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(b)
		if err != nil {
			t.Fatal(err)
		}
		keys, prints = append(keys, strings.TrimSpace(string(b))), append(prints, ssh.FingerprintSHA256(key))
	}
	authorized, authorities := filepath.Join(state, "authorized_keys"), filepath.Join(dir, "ca")
	write := func(path string, lines ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(authorized, "# a comment", "",
		`namespace="github.com/alice/hello",namespace="gitlab.com/a/..." `+keys[0]+" alice@box",
		keys[1]+" bob\x1b[2J",
		`read,expiry-time="20990101Z",namespace="local/*" `+keys[2],
		`cert-authority,principals="github:1,github:2",publish `+keys[3]+" ca")
	write(authorities, `namespace="github.com/alice/*" `+keys[4])
	out := check(0, "-ca", authorities)
	for _, want := range []string{
		authorized + ":3: " + prints[0] + " alice@box: may read and publish in github.com/alice/hello and gitlab.com/a/...\n",
		authorized + ":4: " + prints[1] + " bob?[2J: may read and publish in all namespaces but local/NAME\n",
		authorized + ":5: " + prints[2] + ": may read in local/* until 2099-01-01T00:00:00Z\n",
		authorized + ":6: " + prints[3] + " ca: its certificates of github:1 and github:2 may publish in all namespaces but local/NAME\n",
		authorities + ":1: " + prints[4] + ": its certificates of any principal may read and publish in github.com/alice/*\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}

	write(authorized, keys[0], "read "+keys[0], `expiry-time="20200101Z" `+keys[1], `from-the-office="yes" `+keys[2],
		"nonsense", `namespace="github.com/alice" `+keys[3], `namespace="github.com/*" `+keys[4])
	out = check(1)
	for _, want := range []string{
		authorized + ":2: wrong: " + prints[0] + ": line 1 has the same key",
		authorized + ":3: wrong: " + prints[1] + ": the line expired at 2020-01-01T00:00:00Z",
		authorized + ":4: wrong: option from-the-office is not known",
		authorized + ":5: wrong: not a public key",
		authorized + ":6: wrong: " + prints[3] + `: there can be no such namespace: namespace "github.com/alice": want host/owner/repo`,
		authorized + ":7: wrong: " + prints[4] + `: namespace pattern "github.com/*" matches nothing`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	own, err := os.ReadFile(filepath.Join(state, "ca_ed25519.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write(authorized, "cert-authority "+strings.TrimSpace(string(own)))
	write(authorities, strings.TrimSpace(string(own)))
	out = check(1, "-ca", authorities)
	for _, path := range []string{authorized, authorities} {
		if want := path + ":1: wrong: "; !strings.Contains(out, want) || !strings.Contains(out, "it is the key of ca_ed25519") {
			t.Errorf("the orchestrator's own authority: no %q in\n%s", want, out)
		}
	}
	write(authorized, keys[0])

	public := filepath.Join(state, "public")
	write(public, "# all", "github.com/Alice/hello", "local/x", "github.com/alice")
	out = check(1)
	for _, want := range []string{
		public + ":2: github.com/Alice/hello: everybody may read it, on the page without a login\n",
		public + ":3: wrong: a namespace local/NAME is one executor's own, and never public: the line opens nothing\n",
		public + `:4: wrong: there can be no such namespace: namespace "github.com/alice": want host/owner/repo`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	os.Remove(public)

	seal, secret := filepath.Join(state, "seal.key"), filepath.Join(state, "github.secret")
	write(filepath.Join(state, "forges"), "kind=github", "client-id=x", "client-secret-file=github.secret")
	write(secret, "s3cret")
	check(0)

	host := filepath.Join(state, "ssh_host_ed25519_key")
	for _, test := range []struct {
		name  string
		spoil func() error
		want  string
	}{
		{"a client's secret that all may read", func() error { return os.Chmod(secret, 0o644) }, "chmod 600 " + secret},
		{"a seal that all may read", func() error { return os.Chmod(seal, 0o644) }, "chmod 600 " + seal},
		{"a seal that is no key", func() error { return os.WriteFile(seal, []byte("x\n"), 0o600) }, seal + ": wrong: it is no key"},
		{"a host key that all may read", func() error { return os.Chmod(host, 0o644) }, "chmod 600 " + host},
		{"lines that all may write", func() error { return os.Chmod(authorized, 0o666) }, "chmod go-w " + authorized},
		{"a directory that all may write", func() error { return os.Chmod(state, 0o777) }, "chmod go-w " + state},
		{"another key's .pub", func() error { return os.WriteFile(host+".pub", []byte(keys[0]), 0o644) }, "it is not that key's"},
		{"no host key", func() error { return os.WriteFile(host, []byte("x"), 0o600) }, host + ": wrong: "},
		{"lines that cannot be read", func() error { os.Remove(authorized); return os.Mkdir(authorized, 0o700) }, "is a directory"},
	} {
		if err := test.spoil(); err != nil {
			t.Fatal(err)
		}
		if out := check(1); !strings.Contains(out, test.want) {
			t.Errorf("%s: no %q in\n%s", test.name, test.want, out)
		}
	}
	if out := check(1, "-ca", filepath.Join(dir, "none")); !strings.Contains(out, "none: wrong: ") {
		t.Errorf("without -ca's file: %s", out)
	}
}

// openssl makes in state what the manual says that -tls needs, by the manual's commands,
// and in a work directory the certificate of a client, box. It returns that directory.
func openssl(t *testing.T, state string) string {
	t.Helper()
	manual, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(manual), "//\topenssl req -x509")
	text, _, ok := strings.Cut("openssl req -x509"+text, "//\n")
	if !ok {
		t.Fatal("the manual has no openssl req")
	}
	text = strings.NewReplacer("//\t", "", "tls-ca.pem", state+"/tls-ca.pem", "tls.key", state+"/tls.key", "tls.crt", state+"/tls.crt", "HOST", "localhost").Replace(text)
	work := t.TempDir()
	cmd := exec.Command("sh", "-euc", text)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", text, err, out)
	}
	return work
}

// Check knows what need not be there: revoked keys, rules of sources, other host keys,
// and the files of TLS, which it looks for once one is there.
func TestCheckOthers(t *testing.T) {
	state := t.TempDir()
	check := func(want int) string {
		t.Helper()
		var out, stderr bytes.Buffer
		if status := run(t.Context(), t.Context(), []string{"check", "-state", state}, &out, &stderr); status != want || stderr.Len() > 0 {
			t.Errorf("check: status %d, %q, want %d; it says\n%s", status, &stderr, want, &out)
		}
		return out.String()
	}
	file := func(name string) string { return filepath.Join(state, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("no %q in\n%s", w, out)
			}
		}
	}
	openssl(t, state)
	write("authorized_tls", "# a comment\n"+`namespace="github.com/alice/*",read,from="203.0.113.0/24,!203.0.113.9" ci:box`+"\nci:*\n")
	write("revoked", "SHA256:"+strings.Repeat("A", 43)+"\n")
	write("sources", "exempt 203.0.113.7\nsource 24 56\n")
	says(check(0),
		file("tls.crt")+": clients know the orchestrator by this certificate as localhost until ",
		file("tls-ca.pem")+": CN=ci vouches for clients until ",
		file("authorized_tls")+":2: ci:box: may read in github.com/alice/*, from 203.0.113.0/24,!203.0.113.9\n",
		file("authorized_tls")+":3: ci:*: may read and publish in all namespaces but local/NAME\n")

	write("authorized_tls", "read,nonsense ci:box\nci:*\nbox\n"+`expiry-time="20200101Z" spiffe://example.org/x`+"\nread ci:*\n")
	write("revoked", "nonsense\n")
	write("sources", "exempt\nnonsense\n")
	write("ssh_host_rsa_key", "nonsense\n")
	write("tls-crl.pem", "-----BEGIN\n")
	says(check(1),
		file("authorized_tls")+":1: wrong: ci:box: option nonsense is not known: the line grants nothing, and no later one does",
		file("authorized_tls")+":2: ci:*: may read and publish",
		file("authorized_tls")+":3: wrong: ",
		file("authorized_tls")+":4: wrong: spiffe://example.org/x: the line expired at 2020-01-01T00:00:00Z",
		file("authorized_tls")+":5: wrong: ci:*: line 2 has the same identities",
		file("revoked")+": wrong: line 1: ",
		file("sources")+":1: wrong: want exempt ADDRESS[/BITS]",
		file("sources")+":2: wrong: ",
		file("ssh_host_rsa_key")+": wrong: ",
		file("tls-crl.pem")+": wrong: ")

	for _, test := range []struct {
		name  string
		spoil func()
		want  string
	}{
		{"a key that all may read", func() { os.Chmod(file("tls.key"), 0o644) }, "chmod 600 " + file("tls.key")},
		{"CAs that all may write", func() { os.Chmod(file("tls-ca.pem"), 0o666) }, "chmod go-w " + file("tls-ca.pem")},
		{"no key in its file", func() { write("tls.key", "x") }, file("tls.crt") + ": wrong: "},
		{"no key", func() { os.Remove(file("tls.key")) }, file("tls.key") + ", the key of its certificate, is not there: have your CA issue it, or make one: openssl"},
		{"no CA", func() { write("tls-ca.pem", "") }, file("tls-ca.pem") + ": wrong: it has no certificate in PEM"},
	} {
		test.spoil()
		if out := check(1); !strings.Contains(out, test.want) {
			t.Errorf("%s: no %q in\n%s", test.name, test.want, out)
		}
	}
}

// A file that the service's user cannot read is found by root, as whom an operator
// checks.
func TestCheckOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a file away")
	}
	state := t.TempDir()
	keys := filepath.Join(state, "authorized_keys")
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(state, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if status := run(t.Context(), t.Context(), []string{"check", "-state", state}, &out, &out); status != 1 || !strings.Contains(out.String(), "chown 4711 "+keys) {
		t.Errorf("check: status %d\n%s", status, &out)
	}
}
