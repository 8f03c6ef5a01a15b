package revoked

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

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

// Ssh-keygen and Parse read what Format writes alike.
func TestFormat(t *testing.T) {
	ca, other, key := newSigner(t), newSigner(t), newSigner(t).PublicKey()
	dir := t.TempDir()
	krl := filepath.Join(dir, "krl")
	for _, serials := range [][]uint64{nil, {7}, {9, 7, 8, 8}, {1, 2, 3, 7, 1<<64 - 2, 1<<64 - 1}} {
		b := Format(ca.PublicKey(), serials, time.Now())
		l, err := Parse(b)
		if err != nil {
			t.Fatalf("Parse of %v: %v", serials, err)
		}
		if err := os.WriteFile(krl, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, by := range []ssh.Signer{ca, other} {
			for _, serial := range []uint64{1, 3, 4, 6, 7, 8, 9, 10, 1<<64 - 1} {
				want := false
				for _, s := range serials {
					want = want || s == serial && by == ca
				}
				cert := &ssh.Certificate{Key: key, CertType: ssh.UserCert, Serial: serial, KeyId: "x", ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity}
				if err := cert.SignCert(rand.Reader, by); err != nil {
					t.Fatal(err)
				}
				if got := l.Has(cert); got != want {
					t.Errorf("Has(%d) of %v = %t, want %t", serial, serials, got, want)
				}
				file := filepath.Join(dir, "cert.pub")
				os.WriteFile(file, ssh.MarshalAuthorizedKey(cert), 0o600)
				out, err := exec.Command("ssh-keygen", "-Q", "-f", krl, file).CombinedOutput()
				if (err != nil) != want || strings.Contains(string(out), "REVOKED") != want {
					t.Errorf("ssh-keygen -Q of %d in %v: %v: %s, want revoked %t", serial, serials, err, out, want)
				}
			}
		}
	}
	if out, err := exec.Command("ssh-keygen", "-Q", "-l", "-f", krl).CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprint("serial: ", uint64(1<<64-2))) {
		t.Errorf("ssh-keygen -Ql: %v: %s", err, out)
	}
}
