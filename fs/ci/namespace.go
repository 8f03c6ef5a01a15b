package ci

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on a namespace.
const (
	maxNamespace = 1024 // bytes
	maxElements  = 16   // GitLab allows 20 subgroups; nobody uses them
	maxElement   = 255  // bytes, as Linux has it: a store is in a directory of that name
)

// CleanNamespace returns a namespace in its one form, or what is wrong with it.
// A namespace is host/owner/repo, with two or more elements after the host, or
// local/NAME. The host is in lower case; at forges that ignore case, so is the
// rest.
//
// An element holds letters, digits, and - . _ ~ + or bytes in the form of RFC
// 3986 §2.1 (%20). It so holds nothing that could be part of a password: no
// user, no port, no query, no fragment. A host may also be an IPv6 address,
// without the brackets that it has in a URL: in a pattern of namespaces they mean
// something else. Neither the host nor an element from
// the fourth on is a name of [InNamespace]. A host begins with a letter or a
// digit: a store has other names beside its namespaces.
func CleanNamespace(ns string) (string, error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("namespace %q: %s", ns, why) }
	if len(ns) > maxNamespace {
		return "", fmt.Errorf("namespace of %d bytes: at most %d", len(ns), maxNamespace)
	}
	ns = FoldNamespace(ns)
	elems := strings.Split(ns, "/")
	local := elems[0] == "local" && len(elems) == 2
	switch {
	case !local && (elems[0] == "local" || len(elems) < 3):
		return bad("want host/owner/repo")
	case len(elems) > maxElements:
		return bad("too deep")
	case strings.Contains(elems[0], ":"):
		if !isIPv6(elems[0]) {
			return bad("a host with colons is an IPv6 address as RFC 5952 writes it, without a port")
		}
	case strings.ContainsFunc(elems[0], func(c rune) bool { return c >= utf8.RuneSelf || !namespaceRune(c) || strings.ContainsRune("~+%", c) }):
		return bad("a host is of letters, digits, dots and dashes")
	case strings.TrimLeft(elems[0], "-._") != elems[0]:
		return bad("a host begins with a letter or a digit")
	}
	for i, e := range elems {
		if !validElement(e) && !(i == 0 && isIPv6(e)) {
			return bad("want host/owner/repo, of letters, digits and -._~+")
		}
		if (i == 0 || i >= 3) && InNamespace(e) {
			return bad(e + " is a file of the tree that it would be in")
		}
	}
	return ns, nil
}

// isIPv6 reports whether host is an IPv6 address in the form of RFC 5952, without
// a zone.
func isIPv6(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Is6() && a.Zone() == "" && a.String() == host
}

// FoldNamespace returns a namespace, or a pattern of namespaces, in the case
// that [CleanNamespace] gives it.
func FoldNamespace(ns string) string {
	host, path, ok := strings.Cut(ns, "/")
	host = strings.ToLower(host)
	if slices.Contains(caseless, host) {
		path = strings.ToLower(path)
	}
	if !ok {
		return host
	}
	return host + "/" + path
}

// caseless are forges that ignore the case of a repository's path.
var caseless = []string{"bitbucket.org", "codeberg.org", "dev.azure.com", "gitea.com", "github.com", "gitlab.com", "ssh.dev.azure.com"}

// LocalNamespace reports whether ns is of a repository without a remote. Such a
// name is unique to its executor.
func LocalNamespace(ns string) bool { return strings.HasPrefix(ns, "local/") }

// InNamespace reports whether a namespace has a file of that name of its own,
// in a tree or in the directory of its store.
func InNamespace(name string) bool {
	switch name {
	case "artifacts", "ci", "ctl", "event", "find", "index", "n", "status", ".store":
		return true
	}
	return false
}

// NamespaceElement returns name as an element of a namespace, with a dash for
// each character that cannot be in one.
func NamespaceElement(name string) string {
	const room = 64 // bytes cut off, for what callers add
	var b strings.Builder
	for _, c := range name {
		if !namespaceRune(c) || c == '%' {
			c = '-'
		}
		if b.Len()+utf8.RuneLen(c) > maxElement-room {
			break
		}
		b.WriteRune(c)
	}
	if !validElement(b.String()) {
		return "-"
	}
	return b.String()
}

func validElement(e string) bool {
	if e == "" || e == "." || e == ".." || len(e) > maxElement || !utf8.ValidString(e) {
		return false
	}
	if strings.ContainsFunc(e, func(c rune) bool { return !namespaceRune(c) }) {
		return false
	}
	plain, err := url.PathUnescape(e)
	return err == nil && utf8.ValidString(plain) &&
		!strings.ContainsFunc(plain, func(c rune) bool { return c != ' ' && !namespaceRune(c) })
}

func namespaceRune(c rune) bool {
	return unicode.IsLetter(c) || unicode.IsMark(c) || unicode.IsDigit(c) || strings.ContainsRune("-._~+%", c)
}
