package wire

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"9ci/fs"
	"9ci/fs/ci"
)

// Limits on an announcement.
const (
	MaxAnnounce = 128 << 10 // bytes
	maxShares   = 1024      // namespaces of one export
	maxAddress  = 255       // bytes
)

// MayNotPublish begins the reason of a refusal where the key has no right to
// publish in a namespace.
const MayNotPublish = "this key may not publish"

// An Announce says what an executor exports.
type Announce struct {
	Name       string   // below n: HOST for a daemon, HOST.PID for others
	Namespaces []string // each is an aname that the export takes
	Address    string   // host:port where others reach the executor directly; "" if they cannot
}

// Text returns a as it travels: attr=value lines.
func (a Announce) Text() []byte {
	return ci.Attrs{
		{Name: "name", Value: a.Name},
		{Name: "namespaces", Value: ci.QuoteWords(a.Namespaces)},
		{Name: "address", Value: a.Address},
	}.Text()
}

// ParseAnnounce reads what Text wrote, and checks it. It ignores attributes that
// it does not know, because a later executor may say more.
func ParseAnnounce(b []byte) (Announce, error) {
	if len(b) > MaxAnnounce {
		return Announce{}, fmt.Errorf("announcement of %d bytes: at most %d", len(b), MaxAnnounce)
	}
	attrs, err := ci.ParseAttrs(b)
	if err != nil {
		return Announce{}, fmt.Errorf("announcement: %w", err)
	}
	a := Announce{Name: attrs.Get("name"), Address: attrs.Get("address")}
	if a.Namespaces, err = ci.SplitWords(attrs.Get("namespaces")); err != nil {
		return Announce{}, fmt.Errorf("announcement: %w", err)
	}
	return a, a.Check()
}

// Check returns what is wrong with a, on either side of the wire. It puts the
// namespaces in the form of ci.CleanNamespace, sorted, each once.
func (a *Announce) Check() error {
	if err := CheckExecutor(a.Name); err != nil {
		return err
	}
	switch {
	case len(a.Namespaces) == 0:
		return errors.New("an announcement names no namespace")
	case len(a.Namespaces) > maxShares:
		return fmt.Errorf("an announcement of %d namespaces: at most %d", len(a.Namespaces), maxShares)
	}
	if err := checkAddress(a.Address); err != nil {
		return err
	}
	clean := make([]string, len(a.Namespaces))
	for i, ns := range a.Namespaces {
		var err error
		if clean[i], err = ci.CleanNamespace(ns); err != nil {
			return err
		}
	}
	slices.Sort(clean)
	a.Namespaces = slices.Compact(clean)
	return nil
}

// checkAddress returns why addr cannot stand in a line of text, as the address of an
// executor does.
func checkAddress(addr string) error {
	if len(addr) > maxAddress || !utf8.ValidString(addr) || strings.ContainsFunc(addr, func(r rune) bool { return r == ' ' || unicode.IsControl(r) }) {
		return fmt.Errorf("address %.80q: want host:port", addr)
	}
	return nil
}

// ValidName reports whether s may name an entry of a tree that is carried, in
// either direction. It is stricter than fs.CheckName: a client prints names, so
// they have no control characters.
func ValidName(s string) bool {
	return fs.CheckName(s) == nil && !strings.ContainsFunc(s, unicode.IsControl)
}

// maxName is how many bytes the name of an executor may have.
const maxName = 255

// CheckExecutor returns why name cannot be an executor's. The name stands in
// lines of text, so it is a host name and a process id and nothing else.
func CheckExecutor(name string) error {
	bad := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_')
	}
	if len(name) > maxName || strings.Trim(name, ".") == "" || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("executor name %q: want letters, digits, dots, dashes and underlines", name)
	}
	return nil
}
