package wire

import (
	"fmt"
	"strconv"

	"9ci/fs/ci"
)

// A Joined answers an announcement that was taken.
type Joined struct {
	Generation uint64
	Shown      string // the name below n: that of the announcement, or one by Shown
}

// Text returns j as it travels: attr=value lines.
func (j Joined) Text() []byte {
	return ci.Attrs{{Name: "generation", Value: strconv.FormatUint(j.Generation, 10)}, {Name: "name", Value: j.Shown}}.Text()
}

// ParseJoined reads what Text wrote in answer to the announcement of name. It
// ignores attributes that it does not know.
func ParseJoined(b []byte, name string) (Joined, error) {
	attrs, err := ci.ParseAttrs(b)
	if err != nil {
		return Joined{}, fmt.Errorf("answer to an announcement: %w", err)
	}
	j := Joined{Shown: attrs.Get("name")}
	if j.Generation, err = strconv.ParseUint(attrs.Get("generation"), 10, 64); err != nil || !IsShown(j.Shown, name) {
		return Joined{}, fmt.Errorf("answer to the announcement of %s: %.200q", name, b)
	}
	return j, nil
}

// A Second says of an export that a second executor has announced its name.
type Second struct {
	Name  string // as the export was announced
	Shown string // the name of the second one
}

// Text returns s as it travels: attr=value lines.
func (s Second) Text() []byte {
	return ci.Attrs{{Name: "name", Value: s.Name}, {Name: "second", Value: s.Shown}}.Text()
}

// ParseSecond reads what Text wrote, and checks it.
func ParseSecond(b []byte) (Second, error) {
	attrs, err := ci.ParseAttrs(b)
	if err != nil {
		return Second{}, fmt.Errorf("second: %w", err)
	}
	s := Second{attrs.Get("name"), attrs.Get("second")}
	if err := CheckExecutor(s.Name); err != nil {
		return Second{}, fmt.Errorf("second: %w", err)
	}
	if !IsShown(s.Shown, s.Name) || s.Shown == s.Name {
		return Second{}, fmt.Errorf("second: %.80q is no name of a second %s", s.Shown, s.Name)
	}
	return s, nil
}
