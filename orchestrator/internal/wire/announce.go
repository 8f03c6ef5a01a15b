package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
)

// Limits on an announcement.
const (
	MaxAnnounce = 128 << 10 // bytes
	maxShares   = 1024      // namespaces of one export
	maxAddress  = 255       // bytes
	maxInstance = 64        // bytes
)

// MayNotPublish begins the reason of a refusal where the key has no right to
// publish in a namespace.
const MayNotPublish = "this key may not publish"

// An Announce says what an executor exports.
type Announce struct {
	Name       string   // below n: HOST for a daemon, HOST.PID for others
	Namespaces []string // each is an aname that the export takes
	Address    string   // host:port where others reach the executor directly; "" if they cannot
	Adopts     bool     // it adopts the passed runs of others

	// Instance is another word for each process, which keeps it when it connects
	// again: by it the orchestrator tells an executor that is back from a second
	// one. Boot is one for each start of the machine: it tells a process that
	// was started again. Had is the name under which the process was shown last.
	// Each is "" if it is not known.
	Instance, Boot, Had string

	// Proof is made by Prove: the key that signs the executor's runs. Without
	// it, the executor signs none that others wait for.
	Proof string
}

// Text returns a as it travels: attr=value lines.
func (a Announce) Text() []byte {
	attrs := ci.Attrs{
		{Name: "name", Value: a.Name},
		{Name: "namespaces", Value: ci.QuoteWords(a.Namespaces)},
		{Name: "address", Value: a.Address},
		{Name: "proof", Value: a.Proof},
	}
	if a.Adopts {
		attrs = append(attrs, ci.Attr{Name: "adopts", Value: "1"})
	}
	for _, x := range []ci.Attr{{Name: "instance", Value: a.Instance}, {Name: "boot", Value: a.Boot}, {Name: "had", Value: a.Had}} {
		if x.Value != "" {
			attrs = append(attrs, x)
		}
	}
	return attrs.Text()
}

// proofNamespace is the SSHSIG namespace of a Proof.
const proofNamespace = "announce@9ci"

// proven is what a Proof signs: one connection (RFC 4253 §7.2) to one orchestrator,
// and what is shown there. So a copy proves nothing elsewhere. Over TLS there is no
// host key: the session is then the tls-exporter value (RFC 9266), on which the
// server's certificate bears too.
func (a Announce) proven(session []byte, host ssh.PublicKey) io.Reader {
	fingerprint := ""
	if host != nil {
		fingerprint = ssh.FingerprintSHA256(host)
	}
	return bytes.NewReader(ci.Attrs{
		{Name: "session", Value: hex.EncodeToString(session)},
		{Name: "host", Value: fingerprint},
		{Name: "namespaces", Value: ci.QuoteWords(a.Namespaces)},
		{Name: "name", Value: a.Name},
	}.Text())
}

// Prove sets a.Proof, which says that key signs the executor's runs. A must have
// been checked. Session is the identifier of the connection, and host the
// orchestrator's host key there, nil over TLS.
func (a *Announce) Prove(key ssh.Signer, session []byte, host ssh.PublicKey) error {
	sig, err := sshsig.Sign(a.proven(session, host), key, sshsig.HashSHA512, proofNamespace)
	if err != nil {
		return fmt.Errorf("announcement: %w", err)
	}
	a.Proof = base64.StdEncoding.EncodeToString(sig.Marshal())
	return nil
}

// Signer returns the key that a proves to hold, on the connection of that identifier
// to the orchestrator of that host key, nil over TLS. It returns nil if a has no proof.
func (a Announce) Signer(session []byte, host ssh.PublicKey) (ssh.PublicKey, error) {
	if a.Proof == "" {
		return nil, nil
	}
	bad := func(err error) (ssh.PublicKey, error) {
		return nil, fmt.Errorf("announcement: the proof of the signing key is not for this connection, name and namespaces: %w", err)
	}
	b, err := base64.StdEncoding.DecodeString(a.Proof)
	if err != nil {
		return bad(err)
	}
	sig, err := sshsig.ParseSignature(b)
	if err != nil {
		return bad(err)
	}
	if _, ok := sig.PublicKey.(*ssh.Certificate); ok {
		return bad(errors.New("it is a certificate's"))
	}
	if err := sshsig.Verify(a.proven(session, host), sig, sig.PublicKey, sig.HashAlgorithm, proofNamespace); err != nil {
		return bad(err)
	}
	return sig.PublicKey, nil
}

// Fingerprint returns the SHA-256 fingerprint of a key. That of a certificate is
// its key's.
func Fingerprint(key ssh.PublicKey) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key)
}

// ParseAnnounce reads what Text wrote, and checks it. It ignores attributes that
// it does not know, because a later executor may say more.
func ParseAnnounce(b []byte) (Announce, error) {
	if len(b) > MaxAnnounce {
		return Announce{}, fmt.Errorf("announcement of %d bytes: at most %d", len(b), MaxAnnounce)
	}
	attrs, err := ci.ParseAttrs(b)
	if err != nil {
		return Announce{}, fmt.Errorf("announcement: %w", err)
	}
	a := Announce{
		Name: attrs.Get("name"), Address: attrs.Get("address"),
		Proof: attrs.Get("proof"), Adopts: attrs.Get("adopts") == "1",
		Instance: attrs.Get("instance"), Boot: attrs.Get("boot"), Had: attrs.Get("had"),
	}
	if a.Namespaces, err = ci.SplitWords(attrs.Get("namespaces")); err != nil {
		return Announce{}, fmt.Errorf("announcement: %w", err)
	}
	return a, a.Check()
}

// Check returns what is wrong with a, on either side of the wire. It puts the
// namespaces in the form of ci.CleanNamespace, sorted, each once.
func (a *Announce) Check() error {
	if err := CheckExecutor(a.Name); err != nil {
		return err
	}
	switch {
	case len(a.Namespaces) == 0:
		return errors.New("an announcement names no namespace")
	case len(a.Namespaces) > maxShares:
		return fmt.Errorf("an announcement of %d namespaces: at most %d", len(a.Namespaces), maxShares)
	}
	if err := checkAddress(a.Address); err != nil {
		return err
	}
	for _, word := range []string{a.Instance, a.Boot} {
		if len(word) > maxInstance || strings.ContainsFunc(word, notAlnum) {
			return fmt.Errorf("announcement: instance or boot %.80q: want %d letters and digits at most", word, maxInstance)
		}
	}
	if a.Had != "" && !IsShown(a.Had, a.Name) {
		return fmt.Errorf("announcement: had %.80q is no name that %s is shown by", a.Had, a.Name)
	}
	clean := make([]string, len(a.Namespaces))
	for i, ns := range a.Namespaces {
		var err error
		if clean[i], err = ci.CleanNamespace(ns); err != nil {
			return err
		}
	}
	slices.Sort(clean)
	a.Namespaces = slices.Compact(clean)
	return nil
}

// checkAddress returns why addr cannot stand in a line of text, as the address of an
// executor does.
func checkAddress(addr string) error {
	if len(addr) > maxAddress || !utf8.ValidString(addr) || strings.ContainsFunc(addr, func(r rune) bool { return r == ' ' || unicode.IsControl(r) }) {
		return fmt.Errorf("address %.80q: want host:port", addr)
	}
	return nil
}

// maxName is how many bytes the name of an executor may have: with a number it is
// still the name of a file.
const maxName = 255 - len("+9999")

// MaxNumber is how many executors of one name and key a namespace may have.
const MaxNumber = 9999

// CheckExecutor returns why name cannot be an executor's. The name stands in
// lines of text, so it is a host name and a process id and nothing else. A + is
// the orchestrator's own: see Shown.
func CheckExecutor(name string) error {
	bad := func(r rune) bool { return notAlnum(r) && r != '.' && r != '-' && r != '_' }
	if len(name) > maxName || strings.Trim(name, ".") == "" || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("executor name %.300q: want letters, digits, dots, dashes and underlines, %d at most", name, maxName)
	}
	return nil
}

func notAlnum(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
}

// Shown returns the name that the orchestrator shows the nth executor by of those
// that announce the same name with the same key: NAME, NAME+2, NAME+3 and so on.
func Shown(name string, n int) string {
	if n == 1 {
		return name
	}
	return fmt.Sprintf("%s+%d", name, n)
}

// IsShown reports whether an executor that announces name may be shown as shown.
func IsShown(shown, name string) bool {
	digits, ok := strings.CutPrefix(shown, name+"+")
	if !ok {
		return shown == name
	}
	n, err := strconv.Atoi(digits)
	return err == nil && n >= 2 && n <= MaxNumber && digits == strconv.Itoa(n)
}
