package ci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Steps are the names of the steps of a run, in their order.
var Steps = []string{"boot", "clone", "prepare-runtime", "base-image", "test", "artifacts", "post-test"}

// The places in Steps of those that have rules of their own.
var (
	FirstLogged   = slices.Index(Steps, "prepare-runtime") // the output of this step and those behind it is in the run's log
	TestStep      = slices.Index(Steps, "test")            // the output of this step is stdout and stderr
	ArtifactsStep = slices.Index(Steps, "artifacts")
	PostTestStep  = slices.Index(Steps, "post-test")
)

// A Status is the line of a status file: state code seconds time.
type Status struct {
	// State of a run is queued, one of Steps, or passed, failed, cancelled
	// or error. State of a step is queued, running, skipped, or one of the
	// last four.
	State string

	// Code is the exit status, or -1 where there is none (yet).
	Code int

	// Took is how long the run or the step had been going on at Time,
	// without its time in the queue. It is negative where the run or the
	// step has not begun.
	Took time.Duration

	// Time is when the state was entered; for a finished run, its end.
	Time time.Time
}

// Finished reports whether s is the last state of a run.
func (s Status) Finished() bool { return Finished(s.State) }

// Finished reports whether state is one that a run ends in.
func Finished(state string) bool {
	return slices.Contains([]string{"passed", "failed", "cancelled", "error"}, state)
}

// isRunState reports whether state is one of a run.
func isRunState(state string) bool {
	return state == "queued" || Finished(state) || slices.Contains(Steps, state)
}

// String returns the line without its newline.
func (s Status) String() string { return string(s.Append(nil)) }

// Append appends what String returns to b.
func (s Status) Append(b []byte) []byte {
	b = append(b, Dash(s.State)...)
	b = append(b, ' ')
	if s.Code < 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, int64(s.Code), 10)
	}
	b = append(b, ' ')
	b = append(b, FormatSeconds(s.Took)...)
	b = append(b, ' ')
	return append(b, FormatTime(s.Time)...)
}

// ParseStatus reads what String returned, with or without a newline behind. Any
// word can be the state: a step's is not a run's.
func ParseStatus(line string) (Status, error) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 4 || f[0] == "" {
		return Status{}, fmt.Errorf("a status is four fields, not %.60q", line)
	}
	s := Status{State: f[0], Code: -1, Took: -1}
	var err error
	if f[1] != "-" {
		if s.Code, err = strconv.Atoi(f[1]); err != nil || s.Code < 0 {
			return Status{}, fmt.Errorf("%.20q is not a code", f[1])
		}
	}
	if s.Took, err = ParseSeconds(f[2]); err != nil {
		return Status{}, err
	}
	if s.Time, err = ParseTime(f[3]); err != nil {
		return Status{}, err
	}
	return s, nil
}

// ParseRunStatus is ParseStatus for a run's: its state is one of a run's.
func ParseRunStatus(line string) (Status, error) {
	s, err := ParseStatus(line)
	if err == nil && !isRunState(s.State) {
		err = fmt.Errorf("%.80q is no state of a run", s.State)
	}
	return s, err
}
