package wire

import (
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Whatever answers a login, it is an error or a user certificate for the key.
func FuzzParseCertificate(f *testing.F) {
	key := newSigner(f)
	c := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"token:x"}, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, newSigner(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(ssh.MarshalAuthorizedKey(c))
	f.Add([]byte("restrict ssh-ed25519 AAAA\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if c, err := ParseCertificate(line, key.PublicKey()); err == nil && (c.CertType != ssh.UserCert || Fingerprint(c) != Fingerprint(key.PublicKey())) {
			t.Errorf("ParseCertificate(%q) = %+v", line, c)
		}
	})
}
