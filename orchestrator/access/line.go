package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// A line is one line of authorized_keys, as sshd(8) describes it, with these
// options and no others:
//
//	namespace="PATTERN"   a namespace the key is for; may be repeated
//	read, publish         only these rights; with neither, both
//	expiry-time="TIME"    YYYYMMDD[HHMM[SS]]Z
//	from="ADDRESSES"      as parseAddresses reads it
//	cert-authority        trusts certificates that the key has signed
//	principals="A,B"      of which only these principals
//
// Options of sshd(8) that take away what no key gets here (restrict, no-pty and
// the like) are accepted and change nothing. A line with any other option is
// refused: the option may be meant to narrow what the key may do.
type line struct {
	Grant
	name       string // the comment
	authority  bool
	principals []string
}

// parseLine reads one line, which is neither blank nor a comment.
func parseLine(text []byte) (ssh.PublicKey, line, error) {
	key, comment, options, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, line{}, errors.New("not a public key")
	}
	l := line{name: comment}
	for _, o := range options {
		if err := l.option(o); err != nil {
			return nil, line{}, err
		}
	}
	if !l.Read && !l.Publish {
		l.Read, l.Publish = true, true
	}
	if len(l.principals) > 0 && !l.authority {
		return nil, line{}, errors.New("principals without cert-authority")
	}
	return key, l, nil
}

func (l *line) option(o string) error {
	name, value, valued := strings.Cut(o, "=")
	if valued {
		if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
			return fmt.Errorf("option %s: the value stands in double quotes", name)
		}
		value = strings.ReplaceAll(value[1:len(value)-1], `\"`, `"`)
	}
	switch name = strings.ToLower(name); {
	case name == "namespace" && valued:
		for _, s := range strings.Split(value, ",") {
			p, err := parsePattern(strings.TrimSpace(s))
			if err != nil {
				return err
			}
			l.Namespaces = append(l.Namespaces, p)
		}
	case name == "principals" && valued:
		l.principals = strings.Split(value, ",")
	case name == "expiry-time" && valued:
		t, err := parseExpiry(value)
		if err != nil {
			return err
		}
		l.Expires = t
	case name == "from" && valued:
		a, err := parseAddresses(value)
		if err != nil {
			return err
		}
		if l.From != nil {
			return errors.New("a second from: give one list")
		}
		l.From = a
	case valued:
		return fmt.Errorf("option %s is not known", name)
	case name == "read":
		l.Read = true
	case name == "publish":
		l.Publish = true
	case name == "cert-authority":
		l.authority = true
	case slices.Contains(harmless, name):
	default:
		return fmt.Errorf("option %s is not known", name)
	}
	return nil
}

// harmless are options of sshd(8) that take away what no key gets here.
var harmless = []string{"restrict", "no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"}

// parseExpiry reads a time as sshd(8) writes expiry-time: local time, or UTC if
// a Z follows.
func parseExpiry(s string) (time.Time, error) {
	loc := time.Local
	digits, utc := strings.CutSuffix(s, "Z")
	if utc {
		loc = time.UTC
	}
	const layout = "20060102150405"
	if n := len(digits); n == 8 || n == 12 || n == 14 {
		if t, err := time.ParseInLocation(layout[:n], digits, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("expiry-time %q: want YYYYMMDD[HHMM[SS]][Z]", s)
}
