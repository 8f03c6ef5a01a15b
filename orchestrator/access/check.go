package access

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs/ci"
	"9ci/orchestrator/revoked"
)

// A Finding is what is said of a file, or of one line of it: what it grants, or why it
// does not grant what it seems to.
type Finding struct {
	File  string
	Line  int    // from 1; 0: the file
	Who   string // the key's fingerprint and comment, or the pattern of identities; "" if it cannot be read
	Words string // what the line grants; "" if it grants nothing
	Err   error  // nil if all is well
}

// CheckKeys says what each line of a file of keys grants at the time now, to an
// operator. If authorities is true, every key is an authority. Own is the key of the
// orchestrator's, or nil. It reports an error if the file cannot be read.
func CheckKeys(path string, authorities bool, own ssh.PublicKey, now time.Time) ([]Finding, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Finding
	seen := make(map[string]int) // numbers of lines
	for n, line := range numbered(text) {
		key, l, err := parseLine(line)
		if err != nil {
			all = append(all, Finding{File: path, Line: n, Err: fmt.Errorf("%w: the line grants nothing", err)})
			continue
		}
		f := Finding{File: path, Line: n, Who: strings.TrimSpace(ssh.FingerprintSHA256(key) + " " + l.name)}
		l.authority = l.authority || authorities
		id := string(key.Marshal())
		if l.authority {
			id = authorityPrefix + id
		}
		switch first := seen[id]; {
		case l.authority && own != nil && bytes.Equal(key.Marshal(), own.Marshal()):
			f.Err = fmt.Errorf("it is the key of %s, whose certificates may do what their token or CI job may: this line grants nothing, take it out", authorityFile)
		case first > 0:
			f.Err = fmt.Errorf("line %d has the same key, and it counts: this one grants nothing; a key has one line", first)
		case !l.Expires.IsZero() && !now.Before(l.Expires):
			f.Err = fmt.Errorf("the line expired at %s and grants nothing: take it out, or give it a later expiry-time", ci.FormatTime(l.Expires))
		default:
			f.Words, f.Err = l.words(), l.idle()
		}
		if first := seen[id]; first == 0 {
			seen[id] = n
		}
		all = append(all, f)
	}
	return all, nil
}

// CheckRevoked returns an error if a file of revoked keys cannot be understood.
func CheckRevoked(path string) error {
	text, err := os.ReadFile(path)
	if err == nil {
		_, err = revoked.Parse(text)
	}
	return err
}

// CheckSources says what is wrong in a file of rules of Sources. It reports an error if
// the file cannot be read.
func CheckSources(path string) ([]Finding, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Finding
	var r sourceRules
	for n, line := range numbered(text) {
		if err := r.line(line); err != nil {
			all = append(all, Finding{File: path, Line: n, Err: fmt.Errorf("%w: the line changes nothing", err)})
		}
	}
	return all, nil
}

// TLSFiles returns the files of TLS in a state directory that are there, the lines last.
// The name of the one that is secret ends in .key.
func TLSFiles(dir string) (there []string) {
	for _, name := range []string{tlsKeyFile, tlsCertFile, tlsCAFile, tlsCRLFile, tlsLineFile} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			there = append(there, path)
		}
	}
	return there
}

// CheckTLS says what the files of TLS in a state directory grant at the time now. If
// only authorized_tls is there, or nothing, the others need not be.
func CheckTLS(dir string, now time.Time) []Finding {
	var all []Finding
	file := func(name string) string { return filepath.Join(dir, name) }
	find := func(name, words string, err error) {
		all = append(all, Finding{File: file(name), Words: words, Err: err})
	}
	there := TLSFiles(dir)
	if len(there) > 0 && there[0] != file(tlsLineFile) {
		ready := true
		for _, name := range tlsNeeded {
			if err := tlsMissing(dir, name); err != nil {
				find(name, "", err)
				ready = false
			}
		}
		if ready {
			checkPair(find, file, tlsCertFile, tlsKeyFile, "clients know the orchestrator", now)
		}
		if text, err := os.ReadFile(file(tlsCAFile)); err == nil {
			checkAuthorities(find, text, now)
		} else if ready {
			find(tlsCAFile, "", err)
		}
		if text, err := os.ReadFile(file(tlsCRLFile)); err == nil {
			checkRevocations(find, text, now)
		} else if !errors.Is(err, iofs.ErrNotExist) {
			find(tlsCRLFile, "", err)
		}
	}
	text, err := os.ReadFile(file(tlsLineFile))
	switch {
	case err == nil:
		all = append(all, checkNameLines(file(tlsLineFile), text, now)...)
	case len(there) > 0 && !errors.Is(err, iofs.ErrNotExist):
		find(tlsLineFile, "", err)
	case len(there) > 0:
		find(tlsLineFile, "it is not there, so no certificate may enter: the first start with -tls makes it, without lines", nil)
	}
	return all
}

// valid says until when c is valid. The error says that it is not.
func valid(c *x509.Certificate, now time.Time) (string, error) {
	switch {
	case now.After(c.NotAfter):
		return "", fmt.Errorf("the certificate of %s expired at %s: have the CA issue another", c.Subject, ci.FormatTime(c.NotAfter))
	case now.Before(c.NotBefore):
		return "", fmt.Errorf("the certificate of %s is not valid before %s: wait, or set this machine's clock", c.Subject, ci.FormatTime(c.NotBefore))
	}
	return "until " + ci.FormatTime(c.NotAfter), nil
}

// checkPair says how a server is known by the certificate of a file, with the key of another.
// Words are how its line begins.
func checkPair(find func(name, words string, err error), file func(string) string, certFile, keyFile, words string, now time.Time) {
	cert, err := os.ReadFile(file(certFile))
	if err != nil {
		find(certFile, "", err)
		return
	}
	key, err := os.ReadFile(file(keyFile))
	if err != nil {
		find(keyFile, "", err)
		return
	}
	pair, err := parsePair([][]byte{cert, key})
	if err != nil {
		find(certFile, "", fmt.Errorf("%w: it and %s are to be a pair", err, keyFile))
		return
	}
	until, err := valid(pair.Leaf, now)
	names := slices.Clone(pair.Leaf.DNSNames)
	for _, ip := range pair.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 && err == nil {
		err = errors.New("it has no DNS name and no address (subjectAltName), so no client takes it: have the CA issue another")
	}
	if err != nil {
		find(certFile, "", err)
		return
	}
	find(certFile, words+" by this certificate as "+list(names)+" "+until, nil)
}

func checkAuthorities(find func(name, words string, err error), text []byte, now time.Time) {
	if _, err := parseAuthorities([][]byte{text}); err != nil {
		find(tlsCAFile, "", err)
		return
	}
	eachPEM(text, "CERTIFICATE", func(der []byte) error {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		until, err := valid(c, now)
		if err == nil {
			until = c.Subject.String() + " vouches for clients " + until
		}
		find(tlsCAFile, until, err)
		return nil
	})
}

func checkRevocations(find func(name, words string, err error), text []byte, now time.Time) {
	lists, err := parseRevocations([][]byte{text})
	if err != nil {
		find(tlsCRLFile, "", err)
		return
	}
	for _, l := range lists {
		words := fmt.Sprintf("%s has revoked %d certificates", l.list.Issuer, len(l.serials))
		if next := l.list.NextUpdate; !next.IsZero() && now.After(next) {
			words += "; the next list was due at " + ci.FormatTime(next) + ", and this one counts until it is there"
		}
		find(tlsCRLFile, words, nil)
	}
}

func checkNameLines(path string, text []byte, now time.Time) (all []Finding) {
	seen := map[Pattern]int{} // numbers of lines
	for n, text := range numbered(text) {
		l, err := parseNameLine(string(text))
		f := Finding{File: path, Line: n, Who: string(l.pattern)}
		switch first := seen[l.pattern]; {
		case err != nil:
			f.Err = fmt.Errorf("%w: the line grants nothing, and no later one does to its identities", err)
		case first > 0:
			f.Err = fmt.Errorf("line %d has the same identities, and it counts: this one grants nothing", first)
		case !l.Expires.IsZero() && !now.Before(l.Expires):
			f.Err = fmt.Errorf("the line expired at %s and grants nothing: take it out, or give it a later expiry-time", ci.FormatTime(l.Expires))
		default:
			of := &line{Grant: l.Grant}
			f.Words, f.Err = of.words(), of.idle()
		}
		if l.pattern != "" && seen[l.pattern] == 0 {
			seen[l.pattern] = n
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		all = append(all, Finding{File: path, Words: "it has no lines, so no certificate may enter"})
	}
	return all
}

// words returns what the line grants, as a sentence without a subject.
func (l *line) words() string {
	var b strings.Builder
	if l.authority {
		if len(l.principals) > 0 {
			fmt.Fprintf(&b, "its certificates of %s ", list(l.principals))
		} else {
			b.WriteString("its certificates of any principal ")
		}
	}
	b.WriteString("may " + strings.Replace(l.Rights(), " ", " and ", 1))
	if len(l.Namespaces) == 0 {
		b.WriteString(" in all namespaces but local/NAME")
	} else {
		patterns := make([]string, len(l.Namespaces))
		for i, p := range l.Namespaces {
			patterns[i] = string(p)
		}
		b.WriteString(" in " + list(patterns))
	}
	if l.From != nil {
		b.WriteString(", from " + l.From.String() + ",")
	}
	if !l.Expires.IsZero() {
		b.WriteString(" until " + ci.FormatTime(l.Expires))
	}
	return strings.TrimSuffix(b.String(), ",")
}

func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return words[0]
}

// idle returns an error that names patterns of the line that no namespace can
// match.
func (l *line) idle() error {
	var errs []error
	for _, p := range l.Namespaces {
		if p.literal() {
			if _, err := ci.CleanNamespace(string(p)); err != nil {
				errs = append(errs, fmt.Errorf("there can be no such namespace: %w; a pattern PREFIX/... is for all that follows", err))
			}
			continue
		}
		n := strings.Count(string(p), "/") + 1
		if !strings.HasSuffix(string(p), "...") && n < 3 && !(n == 2 && ci.LocalNamespace(string(p))) {
			errs = append(errs, fmt.Errorf("namespace pattern %q matches nothing, for a namespace is host/owner/repo: a last element ... is for all that follows", string(p)))
		}
	}
	return errors.Join(errs...)
}
