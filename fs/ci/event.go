package ci

import (
	"fmt"
	"strings"
)

// FormatEvent returns a line of the file event, without its newline: the id of
// a run, then its status.
func FormatEvent(id string, s Status) string { return id + " " + s.String() }

// ParseEvent reads a line of the file event, without its newline.
func ParseEvent(line string) (id string, s Status, err error) {
	id, rest, _ := strings.Cut(line, " ")
	if !IsID(id) {
		return "", Status{}, fmt.Errorf("%.80q is no run's id", id)
	}
	s, err = ParseRunStatus(rest)
	return id, s, err
}

// NamespaceEvent returns a line of a namespace's event file as it stands in the
// event file of a root of namespaces: its id is a path from that root.
func NamespaceEvent(namespace, line string) string { return namespace + "/ci/" + line }
