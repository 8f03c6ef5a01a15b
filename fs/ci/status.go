package ci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Steps are the seven steps of a run, in their order.
var Steps = []string{"boot", "clone", "prepare-runtime", "base-image", "test", "artifacts", "post-test"}

// firstLogged is the index in Steps of the first step whose output is in the
// run's own log, and testStep of the one whose output is stdout and stderr.
const (
	FirstLogged   = 2
	TestStep      = 4
	ArtifactsStep = 5
	PostTestStep  = 6
)

// A Status is the line of a status file: state code seconds time.
type Status struct {
	// State of a run is queued, one of Steps, or passed, failed, cancelled
	// or error. That of a step is queued, running, skipped, or one of the
	// last four.
	State string

	// Code is the exit status, or -1 where there is none (yet).
	Code int

	// Took is how long the run or the step had been going on at Time, its
	// time in the queue not counted; negative where it has not begun.
	Took time.Duration

	// Time is when the state was entered; for a finished run, its end.
	Time time.Time
}

// Finished reports whether s is the last state of a run.
func (s Status) Finished() bool { return Finished(s.State) }

func Finished(state string) bool {
	return slices.Contains([]string{"passed", "failed", "cancelled", "error"}, state)
}

// String returns the line without its newline.
func (s Status) String() string {
	return string(s.Append(nil))
}

func (s Status) Append(b []byte) []byte {
	b = append(b, Dash(s.State)...)
	b = append(b, ' ')
	if s.Code < 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, int64(s.Code), 10)
	}
	b = append(b, ' ')
	b = append(b, formatSeconds(s.Took)...)
	b = append(b, ' ')
	return append(b, FormatTime(s.Time)...)
}

// ParseStatus reads what String returned, with or without a newline behind.
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
	if s.Took, err = parseSeconds(f[2]); err != nil {
		return Status{}, err
	}
	if s.Time, err = ParseTime(f[3]); err != nil {
		return Status{}, err
	}
	return s, nil
}

// formatSeconds writes seconds with three digits after the point.
func formatSeconds(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	ms := d.Milliseconds()
	return fmt.Sprintf("%d.%03d", ms/1000, ms%1000)
}

func parseSeconds(s string) (time.Duration, error) {
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

// formatTime writes a time as RFC 3339 in UTC to the second.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

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

// dash is how a text says that it does not know.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
