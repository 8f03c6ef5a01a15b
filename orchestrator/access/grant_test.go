package access

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
		{`from="10.0.0.0/8,!10.0.0.7,2001:db8::*,fe80::?"`, hello, true, true, ""},
		{`from="10.0.0.1/8"`, hello, false, false, "want 10.0.0.0/8"},
		{`from="10.0.0.0/33"`, hello, false, false, "want an address"},
		{`from="ci.example.org"`, hello, false, false, "not looked up"},
		{`from="*.example.org"`, hello, false, false, "not looked up"},
		{`from="10.0.0.0/8,"`, hello, false, false, "want an address"},
		{`from=""`, hello, false, false, "want an address"},
		{`from`, hello, false, false, "not known"},
		{`from="::1",from="10.0.0.1"`, hello, false, false, "second from"},
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
	k := newKeys(t, Files{Keys: file, Authorities: other}, slog.New(slog.DiscardHandler))
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
		if err := test.cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		g, err := Enter(k, test.cert, addr("192.0.2.1"))
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
	if _, err := Enter(k, forged, addr("192.0.2.1")); err == nil {
		t.Error("a certificate that was changed is taken")
	}
	// An authority's own key does not enter by its line.
	if _, err := Enter(k, ca.PublicKey(), addr("192.0.2.1")); err == nil {
		t.Error("an authority enters as a key")
	}
}

// An edit of authorized_keys counts at once; a bad line is told of and grants
// nothing.
func TestKeyringReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authorized_keys")
	var log bytes.Buffer
	k := newKeys(t, Files{Keys: file}, slog.New(slog.NewTextHandler(&log, nil)))
	s := newSigner(t)
	line := string(ssh.MarshalAuthorizedKey(s.PublicKey()))
	if _, err := Enter(k, s.PublicKey(), addr("192.0.2.1")); err == nil {
		t.Error("no file, and the key may enter")
	}
	os.WriteFile(file, []byte("# nobody\n\nnonsense\nraed "+line), 0o600)
	if _, err := Enter(k, s.PublicKey(), addr("192.0.2.1")); err == nil {
		t.Error("a bad line, and the key may enter")
	}
	if got := log.String(); !strings.Contains(got, "authorized_keys:3: ") || !strings.Contains(got, "authorized_keys:4: the line is skipped: option raed is not known") {
		t.Errorf("log: %s", got)
	}
	os.WriteFile(file, []byte("read "+line), 0o600)
	if g, err := Enter(k, s.PublicKey(), addr("192.0.2.1")); err != nil || g.Publish {
		t.Errorf("after an edit: %+v, %v", g, err)
	}
	os.WriteFile(file, nil, 0o600)
	if _, err := Enter(k, s.PublicKey(), addr("192.0.2.1")); err == nil {
		t.Error("the line is gone, and the key may enter")
	}
}

// While authorized_keys, the authorities or the revoked keys are gone or cannot be
// read, what they said last stands. It is said once, and once more when all is well.
func TestKeysStand(t *testing.T) {
	user, gone, ca := newSigner(t), newSigner(t), newSigner(t)
	text := func(s ssh.Signer) string { return string(ssh.MarshalAuthorizedKey(s.PublicKey())) }
	now := uint64(time.Now().Unix())
	cert := &ssh.Certificate{Key: newSigner(t).PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"x"}, ValidAfter: now - 60, ValidBefore: now + 600}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := Files{Keys: filepath.Join(dir, "authorized_keys"), Authorities: filepath.Join(dir, "ca"), Revoked: filepath.Join(dir, "revoked")}
	good := map[string]string{f.Keys: text(user) + text(gone), f.Authorities: text(ca), f.Revoked: text(gone)}
	for name, text := range good {
		os.WriteFile(name, []byte(text), 0o600)
	}
	var log bytes.Buffer
	k := newKeys(t, f, slog.New(slog.NewTextHandler(&log, nil)))
	stands := func(when string) {
		t.Helper()
		for range 3 {
			if _, err := Enter(k, user.PublicKey(), addr("::1")); err != nil {
				t.Errorf("%s: a key: %v", when, err)
			}
			if _, err := Enter(k, cert, addr("::1")); err != nil {
				t.Errorf("%s: a certificate: %v", when, err)
			}
			if _, err := Enter(k, gone.PublicKey(), addr("::1")); err == nil || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("%s: a revoked key: %v", when, err)
			}
		}
	}
	stands("at first")
	for name, text := range good {
		for what, harm := range map[string]func() error{
			"is gone":          func() error { return os.Remove(name) },
			"is a directory":   func() error { os.Remove(name); return os.Mkdir(name, 0o700) },
			"is a loop":        func() error { os.Remove(name); return os.Symlink(name, name) },
			"is no plain file": func() error { os.Remove(name); return syscall.Mkfifo(name, 0o600) },
		} {
			log.Reset()
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			stands(name + " " + what)
			if n := strings.Count(log.String(), "what it said before stands"); n != 1 || !strings.Contains(log.String(), name) {
				t.Errorf("%s %s: it is said %d times: %s", name, what, n, &log)
			}
			os.Remove(name)
			os.WriteFile(name, []byte(text), 0o600)
			log.Reset()
			stands(name + " is there again")
			if n := strings.Count(log.String(), "well again"); n != 1 {
				t.Errorf("%s is there again: it is said %d times: %s", name, n, &log)
			}
		}
	}
	log.Reset()
	os.WriteFile(f.Revoked, []byte("nonsense"), 0o600)
	stands("a list that cannot be read")
	if n := strings.Count(log.String(), "revoked: line 1: "); n != 1 {
		t.Errorf("it is said %d times: %s", n, &log)
	}
	changed := k.Changed()
	os.WriteFile(f.Revoked, []byte(text(ca)), 0o600)
	if _, err := Enter(k, cert, addr("::1")); err == nil {
		t.Error("a certificate of a revoked authority is taken")
	}
	if _, err := Enter(k, gone.PublicKey(), addr("::1")); err != nil {
		t.Errorf("a key that is revoked no more: %v", err)
	}
	<-changed
	if _, err := NewKeys(Files{Keys: dir}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("authorized_keys is a directory at the start, and nothing is said")
	}
}

// A key enters from the addresses of its line alone.
func TestFrom(t *testing.T) {
	for _, test := range []struct {
		list, in, out string
	}{
		{"10.0.0.0/8,!10.1.0.0/16", "10.2.3.4 ::ffff:10.2.3.4 10.0.0.0", "10.1.2.3 11.0.0.1 ::1"},
		{"!10.1.0.0/16,10.0.0.0/8", "10.2.3.4", "10.1.2.3"},
		{"!10.1.0.0/16", "", "10.1.2.3 10.2.0.1"},
		{"2001:db8::/32", "2001:db8::1", "2001:db9::1 10.0.0.1"},
		{"192.0.2.*,198.51.100.?", "192.0.2.200 198.51.100.7", "192.0.3.1 198.51.100.70"},
		{"2001:DB8::*", "2001:db8::1 2001:db8::ffff", "2001:db8:1::1"},
		{"::ffff:10.0.0.1, fe80::1", "10.0.0.1 fe80::1", "10.0.0.2"},
		{"*", "10.0.0.1 ::1", ""},
	} {
		a, err := parseAddresses(test.list)
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
			continue
		}
		for _, ip := range strings.Fields(test.in) {
			if !a.Match(addr(ip)) {
				t.Errorf("from=%q does not let %s in", test.list, ip)
			}
		}
		for _, ip := range strings.Fields(test.out) {
			if a.Match(addr(ip)) {
				t.Errorf("from=%q lets %s in", test.list, ip)
			}
		}
		if a.Match(&net.UnixAddr{}) || !Addresses(nil).Match(&net.UnixAddr{}) {
			t.Errorf("from=%q and a Unix socket", test.list)
		}
	}
}

func newKeys(t *testing.T, f Files, log *slog.Logger) *Keys {
	t.Helper()
	k, err := NewKeys(f, log)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`namespace="github.com/alice/*",read,expiry-time="20990101Z" ` + testPub + " x"))
	f.Add([]byte(`from="10.0.0.0/8,!10.*,::1" ` + testPub))
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
		l.From.Match(addr("10.0.0.1"))
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
