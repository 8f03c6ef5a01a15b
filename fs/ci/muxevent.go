package ci

import (
	"fmt"
	"strings"
)

// A MuxEvent is what a line of the file event of a namespace, at an orchestrator,
// tells: that an executor has joined or left, or a run of its.
type MuxEvent struct {
	Executor string // its name below n
	What     string // join, leave, or "" for a run
	ID       string // of the run
	Status   Status // of the run
}

// ParseMuxEvent reads a line, without its newline: /n/EXECUTOR join TIME, the same
// with leave, or /n/EXECUTOR/ci/ID and then as status.
func ParseMuxEvent(line string) (MuxEvent, error) {
	path, rest, _ := strings.Cut(line, " ")
	f := strings.Split(path, "/")
	if len(f) < 3 || f[0] != "" || f[1] != "n" || !isExecutor(f[2]) {
		return MuxEvent{}, fmt.Errorf("%.80q is not /n/EXECUTOR", path)
	}
	e := MuxEvent{Executor: f[2]}
	if len(f) == 3 {
		what, when, _ := strings.Cut(rest, " ")
		if what != "join" && what != "leave" {
			return MuxEvent{}, fmt.Errorf("%.80q is neither join nor leave", what)
		}
		e.What = what
		_, err := ParseTime(when)
		return e, err
	}
	if len(f) != 5 || f[3] != "ci" {
		return MuxEvent{}, fmt.Errorf("%.80q is not /n/EXECUTOR/ci/ID", path)
	}
	var err error
	e.ID, e.Status, err = ParseEvent(f[4] + " " + rest)
	return e, err
}
