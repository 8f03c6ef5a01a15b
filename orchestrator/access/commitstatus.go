package access

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"9ci/fs/ci"
)

// A CommitStatus is how a run ended, as a forge shows it beside the run's commit.
type CommitStatus struct {
	Namespace   string
	Commit      string // the whole name of it
	Context     string // a later status of the same commit and context stands in the place of this one
	Passed      bool   // or failed
	Description string // a line, of 140 bytes at most (GitHub's limit), which no other run's has
	URL         string // where the run is shown, "": nowhere
}

// StatusTime is for how long after its end a run may be told: as long as others replay it
// (CI_MAXAGE).
const StatusTime = 7 * 24 * time.Hour

const maxContext = 100 // bytes; forges take 255

// NewCommitStatus returns the status that a run of a commit has there, which has ended with
// st. Page is the URL of the orchestrator's page without a slash at its end, or "".
func NewCommitStatus(namespace, commit, context string, st ci.Status, page string) CommitStatus {
	s := CommitStatus{Namespace: namespace, Commit: commit, Context: context, Passed: st.State == "passed", Description: describe(st)}
	if page != "" {
		s.URL = page + "/rev/" + commit + "/" + namespace
	}
	return s
}

// describe says how a run ended, and when, which no other run of its commit did.
func describe(st ci.Status) string {
	s := st.State
	if st.State == "failed" && st.Code > 0 {
		s += fmt.Sprintf(" with status %d", st.Code)
	}
	return s + " in " + ci.FormatSeconds(st.Took) + " s, " + ci.FormatTime(st.Time)
}

// StatusContext returns the context of the runs with a key: those of a commit stand in each
// other's place at the forge if they have equal targets and architecture.
func StatusContext(k ci.Attrs) string {
	c := "9ci"
	if arch := k.Get("arch"); arch != "" {
		c += "/" + arch
	}
	if !ci.DefaultTargets(k) {
		c += " " + k.Get("target")
	}
	c = strings.Map(func(r rune) rune { // an executor says what it likes
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, c)
	return strings.TrimSpace(clip(c, maxContext))
}

// clip returns the beginning of a text, of n bytes at most.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

// ErrNoCommit is the error for a status of a commit that the forge does not have. It may
// be pushed later.
var ErrNoCommit = errors.New("the forge does not have the commit")

// A ForbiddenError is the error for a status that the forge lets the orchestrator give to
// no commit of the namespace. Its words tell an operator what to do.
type ForbiddenError struct{ Words string }

func (e *ForbiddenError) Error() string { return e.Words }

// A RejectedError is the error for a status that the forge does not take as it is: another
// one may be taken.
type RejectedError struct{ Words string }

func (e *RejectedError) Error() string { return e.Words }
