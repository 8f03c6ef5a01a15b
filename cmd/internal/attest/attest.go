// Package attest makes and checks attestations: signed statements that a run of a commit
// has passed. An attestation is an in-toto Statement v1 about the commit, with the predicate
// test-result/v0.1, in a DSSE envelope (github.com/in-toto/attestation and
// github.com/secure-systems-lab/dsse). Whoever checks one needs neither the run nor the
// executor that made it.
package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
)

// What a statement names itself: in-toto's spec/v1/statement.md and
// spec/predicates/test-result.md, and spec/v1/envelope.md for the payload.
const (
	PayloadType   = "application/vnd.in-toto+json"
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://in-toto.io/attestation/test-result/v0.1"
)

// File is the name of an attestation in the tree of its ref.
const File = "attestation.dsse.json"

// maxFile is the most that an envelope may have, in bytes: one has some two thousand.
const maxFile = 256 << 10

// Prefix returns what the refs of a commit's attestations begin with.
func Prefix(commit string) string { return "refs/attestations/" + commit + "/" }

// Ref returns the ref of the attestation of a commit by the key of that fingerprint,
// refs/attestations/COMMIT/FINGERPRINT. In a ref a fingerprint is the SHA-256 in
// hexadecimal, since that of ssh-keygen, SHA256: and base64, has a colon and slashes.
func Ref(commit, fingerprint string) (string, error) {
	sum, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(fingerprint, "SHA256:"))
	if err != nil || len(sum) != sha256.Size {
		return "", fmt.Errorf("attest: %q is no SHA-256 fingerprint", fingerprint)
	}
	return Prefix(commit) + hex.EncodeToString(sum), nil
}

// Fingerprint returns the fingerprint in the name of a ref, as ssh-keygen spells it, or
// false if the ref is not that of an attestation of the commit.
func Fingerprint(commit, ref string) (string, bool) {
	name, ok := strings.CutPrefix(ref, Prefix(commit))
	sum, err := hex.DecodeString(name)
	if !ok || err != nil || len(sum) != sha256.Size || strings.ToLower(name) != name {
		return "", false
	}
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum), true
}

// A Result is what an attestation says of a run that passed.
type Result struct {
	Commit string    // which it is about
	Key    ci.Attrs  // of the run
	Score  string    // of the run
	Signer string    // the fingerprint of the key that signed the run
	End    time.Time // of the run
	URL    string    // where the run is shown, "": nowhere
}

// A statement is in-toto's Statement v1 with the predicate test-result/v0.1.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     predicate  `json:"predicate"`
}

type predicate struct {
	Result        string     `json:"result"`
	Configuration []resource `json:"configuration"`
	URL           string     `json:"url,omitempty"`
}

// A resource is in-toto's ResourceDescriptor.
type resource struct {
	Name        string            `json:"name,omitempty"`
	Digest      map[string]string `json:"digest"`
	MediaType   string            `json:"mediaType,omitempty"`
	Content     []byte            `json:"content,omitempty"` // base64 in JSON
	Annotations map[string]string `json:"annotations,omitempty"`
}

// The resources in a predicate's configuration.
const (
	nameKey      = "key"      // content is the file key of the run
	nameManifest = "manifest" // the digest is the run's score; annotations are end and signer
)

const passed = "PASSED"

// Sign returns the attestation of a run that passed: the JSON of an envelope, which s, an
// ed25519 key of a file or an agent, has signed.
func Sign(ctx context.Context, s ssh.Signer, r Result) ([]byte, error) {
	if err := usable(s.PublicKey()); err != nil {
		return nil, err
	}
	text := r.Key.Text()
	sum := sha256.Sum256(text)
	payload, err := json.Marshal(statement{
		Type:          StatementType,
		Subject:       []resource{{Name: "commit", Digest: map[string]string{"gitCommit": r.Commit}}},
		PredicateType: PredicateType,
		Predicate: predicate{Result: passed, URL: r.URL, Configuration: []resource{
			{Name: nameKey, Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}, MediaType: "text/plain", Content: text},
			{Name: nameManifest, Digest: map[string]string{"sha256": r.Score}, Annotations: map[string]string{"end": ci.FormatTime(r.End), "signer": r.Signer}},
		}},
	})
	if err != nil {
		return nil, err
	}
	es, err := dsse.NewEnvelopeSigner(signer{s})
	if err != nil {
		return nil, err
	}
	e, err := es.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("attest: sign: %w", err)
	}
	b, err := json.MarshalIndent(e, "", "\t")
	return append(b, '\n'), err
}

// Verify checks an envelope that stands where the attestation of a commit, whose tree is
// tree, by the key of that fingerprint does. It returns what it says and the name of the
// signer, or why it does not count. The signer counts by the rule of sign.Signers.Verify,
// of the run's end; a key has to be trusted itself, not by a certificate. The error of a
// signer that no list names is sign.ErrUntrusted.
func Verify(ctx context.Context, trusted *sign.Signers, fingerprint, commit, tree string, envelope []byte) (r Result, name string, err error) {
	if len(envelope) > maxFile {
		return r, "", fmt.Errorf("it has %d bytes: more than %d", len(envelope), maxFile)
	}
	key := trusted.Key(fingerprint)
	if key == nil {
		return r, "", fmt.Errorf("its signer %s is %w: an allowed_signers file must name it, itself and not by a certificate", fingerprint, sign.ErrUntrusted)
	}
	if err := usable(key); err != nil {
		return r, "", err
	}
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		return r, "", fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if e.PayloadType != PayloadType {
		return r, "", fmt.Errorf("its payloadType is %.80q and not %s", e.PayloadType, PayloadType)
	}
	ev, err := dsse.NewEnvelopeVerifier(verifier{key})
	if err != nil {
		return r, "", err
	}
	_, payload, err := ev.VerifyAndDecode(ctx, &e)
	if err != nil {
		return r, "", fmt.Errorf("%s has not signed it: %w", fingerprint, err)
	}
	if r, err = parse(payload); err != nil {
		return r, "", err
	}
	if r.Commit != commit {
		return r, "", fmt.Errorf("it is about the commit %.12q and not this one", r.Commit)
	}
	if err := r.Check(tree); err != nil {
		return r, "", err
	}
	name, err = trusted.Trust(key, sign.Run{End: r.End, Commit: commit})
	return r, name, err
}

// Check returns why the run says nothing of the commit, whose tree is tree: it is of
// another one, or not of the targets that 9ci run makes by default, or depends on what its
// executor kept.
func (r Result) Check(tree string) error {
	if c, t := r.Key.Get("commit"), r.Key.Get("tree"); c != r.Commit && (c != "" || t != tree) {
		return fmt.Errorf("its run is of commit %.12q, tree %.12q, and not of this commit or its tree", c, t)
	}
	if !ci.DefaultTargets(r.Key) {
		t := r.Key.Get("target")
		return fmt.Errorf("its run is of the targets %.200q and not of test", t)
	}
	if r.Key.Get("runs") != "" {
		return errors.New("its run saw what its executor keeps (CI_RUNS=1): it stands for no other")
	}
	return CheckURL(r.URL)
}

// CheckURL returns an error unless text is "" or the URL of a page.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
		len(text) > maxURL || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return fmt.Errorf("%.200q is not the URL of a page", text)
	}
	return nil
}

const maxURL = 2000 // bytes

// parse reads the payload of an envelope.
func parse(payload []byte) (r Result, err error) {
	var s statement
	if err := json.Unmarshal(payload, &s); err != nil {
		return r, fmt.Errorf("its payload is no statement: %w", err)
	}
	if s.Type != StatementType || s.PredicateType != PredicateType {
		return r, fmt.Errorf("it is %.80q with the predicate %.80q, and not %s with %s", s.Type, s.PredicateType, StatementType, PredicateType)
	}
	if len(s.Subject) != 1 || !ci.IsHash(s.Subject[0].Digest["gitCommit"]) {
		return r, errors.New("its subject is not one commit, with the digest gitCommit")
	}
	if s.Predicate.Result != passed {
		return r, fmt.Errorf("its result is %.80q and not %s", s.Predicate.Result, passed)
	}
	var key, manifest *resource
	for i, c := range s.Predicate.Configuration {
		switch {
		case c.Name == nameKey && key == nil:
			key = &s.Predicate.Configuration[i]
		case c.Name == nameManifest && manifest == nil:
			manifest = &s.Predicate.Configuration[i]
		}
	}
	if key == nil || manifest == nil {
		return r, errors.New("its configuration has not the key and the manifest of a run")
	}
	if sum := sha256.Sum256(key.Content); hex.EncodeToString(sum[:]) != key.Digest["sha256"] {
		return r, errors.New("the key in its configuration has another digest than it says")
	}
	r = Result{Commit: s.Subject[0].Digest["gitCommit"], Score: manifest.Digest["sha256"], Signer: manifest.Annotations["signer"], URL: s.Predicate.URL}
	if len(r.Score) != 2*sha256.Size || !ci.IsHex(r.Score) {
		return r, fmt.Errorf("its score is %.80q, and no SHA-256", r.Score)
	}
	if r.Key, err = ci.ParseAttrs(key.Content); err != nil {
		return r, fmt.Errorf("the key in its configuration: %w", err)
	}
	if r.End, err = time.Parse(time.RFC3339, manifest.Annotations["end"]); err != nil {
		return r, fmt.Errorf("the end of its run: %w", err)
	}
	return r, nil
}

// usable returns an error for a key that does not sign attestations: of an ed25519 key all
// know what a signature in an envelope is.
func usable(key ssh.PublicKey) error {
	if key.Type() != ssh.KeyAlgoED25519 {
		return fmt.Errorf("attestations are signed by ed25519 keys, and %s is of the type %s: ssh-keygen -t ed25519 makes one for CI_KEY", sign.Fingerprint(key), key.Type())
	}
	return nil
}

// A signer is an ed25519 key as dsse.Signer.
type signer struct{ ssh.Signer }

func (s signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	sig, err := s.Signer.Sign(rand.Reader, data)
	if err != nil {
		return nil, err
	}
	if sig.Format != ssh.KeyAlgoED25519 || len(sig.Blob) != ed25519.SignatureSize {
		return nil, fmt.Errorf("the key made a signature of the format %s", sig.Format)
	}
	return slices.Clone(sig.Blob), nil
}

func (s signer) KeyID() (string, error) { return sign.Fingerprint(s.PublicKey()), nil }

// A verifier is the public half of a signer, as dsse.Verifier.
type verifier struct{ key ssh.PublicKey }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	return v.key.Verify(data, &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: bytes.Clone(sig)})
}

func (v verifier) KeyID() (string, error) { return sign.Fingerprint(v.key), nil }

func (v verifier) Public() crypto.PublicKey { return v.key.(ssh.CryptoPublicKey).CryptoPublicKey() }
