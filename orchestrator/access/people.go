package access

import (
	"errors"
	"fmt"
	"time"
)

// CheckPrincipal returns why s cannot be an account's principal: it is a word in files
// and certificates, where a comma separates others.
func CheckPrincipal(s string) error { return checkPrincipal(s) }

// ParsePatterns reads patterns of namespaces. It reports an error for one that can
// match nothing.
func ParsePatterns(list []string) (all []Pattern, err error) {
	for _, s := range list {
		p, err := parsePattern(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	l := line{Grant: Grant{Namespaces: all}}
	return all, l.idle()
}

// A Certificate is one that an Authority has made.
type Certificate struct {
	Serial  uint64
	Key     string // the fingerprint of its key
	Expires time.Time
}

// Certificates returns the certificates of an account that count, the newest last.
func (a *Authority) Certificates(principal string) (all []Certificate, err error) {
	text, err := a.dir.Read(issuedFile)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, i := range parseIssued(text) {
		if i.principal == principal && !i.revoked && !i.over(now) {
			all = append(all, Certificate{i.serial, i.key, i.expires})
		}
	}
	return all, nil
}

// RevokeOf revokes the certificates of an account for which match reports true. Those
// of others it leaves alone, and it bars nobody.
func (a *Authority) RevokeOf(principal string, match func(Certificate) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dir.Locked(func() error {
		text, err := a.dir.Read(issuedFile)
		if err != nil {
			return err
		}
		all, some, now := parseIssued(text), false, time.Now()
		for n := range all {
			i := &all[n]
			if i.principal == principal && !i.over(now) && match(Certificate{i.serial, i.key, i.expires}) {
				i.revoked, some = true, true
			}
		}
		if !some {
			return nil
		}
		if err := a.dir.Write(issuedFile, formatIssued(all)); err != nil {
			return err
		}
		return a.dir.writeKRL(a.key.PublicKey())
	})
}

// ErrBarred is the error of Admits for an account that the operator has barred.
var ErrBarred = errors.New("the account is barred")

// Admits returns an error if an account may not log in.
func (a *Authority) Admits(principal string) error {
	if err := checkPrincipal(principal); err != nil {
		return err
	}
	if _, barred, _ := a.load(); barred[principal] {
		return fmt.Errorf("%w: %w", ErrBarred, errBarred(principal))
	}
	return nil
}
