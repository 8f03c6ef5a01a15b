package orchestrator

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
)

// A grant is what one key may do. There are two rights and no roles: read, and
// publish.
type grant struct {
	name       string    // who: the comment of the key's line, or the certificate's principal
	namespaces []pattern // where; empty means everywhere but local/NAME
	read       bool
	publish    bool
	expires    time.Time // zero: never
}

// A line is one line of authorized_keys, as sshd(8) describes it, with these
// options and no others:
//
//	namespace="PATTERN"   a namespace the key is for; may be repeated
//	read, publish         only these rights; with neither, both
//	expiry-time="TIME"    YYYYMMDD[HHMM[SS]]Z
//	cert-authority        trusts certificates that the key has signed
//	principals="A,B"      of which only these principals
//
// restrict, no-pty, no-port-forwarding and their like are taken and change
// nothing. An option that is not known refuses the line: it may have been meant
// to narrow what the key may do.
type line struct {
	grant
	authority  bool
	principals []string
}

// parseLine reads one line, which is neither blank nor a comment.
func parseLine(text []byte) (ssh.PublicKey, line, error) {
	key, comment, options, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, line{}, errors.New("not a public key")
	}
	l := line{grant: grant{name: comment}}
	for _, o := range options {
		if err := l.option(o); err != nil {
			return nil, line{}, err
		}
	}
	if !l.read && !l.publish {
		l.read, l.publish = true, true
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
			l.namespaces = append(l.namespaces, p)
		}
	case name == "principals" && valued:
		l.principals = strings.Split(value, ",")
	case name == "expiry-time" && valued:
		t, err := parseExpiry(value)
		if err != nil {
			return err
		}
		l.expires = t
	case valued:
		return fmt.Errorf("option %s is not known", name)
	case name == "read":
		l.read = true
	case name == "publish":
		l.publish = true
	case name == "cert-authority":
		l.authority = true
	case slices.Contains(harmless, name):
	default:
		return fmt.Errorf("option %s is not known", name)
	}
	return nil
}

// harmless are options of sshd(8) that take away what we never give.
var harmless = []string{"restrict", "no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"}

// parseExpiry reads a time as sshd(8) writes expiry-time: local, or UTC where a
// Z follows.
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

// covers reports whether the grant is for ns. One of the form local/NAME is one
// executor's own: only a pattern that begins with local/ is for it.
func (g *grant) covers(ns string) bool {
	local := fs.LocalNamespace(ns)
	return len(g.namespaces) == 0 && !local || slices.ContainsFunc(g.namespaces, func(p pattern) bool {
		return p.match(ns) && (!local || fs.LocalNamespace(string(p)))
	})
}

func (g *grant) mayRead(ns string) bool    { return g.read && g.covers(ns) }
func (g *grant) mayPublish(ns string) bool { return g.publish && g.covers(ns) }

// literals returns the namespaces that the grant names without a wildcard.
func (g *grant) literals() []string {
	var all []string
	for _, p := range g.namespaces {
		if p.literal() {
			all = append(all, string(p))
		}
	}
	return all
}

// home returns the one namespace that the grant names, or "".
func (g *grant) home() string {
	if len(g.namespaces) == 1 && g.namespaces[0].literal() {
		return string(g.namespaces[0])
	}
	return ""
}

// rights returns the grant's rights as words.
func (g *grant) rights() string {
	switch {
	case g.read && g.publish:
		return "read publish"
	case g.publish:
		return "publish"
	}
	return "read"
}
