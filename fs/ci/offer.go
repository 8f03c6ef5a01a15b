package ci

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"9ci/fs"
)

// An Offer is what a line of the answer of /find, at an orchestrator, tells of a
// run.
type Offer struct {
	Executor string // its name below n
	ID       string
	State    string
	Took     time.Duration // as Status.Took
	Score    string        // "" until the run is sealed

	// Signer is the fingerprint of the key that is said to have signed the run
	// or, while it has not ended, of its executor's; or "". Nobody has
	// checked it: it can be any text without control characters.
	Signer string

	Address string // host:port where the executor is reached directly, or ""
}

// Path returns where the run is in the namespace's tree: n/EXECUTOR/ci/ID.
func (o Offer) Path() string { return "n/" + o.Executor + "/ci/" + o.ID }

// Finished reports whether the run has ended.
func (o Offer) Finished() bool { return Finished(o.State) }

// String returns the line without its newline: the path from the namespace's
// root, then state seconds score signer address.
func (o Offer) String() string {
	return strings.Join([]string{"/" + o.Path(), o.State, FormatSeconds(o.Took), Dash(o.Score), Quote(Dash(o.Signer)), Quote(Dash(o.Address))}, " ")
}

// ParseOffer reads what String returned, with or without a newline behind.
func ParseOffer(line string) (Offer, error) {
	f, err := SplitWords(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return Offer{}, err
	}
	if len(f) != 6 {
		return Offer{}, fmt.Errorf("an offer is six fields, not %d", len(f))
	}
	o := Offer{State: f[1], Score: Undash(f[3]), Signer: Undash(f[4]), Address: Undash(f[5])}
	path := strings.Split(f[0], "/")
	if len(path) != 5 || path[0] != "" || path[1] != "n" || path[3] != "ci" || !IsID(path[4]) || !isExecutor(path[2]) {
		return Offer{}, fmt.Errorf("%.80q is not /n/EXECUTOR/ci/ID", f[0])
	}
	o.Executor, o.ID = path[2], path[4]
	if !isRunState(o.State) {
		return Offer{}, fmt.Errorf("%.80q is no state of a run", o.State)
	}
	if o.Took, err = ParseSeconds(f[2]); err != nil {
		return Offer{}, err
	}
	if o.Score != "" {
		if _, err := ParseDigest(o.Score); err != nil {
			return Offer{}, err
		}
	}
	for _, s := range f[4:] {
		if strings.ContainsFunc(s, unicode.IsControl) {
			return Offer{}, fmt.Errorf("%.80q cannot be printed", s)
		}
	}
	return o, nil
}

// isExecutor reports whether name can be a directory of n. It stands in a line
// without quotes.
func isExecutor(name string) bool {
	return fs.CheckName(name) == nil && !strings.ContainsFunc(name, needsQuote)
}
