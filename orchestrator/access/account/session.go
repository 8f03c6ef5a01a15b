package account

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	iofs "io/fs"
	"slices"
	"strings"
	"time"

	"9ci/orchestrator/access"
	"9ci/orchestrator/internal/statedir"
)

// SessionLife is how long a session lasts: as long as a person's certificate.
const SessionLife = access.PersonLife

// NewSession logs a browser in. It returns what the browser shows from then on, which is
// kept nowhere: PRINCIPAL.SECRET in base64url, so that its account is found. By, from and
// agent are of Session.
func (s *Store) NewSession(principal, by, from, agent string) (secret string, err error) {
	secret = base64.RawURLEncoding.EncodeToString([]byte(principal)) + "." + newSecret()
	now := time.Now()
	err = s.Change(principal, func(a *Account) error {
		a.Last = now
		a.Sessions = slices.DeleteFunc(a.Sessions, func(o Session) bool { return !now.Before(o.Expires) })
		a.Sessions = last(append(a.Sessions, Session{
			ID: sessionID(secret), By: by, From: from, Agent: agent, Made: now, Expires: now.Add(SessionLife),
		}), maxSessions)
		return nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// sessionID returns the digest of what a browser shows.
func sessionID(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Session returns the account and the session of what a browser shows. The error is
// fs.ErrNotExist of io/fs if it is logged in no more.
func (s *Store) Session(secret string) (*Account, Session, error) {
	name, _, _ := strings.Cut(secret, ".")
	principal, err := base64.RawURLEncoding.Strict().DecodeString(name)
	if err != nil || len(secret) > maxSecret {
		return nil, Session{}, iofs.ErrNotExist
	}
	if _, err := fileName(string(principal)); err != nil {
		return nil, Session{}, iofs.ErrNotExist
	}
	a, err := s.Get(string(principal))
	if err != nil {
		return nil, Session{}, err
	}
	id, now := sessionID(secret), time.Now()
	i := slices.IndexFunc(a.Sessions, func(o Session) bool { return o.ID == id && now.Before(o.Expires) })
	if i < 0 {
		return nil, Session{}, iofs.ErrNotExist
	}
	return a, a.Sessions[i], nil
}

// maxSecret is how long what a browser shows may be.
const maxSecret = 1024

// EndSession ends a session of a, and reports whether there was one.
func (a *Account) EndSession(id string) bool {
	n := len(a.Sessions)
	a.Sessions = slices.DeleteFunc(a.Sessions, func(o Session) bool { return o.ID == id })
	return len(a.Sessions) < n
}

// Live reports whether any browser is logged in.
func (a *Account) Live(now time.Time) bool {
	return slices.ContainsFunc(a.Sessions, func(o Session) bool { return now.Before(o.Expires) })
}

// TakeToken takes the token of its forge away from an account in which no browser is
// logged in, and returns it: nil if there is none, or one is.
func (a *Account) TakeToken(now time.Time) (token []byte) {
	if !a.Live(now) {
		token, a.ForgeToken = a.ForgeToken, nil
	}
	return token
}

// End logs an account out everywhere, and forgets the token of its forge, which it
// returns: nil if there was none. It is no error if there is no such account.
func (s *Store) End(principal string) (token []byte, err error) {
	err = s.Change(principal, func(a *Account) error {
		token, a.ForgeToken, a.Sessions = a.ForgeToken, nil, nil
		return nil
	})
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	return token, err
}

// End logs an account of a state directory out everywhere, as an operator does, and
// forgets the token of its forge, which it returns. It reports whether there is such an
// account.
func End(dir, principal string) (was bool, token []byte, err error) {
	s := &Store{dir: statedir.Dir(dir)}
	if _, err := s.Get(principal); errors.Is(err, iofs.ErrNotExist) {
		return false, nil, nil
	} else if err != nil {
		return false, nil, err
	}
	token, err = s.End(principal)
	return true, token, err
}

// Token returns what the forge of an account gave to ask it as that person, sealed; nil if
// there is nothing, or no such account.
func (s *Store) Token(principal string) ([]byte, error) {
	a, err := s.Get(principal)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return a.ForgeToken, nil
}

// SetToken makes sealed, nil for nothing, what Token returns, if that is old at present. It
// reports whether it was; of nothing there is no next one.
func (s *Store) SetToken(principal string, old, sealed []byte) (bool, error) {
	err := s.Change(principal, func(a *Account) error {
		if len(old) == 0 || !bytes.Equal(a.ForgeToken, old) {
			return errOtherToken
		}
		a.ForgeToken = sealed
		return nil
	})
	if errors.Is(err, errOtherToken) || errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

var errOtherToken = errors.New("the account has another token")
