package repo

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"

	"9ci/fs"
)

// Namespace returns the namespace of the repository at the executor whose key
// has that fingerprint: host/owner/repo of the remote origin, or local/NAME-XXXXXXXX
// where its URL names none, or there is none. NAME is the directory's, and XXXXXXXX
// begins the SHA-256 of the fingerprint, a newline, and the path of the common
// git directory: work trees of one repository are together, and repositories of
// one name apart.
func (r *Repo) Namespace(fingerprint string) string {
	if ns, ok := r.Origin(); ok {
		return ns
	}
	name := r.GitDir
	if filepath.Base(name) == ".git" {
		name = filepath.Dir(name)
	}
	sum := sha256.Sum256([]byte(fingerprint + "\n" + r.GitDir))
	return fmt.Sprintf("local/%s-%x", fs.NamespaceElement(strings.TrimSuffix(filepath.Base(name), ".git")), sum[:4])
}

// Origin returns the namespace that the URL of the remote origin names; ok is
// false where it names none.
func (r *Repo) Origin() (ns string, ok bool) { return ParseNamespace(r.origin) }

// ParseNamespace returns the namespace of a remote's URL, in any of the forms
// of git-fetch(1). ok is false for a path, and for a URL that is none of those
// forms: what then stands behind a ?, a # or another @ is likely to be a
// password that was mistyped.
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
		// A path, unless a colon stands before the first slash.
		if host, path, scplike = strings.Cut(url, ":"); !scplike || strings.Contains(host, "/") {
			return "", false
		}
	}
	if _, h, found := strings.Cut(host, "@"); found {
		host = h
	}
	if h, port, found := strings.Cut(host, ":"); found && strings.Trim(port, "0123456789") == "" {
		host = h
	}
	for plain := ""; plain != path; { // hello.git, hello/.git and hello/ are one
		plain = path
		path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	}
	if strings.EqualFold(host, "local") {
		return "", false
	}
	ns, err := fs.CleanNamespace(host + "/" + path)
	return ns, err == nil
}

// isScheme reports whether s is a scheme (RFC 3986 §3.1), and not one with the
// name of a remote helper before it (gitremote-helpers(7)).
func isScheme(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("+-.", c))
	})
}
