package wire

import (
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/ssh"
)

// The answer to a login is a user certificate for the client's key and nothing else.
func TestParseCertificate(t *testing.T) {
	key, ca := newSigner(t), newSigner(t)
	cert := func(of ssh.PublicKey, kind uint32) []byte {
		c := &ssh.Certificate{Key: of, CertType: kind, ValidPrincipals: []string{"token:x"}, ValidBefore: ssh.CertTimeInfinity}
		if err := c.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		return ssh.MarshalAuthorizedKey(c)
	}
	good := cert(key.PublicKey(), ssh.UserCert)
	if c, err := ParseCertificate(good, key.PublicKey()); err != nil || Fingerprint(c) != Fingerprint(key.PublicKey()) {
		t.Errorf("ParseCertificate = %v, %v", c, err)
	}
	for what, line := range map[string][]byte{
		"nothing":            nil,
		"a message":          []byte("Welcome!\n"),
		"the key itself":     ssh.MarshalAuthorizedKey(key.PublicKey()),
		"a host certificate": cert(key.PublicKey(), ssh.HostCert),
		"another's":          cert(newSigner(t).PublicKey(), ssh.UserCert),
		"two":                append(good[:len(good):len(good)], good...),
		"options":            append([]byte("restrict "), good...),
	} {
		if c, err := ParseCertificate(line, key.PublicKey()); err == nil {
			t.Errorf("%s: ParseCertificate = %v", what, c)
		}
	}
}

// What a job's token is made out to is part of the wire.
func TestAudience(t *testing.T) {
	key := newSigner(t).PublicKey()
	if got, want := Audience("ci.example.org", key), "ci.example.org:"+ssh.FingerprintSHA256(key); got != want {
		t.Errorf("Audience = %q, want %q", got, want)
	}
}
