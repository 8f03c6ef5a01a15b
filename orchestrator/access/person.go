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

// Person returns a certificate for key, whose owner has shown on the page to be the person
// of an account. The error is as that of Login.
func (a *Authority) Person(principal string, key ssh.PublicKey) (*ssh.Certificate, error) {
	switch {
	case a.people == nil:
		return nil, refuse(errors.New("people do not log in here"))
	case !isPerson(principal):
		return nil, refuse(fmt.Errorf("%.80q is no principal of a person", principal))
	}
	return a.issue(key, principal, personLife, nil, func(time.Time) error { return nil })
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
	switch {
	case !a.made(cert):
		return nil, refuse(errors.New("a certificate of another authority"))
	case a.people == nil || isJob(cert) || !isPerson(cert.KeyId):
		return nil, &RefusedError{"only a person's certificate is renewed so: show the token again", errors.New("not a person's certificate")}
	}
	if _, err := a.identify(cert); err != nil {
		return nil, refuse(err)
	}
	if err := a.people.from.Renew(cert.KeyId); err != nil {
		return nil, err
	}
	return a.Person(cert.KeyId, cert.Key)
}
