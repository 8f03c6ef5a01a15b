package sign_test

import (
	"crypto/rand"
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
	if err := signers.AddFile(allowed, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if name, err := signers.Verify([]byte(manifest), theirs, sign.Run{End: time.Now()}); name != "alice@example.com" || err != nil {
		t.Errorf("Verify = %q, %v, want alice@example.com, nil", name, err)
	}
}

// certify returns a signer with a certificate of ca for s.
func certify(t *testing.T, ca, s ssh.Signer, cert ssh.Certificate) ssh.Signer {
	t.Helper()
	cert.Key, cert.CertType = s.PublicKey(), ssh.UserCert
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	c, err := ssh.NewCertSigner(&cert, s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// line returns one of an allowed_signers file.
func line(options string, s ssh.Signer) string {
	return "who " + options + string(ssh.MarshalAuthorizedKey(s.PublicKey()))
}

// of returns the line of an authority for principals.
func of(principals string, s ssh.Signer) string {
	return principals + strings.TrimPrefix(line("cert-authority ", s), "who")
}

// A signer's line holds at the run's end and now, a certificate at the run's end.
func TestVerify(t *testing.T) {
	_, alice := newKey(t)
	_, mallory := newKey(t)
	_, ca := newKey(t)
	bob := func(principals ...string) ssh.Signer {
		return certify(t, ca, mallory, ssh.Certificate{ValidPrincipals: principals, ValidAfter: 1000, ValidBefore: 2000})
	}
	// job is a CI job's, by the orchestrator's authority.
	job := func(rights, commit string) ssh.Signer {
		return certify(t, ca, mallory, ssh.Certificate{ValidPrincipals: []string{"github:repo:1"}, ValidAfter: 1000, ValidBefore: 2000,
			Permissions: ssh.Permissions{Extensions: map[string]string{"rights@9ci": rights, "commit@9ci": commit, "namespace@9ci": "github.com/a/b"}}})
	}
	of := func(principals string, s ssh.Signer) string {
		return strings.Replace(line("cert-authority ", s), "who ", principals+" ", 1)
	}
	day := func(days int) string { return time.Now().UTC().AddDate(0, 0, days).Format(`"20060102Z" `) }
	at := func(days int) int64 { return time.Now().AddDate(0, 0, days).Unix() }
	for _, tt := range []struct {
		name    string
		allowed string
		by      ssh.Signer
		text    string // what the signature is held against
		end     int64
		who     string // empty: refused
		why     string
	}{
		{"good", line("", alice), alice, manifest, 1500, "who", ""},
		{"other key", line("", alice), mallory, manifest, 1500, "", "is not trusted: an allowed_signers file must name it"},
		{"tampered", line("", alice), alice, manifest + "x", 1500, "", "manifest.sig: "},
		{"other namespace", line(`namespaces="file" `, alice), alice, manifest, 1500, "", "must name it"},
		{"pattern of namespaces", line(`namespaces="file,*@9ci" `, alice), alice, manifest, 1500, "who", ""},
		{"excluded namespace", line(`namespaces="*,!run@*" `, alice), alice, manifest, 1500, "", "must name it"},
		{"in its time", line("valid-after="+day(-9)+",valid-before="+day(9), alice), alice, manifest, at(-3), "who", ""},
		{"ended too early", line("valid-after="+day(-9), alice), alice, manifest, at(-20), "", "when it ended"},
		{"ended too late", line("valid-before="+day(-9), alice), alice, manifest, at(-3), "", "when it ended"},
		{"trusted no more", line("valid-before="+day(-9), alice), alice, manifest, at(-20), "", "not trusted now"},
		{"not yet trusted", line("valid-after="+day(9), alice), alice, manifest, at(-20), "", "when it ended"},
		{"another line does", line("valid-before="+day(-9), alice) + line("", alice), alice, manifest, 1500, "who", ""},
		{"of the future", line("", alice), alice, manifest, time.Now().Add(2 * time.Minute).Unix(), "", "in the future"},
		{"of a clock ahead", line("", alice), alice, manifest, time.Now().Add(30 * time.Second).Unix(), "who", ""},
		{"certificate", of("*", ca), bob("bob"), manifest, 1500, "bob", ""},
		{"certificate that has expired before", of("*", ca), bob("bob"), manifest, 2500, "", "has expired"},
		{"certificate of later", of("*", ca), bob("bob"), manifest, 500, "", "not yet valid"},
		{"certificate for nobody", of("*", ca), bob(), manifest, 1500, "", "no principals"},
		{"certificate of a principal", of("alice,bob", ca), bob("bob"), manifest, 1500, "bob", ""},
		{"certificate of one of them", of("b?b", ca), bob("mallory", "bob"), manifest, 1500, "bob", ""},
		{"certificate of another", of("alice,b?b", ca), bob("mallory"), manifest, 1500, "", `does not trust that authority for ["mallory"]`},
		{"certificate of one excluded", of("*,!mall*", ca), bob("mallory"), manifest, 1500, "", "does not trust that authority"},
		{"another line is for the principal", of("alice", ca) + of("bob", ca), bob("bob"), manifest, 1500, "bob", ""},
		{"no pattern but * and ?", of("b[o]b", ca), bob("bob"), manifest, 1500, "", "does not trust that authority"},
		{"CI job", of("github:repo:1", ca), job("read publish", "abc"), manifest, 1500, "github:repo:1", ""},
		{"CI job of another repository", of("github:repo:12", ca), job("publish", "abc"), manifest, 1500, "", "does not trust that authority"},
		{"CI job of a fork", of("*", ca), job("read", "abc"), manifest, 1500, "", "may read runs and publish none"},
		{"CI job of another commit", of("*", ca), job("read publish", "abd"), manifest, 1500, "", `of commit "abd", and not of the run's`},
		{"CI job whose key is trusted", line("", mallory), job("read", "abd"), manifest, 1500, "who", ""},
		{"authority trusted no more", strings.Replace(line("cert-authority,valid-before="+day(-9), ca), "who", "*", 1), bob("bob"), manifest, 1500, "", "not trusted now"},
		{"authority is no signer", line("cert-authority ", ca), ca, manifest, 1500, "", "must name it"},
		{"signer is no authority", line("", ca), bob("bob"), manifest, 1500, "", "must name it"},
		{"certificate of a trusted key", line("", mallory), bob("bob"), manifest, 9999, "who", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var signers sign.Signers
			signers.AddText("allowed", strings.ReplaceAll(tt.allowed, `" ,`, `",`), func(err error) { t.Error(err) })
			sig, err := sign.Manifest(tt.by, []byte(manifest))
			if err != nil {
				t.Fatal(err)
			}
			who, err := signers.Verify([]byte(tt.text), sig, sign.Run{End: time.Unix(tt.end, 0), Commit: "abc"})
			if who != tt.who || (err == nil) != (tt.who != "") || err != nil && !strings.Contains(err.Error(), tt.why) {
				t.Errorf("Verify = %q, %v, want %q, %q", who, err, tt.who, tt.why)
			}
		})
	}
	var none sign.Signers
	if _, err := none.Verify([]byte(manifest), nil, sign.Run{End: time.Now()}); err == nil || err.Error() != "it is not signed" {
		t.Errorf("Verify without a signature: %v", err)
	}
}

// A line that cannot be read is told of and trusts nobody; the others count.
func TestBadLine(t *testing.T) {
	_, alice := newKey(t)
	_, bob := newKey(t)
	var signers sign.Signers
	var warned []string
	signers.AddText("f", "# a comment\n\nalice ssh-ed25519 nonsense\n"+line("valid-until=20300101 ", bob)+line("", alice),
		func(err error) { warned = append(warned, err.Error()) })
	if len(warned) != 2 || !strings.HasPrefix(warned[0], "f:3: the line is skipped: want principals") || warned[1] != "f:4: the line is skipped: unknown option valid-until" {
		t.Errorf("warned %q", warned)
	}
	if f := signers.Fingerprints(); len(f) != 1 || f[0] != sign.Fingerprint(alice.PublicKey()) {
		t.Errorf("Fingerprints = %v, want alice's", f)
	}
}
