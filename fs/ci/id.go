package ci

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// maxNum bounds the number of an id.
const MaxNum = 1 << 53

// splitID returns the two parts of an id.
func SplitID(id string) (prefix string, num uint64, ok bool) {
	prefix, digits, ok := strings.Cut(id, ".")
	if !ok || len(prefix) != 12 || !IsHex(prefix) || digits == "" || digits[0] == '0' || digits[0] == '+' {
		return "", 0, false
	}
	num, err := strconv.ParseUint(digits, 10, 63)
	return prefix, num, err == nil && num <= MaxNum
}

// isHex reports whether s is lower-case hexadecimal digits.
func IsHex(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func ParseDigest(s string) (d [32]byte, err error) {
	if len(s) != 64 || !IsHex(s) {
		return d, fmt.Errorf("%.80q is not a SHA-256 digest", s)
	}
	hex.Decode(d[:], []byte(s))
	return d, nil
}
