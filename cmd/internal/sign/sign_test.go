package sign_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
)

const manifest = "d2d2  stdout\n"

func newKey(t *testing.T) (file string, s ssh.Signer) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "id_ed25519")
	s, err := sign.LoadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, s
}

// ssh-keygen checks what we sign, and we check what ssh-keygen signs.
func TestSSHKeygen(t *testing.T) {
	file, s := newKey(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	pub := string(ssh.MarshalAuthorizedKey(s.PublicKey()))
	allowed := write("allowed_signers", "alice@example.com namespaces=\"run@9ci\" "+pub)

	sig, err := sign.Manifest(s, []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh-keygen", "-Y", "verify", "-n", "run@9ci", "-f", allowed, "-I", "alice@example.com", "-s", write("sig", string(sig)))
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen -Y verify: %v\n%s", err, out)
	}

	cmd = exec.Command("ssh-keygen", "-Y", "sign", "-n", "run@9ci", "-f", file)
	cmd.Stdin = strings.NewReader(manifest)
	theirs, err := cmd.Output()
	if err != nil {
		t.Fatalf("ssh-keygen -Y sign: %v", err)
	}
	var signers sign.Signers
	if err := signers.AddFile(allowed); err != nil {
		t.Fatal(err)
	}
	if name, err := signers.Verify([]byte(manifest), theirs, time.Now()); name != "alice@example.com" || err != nil {
		t.Errorf("Verify = %q, %v, want alice@example.com, nil", name, err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	_, alice := newKey(t)
	_, mallory := newKey(t)
	_, ca := newKey(t)
	line := func(options string, s ssh.Signer) string {
		return "who " + options + string(ssh.MarshalAuthorizedKey(s.PublicKey()))
	}
	certified := func(principals ...string) ssh.Signer {
		cert := &ssh.Certificate{Key: mallory.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: principals,
			ValidAfter: 1000, ValidBefore: 2000}
		if err := cert.SignCert(bytes.NewReader(bytes.Repeat([]byte("nonce"), 99)), ca); err != nil {
			t.Fatal(err)
		}
		s, err := ssh.NewCertSigner(cert, mallory)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tt := range []struct {
		name    string
		allowed string
		by      ssh.Signer
		text    string // what the signature is held against
		at      int64
		who     string // empty: refused
		trust   bool   // refused for trust, not for being wrong
	}{
		{"good", line("", alice), alice, manifest, 1500, "who", false},
		{"other key", line("", alice), mallory, manifest, 1500, "", true},
		{"tampered", line("", alice), alice, manifest + "x", 1500, "", false},
		{"other namespace", line(`namespaces="file" `, alice), alice, manifest, 1500, "", true},
		{"too early", line(`valid-after="20200101Z" `, alice), alice, manifest, 1500, "", true},
		{"too late", line(`valid-before="19700101Z" `, alice), alice, manifest, 1500, "", true},
		{"certificate", line("cert-authority ", ca), certified("bob"), manifest, 1500, "bob", false},
		{"expired certificate", line("cert-authority ", ca), certified("bob"), manifest, 2500, "", true},
		{"certificate for nobody", line("cert-authority ", ca), certified(), manifest, 1500, "", true},
		{"authority is no signer", line("cert-authority ", ca), ca, manifest, 1500, "", true},
		{"signer is no authority", line("", ca), certified("bob"), manifest, 1500, "", true},
		{"certificate of a trusted key", line("", mallory), certified("bob"), manifest, 9999, "who", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var signers sign.Signers
			if err := signers.AddText("allowed", tt.allowed); err != nil {
				t.Fatal(err)
			}
			sig, err := sign.Manifest(tt.by, []byte(manifest))
			if err != nil {
				t.Fatal(err)
			}
			who, err := signers.Verify([]byte(tt.text), sig, time.Unix(tt.at, 0))
			if who != tt.who || (err == nil) != (tt.who != "") {
				t.Errorf("Verify = %q, %v, want %q", who, err, tt.who)
			}
			var untrusted *sign.UntrustedError
			if errors.As(err, &untrusted) != tt.trust {
				t.Errorf("Verify: %v is an UntrustedError: %v, want %v", err, !tt.trust, tt.trust)
			}
		})
	}
	var none sign.Signers
	if _, err := none.Verify([]byte(manifest), nil, time.Now()); err == nil || err.Error() != "it is not signed" {
		t.Errorf("Verify without a signature: %v", err)
	}
	if err := none.AddText("f", "# a comment\n\nalice ssh-ed25519 nonsense\n"); err == nil || !strings.HasPrefix(err.Error(), "f:3: ") {
		t.Errorf("AddText of a bad line: %v, want its line number", err)
	}
}
