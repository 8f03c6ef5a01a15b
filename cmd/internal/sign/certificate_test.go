package sign_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
)

// loginCert returns a certificate of that serial number for key.
func loginCert(t *testing.T, key ssh.PublicKey, authority ssh.Signer, serial uint64, end time.Time) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: key, CertType: ssh.UserCert, Serial: serial, KeyId: "github:1", ValidPrincipals: []string{"github:1"}, ValidBefore: uint64(end.Unix())}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return c
}

// The certificate of a login stands beside the key, also of an agent's key, where ssh finds
// it, and says where it is from.
func TestCertificateFile(t *testing.T) {
	name, key := newKey(t)
	_, authority := newKey(t)
	const login = "ssh://ci.example.org:2222"
	if c, from, err := sign.ReadCertificate(name); c != nil || from != "" || err != nil {
		t.Errorf("ReadCertificate of nothing = %v, %q, %v", c, from, err)
	}
	for _, name := range []string{name, name + ".pub"} {
		want := loginCert(t, key.PublicKey(), authority, 7, time.Now().Add(time.Hour))
		if err := sign.WriteCertificate(name, want, login); err != nil {
			t.Fatal(err)
		}
		c, from, err := sign.ReadCertificate(name)
		if err != nil || c.Serial != 7 || from != login {
			t.Errorf("ReadCertificate(%s) = %v, %q, %v", name, c, from, err)
		}
		fi, err := os.Stat(sign.CertificateFile(name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("its mode: %v, %v", fi, err)
		}
		if s, err := sign.Certified(key, name); err != nil || s == nil {
			t.Errorf("Certified(%s) = %v, %v", name, s, err)
		}
		if out, err := exec.Command("ssh-keygen", "-L", "-f", sign.CertificateFile(name)).CombinedOutput(); err != nil || !strings.Contains(string(out), "Serial: 7") {
			t.Errorf("ssh-keygen -L: %v: %s", err, out)
		}
		if err := sign.RemoveCertificate(name); err != nil {
			t.Error(err)
		}
	}
	// One of an operator's has no such word, and keeps none.
	if err := sign.WriteCertificate(name, loginCert(t, key.PublicKey(), authority, 8, time.Now()), ""); err != nil {
		t.Fatal(err)
	}
	if c, from, err := sign.ReadCertificate(name); err != nil || c.Serial != 8 || from != "" {
		t.Errorf("ReadCertificate = %v, %q, %v", c, from, err)
	}
	if _, err := sign.Certified(key, name); err == nil || !strings.HasSuffix(err.Error(), ": renew it") {
		t.Errorf("after its end: %v", err)
	}
	if err := sign.WriteCertificate(name, loginCert(t, key.PublicKey(), authority, 9, time.Now()), login); err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Certified(key, name); err == nil || !strings.HasSuffix(err.Error(), ": 9ci login "+login) {
		t.Errorf("after the end of a login: %v", err)
	}
	if err := os.WriteFile(sign.CertificateFile(name), ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, _, err := sign.ReadCertificate(name); err == nil {
		t.Errorf("ReadCertificate of a key = %v", c)
	}
}

// Processes that write at once leave the certificate of one, and nothing else; readers
// meanwhile see one or the other.
func TestWriteCertificateAtOnce(t *testing.T) {
	name, key := newKey(t)
	_, authority := newKey(t)
	certs := []*ssh.Certificate{loginCert(t, key.PublicKey(), authority, 0, time.Now()), loginCert(t, key.PublicKey(), authority, 1, time.Now())}
	if err := sign.WriteCertificate(name, certs[0], "ssh://0"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, c := range certs {
		wg.Go(func() {
			for range 20 {
				if err := sign.WriteCertificate(name, c, "ssh://"+string('0'+rune(i))); err != nil {
					t.Error(err)
				}
				if c, from, err := sign.ReadCertificate(name); err != nil || from != "ssh://"+string('0'+rune(c.Serial)) {
					t.Errorf("ReadCertificate = %v, %q, %v", c, from, err)
				}
			}
		})
	}
	wg.Wait()
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(name), ".cert*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
