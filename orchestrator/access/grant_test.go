package access

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const hello = "github.com/alice/hello"

const testPub = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJQ7Wv0r9oT8ynYgqPpFSxQkGpCwcEW6ioWbKDyJ8GF"

func TestParseLine(t *testing.T) {
	for _, test := range []struct {
		options string
		ns      string
		read    bool
		publish bool
		err     string
	}{
		{``, hello, true, true, ""},
		{`namespace="github.com/alice/hello"`, hello, true, true, ""},
		{`namespace="github.com/alice/other"`, hello, false, false, ""},
		{`namespace="github.com/x/y",namespace="github.com/alice/*"`, hello, true, true, ""},
		{`namespace="github.com/x/y, github.com/alice/*"`, hello, true, true, ""},
		{`namespace="github.com/*"`, hello, false, false, ""},
		{`namespace="github.com/..."`, hello, true, true, ""},
		{`namespace="*.com/alice/..."`, hello, true, true, ""},
		{`namespace="..."`, hello, true, true, ""},
		{`namespace="github.com/alice/hello/..."`, hello, false, false, ""},
		{`namespace="gitlab.com/..."`, hello, false, false, ""},
		{`namespace="GitHub.com/Alice/Hello"`, hello, true, true, ""},
		{``, "local/x-1a2b3c4d", false, false, ""},
		{`namespace="..."`, "local/x-1a2b3c4d", false, false, ""},
		{`namespace="*/*"`, "local/x-1a2b3c4d", false, false, ""},
		{`namespace="local/x-1a2b3c4d"`, "local/x-1a2b3c4d", true, true, ""},
		{`namespace="local/*"`, "local/x-1a2b3c4d", true, true, ""},
		{`read`, hello, true, false, ""},
		{`publish,restrict,no-pty`, hello, false, true, ""},
		{`READ,Publish`, hello, true, true, ""},
		{`namespace="[x"`, hello, false, false, "namespace pattern"},
		{`namespace=""`, hello, false, false, "namespace pattern"},
		{`namespace=github.com/alice/hello`, hello, false, false, "double quotes"},
		{`namespace`, hello, false, false, "not known"},
		{`command="ls"`, hello, false, false, "not known"},
		{`raed`, hello, false, false, "not known"},
		{`from="10.0.0.0/8"`, hello, false, false, "not known"},
		{`principals="a"`, hello, false, false, "without cert-authority"},
		{`cert-authority,principals="a"`, hello, true, true, ""},
		{`expiry-time="20991231"`, hello, true, true, ""},
		{`expiry-time="tomorrow"`, hello, false, false, "expiry-time"},
	} {
		_, l, err := parseLine([]byte(strings.TrimSpace(test.options + " " + testPub + " alice@laptop")))
		if test.err != "" || err != nil {
			if err == nil || test.err == "" || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v, want %q", test.options, err, test.err)
			}
			continue
		}
		if l.MayRead(test.ns) != test.read || l.MayPublish(test.ns) != test.publish || l.name != "alice@laptop" {
			t.Errorf("%s: %+v, want read %t, publish %t", test.options, l, test.read, test.publish)
		}
	}
}

// A certificate is taken for a principal that its authority may vouch for, and
// never without one.
func TestCertificates(t *testing.T) {
	ca, user := newSigner(t), newSigner(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "authorized_keys")
	other := filepath.Join(dir, "ca")
	caLine := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(ca.PublicKey())))
	k := NewKeys(file, other, slog.New(slog.DiscardHandler))
	now := uint64(time.Now().Unix())
	cert := func(principals ...string) *ssh.Certificate {
		return &ssh.Certificate{Key: user.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: principals, ValidAfter: now - 60, ValidBefore: now + 60}
	}
	host := cert("github:1")
	host.CertType = ssh.HostCert
	late := cert("github:1")
	late.ValidBefore = now - 1
	early := cert("github:1")
	early.ValidAfter = now + 50
	forced := cert("github:1")
	forced.CriticalOptions = map[string]string{"force-command": "ls"}
	bound := cert("github:1")
	bound.CriticalOptions = map[string]string{"source-address": "10.0.0.0/8"}
	const principals = `cert-authority,principals="github:1,github:2",read `
	for _, test := range []struct {
		name      string
		line, cas string
		cert      *ssh.Certificate
		principal string // "" where it is refused
	}{
		{"one principal", principals + caLine, "", cert("github:1"), "github:1"},
		{"the second principal", principals + caLine, "", cert("github:7", "github:2"), "github:2"},
		{"another principal", principals + caLine, "", cert("github:7"), ""},
		{"no principal", principals + caLine, "", cert(), ""},
		{"no principal, any may be", "cert-authority " + caLine, "", cert(), ""},
		{"empty principal", "cert-authority " + caLine, "", cert(""), ""},
		{"any principal", "cert-authority " + caLine, "", cert("x"), "x"},
		{"a key that is no authority", caLine, "", cert("x"), ""},
		{"-ca", "", caLine, cert("x"), "x"},
		{"an authority that has expired", `cert-authority,expiry-time="20200101" ` + caLine, "", cert("x"), ""},
		{"nothing", "", "", cert("x"), ""},
		{"a host's", principals + caLine, "", host, ""},
		{"expired", principals + caLine, "", late, ""},
		{"not yet valid", principals + caLine, "", early, ""},
		{"an option that is not known", principals + caLine, "", forced, ""},
		{"source-address", principals + caLine, "", bound, "github:1"},
	} {
		os.WriteFile(file, []byte(test.line+"\n"), 0o600)
		os.WriteFile(other, []byte(test.cas+"\n"), 0o600)
		k.lines = nil
		if err := test.cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		g, err := Enter(k, test.cert)
		if test.principal == "" {
			if err == nil {
				t.Errorf("%s: taken as %+v", test.name, g)
			}
			continue
		}
		if err != nil || g.Name != test.principal {
			t.Errorf("%s: %+v, %v", test.name, g, err)
		}
	}
	forged := cert("github:1")
	forged.SignCert(rand.Reader, ca)
	forged.ValidPrincipals = []string{"github:2"}
	os.WriteFile(file, []byte(principals+caLine+"\n"), 0o600)
	k.lines = nil
	if _, err := Enter(k, forged); err == nil {
		t.Error("a certificate that was changed is taken")
	}
	// An authority's own key does not enter by its line.
	if _, err := Enter(k, ca.PublicKey()); err == nil {
		t.Error("an authority enters as a key")
	}
}

// An edit of authorized_keys counts at once; a bad line is told of and grants
// nothing.
func TestKeyringReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authorized_keys")
	var log bytes.Buffer
	k := NewKeys(file, "", slog.New(slog.NewTextHandler(&log, nil)))
	s := newSigner(t)
	line := string(ssh.MarshalAuthorizedKey(s.PublicKey()))
	if _, err := Enter(k, s.PublicKey()); err == nil {
		t.Error("no file, and the key may enter")
	}
	os.WriteFile(file, []byte("# nobody\n\nnonsense\nraed "+line), 0o600)
	if _, err := Enter(k, s.PublicKey()); err == nil {
		t.Error("a bad line, and the key may enter")
	}
	if got := log.String(); !strings.Contains(got, "authorized_keys:3: ") || !strings.Contains(got, "authorized_keys:4: option raed is not known") {
		t.Errorf("log: %s", got)
	}
	os.WriteFile(file, []byte("read "+line), 0o600)
	if g, err := Enter(k, s.PublicKey()); err != nil || g.Publish {
		t.Errorf("after an edit: %+v, %v", g, err)
	}
	os.WriteFile(file, nil, 0o600)
	if _, err := Enter(k, s.PublicKey()); err == nil {
		t.Error("the line is gone, and the key may enter")
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`namespace="github.com/alice/*",read,expiry-time="20990101Z" ` + testPub + " x"))
	f.Add([]byte(`cert-authority,principals="a,b\"" ` + testPub))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, l, err := parseLine(b)
		if err != nil {
			return
		}
		if key == nil || !l.Read && !l.Publish {
			t.Errorf("parseLine(%q) = %v, %+v", b, key, l)
		}
		for _, p := range l.Namespaces {
			p.Match(hello)
			p.Match("")
			if p.literal() && !p.Match(string(p)) {
				t.Errorf("%q is literal and does not match itself", p)
			}
		}
		l.MayRead(hello)
		l.Home()
	})
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
