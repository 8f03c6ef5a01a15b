package sign

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/dial"
)

// Signers are the keys and certificate authorities whose signatures count, and the
// keys that are revoked.
type Signers struct {
	list    []signer
	revoked []revokedList
}

// A signer is a line of an allowed_signers file.
type signer struct {
	name          string   // the first principal
	principals    []string // patterns, of an authority's certificates
	key           ssh.PublicKey
	authority     bool // cert-authority: certificates of this key count
	namespaces    []string
	after, before time.Time // zero: unlimited
}

// skew is how far the clocks of two hosts may be apart.
const skew = time.Minute

// ErrUntrusted is the error of a good signature whose signer no list names.
var ErrUntrusted = errors.New("not trusted")

// A Run is what its signature is held against, besides the manifest.
type Run struct {
	End    time.Time
	Commit string // in full
}

// Verify checks an armored signature of the manifest of a run, and returns the name of the signer. This is the one rule for runs of
// the store, runs that are adopted, and 9ci verify:
//
//   - the run has not ended in the future, but for a minute's difference of clocks;
//   - the signature is good, in the namespace run@9ci;
//   - no list of revoked keys has its key, its certificate or its authority;
//   - a line of allowed_signers names its key, or the authority of its certificate,
//     and that line's valid-after and valid-before hold at the run's end and now;
//   - a certificate was valid at the run's end, and names a principal of the line. It
//     may have expired since. That of a CI job lets it publish, runs of that commit.
func (s *Signers) Verify(manifest, armored []byte, of Run) (name string, err error) {
	if err := of.ended(time.Now()); err != nil {
		return "", err
	}
	if len(armored) == 0 {
		return "", errors.New("it is not signed")
	}
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return "", fmt.Errorf("manifest.sig: %w", err)
	}
	if err := sshsig.Verify(bytes.NewReader(manifest), sig, sig.PublicKey, sig.HashAlgorithm, Namespace); err != nil {
		return "", fmt.Errorf("manifest.sig: %w", err)
	}
	if sig.Signature.Format == ssh.KeyAlgoRSA { // PROTOCOL.sshsig
		return "", errors.New("manifest.sig: it is of RSA with SHA-1, which is broken: sign with rsa-sha2-512")
	}
	return s.Trust(sig.PublicKey, of)
}

// Trust is the part of Verify that is about the signer: it returns the name of the signer
// whose key or certificate has made a good signature about a run, or why that does not
// count.
func (s *Signers) Trust(key ssh.PublicKey, of Run) (name string, err error) {
	now := time.Now()
	if err := of.ended(now); err != nil {
		return "", err
	}
	if by := s.revokedBy(key); by != "" {
		return "", fmt.Errorf("its signer %s is revoked by %s", Fingerprint(key), by)
	}
	why := fmt.Errorf("its signer %s is %w: an allowed_signers file must name it", Fingerprint(key), ErrUntrusted)
	for _, one := range s.list {
		name, known, err := one.vouches(key, of, now)
		if known && err == nil {
			return name, nil
		}
		if known {
			why = err
		}
	}
	return "", why
}

// Key returns the key of that fingerprint which a line names itself, not by a certificate.
// It returns nil if there is none. Whether the key counts Trust says.
func (s *Signers) Key(fingerprint string) ssh.PublicKey {
	for _, one := range s.list {
		if !one.authority && Fingerprint(one.key) == fingerprint {
			return plain(one.key)
		}
	}
	return nil
}

// ended returns an error if the run has not ended at now.
func (r Run) ended(now time.Time) error {
	if r.End.After(now.Add(skew)) {
		return fmt.Errorf("it ended at %s, which is in the future: one of the two clocks is wrong", r.End.UTC().Format(time.RFC3339))
	}
	return nil
}

// vouches reports whether the line names key or the authority of a certificate,
// and returns the name of the signer, or why the line does not count.
func (s signer) vouches(key ssh.PublicKey, of Run, now time.Time) (name string, known bool, err error) {
	end := of.End
	cert, ok := key.(*ssh.Certificate)
	switch {
	case !s.counts():
		return "", false, nil
	case s.authority:
		if !ok || !equal(cert.SignatureKey, s.key) {
			return "", false, nil
		}
		name, err = s.principal(cert)
		if err == nil {
			err = checkCert(cert, name, of)
		}
		if err != nil {
			return "", true, fmt.Errorf("the certificate of its signer %s, of the authority %s: %w", Fingerprint(key), s.name, err)
		}
	case equal(plain(key), plain(s.key)):
		name = s.name
	default:
		return "", false, nil
	}
	for _, at := range []struct {
		time time.Time
		what string
	}{{end, "when it ended, at " + end.UTC().Format(time.RFC3339)}, {now, "now"}} {
		if !s.after.IsZero() && at.time.Before(s.after) {
			return "", true, fmt.Errorf("its signer %s is not trusted %s: allowed_signers says valid-after %s", s.name, at.what, s.after.UTC().Format(time.RFC3339))
		}
		if !s.before.IsZero() && !at.time.Before(s.before) {
			return "", true, fmt.Errorf("its signer %s is not trusted %s: allowed_signers says valid-before %s", s.name, at.what, s.before.UTC().Format(time.RFC3339))
		}
	}
	return name, true, nil
}

// counts reports whether the line is for signatures of runs: its namespaces are
// patterns (ssh_config(5)), and one with ! before it excludes.
func (s signer) counts() bool {
	counts := len(s.namespaces) == 0
	for _, p := range s.namespaces {
		p, not := strings.CutPrefix(p, "!")
		if ok, _ := path.Match(p, Namespace); ok && not {
			return false
		} else if ok {
			counts = true
		}
	}
	return counts
}

// principal returns the first principal of cert that the line of its authority is for.
// The line has patterns, of which one with ! before it excludes.
func (s signer) principal(cert *ssh.Certificate) (string, error) {
	if len(cert.ValidPrincipals) == 0 {
		return "", errors.New("it has no principals") // CheckCert takes it for all
	}
	for _, name := range cert.ValidPrincipals {
		is := false
		for _, p := range s.principals {
			p, not := strings.CutPrefix(p, "!")
			if !matches(p, name) {
				continue
			}
			if is = !not; not {
				break
			}
		}
		if is && name != "" {
			return name, nil
		}
	}
	return "", fmt.Errorf("allowed_signers does not trust that authority for %.300q", cert.ValidPrincipals)
}

// matches reports whether name matches a pattern, in which * stands for any characters
// and ? for one (PATTERNS of ssh_config(5)).
func matches(pattern, name string) bool {
	expr := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	ok, err := regexp.MatchString(`(?s)^`+expr+`$`, name)
	return err == nil && ok
}

// checkCert returns why a certificate does not vouch for a run. Its signature is
// checked, and that it is a user's.
func checkCert(cert *ssh.Certificate, name string, of Run) error {
	if cert.CertType != ssh.UserCert {
		return errors.New("it is no user's")
	}
	check := ssh.CertChecker{Clock: func() time.Time { return of.End }}
	if err := check.CheckCert(name, cert); err != nil {
		return err
	}
	// An orchestrator holds a CI job to these. They narrow what any other authority
	// says, too.
	if rights, ok := cert.Extensions[dial.ExtensionRights]; ok && !slices.Contains(strings.Fields(rights), "publish") {
		return errors.New("it is of a CI job that may read runs and publish none")
	}
	if commit := cert.Extensions[dial.ExtensionCommit]; commit != "" && commit != of.Commit {
		return fmt.Errorf("it is of a CI job of commit %.12q, and not of the run's", commit)
	}
	return nil
}

func equal(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// Trusts reports whether the key of that fingerprint is trusted itself, not by a
// certificate, and now.
func (s *Signers) Trusts(fingerprint string) bool {
	return slices.Contains(s.Fingerprints(), fingerprint)
}

// Fingerprints returns those of the keys that are trusted themselves, not by a
// certificate, and now.
func (s *Signers) Fingerprints() []string {
	var list []string
	now := time.Now()
	for _, one := range s.list {
		if _, known, err := one.vouches(one.key, Run{End: now}, now); known && err == nil && s.revokedBy(one.key) == "" {
			list = append(list, Fingerprint(one.key))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Names reports whether a line names the key of that fingerprint, though it may not
// be trusted now.
func (s *Signers) Names(fingerprint string) bool {
	return slices.ContainsFunc(s.list, func(one signer) bool { return Fingerprint(one.key) == fingerprint })
}

// Authorities reports whether certificates may be trusted: then Fingerprints does
// not name every signer.
func (s *Signers) Authorities() bool {
	return slices.ContainsFunc(s.list, func(one signer) bool {
		return one.authority && one.counts() && s.revokedBy(one.key) == ""
	})
}

// Add trusts one key under a name.
func (s *Signers) Add(name string, key ssh.PublicKey) {
	s.list = append(s.list, signer{name: name, key: key})
}

// AddFile trusts the signers of an allowed_signers file. It is no error if the file
// does not exist. warn is as for AddText.
func (s *Signers) AddFile(name string, warn func(error)) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.AddText(name, string(b), warn)
	return nil
}

// AddText trusts the signers of the text of an allowed_signers file. A line that
// cannot be read trusts nobody: warn is told of it, with the file's name and the
// number of the line.
func (s *Signers) AddText(name, text string, warn func(error)) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		one, err := parseSigner(line)
		if err != nil {
			warn(fmt.Errorf("%s:%d: the line is skipped: %w", name, i+1, err))
			continue
		}
		s.list = append(s.list, one)
	}
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
	s := signer{principals: strings.Split(principals, ","), key: key}
	s.name = s.principals[0]
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

// Fingerprint returns the SHA-256 fingerprint of a key in the form of ssh-keygen,
// SHA256:.... That of a certificate is its key's.
func Fingerprint(key ssh.PublicKey) string { return ssh.FingerprintSHA256(plain(key)) }

// plain returns the key of a certificate, or else the key itself.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// plainName is a principal that can stand in a line as it is.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@.:/_+-]*$`)

// Signer returns the fingerprint of the key that an armored signature names. It
// does not check the signature.
func Signer(armored []byte) (string, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return "", err
	}
	return Fingerprint(sig.PublicKey), nil
}

// Line returns the line of an allowed_signers file that would trust the key that an
// armored signature names or, if that is a certificate, its authority for its first
// principal. It checks nothing.
func Line(armored []byte) (string, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return "", err
	}
	name, key, options := "*", sig.PublicKey, `namespaces="`+Namespace+`"`
	if cert, ok := key.(*ssh.Certificate); ok {
		key, options = cert.SignatureKey, "cert-authority,"+options
		if len(cert.ValidPrincipals) > 0 && plainName.MatchString(cert.ValidPrincipals[0]) {
			name = cert.ValidPrincipals[0]
		}
	}
	return name + " " + options + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), nil
}
