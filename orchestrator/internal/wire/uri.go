package wire

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// maxURI is how many bytes the identity in a certificate has at most: SPIFFE-ID §2.3.
const maxURI = 2048

// Identity returns the identity in a TLS certificate: its only URI, which is
// ci:NAME or spiffe://TRUST-DOMAIN/PATH. As SPIFFE has it (X509-SVID §2), a
// certificate with another URI beside it has none, and neither has a CA's.
func Identity(cert *x509.Certificate) (string, error) {
	switch {
	case cert.IsCA:
		return "", errors.New("the certificate is a CA's, not a client's")
	case len(cert.URIs) == 0:
		return "", errors.New("the certificate has no URI ci:NAME or spiffe://... among its subject alternative names")
	case len(cert.URIs) > 1:
		return "", fmt.Errorf("the certificate has %d URIs among its subject alternative names: want one, which is its identity", len(cert.URIs))
	}
	uri := cert.URIs[0].String()
	return uri, CheckURI(uri)
}

// CheckURI returns why uri is no identity: ci:NAME or spiffe://TRUST-DOMAIN/PATH,
// where NAME and PATH are elements of letters, digits, dots, dashes and underlines
// with slashes between them (SPIFFE-ID §2.1 and 2.2).
func CheckURI(uri string) error {
	bad := fmt.Errorf("identity %.100q: want ci:NAME or spiffe://TRUST-DOMAIN/PATH, of letters, digits, dots, dashes, underlines and slashes", uri)
	if len(uri) > maxURI {
		return bad
	}
	path, ok := strings.CutPrefix(uri, "ci:")
	if !ok {
		rest, ok := strings.CutPrefix(uri, "spiffe://")
		if !ok {
			return bad
		}
		var domain string
		if domain, path, ok = strings.Cut(rest, "/"); !ok || domain == "" || len(domain) > maxName || strings.ToLower(domain) != domain || CheckExecutor("x"+domain) != nil {
			return bad
		}
	}
	for e := range strings.SplitSeq(path, "/") {
		if CheckExecutor(e) != nil {
			return bad
		}
	}
	return nil
}
