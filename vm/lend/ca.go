package lend

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Where a Debian has certificates of CAs: all of them in one file, its own, and those
// that its administrator added. The core OS is one.
const (
	caBundle = "/etc/ssl/certs/ca-certificates.crt"
	caDebian = "/usr/share/ca-certificates"
	caLocal  = "/usr/local/share/ca-certificates"
)

// bundles are where systems have all certificates, as crypto/x509 looks for them.
var bundles = []string{
	caBundle,
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// authorities lends the certificates of the CAs that this host trusts, if it trusts
// more than Debian does. The files are as update-ca-certificates(8) wants them, so
// one that is run in the machine keeps them.
func (l *Loan) authorities() {
	var bundle []byte
	for _, name := range append([]string{os.Getenv("SSL_CERT_FILE")}, bundles...) {
		if b, err := os.ReadFile(name); err == nil && name != "" {
			bundle = b
			break
		}
	}
	all := certificates(bundle)
	debian := make(map[[32]byte]bool)
	filepath.WalkDir(caDebian, func(name string, d iofs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, _ := os.ReadFile(name)
			maps.Copy(debian, sums(certificates(b)))
		}
		return nil
	})
	l.lendCAs(all, debian)
}

// sums returns the digests of certificates.
func sums(all []*pem.Block) map[[32]byte]bool {
	m := make(map[[32]byte]bool)
	for _, c := range all {
		m[sha256.Sum256(c.Bytes)] = true
	}
	return m
}

// maxCAs is the most that is lent of certificates, in bytes: they are in one message
// to the guest with all else that the machine starts with (guest.MaxSize), in base64.
const maxCAs = 512 << 10

// lendCAs lends the bundle all, if it has more than the CAs of debian.
func (l *Loan) lendCAs(all []*pem.Block, debian map[[32]byte]bool) {
	var bundle bytes.Buffer
	own := make(map[string]string) // files by name
	size := 0
	for _, c := range all {
		text := string(pem.EncodeToMemory(c))
		bundle.WriteString(text)
		size += len(text)
		if sum := sha256.Sum256(c.Bytes); !debian[sum] {
			own[fmt.Sprintf("%s/host-%x.crt", caLocal, sum[:8])] = text
			size += len(text)
		}
	}
	switch {
	case len(own) == 0:
		return
	case size > maxCAs:
		l.warn("the host's certificates of CAs are not lent: they take %d bytes, and at most %d are: set SSL_CERT_FILE to a file of those that a machine needs", size, maxCAs)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		l.file(name, own[name])
	}
	l.file(caBundle, bundle.String())
	// For programs that look into the directory of hashed names.
	l.Env = append(l.Env, "SSL_CERT_FILE="+caBundle, "NODE_EXTRA_CA_CERTS="+caBundle)
}

// certificates returns the certificates of a file, each once, and nothing else that
// may stand in it.
func certificates(b []byte) []*pem.Block {
	var out []*pem.Block
	seen := make(map[string]bool)
	for {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			return out
		}
		if p.Type == "CERTIFICATE" && !seen[string(p.Bytes)] {
			seen[string(p.Bytes)] = true
			out = append(out, &pem.Block{Type: p.Type, Bytes: p.Bytes})
		}
	}
}
