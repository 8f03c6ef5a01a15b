package store

import (
	"9ci/fs/ci"
	"encoding/hex"
	"fmt"
	"strconv"
)

// An oid is the name of a git object, or of none.
type oid struct {
	n byte // 20, 32, or 0 for none
	b [32]byte
}

// String returns the digits, or "" for none.
func (o oid) String() string { return hex.EncodeToString(o.b[:o.n]) }

// parseOID reads the 40 or 64 digits of an object's name.
func parseOID(s string) (oid, error) {
	if (len(s) != 40 && len(s) != 64) || !ci.IsHex(s) {
		return oid{}, fmt.Errorf("%.80q is not the name of a git object", s)
	}
	o := oid{n: byte(len(s) / 2)}
	hex.Decode(o.b[:], []byte(s))
	return o, nil
}

// parseOptionalOID is parseOID, but none for "-" and "".
func parseOptionalOID(s string) (oid, error) {
	if s == "-" || s == "" {
		return oid{}, nil
	}
	return parseOID(s)
}

// An id is the name of a run: the first 12 digits of its commit, a dot and a
// number.
func formatID(commit oid, num uint64) string {
	b := make([]byte, 0, 32)
	b = hex.AppendEncode(b, commit.b[:6])
	b = append(b, '.')
	return string(strconv.AppendUint(b, num, 10))
}
