package orchestrator

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// errUnknownKey is what a key that no line grants anything gets.
var errUnknownKey = errors.New("this key is not in authorized_keys")

// A keyring is the keys and authorities that may enter: the lines of
// authorized_keys, and of a file in which every key is an authority. The files
// are read again when they have changed, so an edit counts at once.
type keyring struct {
	log   *slog.Logger
	files []keyfile

	mu    sync.Mutex // guards what follows
	seen  []iofs.FileInfo
	lines map[string]line // by the key's wire form; an authority has an "authority " before it
}

type keyfile struct {
	path        string
	authorities bool // every key is an authority
}

// authorize returns what key may do.
func (k *keyring) authorize(key ssh.PublicKey) (*grant, error) {
	lines := k.load()
	if cert, ok := key.(*ssh.Certificate); ok {
		return authorizeCert(lines, cert)
	}
	l, ok := lines[string(key.Marshal())]
	if !ok {
		return nil, errUnknownKey
	}
	if !l.expires.IsZero() && !time.Now().Before(l.expires) {
		return nil, errors.New("this key has expired")
	}
	return &l.grant, nil
}

// authorizeCert returns what the first principal of cert that its authority's
// line takes may do. A certificate without principals is refused: CheckCert
// would take it for anybody's.
func authorizeCert(lines map[string]line, cert *ssh.Certificate) (*grant, error) {
	if cert.CertType != ssh.UserCert {
		return nil, errors.New("not a user certificate")
	}
	l, ok := lines[authorityPrefix+string(cert.SignatureKey.Marshal())]
	if !ok {
		return nil, errors.New("certificate of an authority that is not trusted")
	}
	if !l.expires.IsZero() && !time.Now().Before(l.expires) {
		return nil, errors.New("the certificate's authority has expired")
	}
	i := slices.IndexFunc(cert.ValidPrincipals, func(p string) bool {
		return p != "" && (len(l.principals) == 0 || slices.Contains(l.principals, p))
	})
	if i < 0 {
		return nil, errors.New("certificate without a principal that its authority may vouch for")
	}
	// The ssh package itself holds a client to source-address.
	check := ssh.CertChecker{SupportedCriticalOptions: []string{"source-address"}}
	if err := check.CheckCert(cert.ValidPrincipals[i], cert); err != nil {
		return nil, err
	}
	g := l.grant
	g.name = cert.ValidPrincipals[i]
	return &g, nil
}

const authorityPrefix = "authority "

// load returns the lines as the files have them now. A file that cannot be read
// grants nothing.
func (k *keyring) load() map[string]line {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := make([]iofs.FileInfo, len(k.files))
	for i, f := range k.files {
		seen[i], _ = os.Stat(f.path)
	}
	if k.lines != nil && slices.EqualFunc(seen, k.seen, sameFile) {
		return k.lines
	}
	lines := map[string]line{}
	for _, f := range k.files {
		if err := readKeys(f, lines, k.log); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			k.log.Error("keys", "err", err)
		}
	}
	k.seen, k.lines = seen, lines
	return lines
}

func sameFile(a, b iofs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// readKeys adds the lines of one file. A bad line is logged and grants nothing.
func readKeys(f keyfile, lines map[string]line, log *slog.Logger) error {
	b, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	n := 0
	for text := range bytes.Lines(b) {
		n++
		text = bytes.TrimSpace(text)
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		key, l, err := parseLine(text)
		if err != nil {
			log.Error("keys", "err", fmt.Errorf("%s:%d: %w", f.path, n, err))
			continue
		}
		id := string(key.Marshal())
		if l.authority || f.authorities {
			id = authorityPrefix + id
		}
		if _, ok := lines[id]; ok {
			log.Error("keys", "err", fmt.Errorf("%s:%d: a second line for the same key", f.path, n))
			continue
		}
		lines[id] = l
	}
	return nil
}
