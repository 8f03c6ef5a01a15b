// Package revoked reads lists of revoked keys: OpenSSH's KRLs, and public keys as
// text.
package revoked

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// A List says which keys are revoked. A certificate is revoked with its key, with
// the key of its authority, or by itself. A nil List revokes nothing.
type List struct {
	blobs        map[string]bool // keys as they travel (RFC 4253 §6.6)
	sha1, sha256 map[string]bool // digests of these
	certs        []certList
}

// Parse reads a list: a KRL, or text with a public key or a SHA256:FINGERPRINT on
// each line, or lines as ssh-keygen -k reads them:
//
//	key: PUBLIC KEY
//	sha1: PUBLIC KEY
//	sha256: PUBLIC KEY
//	hash: SHA256:FINGERPRINT
//
// A certificate behind key: is revoked alone, one without a word before it with
// its key. What cannot be understood is an error: a key that was revoked must not
// count because of a slip of the pen.
func Parse(b []byte) (*List, error) {
	if bytes.HasPrefix(b, []byte(krlMagic)) {
		return parseKRL(b)
	}
	l := newList()
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := l.parseLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return l, nil
}

// Has reports whether l revokes key, which may be a certificate.
func (l *List) Has(key ssh.PublicKey) bool {
	if l == nil {
		return false
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		for _, c := range l.certs {
			if c.has(cert) {
				return true
			}
		}
		if l.hasPlain(cert.SignatureKey) {
			return true
		}
	}
	return l.hasPlain(plain(key))
}

func (l *List) hasPlain(key ssh.PublicKey) bool {
	blob := key.Marshal()
	one, two := sha1.Sum(blob), sha256.Sum256(blob)
	return l.blobs[string(blob)] || l.sha1[string(one[:])] || l.sha256[string(two[:])]
}

func newList() *List {
	return &List{blobs: make(map[string]bool), sha1: make(map[string]bool), sha256: make(map[string]bool)}
}

func (l *List) parseLine(line string) error {
	what, rest := "", line // as ssh-keygen -Y verify -r has it
	if word, after, ok := strings.Cut(line, ":"); ok && !strings.ContainsAny(word, " \t") && word != "SHA256" {
		what, rest = strings.ToLower(word), strings.TrimSpace(after)
	}
	if digest, ok := strings.CutPrefix(rest, "SHA256:"); ok && (what == "" || what == "hash") {
		digest, _, _ = strings.Cut(digest, " ")
		sum, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(digest, "="))
		if err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("%.80q is not a fingerprint SHA256:... as ssh-keygen -l prints it", rest)
		}
		l.sha256[string(sum)] = true
		return nil
	}
	if what == "serial" || what == "id" {
		return fmt.Errorf("the %s of a certificate needs its authority: make a KRL of this file with ssh-keygen -k -s CA.pub", what)
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil || len(options) > 0 {
		return fmt.Errorf("%.80q is neither a public key nor a SHA256:FINGERPRINT", line)
	}
	blob := plain(key).Marshal()
	switch what {
	case "key":
		if cert, ok := key.(*ssh.Certificate); ok { // the key's other certificates stay
			l.certs = append(l.certs, certOf(cert))
			break
		}
		fallthrough
	case "":
		l.blobs[string(blob)] = true
	case "sha1":
		sum := sha1.Sum(blob)
		l.sha1[string(sum[:])] = true
	case "sha256":
		sum := sha256.Sum256(blob)
		l.sha256[string(sum[:])] = true
	default:
		return fmt.Errorf("%.80q is not what ssh-keygen -k reads", line)
	}
	return nil
}

// plain returns the key of a certificate, or else the key itself.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}
