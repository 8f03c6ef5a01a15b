package sign

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Signers are the keys and certificate authorities whose signatures count.
type Signers struct {
	list []signer
}

// A signer is a line of an allowed_signers file.
type signer struct {
	name          string // the first principal
	key           ssh.PublicKey
	authority     bool // cert-authority: certificates of this key count
	namespaces    []string
	after, before time.Time // zero: unlimited
}

// An UntrustedError is the error of a signature that is absent, or good but of a
// signer that is not trusted.
type UntrustedError struct{ Why string }

func (e *UntrustedError) Error() string { return e.Why }

// Add trusts one key under a name.
func (s *Signers) Add(name string, key ssh.PublicKey) {
	s.list = append(s.list, signer{name: name, key: key})
}

// AddFile trusts the signers of an allowed_signers file. It is no error if the file
// does not exist.
func (s *Signers) AddFile(name string) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.AddText(name, string(b))
}

// AddText trusts the signers of the text of an allowed_signers file. Errors call it
// by name.
func (s *Signers) AddText(name, text string) error {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		one, err := parseSigner(line)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		s.list = append(s.list, one)
	}
	return nil
}

// parseSigner reads principals [options] keytype key [comment]. The part behind the
// principals has the syntax of authorized_keys.
func parseSigner(line string) (signer, error) {
	var principals, rest string
	if strings.HasPrefix(line, `"`) {
		var ok bool
		if principals, rest, ok = strings.Cut(line[1:], `"`); !ok {
			return signer{}, errors.New("no closing quote")
		}
	} else if i := strings.IndexAny(line, " \t"); i > 0 {
		principals, rest = line[:i], line[i:]
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(rest)))
	if err != nil || principals == "" {
		return signer{}, errors.New("want principals [options] keytype key (ssh-keygen(1), ALLOWED SIGNERS)")
	}
	name, _, _ := strings.Cut(principals, ",")
	s := signer{name: name, key: key}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "cert-authority":
			s.authority = true
		case "namespaces":
			s.namespaces = strings.Split(value, ",")
		case "valid-after":
			s.after, err = parseTime(value)
		case "valid-before":
			s.before, err = parseTime(value)
		default:
			err = fmt.Errorf("unknown option %s", name)
		}
		if err != nil {
			return signer{}, err
		}
	}
	return s, nil
}

// parseTime reads YYYYMMDD[Z] or YYYYMMDDHHMM[SS][Z]. Without the Z the time is
// local.
func parseTime(s string) (time.Time, error) {
	loc := time.Local
	if v, ok := strings.CutSuffix(s, "Z"); ok {
		s, loc = v, time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(s) == len(layout) {
			return time.ParseInLocation(layout, s, loc)
		}
	}
	return time.Time{}, fmt.Errorf("bad time %q", s)
}

// Verify checks an armored signature of a manifest, and returns the name of the
// signer. The signer must have been trusted at the time given. If the signature is
// good but its signer was not trusted then, or if there is no signature, the error
// is an UntrustedError.
func (s *Signers) Verify(manifest, armored []byte, at time.Time) (name string, err error) {
	if len(armored) == 0 {
		return "", &UntrustedError{"it is not signed"}
	}
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return "", fmt.Errorf("manifest.sig: %w", err)
	}
	if err := sshsig.Verify(bytes.NewReader(manifest), sig, sig.PublicKey, sig.HashAlgorithm, Namespace); err != nil {
		return "", fmt.Errorf("manifest.sig: %w", err)
	}
	why := fmt.Sprintf("its signer %s is not trusted: an allowed_signers file must name it", Fingerprint(sig.PublicKey))
	for _, one := range s.list {
		if len(one.namespaces) > 0 && !slices.Contains(one.namespaces, Namespace) {
			continue
		}
		if !one.matches(sig.PublicKey, at) {
			continue
		}
		if !one.after.IsZero() && at.Before(one.after) || !one.before.IsZero() && !at.Before(one.before) {
			why = fmt.Sprintf("%s was not trusted at %s", one.name, at.Format(time.RFC3339))
			continue
		}
		if cert, ok := sig.PublicKey.(*ssh.Certificate); ok && one.authority && len(cert.ValidPrincipals) > 0 {
			return cert.ValidPrincipals[0], nil
		}
		return one.name, nil
	}
	return "", &UntrustedError{why}
}

// Trusts reports whether the key of that fingerprint is trusted itself, not by a
// certificate.
func (s *Signers) Trusts(fingerprint string) bool {
	return slices.ContainsFunc(s.list, func(one signer) bool {
		return !one.authority && Fingerprint(one.key) == fingerprint
	})
}

// matches reports whether key is the signer's, or a certificate that the signer has
// issued and that was valid at the time given.
func (s signer) matches(key ssh.PublicKey, at time.Time) bool {
	cert, ok := key.(*ssh.Certificate)
	if !s.authority {
		if ok {
			key = cert.Key
		}
		return bytes.Equal(key.Marshal(), s.key.Marshal())
	}
	if !ok || len(cert.ValidPrincipals) == 0 || cert.CertType != ssh.UserCert ||
		!bytes.Equal(cert.SignatureKey.Marshal(), s.key.Marshal()) {
		return false
	}
	check := ssh.CertChecker{Clock: func() time.Time { return at }}
	return check.CheckCert(cert.ValidPrincipals[0], cert) == nil
}

// Fingerprint returns the SHA-256 fingerprint of a key in the form of ssh-keygen,
// SHA256:.... That of a certificate is its key's.
func Fingerprint(key ssh.PublicKey) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key)
}

// Signer returns the fingerprint of the key that an armored signature names. It
// does not check the signature.
func Signer(armored []byte) (string, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return "", err
	}
	return Fingerprint(sig.PublicKey), nil
}
