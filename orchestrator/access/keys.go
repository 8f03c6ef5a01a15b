package access

import (
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/revoked"
)

// Keys are the keys and authorities that may enter: the lines of
// authorized_keys, and of a file in which every key is an authority; but none that
// is revoked. They read the files again when these have changed, so an edit counts
// at once. While a file cannot be read or is gone, what it said last stands.
type Keys struct {
	files   []*watched[lines] // the first line of a key counts
	revoked *watched[*revoked.List]
	changes changes
}

// lines are the lines of a file by the key's wire form. That of an authority has
// an "authority " before it.
type lines map[string]line

// Files are the files of Keys.
type Files struct {
	Keys        string // authorized_keys
	Authorities string // of keys that are trusted to sign certificates; "": none
	Revoked     string // a KRL or public keys, as revoked.Parse reads them; "": none
}

// NewKeys returns the Policy of files. It logs each line that it cannot read, now
// and after each edit; such a line grants nothing, and neither does a file that is
// not there. A list of revoked keys that has an error counts as a whole or not at
// all. It reports an error if a file is there and cannot be read.
func NewKeys(f Files, log *slog.Logger) (*Keys, error) {
	k := &Keys{}
	for _, from := range []keyfile{{path: f.Keys}, {path: f.Authorities, authorities: true}} {
		if from.path == "" {
			continue
		}
		w, err := watchFile(from.path, func(text []byte) (lines, error) { return from.parse(text, log), nil }, k.changes.note, log)
		if err != nil {
			return nil, err
		}
		k.files = append(k.files, w)
	}
	if f.Revoked != "" {
		var err error
		if k.revoked, err = watchFile(f.Revoked, revoked.Parse, k.changes.note, log); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// Changed is Policy's.
func (k *Keys) Changed() <-chan struct{} {
	k.load()
	return k.changes.next()
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
	all, gone := k.load()
	if gone.Has(key) {
		return line{}, errors.New("this key is revoked")
	}
	id, none := string(key.Marshal()), "this key is not in authorized_keys"
	if cert, ok := key.(*ssh.Certificate); ok {
		id, none = authorityPrefix+string(cert.SignatureKey.Marshal()), "certificate of an authority that is not trusted"
	}
	for _, lines := range all {
		if l, ok := lines[id]; ok {
			return l, nil
		}
	}
	return line{}, errors.New(none)
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

// load returns what the files say now.
func (k *Keys) load() (all []lines, gone *revoked.List) {
	for _, f := range k.files {
		all = append(all, f.get())
	}
	if k.revoked != nil {
		gone = k.revoked.get()
	}
	return all, gone
}

// A keyfile is a file of lines.
type keyfile struct {
	path        string
	authorities bool // every key is an authority
}

// parse returns the lines of text. A line that it cannot read is logged and grants
// nothing.
func (f keyfile) parse(text []byte, log *slog.Logger) lines {
	all := lines{}
	eachLine(f.path, text, log, func(text []byte) error {
		key, l, err := parseLine(text)
		if err != nil {
			return err
		}
		id := string(key.Marshal())
		if l.authority || f.authorities {
			id = authorityPrefix + id
		}
		if _, ok := all[id]; ok {
			return errors.New("it is the second one for the same key")
		}
		all[id] = l
		return nil
	})
	return all
}

const authorizedKeysHead = `# Who may enter: a public key a line, as in sshd(8). Options, before the key:
#	namespace="github.com/alice/hello"	only there; * matches in an element, a last ... all that follows
#	read	publish				only that; with neither, both
#	expiry-time="20270101Z"
#	from="203.0.113.0/24,!203.0.113.9"	only from these addresses
#	cert-authority,principals="github:123"	certificates that this key has signed
# An edit counts at once.
`

// MakeAuthorizedKeys makes the file path, which then grants nothing and says how
// to write a line, unless it is there.
func MakeAuthorizedKeys(path string) error { return makeFile(path, authorizedKeysHead) }

// makeFile makes a file with that text, unless it is there.
func makeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, iofs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
