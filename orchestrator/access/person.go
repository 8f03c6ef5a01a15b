package access

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Ask has the Authority ask p about people, who may log in then. It is called before the
// Authority is used.
func (a *Authority) Ask(p People) { a.people = newKnowledge(p, a.changes.note) }

// personGrant returns what an account of a person may do.
func (a *Authority) personGrant(principal string) (Grant, error) {
	if a.people == nil {
		return Grant{}, errors.New("nothing says what this account may do: people do not log in here")
	}
	g, err := a.people.from.Grant(principal)
	if err != nil {
		return Grant{}, err
	}
	g.Read, g.Publish = true, true
	g.asked = asked{a.people, who{principal, a.people.from.Host(principal)}}
	return g, nil
}

// Visitor returns what the person of an account may do on the page, where a session of the
// account has shown who it is. The error says why the account may do nothing.
func (a *Authority) Visitor(principal string) (Grant, error) {
	if err := a.Admits(principal); err != nil {
		return Grant{}, err
	}
	if !isPerson(principal) {
		return Grant{}, fmt.Errorf("%.80q is no principal of a person", principal)
	}
	return a.personGrant(principal)
}

// Person returns a certificate for key, whose owner has shown on the page to be the person
// of an account. The error is as that of Login.
func (a *Authority) Person(principal string, key ssh.PublicKey) (*ssh.Certificate, error) {
	return a.person(principal, key, func(time.Time) error { return nil })
}

// person is Person that calls admit with the lock held.
func (a *Authority) person(principal string, key ssh.PublicKey, admit func(time.Time) error) (*ssh.Certificate, error) {
	refuse := func(err error) error {
		return &RefusedError{"this account may not log in here: the orchestrator's log says why", err}
	}
	switch {
	case a.people == nil:
		return nil, refuse(errors.New("people do not log in here"))
	case !isPerson(principal):
		return nil, refuse(fmt.Errorf("%.80q is no principal of a person", principal))
	}
	cert, err := a.issue(key, principal, PersonLife, nil, admit)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return nil, refuse(refused.Err)
	}
	return cert, err
}

// isPerson reports whether a principal may be a person's: it is none of a token or a
// repository's jobs.
func isPerson(principal string) bool {
	_, id, ok := strings.Cut(principal, ":")
	return ok && id != "" && !strings.HasPrefix(principal, tokenPrincipal) && !strings.HasPrefix(id, "repo:")
}

// Renew returns the next certificate for the key of one that a has made for a person, and
// that could log in now. A RefusedError says that the person has to log in.
func (a *Authority) Renew(cert *ssh.Certificate) (*ssh.Certificate, error) {
	if !a.made(cert) || a.people == nil || isJob(cert) || !isPerson(cert.KeyId) {
		return nil, &RefusedError{"only a person's certificate is renewed without another one: log in again", errors.New("not a person's certificate")}
	}
	if err := a.people.from.Renew(cert.KeyId); err != nil {
		return nil, err
	}
	return a.person(cert.KeyId, cert.Key, func(time.Time) error { // it may have logged out just now
		if _, err := a.identify(cert); err != nil {
			return refuse(err)
		}
		return nil
	})
}

// Logout revokes the certificates that a has made for the account and the key of cert,
// which is one of them. Certificates of other keys of the account stay. The error is a
// RefusedError if a has not made cert.
func (a *Authority) Logout(cert *ssh.Certificate) error {
	if !a.made(cert) {
		const words = "this certificate is not of the orchestrator: who has made it can revoke it"
		return &RefusedError{words, errors.New(words)}
	}
	key := ssh.FingerprintSHA256(cert.Key)
	if err := a.RevokeOf(cert.KeyId, func(c Certificate) bool { return c.Key == key }); err != nil {
		return err
	}
	if a.people == nil || isJob(cert) || !isPerson(cert.KeyId) {
		return nil
	}
	left, err := a.Certificates(cert.KeyId)
	if err == nil && len(left) == 0 {
		a.people.from.LoggedOut(cert.KeyId)
	}
	return err
}
