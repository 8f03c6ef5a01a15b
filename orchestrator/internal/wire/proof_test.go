package wire

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
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

// A proof is for one connection to one orchestrator, and for what is announced
// there.
func TestProof(t *testing.T) {
	key, host := newSigner(t), newSigner(t).PublicKey()
	session := []byte("session 1")
	a := Announce{Name: "box", Namespaces: []string{"github.com/alice/hello", "local/x"}, Address: "10.0.0.1:22"}
	if s, err := a.Signer(session, host); s != nil || err != nil {
		t.Errorf("Signer without a proof = %v, %v, want none", s, err)
	}
	if err := a.Prove(key, session, host); err != nil {
		t.Fatal(err)
	}
	a, err := ParseAnnounce(a.Text())
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Signer(session, host)
	if err != nil || Fingerprint(s) != Fingerprint(key.PublicKey()) {
		t.Fatalf("Signer = %v, %v", s, err)
	}
	refused := func(what string, a Announce, session []byte, host ssh.PublicKey) {
		t.Helper()
		if s, err := a.Signer(session, host); s != nil || err == nil || !strings.Contains(err.Error(), "not for this connection, name and namespaces") {
			t.Errorf("%s: Signer = %v, %v, want a refusal", what, s, err)
		}
	}
	refused("another connection", a, []byte("session 2"), host)
	refused("another orchestrator", a, session, newSigner(t).PublicKey())
	for what, change := range map[string]func(*Announce){
		"another name":          func(a *Announce) { a.Name = "box2" },
		"another namespace":     func(a *Announce) { a.Namespaces = []string{"github.com/alice/hello", "local/y"} },
		"fewer namespaces":      func(a *Announce) { a.Namespaces = a.Namespaces[:1] },
		"no base64":             func(a *Announce) { a.Proof = "!" },
		"no signature":          func(a *Announce) { a.Proof = "AAAA" },
		"a signature that ends": func(a *Announce) { a.Proof = a.Proof[:len(a.Proof)/8*4] },
	} {
		b := a
		change(&b)
		refused(what, b, session, host)
	}
	sign := func(by ssh.Signer, namespace string) Announce {
		sig, err := sshsig.Sign(a.proven(session, host), by, sshsig.HashSHA512, namespace)
		if err != nil {
			t.Fatal(err)
		}
		b := a
		b.Proof = base64.StdEncoding.EncodeToString(sig.Marshal())
		return b
	}
	refused("a signature for something else", sign(key, "run@9ci"), session, host)
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, newSigner(t)); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	refused("a certificate", sign(certified, proofNamespace), session, host)
	// The key of another, under a signature of one's own.
	sig, err := sshsig.Sign(a.proven(session, host), newSigner(t), sshsig.HashSHA512, proofNamespace)
	if err != nil {
		t.Fatal(err)
	}
	sig.PublicKey = key.PublicKey()
	b := a
	b.Proof = base64.StdEncoding.EncodeToString(sig.Marshal())
	refused("another's key", b, session, host)
}

// Whatever stands in the place of a proof, it proves nothing.
func FuzzProof(f *testing.F) {
	key, host := newSigner(f), newSigner(f).PublicKey()
	a := Announce{Name: "box", Namespaces: []string{"local/x"}}
	if err := a.Prove(key, []byte("one"), host); err != nil {
		f.Fatal(err)
	}
	f.Add(a.Proof)
	f.Add("")
	f.Fuzz(func(t *testing.T, proof string) {
		b := a
		b.Proof = proof
		if s, _ := b.Signer([]byte("two"), host); s != nil {
			t.Errorf("%q proves %v", proof, s)
		}
	})
}
