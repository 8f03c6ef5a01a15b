package wire

// TO BE REPLACED by the names of fs and fs/ci (issue 11, point 2): what stands
// here, and in orchestrator/rules.go, are copies of rules of ci(4).

import (
	"time"
	"unicode/utf8"
)

const maxName = 255 // bytes of a path element, as Linux has it

// ValidName reports whether s may name an entry of a tree that is carried, in
// either direction.
func ValidName(s string) bool {
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

// Stamp returns a time as every file of the tree has it.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
