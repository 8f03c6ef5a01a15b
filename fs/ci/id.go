package ci

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// MaxNumber bounds the number of an id: readers of JSON hold no more.
const MaxNumber = 1 << 53

// AppendID appends the id of a run to b: the first twelve hexadecimal digits of
// its commit, a dot, and a number from 1 to MaxNumber. The commit is given by its
// first six bytes, or more.
func AppendID(b, commit []byte, number uint64) []byte {
	b = hex.AppendEncode(b, commit[:6])
	b = append(b, '.')
	return strconv.AppendUint(b, number, 10)
}

// SplitID returns the two parts of an id: the digits of the commit, and the
// number. ok says whether it is one.
func SplitID(id string) (commit string, number uint64, ok bool) {
	commit, digits, ok := strings.Cut(id, ".")
	if !ok || len(commit) != 12 || !IsHex(commit) || strings.HasPrefix(digits, "0") {
		return "", 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || number > MaxNumber {
		return "", 0, false
	}
	return commit, number, true
}

// IsID reports whether s is the id of a run.
func IsID(s string) bool {
	_, _, ok := SplitID(s)
	return ok
}
