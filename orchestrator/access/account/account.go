// Package account keeps the accounts of people: of each one who they are, what they log
// in with, and where they are logged in.
//
// An account is a file, so that an operator can read it and delete it: accounts/PRINCIPAL
// of the state directory. Its principal is a stable id, github:123 or passkey:8a6f…, never
// a login name, which may go to somebody else. Its file lets a reader in nowhere: of
// sessions and invitations there are digests, of passkeys public keys, and the token of a
// forge is sealed by those who ask that forge.
package account

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// accountsDir is the directory of the accounts, in the state directory.
const accountsDir = "accounts"

// How many of each an account has at most. The oldest session or key makes way; one
// more passkey is refused.
const (
	maxSessions = 16
	MaxPasskeys = 16
	maxKeys     = 64
)

// An Account is what is known of a person.
type Account struct {
	Principal  string
	Name       string           // as they call themselves, for people; it may be any text
	Login      string           // at the forge at present; "" without one
	Forge      string           // the name of the forge that vouched for them last; "" of none
	Made, Last time.Time        // when the account was made, and when it last logged in
	Namespaces []access.Pattern // that it may read and publish by an invitation, whatever a forge says
	Handle     []byte           // names the account in its passkeys: random; nil before the first
	ForgeToken []byte           // what the forge gave to ask it as that person, sealed; nil if there is none
	Passkeys   []Passkey
	Sessions   []Session
	Keys       []Key
}

// A Passkey is a WebAuthn credential (https://www.w3.org/TR/webauthn-3/#credential-record).
type Passkey struct {
	ID             []byte // of the credential
	Name           string // as its owner calls it
	Public         []byte // the public key in COSE form
	Count          uint32 // its signatures, if it counts them
	BackupEligible bool   // whether it can be copied to other devices: never changes
	BackedUp       bool   // whether it has been
	Transports     []string
	Made, Used     time.Time
}

// A Key is an SSH key that the account has approved.
type Key struct {
	Fingerprint string
	From        string // the address that asked
	Made        time.Time
}

// A Session is a browser that is logged in.
type Session struct {
	ID      string // names it on pages: a digest of what lets the browser in
	By      string // what it logged in with: a forge's name, or "passkey"
	From    string // the address
	Agent   string // what the browser calls itself
	Made    time.Time
	Expires time.Time
}

// A Store is the accounts of a state directory. The files may be changed by others while
// it is used.
type Store struct {
	dir statedir.Dir

	mu      sync.Mutex // is held while a file is changed
	handles sync.Map   // principals by handle, as far as they have been seen
}

// Open returns the accounts of a state directory, which is there.
func Open(dir string) (*Store, error) {
	s := &Store{dir: statedir.Dir(dir)}
	return s, s.dir.MakeDir(accountsDir)
}

// Get returns the account of a principal. The error is fs.ErrNotExist of io/fs if there is
// none.
func (s *Store) Get(principal string) (*Account, error) {
	name, err := fileName(principal)
	if err != nil {
		return nil, err
	}
	text, err := s.dir.Read(name)
	if err != nil {
		return nil, err
	}
	if text == nil {
		return nil, &os.PathError{Op: "open", Path: s.dir.Path(name), Err: iofs.ErrNotExist}
	}
	a, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.dir.Path(name), err)
	}
	if a.Principal != principal {
		return nil, fmt.Errorf("%s: it is of %s: name it %s", s.dir.Path(name), a.Principal, a.Principal)
	}
	return a, nil
}

// ByHandle returns the account whose handle that is. The error is fs.ErrNotExist of io/fs
// if there is none.
func (s *Store) ByHandle(handle []byte) (*Account, error) {
	of := func() (*Account, error) {
		principal, ok := s.handles.Load(string(handle))
		if !ok {
			return nil, iofs.ErrNotExist
		}
		a, err := s.Get(principal.(string))
		if err == nil && string(a.Handle) != string(handle) {
			err = iofs.ErrNotExist
		}
		return a, err
	}
	if len(handle) != handleSize {
		return nil, iofs.ErrNotExist
	}
	if a, err := of(); err == nil {
		return a, nil
	}
	files, err := os.ReadDir(s.dir.Path(accountsDir))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		// One that cannot be read keeps nobody else out.
		if text, err := os.ReadFile(s.dir.Path(accountsDir + "/" + f.Name())); err == nil {
			if a, err := parse(text); err == nil && len(a.Handle) > 0 {
				s.handles.Store(string(a.Handle), a.Principal)
			}
		}
	}
	return of()
}

// Change changes the account of a principal: f changes what it is given. If f reports an
// error, nothing is changed, and that is the error. Nobody else changes an account
// meanwhile.
func (s *Store) Change(principal string, f func(*Account) error) error {
	return s.locked(func() error { return s.change(principal, f) })
}

func (s *Store) change(principal string, f func(*Account) error) error {
	a, err := s.Get(principal)
	if err != nil {
		return err
	}
	if err := f(a); err != nil {
		return err
	}
	return s.write(a)
}

// locked calls f with the lock of the directory held.
func (s *Store) locked(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir.Locked(f)
}

func (s *Store) write(a *Account) error {
	name, err := fileName(a.Principal)
	if err != nil {
		return err
	}
	if err := s.dir.Write(name, a.text()); err != nil {
		return err
	}
	if len(a.Handle) > 0 {
		s.handles.Store(string(a.Handle), a.Principal)
	}
	return nil
}

// A Person is one for whom a forge vouches.
type Person struct {
	Principal string // stable: github:ID and gitlab:ID of github.com and gitlab.com, else HOST:ID
	Login     string // at present
	Name      string // as they call themselves
}

// Enter makes the account of a person whom a forge vouches for, unless there is one, and
// notes what the forge says. Token is the forge's, sealed; nil if it gave none.
func (s *Store) Enter(p Person, forge string, token []byte) error {
	return s.locked(func() error {
		a, err := s.Get(p.Principal)
		if errors.Is(err, iofs.ErrNotExist) {
			a, err = &Account{Principal: p.Principal, Made: time.Now()}, nil
		}
		if err != nil {
			return err
		}
		a.Login, a.Name, a.Forge, a.ForgeToken = clean(p.Login), clean(p.Name), clean(forge), token
		return s.write(a)
	})
}

// Called returns what to call the account on a page: its name, its login or its
// principal.
func (a *Account) Called() string {
	for _, s := range []string{a.Name, a.Login} {
		if strings.TrimSpace(s) != "" {
			return s
		}
	}
	return a.Principal
}

// handleSize is how many bytes a handle has: as many as WebAuthn recommends.
const handleSize = 64

// NewHandle gives the account a handle, unless it has one.
func (a *Account) NewHandle() {
	if a.Handle == nil {
		a.Handle = make([]byte, handleSize)
		rand.Read(a.Handle)
	}
}

// NewPrincipal returns the principal of a new account without a forge.
func NewPrincipal() string {
	b := make([]byte, 10)
	rand.Read(b)
	return "passkey:" + hex.EncodeToString(b)
}

// Approve notes that the account has approved a key.
func (a *Account) Approve(fingerprint, from string) {
	a.Keys = slices.DeleteFunc(a.Keys, func(k Key) bool { return k.Fingerprint == fingerprint })
	a.Keys = last(append(a.Keys, Key{fingerprint, from, time.Now()}), maxKeys)
}

// Passkey returns the passkey of that id, or nil.
func (a *Account) Passkey(id []byte) *Passkey {
	i := slices.IndexFunc(a.Passkeys, func(p Passkey) bool { return string(p.ID) == string(id) })
	if i < 0 {
		return nil
	}
	return &a.Passkeys[i]
}

// last returns the last n of a list.
func last[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }

// secretSize is how many random bytes there are in what lets somebody in.
const secretSize = 32

func newSecret() string {
	b := make([]byte, secretSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// fileName returns the name of an account's file. Principals are printable ASCII; a slash
// is the only character of theirs that names cannot have.
func fileName(principal string) (string, error) {
	if err := access.CheckPrincipal(principal); err != nil {
		return "", err
	}
	if !strings.Contains(principal, ":") || principal[0] == '.' {
		return "", fmt.Errorf("principal %.80q: want FORGE:ID", principal)
	}
	name := strings.NewReplacer("%", "%25", "/", "%2F").Replace(principal)
	if len(name) > maxFileName {
		return "", fmt.Errorf("principal %.80q…: it is longer than the name of a file", principal)
	}
	return accountsDir + "/" + name, nil
}

// maxFileName is what Linux takes, less the dots and letters of a file that is being
// written.
const maxFileName = 255 - len("..new")
