package report

import (
	"fmt"
	"strings"

	"9ci/fs"
	"9ci/fs/ci"
)

// An Answer is what a Reporter knows of one commit. Its text is that of the command told of
// ssh, and of the channel by which clients of ours ask, a line each:
//
//	page URL       the page of the commit's runs, or -
//	forge HOST     the forge that is told of the namespace, or -
//	status MARK CONTEXT STATE CODE SECONDS TIME WHY
//	               a status of the commit: due, begun, told or rejected; the run's status;
//	               and why the forge has not got it, in words, or -
//
// Readers ignore lines that begin with another word.
type Answer struct {
	Page     string // "": there is none
	Forge    string // "": none is told
	Statuses []Told // by context
}

// A Told is a status of a commit, of the newest run that is known of its context.
type Told struct {
	Mark    string // due, begun, told or rejected
	Context string
	Status  ci.Status
	Why     string // the forge has not got it; "" if it has, or nothing was tried
}

// Done reports whether the forge has the status.
func (t Told) Done() bool { return t.Mark == told }

// Over reports whether the orchestrator tries no more at present: the forge has the status,
// it does not take it, or it has not the commit.
func (t Told) Over() bool { return t.Mark == told || t.Mark == rejected || t.Why == noCommit }

// Whys: the log has the forge's words, which may name what an operator alone may know.
const (
	noCommit = "the forge does not have the commit yet: it is told when the commit has been pushed, without another word"
	forbids  = "the forge lets the orchestrator give no status there: the orchestrator's log says what its operator is to do"
	isBusy   = "the forge does not answer, or has had enough at present: it is told later"
	refuses  = "the forge does not take this status: the orchestrator's log has its words"
)

// Told returns what is known of a commit. The error is fs.ErrBusy while Run has not read
// what was told.
func (r *Reporter) Told(ns, commit string) (Answer, error) {
	a := Answer{Page: r.URL + "/rev/" + commit + "/" + ns}
	if !r.Forge.Tells(ns) {
		return a, nil
	}
	known := r.known.Load()
	if known == nil {
		return Answer{}, fmt.Errorf("the orchestrator has not read yet what forges were told: %w", fs.ErrBusy)
	}
	a.Forge, _, _ = strings.Cut(ns, "/")
	for _, e := range known.of(ns, commit) {
		t := Told{Mark: e.mark, Context: e.context, Status: e.status}
		switch e.mark {
		case rejected:
			t.Why = refuses
		case due, begun:
			t.Why = e.why
		}
		a.Statuses = append(a.Statuses, t)
	}
	return a, nil
}

// Text returns the answer's text.
func (a Answer) Text() string {
	var b strings.Builder
	line := func(words ...string) { b.WriteString(ci.QuoteWords(words) + "\n") }
	line("page", ci.Dash(a.Page))
	line("forge", ci.Dash(a.Forge))
	for _, t := range a.Statuses {
		b.WriteString(ci.QuoteWords([]string{"status", t.Mark, t.Context}) + " " + t.Status.String() + " " + ci.QuoteWords([]string{ci.Dash(t.Why)}) + "\n")
	}
	return b.String()
}

// ParseAnswer reads the text of an answer.
func ParseAnswer(text string) (a Answer, err error) {
	for line := range strings.Lines(text) {
		f, err := ci.SplitWords(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return a, err
		}
		switch {
		case len(f) == 2 && f[0] == "page":
			a.Page = undash(f[1])
		case len(f) == 2 && f[0] == "forge":
			a.Forge = undash(f[1])
		case len(f) == 8 && f[0] == "status":
			st, err := ci.ParseRunStatus(strings.Join(f[3:7], " "))
			if err != nil {
				return a, err
			}
			a.Statuses = append(a.Statuses, Told{f[1], f[2], st, undash(f[7])})
		case len(f) > 0 && (f[0] == "page" || f[0] == "forge" || f[0] == "status"):
			return a, fmt.Errorf("%.200q is no line of an answer", line)
		}
	}
	return a, nil
}

func undash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}
