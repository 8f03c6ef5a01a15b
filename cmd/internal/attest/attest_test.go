package attest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"9ci/cmd/internal/attest"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
)

const (
	commit = "3f2a9c1d0b7e3f2a9c1d0b7e3f2a9c1d0b7e3f2a"
	tree   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	score  = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func newSigner(t *testing.T) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s, priv
}

func trust(s ssh.Signer, options string) *sign.Signers {
	all := new(sign.Signers)
	all.AddText("list", "alice "+options+" "+string(ssh.MarshalAuthorizedKey(s.PublicKey())), func(err error) { panic(err) })
	return all
}

func result() attest.Result {
	return attest.Result{Commit: commit, Score: score, Signer: "SHA256:x", End: time.Now().Add(-time.Minute).Truncate(time.Second).UTC(),
		Key: ci.Attrs{{Name: "arch", Value: "amd64"}, {Name: "commit", Value: commit}, {Name: "target", Value: "test"}}}
}

// The envelope is what any DSSE verifier takes: an ed25519 signature of the PAE, by the
// fingerprint, of a key in a file or an agent's.
func TestEnvelope(t *testing.T) {
	s, priv := newSigner(t)
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: priv}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(keyring, c)
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
	pub := filepath.Join(dir, "id.pub")
	if err := os.WriteFile(pub, ssh.MarshalAuthorizedKey(s.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	agents, err := sign.LoadKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	want := result()
	b, err := attest.Sign(t.Context(), s, want)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := attest.Sign(t.Context(), agents, want); err != nil || !bytes.Equal(b, c) {
		t.Errorf("the agent signs %s, %v, want %s", c, err, b)
	}
	var e struct {
		PayloadType, Payload string
		Signatures           []struct{ KeyID, Sig string }
	}
	if err := json.Unmarshal(b, &e); err != nil || len(e.Signatures) != 1 {
		t.Fatalf("%s: %v", b, err)
	}
	payload, _ := base64.StdEncoding.DecodeString(e.Payload)
	sig, _ := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	pae := fmt.Sprintf("DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload)
	if !ed25519.Verify(priv.Public().(ed25519.PublicKey), []byte(pae), sig) || e.Signatures[0].KeyID != ssh.FingerprintSHA256(s.PublicKey()) {
		t.Errorf("no good signature by %s: %s", ssh.FingerprintSHA256(s.PublicKey()), b)
	}
	var is map[string]any
	if err := json.Unmarshal(payload, &is); err != nil || is["_type"] != "https://in-toto.io/Statement/v1" ||
		is["predicateType"] != "https://in-toto.io/attestation/test-result/v0.1" || !strings.Contains(string(payload), `"gitCommit":"`+commit+`"`) {
		t.Errorf("the statement is %s", payload)
	}
	got, name, err := attest.Verify(t.Context(), trust(s, ""), sign.Fingerprint(s.PublicKey()), commit, tree, b)
	if err != nil || name != "alice" || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Verify = %v, %q, %v, want %v, alice", got, name, err, want)
	}
}

// Each attestation that does not count is refused with the reason.
func TestRefused(t *testing.T) {
	s, _ := newSigner(t)
	other, _ := newSigner(t)
	fp := sign.Fingerprint(s.PublicKey())
	key := func(name, value string) func(*attest.Result) {
		return func(r *attest.Result) { r.Key = r.Key.With(ci.Attr{Name: name, Value: value}).Sorted() }
	}
	for _, tt := range []struct {
		name    string
		change  func(*attest.Result)
		by      ssh.Signer
		trusted *sign.Signers
		want    string // "" is accepted
	}{
		{"good", nil, s, trust(s, ""), ""},
		{"tree", func(r *attest.Result) { r.Key = ci.Attrs{{Name: "tree", Value: tree}} }, s, trust(s, ""), ""},
		{"stranger", nil, s, trust(other, ""), "is not trusted"},
		{"authority", nil, s, trust(s, "cert-authority"), "is not trusted"},
		{"namespaces", nil, s, trust(s, `namespaces="file"`), "is not trusted"},
		{"in another's place", nil, other, trust(s, ""), "has not signed it"},
		{"expired", nil, s, trust(s, `valid-before="20200101Z"`), "valid-before"},
		{"not yet", nil, s, trust(s, `valid-after="20990101Z"`), "valid-after"},
		{"future", func(r *attest.Result) { r.End = time.Now().Add(time.Hour) }, s, trust(s, ""), "in the future"},
		{"commit", func(r *attest.Result) { r.Commit = tree }, s, trust(s, ""), "it is about the commit"},
		{"no commit", func(r *attest.Result) { r.Commit = "HEAD" }, s, trust(s, ""), "its subject is not one commit"},
		{"run of another commit", key("commit", tree), s, trust(s, ""), "its run is of commit"},
		{"run of another tree", func(r *attest.Result) { r.Key = ci.Attrs{{Name: "tree", Value: commit}} }, s, trust(s, ""), "its run is of commit"},
		{"run of nothing", func(r *attest.Result) { r.Key = nil }, s, trust(s, ""), "its run is of commit"},
		{"targets", key("target", "lint"), s, trust(s, ""), `of the targets "lint" and not of test`},
		{"runs", key("runs", "1"), s, trust(s, ""), "CI_RUNS=1"},
		{"score", func(r *attest.Result) { r.Score = "x" }, s, trust(s, ""), "its score"},
	} {
		r := result()
		if tt.change != nil {
			tt.change(&r)
		}
		b, err := attest.Sign(t.Context(), tt.by, r)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = attest.Verify(t.Context(), tt.trusted, fp, commit, tree, b)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Verify: %v, want %q", tt.name, err, tt.want)
		}
		if tt.want == "is not trusted" && !errors.Is(err, sign.ErrUntrusted) {
			t.Errorf("%s: Verify: %v, want ErrUntrusted", tt.name, err)
		}
	}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := ssh.NewSignerFromKey(rk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.Sign(t.Context(), rs, result()); err == nil || !strings.Contains(err.Error(), "ed25519") {
		t.Errorf("Sign by an RSA key: %v", err)
	}
}

// A ref's name has the fingerprint, and no other spelling of it.
func TestRef(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	fp := "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
	want := "refs/attestations/" + commit + "/" + hex.EncodeToString(sum[:])
	ref, err := attest.Ref(commit, fp)
	if err != nil || ref != want {
		t.Errorf("Ref = %q, %v, want %q", ref, err, want)
	}
	if got, ok := attest.Fingerprint(commit, ref); !ok || got != fp {
		t.Errorf("Fingerprint(%q) = %q, %v", ref, got, ok)
	}
	for _, bad := range []string{strings.ToUpper(ref), ref + "0", ref + "/x", attest.Prefix(tree) + hex.EncodeToString(sum[:]), attest.Prefix(commit) + strings.ToUpper(hex.EncodeToString(sum[:]))} {
		if got, ok := attest.Fingerprint(commit, bad); ok {
			t.Errorf("Fingerprint(%q) = %q", bad, got)
		}
	}
	if _, err := attest.Ref(commit, "MD5:00"); err == nil {
		t.Error("Ref takes an MD5 fingerprint")
	}
}

// What is pushed may be anything: Verify refuses it, or it is what Alice has signed.
func FuzzVerify(f *testing.F) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		f.Fatal(err)
	}
	want := result()
	good, err := attest.Sign(f.Context(), s, want)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	f.Add([]byte(`{"signatures":null}`))
	all := trust(s, "")
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := attest.Verify(t.Context(), all, sign.Fingerprint(s.PublicKey()), commit, tree, b)
		if err == nil && fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("Verify(%q) = %v", b, r)
		}
	})
}
