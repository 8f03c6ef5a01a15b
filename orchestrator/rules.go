package orchestrator

// TO BE REPLACED by fs/ci (issue 11, point 2): what stands here are copies of
// rules of ci(4).

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"9ci/fs/ci"
)

// parseIndexLine reads a line of an index file: the id, a status, then tree
// commit signer score. What is not known is "-".
func parseIndexLine(line string) (run, error) {
	f, err := ci.SplitWords(line)
	if err != nil {
		return run{}, err
	}
	if len(f) != 9 {
		return run{}, fmt.Errorf("%d fields, want 9", len(f))
	}
	r := run{id: f[0], tree: undash(f[5]), commit: undash(f[6]), signer: undash(f[7]), score: undash(f[8]), listed: true}
	if r.status, err = parseStatus(f[0], f[1:5]); err != nil {
		return run{}, err
	}
	for _, h := range []string{r.tree, r.commit} {
		if h != "" && (len(h) != 40 && len(h) != 64 || !hex(h)) {
			return run{}, fmt.Errorf("%.80q is no hash of git's", h)
		}
	}
	if r.score != "" && (len(r.score) != 64 || !hex(r.score)) {
		return run{}, fmt.Errorf("%.80q is no score", r.score)
	}
	if len(r.signer) > maxSigner || strings.ContainsFunc(r.signer, unicode.IsControl) {
		return run{}, errors.New("a signer that cannot be printed")
	}
	return r, nil
}

// parseEventLine reads a line of an executor's event file: an id, then a status.
func parseEventLine(line string) (id string, st ci.Status, err error) {
	id, rest, _ := strings.Cut(line, " ")
	st, err = parseStatus(id, strings.Split(rest, " "))
	return id, st, err
}

func parseStatus(id string, fields []string) (ci.Status, error) {
	if !validID(id) {
		return ci.Status{}, fmt.Errorf("%.80q is no run's id", id)
	}
	st, err := ci.ParseStatus(strings.Join(fields, " "))
	if err == nil && !slices.Contains(states, st.State) {
		err = fmt.Errorf("%.80q is no state of a run", st.State)
	}
	return st, err
}

// states are those of ci(4), of a run.
var states = append([]string{"queued", "passed", "failed", "cancelled", "error"}, ci.Steps...)

// validID reports whether s is a run's id: twelve hex digits, a dot, a number
// from 1.
func validID(s string) bool {
	commit, n, ok := strings.Cut(s, ".")
	return ok && len(commit) == 12 && hex(commit) &&
		n != "" && n[0] != '0' && len(n) <= 18 && strings.Trim(n, "0123456789") == ""
}

func hex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

func undash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// named reports whether rev, which is not "last", is a name of the run: its
// score, its commit or tree, or seven or more digits that either begins with.
func (r *run) named(rev string) bool {
	if len(rev) < 7 || !hex(rev) {
		return false
	}
	return rev == r.score || strings.HasPrefix(r.commit, rev) || strings.HasPrefix(r.tree, rev)
}

// best orders runs as ci/<rev> does: default targets first, passed before
// failed, then the newest.
func best(a, b run) int {
	return cmp.Or(
		-compareBool(a.defaultTargets(), b.defaultTargets()),
		-compareBool(a.status.State == "passed", b.status.State == "passed"),
		b.status.Time.Compare(a.status.Time),
		cmp.Compare(a.order, b.order),
	)
}

// defaultTargets reports whether the run is of mk's default targets. A run whose
// key has not been read counts as one.
func (r *run) defaultTargets() bool {
	t := r.key.Get("target")
	return t == "" || t == "test"
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
