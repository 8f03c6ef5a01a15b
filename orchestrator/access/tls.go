package access

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"9ci/orchestrator/internal/wire"
)

// The files of mutual TLS in a state directory.
const (
	tlsCertFile = "tls.crt"        // the server's certificate, with intermediate ones
	tlsKeyFile  = "tls.key"        // its key
	tlsCAFile   = "tls-ca.pem"     // the CAs of clients
	tlsCRLFile  = "tls-crl.pem"    // what these have revoked; it need not be there
	tlsLineFile = "authorized_tls" // what the identities may do
)

// TLS says who may enter by mutual TLS: the client certificates of the CAs in
// tls-ca.pem, with the rights of the first line of authorized_tls whose pattern
// matches the identity. A line has the options of authorized_keys, and then a pattern
// as namespaces have it. Without a line a CA grants nothing.
//
// TLS reads its files again when these have changed. While one cannot be read, what
// was last read of it stands, and the log says so.
type TLS struct {
	pair  *watched[*tls.Certificate]
	cas   *watched[authorities]
	crls  *watched[[]revocations]
	lines *watched[[]nameLine]

	changes changes
}

// NewTLS returns the TLS of a state directory. It makes authorized_tls, which grants
// nothing then, unless it is there. The error for a file that is not there says how
// to make it.
func NewTLS(dir string, log *slog.Logger) (*TLS, error) {
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := makeFile(file(tlsLineFile), authorizedTLSHead); err != nil {
		return nil, err
	}
	for _, name := range tlsNeeded {
		if err := tlsMissing(dir, name); err != nil {
			return nil, err
		}
	}
	t := &TLS{}
	var errs [4]error
	t.pair, errs[0] = watch([]string{file(tlsCertFile), file(tlsKeyFile)}, parsePair, nil, log)
	t.cas, errs[1] = watch([]string{file(tlsCAFile)}, parseAuthorities, t.changes.note, log)
	t.crls, errs[2] = watch([]string{file(tlsCRLFile)}, parseRevocations, t.changes.note, log)
	t.lines, errs[3] = watch([]string{file(tlsLineFile)}, func(text [][]byte) ([]nameLine, error) {
		return parseNameLines(file(tlsLineFile), text[0], log), nil
	}, t.changes.note, log)
	return t, errors.Join(errs[:]...)
}

// tlsNeeded are the files without which there is no TLS, in the order in which they
// are made.
var tlsNeeded = []string{tlsCAFile, tlsCertFile, tlsKeyFile}

// TLSNeeded returns the files of a state directory without which no client may enter by
// TLS.
func TLSNeeded(dir string) (all []string) {
	for _, name := range append(slices.Clone(tlsNeeded), tlsLineFile) {
		all = append(all, filepath.Join(dir, name))
	}
	return all
}

// tlsMissing returns an error that says how to make a file of dir, unless it is there.
func tlsMissing(dir, name string) error {
	if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	server := fmt.Sprintf("openssl req -x509 -newkey ed25519 -nodes -days 365 -subj /CN=HOST -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST -CA %s -CAkey ca.key -keyout %s -out %s",
		file(tlsCAFile), file(tlsKeyFile), file(tlsCertFile))
	of := map[string]struct{ what, mend string }{
		tlsCAFile: {"the certificates of the CAs whose clients may enter",
			fmt.Sprintf("openssl req -x509 -newkey ed25519 -nodes -days 3650 -subj /CN=ci -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out %s", file(tlsCAFile))},
		tlsCertFile: {"the orchestrator's own certificate", server},
		tlsKeyFile:  {"the key of its certificate", server},
	}[name]
	return fmt.Errorf("%s, %s, is not there: have your CA issue it, or make one: %s", file(name), of.what, of.mend)
}

// Changed returns a channel that is closed when any client may have another login than
// at present.
func (t *TLS) Changed() <-chan struct{} {
	t.cas.get()
	t.crls.get()
	t.lines.get()
	return t.changes.next()
}

// Config returns the server's side of a handshake as the files have it now. Protocol
// returns the one of the protocols that a client offers (RFC 7301) that is to be
// spoken, or "" if none is known; a client may also offer none. A handshake in which a
// certificate is refused ends with a *tls.CertificateVerificationError.
func (t *TLS) Config(protocol func(offered []string) string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			next := []string{protocol(hello.SupportedProtos)}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{*t.pair.get()},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    t.cas.get().pool,
				NextProtos:   next,
				// A session that is resumed has no handshake to check a certificate in.
				SessionTicketsDisabled: true,
				VerifyConnection: func(cs tls.ConnectionState) error {
					_, err := t.Enter(cs.PeerCertificates, hello.Conn.RemoteAddr())
					if err != nil {
						return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
					}
					return nil
				},
			}, nil
		},
	}
}

// Enter returns the login of a client at an address with that certificate, which may be
// followed by intermediate ones. It expires with the line or the first of the certificates. The
// error says why the certificate may not enter, for the log.
func (t *TLS) Enter(certs []*x509.Certificate, from net.Addr) (*Login, error) {
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: t.cas.get().pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	chain, err := t.unrevoked(chains)
	if err != nil {
		return nil, err
	}
	uri, err := wire.Identity(certs[0])
	if err != nil {
		return nil, err
	}
	lines := t.lines.get()
	i := slices.IndexFunc(lines, func(l nameLine) bool { return l.pattern.Match(uri) })
	if i < 0 {
		return nil, fmt.Errorf("no line of %s is for %s", tlsLineFile, uri)
	}
	g := lines[i].Grant
	if !g.Read && !g.Publish {
		return nil, fmt.Errorf("the line of %s cannot be read", uri)
	}
	if !g.Expires.IsZero() && !time.Now().Before(g.Expires) {
		return nil, fmt.Errorf("the line of %s has expired", uri)
	}
	if !g.From.Match(from) {
		return nil, fmt.Errorf("the line of %s does not let it in from %v", uri, from)
	}
	for _, c := range chain {
		if g.Expires.IsZero() || c.NotAfter.Before(g.Expires) {
			g.Expires = c.NotAfter
		}
	}
	return &Login{Identity{URI: uri, Name: uri[strings.LastIndexAny(uri, "/:")+1:]}, g}, nil
}

// unrevoked returns the first of the chains of which no CA has revoked anything.
func (t *TLS) unrevoked(chains [][]*x509.Certificate) ([]*x509.Certificate, error) {
	var first error
	for _, chain := range chains {
		var err error
		for i := 0; i+1 < len(chain) && err == nil; i++ {
			err = check(t.crls.get(), chain[i], chain[i+1])
		}
		if err == nil {
			return chain, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// A revocations is a certificate revocation list (RFC 5280 §5).
type revocations struct {
	list    *x509.RevocationList
	serials map[string]bool
}

// check returns an error if one of the lists is of the issuer of cert and has cert,
// or only claims to be of that issuer. A list counts after its next update too.
func check(lists []revocations, cert, issuer *x509.Certificate) error {
	for _, r := range lists {
		if !bytes.Equal(r.list.RawIssuer, issuer.RawSubject) {
			continue
		}
		if a, b := r.list.AuthorityKeyId, issuer.SubjectKeyId; len(a) > 0 && len(b) > 0 && !bytes.Equal(a, b) {
			continue // of another key of that CA
		}
		if err := r.list.CheckSignatureFrom(issuer); err != nil {
			return fmt.Errorf("the revocation list of %s: %w", issuer.Subject, err)
		}
		if r.serials[cert.SerialNumber.String()] {
			return fmt.Errorf("the certificate %s of %s is revoked", cert.SerialNumber, cert.Subject)
		}
	}
	return nil
}

// authorities are the CAs of clients.
type authorities struct{ pool *x509.CertPool }

func parseAuthorities(text [][]byte) (authorities, error) {
	a := authorities{x509.NewCertPool()}
	n := 0
	err := eachPEM(text[0], "CERTIFICATE", func(der []byte) error {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if !cert.IsCA || !cert.BasicConstraintsValid {
			return fmt.Errorf("%s is no CA's certificate", cert.Subject)
		}
		a.pool.AddCert(cert)
		n++
		return nil
	})
	if err == nil && n == 0 {
		err = errors.New("it has no certificate in PEM")
	}
	return a, err
}

func parseRevocations(text [][]byte) (all []revocations, err error) {
	err = eachPEM(text[0], "X509 CRL", func(der []byte) error {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		r := revocations{list, make(map[string]bool, len(list.RevokedCertificateEntries))}
		for _, e := range list.RevokedCertificateEntries {
			r.serials[e.SerialNumber.String()] = true
		}
		all = append(all, r)
		return nil
	})
	return all, err
}

// eachPEM calls f for each block of a text, all of which are of that type.
func eachPEM(text []byte, of string, f func(der []byte) error) error {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			if bytes.Contains(text, []byte("-----BEGIN")) {
				return errors.New("a block that is no PEM")
			}
			return nil
		}
		if block.Type != of {
			return fmt.Errorf("a block %q: want %q", block.Type, of)
		}
		if err := f(block.Bytes); err != nil {
			return err
		}
	}
}

func parsePair(text [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(text[0], text[1])
	return &pair, err
}

// A nameLine is a line of authorized_tls.
type nameLine struct {
	Grant
	pattern Pattern
}

// parseNameLines reads authorized_tls. A line that it cannot read is logged and grants
// nothing. As it may have been meant to narrow what a later one grants, the identities
// that its last word matches get nothing from that either.
func parseNameLines(path string, text []byte, log *slog.Logger) (lines []nameLine) {
	eachLine(path, text, log, func(text []byte) error {
		l, err := parseNameLine(string(text))
		if l.pattern != "" {
			lines = append(lines, l)
			if err != nil {
				err = fmt.Errorf("%w; no later line grants %s anything either", err, l.pattern)
			}
		}
		return err
	})
	return lines
}

// parseNameLine reads one line, OPTIONS PATTERN or PATTERN. With an error, it returns
// the pattern if that can be read.
func parseNameLine(text string) (nameLine, error) {
	options, pattern := "", text
	if i := strings.LastIndexAny(text, " \t"); i >= 0 {
		options, pattern = strings.TrimSpace(text[:i]), text[i+1:]
	}
	p, err := parseNamePattern(pattern)
	if err != nil {
		return nameLine{}, err
	}
	var l line
	for _, o := range splitOptions(options) {
		if err := l.option(o); err != nil {
			return nameLine{pattern: p}, err
		}
	}
	if l.authority || len(l.principals) > 0 {
		return nameLine{pattern: p}, errors.New("cert-authority and principals are for keys: the CAs are those of " + tlsCAFile)
	}
	if !l.Read && !l.Publish {
		l.Read, l.Publish = true, true
	}
	return nameLine{l.Grant, p}, nil
}

// parseNamePattern reads a pattern of identities. Of its elements, the first ends at
// the first slash, and the last may be "...".
func parseNamePattern(s string) (Pattern, error) {
	// What a pattern stands for is an identity once its wildcards are letters.
	plain := strings.NewReplacer("*", "x", "?", "x").Replace(s)
	if prefix, ok := strings.CutSuffix(plain, "/..."); ok {
		plain = prefix + "/x"
	}
	if err := wire.CheckURI(plain); err != nil {
		return "", fmt.Errorf("%w; * matches in an element, a last ... all that follows", err)
	}
	return Pattern(s), nil
}

// splitOptions splits options at the commas that stand in no double quotes.
func splitOptions(s string) (options []string) {
	if s == "" {
		return nil
	}
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted && i+1 < len(s) && s[i+1] == '"':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			options = append(options, s[start:i])
			start = i + 1
		}
	}
	return append(options, s[start:])
}

const authorizedTLSHead = `# Who may enter by TLS: options as in authorized_keys, then the identity in the
# certificates, ci:NAME or spiffe://TRUST-DOMAIN/PATH. The first line that matches counts.
#	namespace="github.com/alice/hello"	only there; * matches in an element, a last ... all that follows
#	read	publish				only that; with neither, both
#	expiry-time="20270101Z"
#	from="203.0.113.0/24,!203.0.113.9"	only from these addresses
# For example:
#	namespace="github.com/alice/*",read ci:reader-*
#	namespace="github.com/alice/..." spiffe://example.org/ci/...
# An edit counts at once.
`
