package ci

import (
	"cmp"
	"time"
)

// A Candidate is what decides which of several runs is the best of a revision.
type Candidate struct {
	Default bool // it ran the default targets: see DefaultTargets
	State   string
	Time    time.Time // its Status's
	Order   uint64    // decides where all else is equal: the larger is the better
}

// CompareBest is negative where ci/REV means a rather than b, and positive where
// it means b: it sorts the best first. A run of the default targets comes before
// one of others; then passed comes before failed, before a run that goes on,
// before cancelled and error; then the newest is the best.
func CompareBest(a, b Candidate) int {
	if a.Default != b.Default {
		if a.Default {
			return -1
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(rank(a.State), rank(b.State)),
		b.Time.Compare(a.Time),
		cmp.Compare(b.Order, a.Order),
	)
}

func rank(state string) int {
	switch state {
	case "passed":
		return 0
	case "failed":
		return 1
	case "cancelled", "error":
		return 3
	default:
		return 2
	}
}

// DefaultTargets reports whether a run with this key ran the default targets. A
// key that is not known, nil, counts as such a run's.
func DefaultTargets(key Attrs) bool {
	t := key.Get("target")
	return t == "" || t == "test"
}
