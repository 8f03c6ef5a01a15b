package sign_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
)

// What ssh-keygen says of a list of revoked keys, 9ci says of signatures.
func TestRevoked(t *testing.T) {
	_, alice := newKey(t)
	_, bob := newKey(t)
	caFile, ca := newKey(t)
	_, ca2 := newKey(t)
	cert := func(ca ssh.Signer, serial uint64, id string) ssh.Signer {
		return certify(t, ca, bob, ssh.Certificate{ValidPrincipals: []string{"bob"}, ValidBefore: ssh.CertTimeInfinity, Serial: serial, KeyId: id})
	}
	signers := map[string]ssh.Signer{
		"alice": alice, "bob": bob, "cert5": cert(ca, 5, "five"), "cert6": cert(ca, 6, "six"), "cert70": cert(ca, 70, "seventy"),
		"cert0": cert(ca, 0, "none"), "top": cert(ca, 1<<64-1, "top"), "foreign5": cert(ca2, 5, "five"),
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	pub := func(s ssh.Signer) string { return string(ssh.MarshalAuthorizedKey(s.PublicKey())) }
	for name, s := range signers {
		write(name+".pub", pub(s))
	}
	ofBob := []string{"bob", "cert0", "cert5", "cert6", "cert70", "foreign5", "top"}
	bits := "" // dense serial numbers become a bitmap
	for n := 4; n < 100; n += 2 {
		bits += fmt.Sprintf("serial: %d\n", n)
	}
	for _, tt := range []struct {
		name string
		spec string   // of ssh-keygen -k, or the text of the list
		ca   string   // its -s; empty: none
		krl  bool     // ssh-keygen makes it
		want []string // who is revoked
	}{
		{"nothing", "", "", true, nil},
		{"key", pub(alice), "", true, []string{"alice"}},
		{"keys", "key: " + pub(alice) + pub(bob), "", true, append([]string{"alice"}, ofBob...)},
		{"sha1", "sha1: " + pub(alice), "", true, []string{"alice"}},
		{"sha256", "sha256: " + pub(alice), "", true, []string{"alice"}},
		{"hash", "hash: " + sign.Fingerprint(alice.PublicKey()) + "\n", "", true, []string{"alice"}},
		{"serial", "serial: 5\n", caFile + ".pub", true, []string{"cert5"}},
		{"serials", "serial: 5\nserial: 70\nserial: 100000\n", caFile + ".pub", true, []string{"cert5", "cert70"}},
		{"range", "serial: 6-1000\n", caFile + ".pub", true, []string{"cert6", "cert70"}},
		{"last serial", "serial: 18446744073709551615\n", caFile + ".pub", true, []string{"top"}},
		{"bitmap", bits, caFile + ".pub", true, []string{"cert6", "cert70"}},
		{"key id", "id: five\nid: none\n", caFile + ".pub", true, []string{"cert0", "cert5"}},
		{"any authority", "serial: 5\n", "none", true, []string{"cert5", "foreign5"}},
		{"certificate", pub(signers["cert5"]), "", true, []string{"cert5"}},
		{"certificate without a serial", pub(signers["cert0"]), "", true, []string{"cert0"}},
		{"authority", pub(ca), "", true, []string{"cert0", "cert5", "cert6", "cert70", "top"}},
		{"text of keys", "# gone\n" + pub(alice), "", false, []string{"alice"}},
		{"text of a certificate", pub(signers["cert5"]), "", false, ofBob},
		{"text of an authority", pub(ca), "", false, []string{"cert0", "cert5", "cert6", "cert70", "top"}},
		{"text of a fingerprint", sign.Fingerprint(alice.PublicKey()) + " alice\n", "", false, []string{"alice"}},
		{"text as of ssh-keygen -k", "key: " + pub(signers["cert5"]) + "sha1: " + pub(alice) + "\n", "", false, []string{"alice", "cert5"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := write("spec", tt.spec)
			if tt.krl {
				args := []string{"-k", "-q", "-f", filepath.Join(dir, "krl")}
				if tt.ca != "" {
					args = append(args, "-s", tt.ca)
				}
				if out, err := exec.Command("ssh-keygen", append(args, file)...).CombinedOutput(); err != nil {
					t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
				}
				file = filepath.Join(dir, "krl")
			}
			var list sign.Signers
			list.AddText("allowed", line("", alice)+line("", bob)+of("*", ca)+of("*", ca2), func(err error) { t.Error(err) })
			if err := list.RevokeFile(file); err != nil {
				t.Fatal(err)
			}
			var got []string
			for name, s := range signers {
				sig, err := sign.Manifest(s, []byte(manifest))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := list.Verify([]byte(manifest), sig, sign.Run{End: time.Now()}); err != nil {
					if !strings.Contains(err.Error(), "is revoked by "+file) {
						t.Error(err)
					}
					got = append(got, name)
				}
				// ssh-keygen -Q takes KRLs alone.
				if err := exec.Command("ssh-keygen", "-Q", "-f", file, filepath.Join(dir, name+".pub")).Run(); tt.krl && (err != nil) != slices.Contains(tt.want, name) {
					t.Errorf("ssh-keygen -Q of %s: %v", name, err)
				}
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("revoked are %v, want %v", got, tt.want)
			}
			if slices.Contains(list.Fingerprints(), sign.Fingerprint(alice.PublicKey())) == slices.Contains(tt.want, "alice") {
				t.Errorf("Fingerprints = %v", list.Fingerprints())
			}
		})
	}
}

// A list that is not understood to its end is an error, whatever it lacks.
func TestRevokedBad(t *testing.T) {
	_, ca := newKey(t)
	_, alice := newKey(t)
	dir := t.TempDir()
	spec, krl := filepath.Join(dir, "spec"), filepath.Join(dir, "krl")
	caFile := filepath.Join(dir, "ca.pub")
	key := string(ssh.MarshalAuthorizedKey(alice.PublicKey()))
	os.WriteFile(caFile, ssh.MarshalAuthorizedKey(ca.PublicKey()), 0o666)
	os.WriteFile(spec, []byte("serial: 5-9\nserial: 100\nid: x\nsha256: "+key+key), 0o666)
	if out, err := exec.Command("ssh-keygen", "-k", "-q", "-f", krl, "-s", caFile, spec).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	whole, err := os.ReadFile(krl)
	if err != nil {
		t.Fatal(err)
	}
	var s sign.Signers
	if err := s.Revoke("f", whole); err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for n := 1; n < len(whole); n++ {
		if err := s.Revoke("f", whole[:n]); err == nil {
			accepted++ // at the end of a section
		}
	}
	if accepted > 3 {
		t.Errorf("%d KRLs that were cut short were accepted", accepted)
	}
	section := func(b ...byte) string { return string(whole) + string(b) }
	for _, tt := range []struct{ text, want string }{
		{section(9, 0, 0, 0, 0), "unknown type 9"},
		{section(4, 0, 0, 0, 0), "is signed"},
		{section(255, 0, 0, 0, 10, 0, 0, 0, 1, 'x', 1, 0, 0, 0, 0), `critical extension "x"`},
		{section(255, 0, 0, 0, 10, 0, 0, 0, 1, 'x', 0, 0, 0, 0, 0), ""},
		{section(5, 0, 0, 0, 5, 0, 0, 0, 1, 'x'), "damaged"},
		{section(1, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0), "unknown type 0x40 for certificates"},
		{"SSHKRL\n\x00\x00\x00\x00\x02", "format 2"},
		{"# all\nalice " + key, "f: line 2: "},
		{"SHA256:short", "is not a fingerprint"},
		{"MD5:00:11", "neither a public key nor"},
		{"serial: 5", "ssh-keygen -k -s CA.pub"},
		{"no-pty " + key, "neither a public key nor"},
		{"ssh-ed25519", "neither a public key nor"},
	} {
		err := s.Revoke("f", []byte(tt.text))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Revoke(%.60q): %v, want %q", tt.text, err, tt.want)
		}
	}
	if err := s.RevokeFile(filepath.Join(dir, "none")); err != nil {
		t.Errorf("of no file: %v", err)
	}
	if err := s.RevokeFile(dir); err == nil {
		t.Error("a directory is no list")
	}
}

// Any bytes are a list or an error.
func FuzzRevoke(f *testing.F) {
	f.Add([]byte("SSHKRL\n\x00\x00\x00\x00\x01"))
	f.Add([]byte("hash: SHA256:uP2VTuDn0LPQzNbCAvCOuZQ9iZ7h6Vj2gT1Yb0n0q0A\n# x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sign.Signers
		s.Revoke("f", b)
	})
}
