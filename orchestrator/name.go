package orchestrator

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"9ci/fs"
)

const maxName = 255 // bytes of a path element, as Linux has it

// validName reports whether s may name an entry of a tree that we carry, in
// either direction.
func validName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f || c == '/' {
			return false
		}
	}
	return true
}

// checkExecutor returns why name cannot be an executor's. The name stands in
// lines of text, so it is a host name and a process id and nothing else.
func checkExecutor(name string) error {
	bad := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_')
	}
	if len(name) > maxName || strings.Trim(name, ".") == "" || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("executor name %q: want letters, digits, dots, dashes and underlines", name)
	}
	return nil
}

// A pattern matches namespaces: path.Match for each element, and a last element
// "..." for whatever follows.
type pattern string

func parsePattern(s string) (pattern, error) {
	for _, e := range strings.Split(s, "/") {
		if _, err := path.Match(e, ""); err != nil || e == "" {
			return "", fmt.Errorf("namespace pattern %q: want host/owner/repo, with * in an element or ... at the end", s)
		}
	}
	return pattern(fs.FoldNamespace(s)), nil
}

func (p pattern) match(ns string) bool {
	if prefix, ok := strings.CutSuffix(string(p), "..."); ok {
		n := strings.Count(prefix, "/")
		i := 0
		for ; n > 0; n-- {
			j := strings.IndexByte(ns[i:], '/')
			if j < 0 {
				return false
			}
			i += j + 1
		}
		ok, _ := path.Match(prefix, ns[:i])
		return ok && i < len(ns)
	}
	ok, _ := path.Match(string(p), ns)
	return ok
}

// literal reports whether p names one namespace and no other.
func (p pattern) literal() bool {
	return !strings.ContainsAny(string(p), `*?[\`) && !strings.HasSuffix(string(p), "...")
}
