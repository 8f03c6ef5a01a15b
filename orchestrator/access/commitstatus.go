package access

import "errors"

// A CommitStatus is how a run ended, as a forge shows it beside the run's commit.
type CommitStatus struct {
	Namespace   string
	Commit      string // the whole name of it
	Context     string // a later status of the same commit and context stands in the place of this one
	Passed      bool   // or failed
	Description string // a line, of 140 bytes at most (GitHub's limit), which no other run's has
	URL         string // where the run is shown
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
