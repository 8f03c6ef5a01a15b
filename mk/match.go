package mk

import "strings"

// match tells whether name matches the target of a meta-rule, and what its
// stem is: what the first % or & of the target stands for. A & does not match
// a dot or a slash.
func match(name, target string) (stem string, ok bool) {
	i := strings.IndexAny(target, "%&")
	if i < 0 || len(name) < len(target)-1 || name[:i] != target[:i] || !strings.HasSuffix(name[i:], target[i+1:]) {
		return "", false
	}
	stem = name[i : len(name)-(len(target)-i-1)]
	if target[i] == '&' && strings.ContainsAny(stem, "./") {
		return "", false
	}
	return stem, true
}

// subst replaces each % and & of s with the stem.
func subst(stem, s string) string {
	i := strings.IndexAny(s, "%&")
	if i < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' || s[i] == '&' {
			b.WriteString(stem)
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
