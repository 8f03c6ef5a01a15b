package store

import (
	"encoding/hex"
	"fmt"

	"9ci/fs/ci"
)

// An oid is the name of a git object, or of none, in less room than its digits
// take.
type oid struct {
	n byte // 20, 32, or 0 for none
	b [32]byte
}

// parseOID reads the 40 or 64 digits of an object's name.
func parseOID(s string) (oid, error) {
	if !ci.IsHash(s) {
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

// String returns the digits, or "" for none.
func (o oid) String() string { return hex.EncodeToString(o.b[:o.n]) }

// formatID returns the id of a run of a commit.
func formatID(commit oid, number uint64) string {
	return string(ci.AppendID(make([]byte, 0, 32), commit.b[:], number))
}
