package repo

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"9ci/fs/ci"
)

// Namespace returns the namespace of the repository at the executor whose key has
// that fingerprint. It is host/owner/repo, of the URL of the remote origin. If there
// is no such remote, or its URL names no namespace, it is local/NAME-XXXXXXXX: the
// name of the directory, and the first eight digits of the SHA-256 of the
// fingerprint, a newline and the path of the common git directory. So the work
// trees of one repository share a namespace, and repositories of one name do not.
func (r *Repo) Namespace(fingerprint string) string {
	if ns, ok := r.Origin(); ok {
		return ns
	}
	name := r.GitDir
	if filepath.Base(name) == ".git" {
		name = filepath.Dir(name)
	}
	sum := sha256.Sum256([]byte(fingerprint + "\n" + r.GitDir))
	return fmt.Sprintf("local/%s-%x", ci.NamespaceElement(strings.TrimSuffix(filepath.Base(name), ".git")), sum[:4])
}

// Origin returns the namespace that the URL of the remote origin names. ok is
// false if it names none.
func (r *Repo) Origin() (ns string, ok bool) { return ParseNamespace(r.origin) }

// remote returns the URL of the remote origin, or "" if there is none. It may hold a
// password.
func (r *Repo) remote() string {
	if r.origin == "origin" { // git ls-remote --get-url knows no remote of that name
		return ""
	}
	return r.origin
}

// ParseNamespace returns the namespace of a remote's URL, in any of the forms of
// git-fetch(1). ok is false for a path, and for a URL of another form: the part
// behind a ?, a # or a second @ is likely to be a password that was mistyped.
func ParseNamespace(url string) (ns string, ok bool) {
	if strings.ContainsAny(url, "?#\\") || strings.Count(url, "@") > 1 {
		return "", false
	}
	host, path, scplike := "", "", false
	if scheme, rest, found := strings.Cut(url, "://"); found {
		if !isScheme(scheme) || strings.EqualFold(scheme, "file") {
			return "", false
		}
		host, path, _ = strings.Cut(rest, "/")
	} else {
		// Without a colon before the first slash this is a path. The colons of
		// [::1]:path do not count.
		before, rest := "", url
		if i := strings.Index(url, "["); i >= 0 && (i == 0 || url[i-1] == '@') {
			if j := strings.Index(url, "]:"); j > i {
				before, rest = url[:j+1], url[j+1:]
			}
		}
		if host, path, scplike = strings.Cut(rest, ":"); !scplike || strings.Contains(before+host, "/") {
			return "", false
		}
		host = before + host
	}
	if _, h, found := strings.Cut(host, "@"); found {
		host = h
	}
	name, port, found := strings.Cut(host[strings.LastIndex(host, "]")+1:], ":")
	if literal := host[:strings.LastIndex(host, "]")+1]; literal != "" {
		addr, err := netip.ParseAddr(strings.Trim(literal, "[]"))
		if err != nil || !addr.Is6() || name != "" {
			return "", false
		}
		name = addr.String()
	}
	if found && strings.Trim(port, "0123456789") != "" {
		return "", false
	}
	host = name
	for plain := ""; plain != path; { // hello.git, hello/.git and hello/ are one
		plain = path
		path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	}
	if strings.EqualFold(host, "local") {
		return "", false
	}
	ns, err := ci.CleanNamespace(host + "/" + path)
	return ns, err == nil
}

// isScheme reports whether s is a scheme (RFC 3986 §3.1). One with the name of a
// remote helper before it (gitremote-helpers(7)) is not.
func isScheme(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("+-.", c))
	})
}
