package account

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"strings"
	"time"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// invitesFile has a line for each invitation that has not been taken: attr=value pairs.
const invitesFile = "invites"

const invitesHead = `# Invitations, a line each, as orchestrator invite makes them. What is in the URL is not
# here. A line that is deleted takes its invitation back, and so does an expires= that has
# passed.
`

// InviteLife is how long an invitation lasts if nothing else is said.
const InviteLife = 7 * 24 * time.Hour

// An Invite is an invitation of the operator: a person who has it makes a passkey, once. That is
// the passkey of a new account, or one more of an account that has lost its own.
type Invite struct {
	ID         string // the first 12 hex digits of the code's SHA-256
	Name       string // of the account to be made, for people
	Namespaces []access.Pattern
	Account    string // the principal of the account that gets a passkey; "": a new one
	Made       time.Time
	Expires    time.Time
	sum        [sha256.Size]byte
}

// NewInvite makes an invitation, and adds its line to the file of the state directory.
// It returns the code, which is kept nowhere. Of i it takes Name, Namespaces, Account and
// Expires.
func NewInvite(dir string, i Invite) (code string, err error) {
	now := time.Now()
	switch {
	case !now.Before(i.Expires):
		return "", fmt.Errorf("the invitation would have ended at %s", ci.FormatTime(i.Expires))
	case i.Account != "" && len(i.Namespaces) > 0:
		return "", errors.New("an invitation for an account that is there changes nothing but its passkeys: leave the namespaces out, or edit the account's file")
	case clean(i.Name) != i.Name:
		return "", errors.New("the name: want one line of 200 bytes at most")
	}
	s := &Store{dir: statedir.Dir(dir)}
	if i.Account != "" {
		if _, err := s.Get(i.Account); errors.Is(err, iofs.ErrNotExist) {
			return "", fmt.Errorf("there is no account %s: ls %s lists them", i.Account, s.dir.Path(accountsDir))
		} else if err != nil {
			return "", err
		}
	}
	code = newSecret()
	i.sum = sha256.Sum256([]byte(code))
	i.ID, i.Made = hex.EncodeToString(i.sum[:6]), now
	return code, s.locked(func() error { return s.dir.Add(invitesFile, invitesHead, i.line()) })
}

func (i *Invite) line() string {
	patterns := make([]string, len(i.Namespaces))
	for n, p := range i.Namespaces {
		patterns[n] = string(p)
	}
	attrs := ci.Attrs{
		{Name: "id", Value: i.ID},
		{Name: "name", Value: i.Name},
		{Name: "account", Value: i.Account},
		{Name: "namespaces", Value: ci.QuoteWords(patterns)},
		{Name: "sha256", Value: hex.EncodeToString(i.sum[:])},
		when("made", i.Made),
		when("expires", i.Expires),
	}
	return strings.ReplaceAll(strings.TrimSpace(string(attrs.Text())), "\n", " ")
}

func parseInvite(text string) (*Invite, error) {
	attrs, err := words(text)
	if err != nil {
		return nil, err
	}
	r := &reader{attrs: attrs}
	i := &Invite{ID: r.text("id"), Name: r.text("name"), Account: r.text("account"), Made: r.time("made"), Expires: r.time("expires")}
	i.sum = read(r, "sha256", ci.ParseDigest)
	i.Namespaces = read(r, "namespaces", func(s string) ([]access.Pattern, error) {
		list, err := ci.SplitWords(s)
		if err != nil {
			return nil, err
		}
		return access.ParsePatterns(list)
	})
	if err := r.done(); err != nil {
		return nil, err
	}
	if i.Expires.IsZero() {
		return nil, errors.New("expires= is no time")
	}
	return i, nil
}

// ErrNoInvite is the error for a code that invites nobody: it is wrong, it was taken, it
// has expired, or the operator has taken it back.
var ErrNoInvite = errors.New("this invitation is wrong, was used already, or has ended: ask the operator for another")

// Invite returns the invitation of a code. The error is ErrNoInvite if there is none.
func (s *Store) Invite(code string) (*Invite, error) {
	text, err := s.dir.Read(invitesFile)
	if err != nil {
		return nil, err
	}
	if i := findInvite(text, code); i != nil {
		return i, nil
	}
	return nil, ErrNoInvite
}

// findInvite returns the invitation of a code that has not expired, or nil. It looks for
// a digest: the time that this takes tells a guesser nothing.
func findInvite(text []byte, code string) *Invite {
	if b, err := base64.RawURLEncoding.Strict().DecodeString(code); err != nil || len(b) != secretSize {
		return nil
	}
	sum, now := sha256.Sum256([]byte(code)), time.Now()
	var found *Invite
	statedir.Entries(text, func(line []byte) bool {
		if !bytes.Contains(line, []byte(hex.EncodeToString(sum[:]))) {
			return false
		}
		if i, err := parseInvite(string(line)); err == nil && i.sum == sum && now.Before(i.Expires) {
			found = i
		}
		return false
	})
	return found
}

// Accept takes an invitation: it makes the account of that principal, or changes the one
// that the invitation is for, as f says. The invitation is gone before anything else is
// written, and stays if f reports an error.
func (s *Store) Accept(code, principal string, f func(*Invite, *Account) error) error {
	return s.locked(func() error {
		text, err := s.dir.Read(invitesFile)
		if err != nil {
			return err
		}
		i := findInvite(text, code)
		if i == nil {
			return ErrNoInvite
		}
		var a *Account
		if i.Account == "" {
			a = &Account{Principal: principal, Name: i.Name, Namespaces: i.Namespaces, Made: time.Now()}
			if _, err := s.Get(principal); !errors.Is(err, iofs.ErrNotExist) {
				return fmt.Errorf("account %s: %w", principal, iofs.ErrExist)
			}
		} else if principal != i.Account {
			return ErrNoInvite
		} else if a, err = s.Get(principal); err != nil {
			return err
		}
		if err := f(i, a); err != nil {
			return err
		}
		rest := statedir.Entries(text, func(line []byte) bool {
			o, err := parseInvite(string(line))
			return err == nil && (o.sum == i.sum || !time.Now().Before(o.Expires))
		})
		if err := s.dir.Write(invitesFile, rest); err != nil {
			return err
		}
		return s.write(a)
	})
}

// urlFile has the URL of the orchestrator, as it was last started with.
const urlFile = "url"

// SetURL notes the URL by which others reach the orchestrator, for the commands that print
// one.
func SetURL(dir, url string) error {
	d := statedir.Dir(dir)
	return d.Locked(func() error { return d.Write(urlFile, []byte(url+"\n")) })
}

// URL returns what SetURL has noted, "" if nothing has been.
func URL(dir string) (string, error) {
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	text, err := statedir.Dir(dir).Read(urlFile)
	return strings.TrimSpace(string(text)), err
}
