package access

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

// Keys are the keys and authorities that may enter: the lines of
// authorized_keys, and of a file in which every key is an authority. They read
// the files again when these have changed, so an edit counts at once.
type Keys struct {
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

// NewKeys returns the Policy of the file authorizedKeys and, unless it is "", of
// the file authorities, whose keys are trusted to sign certificates. It logs
// each line that it cannot read, now and after each edit; such a line grants
// nothing, and neither does a file that is not there.
func NewKeys(authorizedKeys, authorities string, log *slog.Logger) *Keys {
	k := &Keys{log: log, files: []keyfile{{path: authorizedKeys}}}
	if authorities != "" {
		k.files = append(k.files, keyfile{path: authorities, authorities: true})
	}
	k.load()
	return k
}

// Identify is Policy's. The identity of a certificate is the first of its
// principals that the line of its authority accepts.
func (k *Keys) Identify(key ssh.PublicKey) (Identity, error) {
	l, err := k.line(key)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Key: key, Name: l.name}
	if cert, ok := key.(*ssh.Certificate); ok {
		if id.Name, err = l.principal(cert); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}

// Grant is Policy's.
func (k *Keys) Grant(id Identity) (Grant, error) {
	l, err := k.line(id.Key)
	if err != nil {
		return Grant{}, err
	}
	if !l.Expires.IsZero() && !time.Now().Before(l.Expires) {
		return Grant{}, errors.New("the line of this key has expired")
	}
	return l.Grant, nil
}

// line returns the line of a key, or that of a certificate's authority.
func (k *Keys) line(key ssh.PublicKey) (line, error) {
	lines := k.load()
	if cert, ok := key.(*ssh.Certificate); ok {
		l, ok := lines[authorityPrefix+string(cert.SignatureKey.Marshal())]
		if !ok {
			return line{}, errors.New("certificate of an authority that is not trusted")
		}
		return l, nil
	}
	l, ok := lines[string(key.Marshal())]
	if !ok {
		return line{}, errors.New("this key is not in authorized_keys")
	}
	return l, nil
}

// principal returns the first principal of cert that the authority of l may
// vouch for. It refuses a certificate without principals, which CheckCert would
// accept for every principal.
func (l line) principal(cert *ssh.Certificate) (string, error) {
	if cert.CertType != ssh.UserCert {
		return "", errors.New("not a user certificate")
	}
	i := slices.IndexFunc(cert.ValidPrincipals, func(p string) bool {
		return p != "" && (len(l.principals) == 0 || slices.Contains(l.principals, p))
	})
	if i < 0 {
		return "", errors.New("certificate without a principal that its authority may vouch for")
	}
	// The ssh package itself holds a client to source-address.
	check := ssh.CertChecker{SupportedCriticalOptions: []string{"source-address"}}
	return cert.ValidPrincipals[i], check.CheckCert(cert.ValidPrincipals[i], cert)
}

const authorityPrefix = "authority "

// load returns the lines as the files have them now.
func (k *Keys) load() map[string]line {
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

// readKeys adds the lines of one file. A line that it cannot read is logged and
// grants nothing.
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

const authorizedKeysHead = `# Who may enter: a public key a line, as in sshd(8). Options, before the key:
#	namespace="github.com/alice/hello"	only there; * matches in an element, a last ... all that follows
#	read	publish				only that; with neither, both
#	expiry-time="20270101Z"
#	cert-authority,principals="github:123"	certificates that this key has signed
# An edit counts at once.
`

// MakeAuthorizedKeys makes the file path, which then grants nothing and says how
// to write a line, unless it is there.
func MakeAuthorizedKeys(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, iofs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(authorizedKeysHead)
	return errors.Join(err, f.Close())
}
