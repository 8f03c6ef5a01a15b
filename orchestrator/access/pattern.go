package access

import (
	"fmt"
	"path"
	"strings"

	"9ci/fs/ci"
)

// A Pattern matches namespaces: path.Match for each element, and a last element
// "..." for one or more elements.
type Pattern string

func parsePattern(s string) (Pattern, error) {
	for _, e := range strings.Split(s, "/") {
		if _, err := path.Match(e, ""); err != nil || e == "" {
			return "", fmt.Errorf("namespace pattern %q: want host/owner/repo, with * in an element or ... at the end", s)
		}
	}
	return Pattern(ci.FoldNamespace(s)), nil
}

// Match reports whether p matches ns.
func (p Pattern) Match(ns string) bool {
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
func (p Pattern) literal() bool {
	return !strings.ContainsAny(string(p), `*?[\`) && !strings.HasSuffix(string(p), "...")
}
