package ci

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Dash returns s as a field of a text: "-" where it is not known, which is "".
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Undash undoes [Dash].
func Undash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

// IsHex reports whether s holds nothing but lower-case hexadecimal digits.
func IsHex(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// IsHash reports whether s is the whole name of a git object: 40 or 64 lower-case
// hexadecimal digits.
func IsHash(s string) bool { return (len(s) == 40 || len(s) == 64) && IsHex(s) }

// IsPrefix reports whether s, in /ci, can stand for a commit, a tree or a score: 7
// to 64 lower-case hexadecimal digits.
func IsPrefix(s string) bool { return len(s) >= 7 && len(s) <= 64 && IsHex(s) }

// ParseDigest reads a SHA-256 digest, 64 lower-case hexadecimal digits: a score,
// or the digest of a key or a file.
func ParseDigest(s string) (d [32]byte, err error) {
	if len(s) != 64 || !IsHex(s) {
		return d, fmt.Errorf("%.80q is not a SHA-256 digest", s)
	}
	hex.Decode(d[:], []byte(s))
	return d, nil
}

// FormatSeconds returns d as seconds with three digits after the point, and "-"
// where it is negative: not known.
func FormatSeconds(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	ms := d.Milliseconds()
	return fmt.Sprintf("%d.%03d", ms/1000, ms%1000)
}

// ParseSeconds reads what FormatSeconds returned; "-" is -1.
func ParseSeconds(s string) (time.Duration, error) {
	if s == "-" {
		return -1, nil
	}
	sec, ms, ok := strings.Cut(s, ".")
	n, err := strconv.ParseUint(sec, 10, 32)
	m, err2 := strconv.ParseUint(ms, 10, 16)
	if !ok || err != nil || err2 != nil || len(ms) != 3 {
		return 0, fmt.Errorf("%.20q is not seconds with three digits", s)
	}
	return time.Duration(n)*time.Second + time.Duration(m)*time.Millisecond, nil
}

// ParseDuration is time.ParseDuration that also takes days (7d), weeks (2w), and a bare
// number of seconds. It refuses what is below zero.
func ParseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if v, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(v, 10, 63)
			if err == nil && n > uint64(math.MaxInt64/d) {
				err = strconv.ErrRange
			}
			return time.Duration(n) * d, err
		}
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = strconv.ErrRange
	}
	return d, err
}

// FormatTime returns t as RFC 3339 in UTC to the second, and "-" where it is
// zero: not known.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// ParseTime reads what FormatTime returned, and nothing else that RFC 3339
// allows; "-" is the zero time.
func ParseTime(s string) (time.Time, error) {
	if s == "-" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || FormatTime(t) != s {
		return time.Time{}, fmt.Errorf("%.40q is not a time as 2006-01-02T15:04:05Z", s)
	}
	return t, nil
}

// End returns when a sealed run ended, as its info says. It is an error if info
// names no time.
func End(info Attrs) (time.Time, error) {
	end, err := ParseTime(info.Get("end"))
	if err == nil && end.IsZero() {
		err = errors.New("a sealed run has a time")
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("info's end: %w", err)
	}
	return end, nil
}
