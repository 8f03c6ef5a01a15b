package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"9ci/fs/ci"
)

// perPage is how many runs a page lists at most.
const perPage = 100

// first shows the first page: the namespaces, or the account where there is no tree.
func (p *Page) first(v *visit) error {
	if p.trees == nil {
		return v.redirect("/account")
	}
	return p.read(p.home)(v)
}

// home lists the namespaces that the visitor may read, as many as a page has room for: a
// person who has more finds the others by name.
func (p *Page) home(r *reading) error {
	text, err := r.text("status", maxIndex)
	if err != nil {
		return err
	}
	var all []place
	more, room, some := 0, pageRoom, false
	q := strings.ToLower(strings.TrimSpace(r.r.URL.Query().Get("q")))
	for line := range strings.Lines(string(text)) { // a line namespace=NAME for each
		value, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "namespace=")
		w, err := ci.SplitWords(value)
		if !ok || err != nil || len(w) != 1 {
			continue
		}
		at, err := parsePlace(w[0], "", "")
		some = some || err == nil
		switch {
		case err != nil || !strings.Contains(strings.ToLower(at.Namespace), q):
		case room < 0:
			more++
		default:
			all = append(all, at)
			room -= len(at.URL("runs")) + htmlSize(at.Namespace) + 30
		}
	}
	if !some && r.account == nil {
		return errNoPage // there may be some with a login
	}
	return r.render(http.StatusOK, "home", "Namespaces", struct {
		Namespaces []place
		More       int
		Query      string
	}{all, more, q})
}

// A runQuery is which runs a page lists.
type runQuery struct {
	Rev, State, Signer string
	From               int // how many of these runs are newer than those of the page
}

// states are those that a page can be asked for; each stands for itself, but running for
// all of a run that goes on.
var states = []string{"running", "passed", "failed", "cancelled", "error"}

func parseRunQuery(q url.Values) runQuery {
	get := func(name string) string { return clip(strings.TrimSpace(q.Get(name))) }
	r := runQuery{Rev: strings.ToLower(get("rev")), State: get("state"), Signer: get("signer")}
	if !slices.Contains(states, r.State) {
		r.State = ""
	}
	if n, err := strconv.Atoi(q.Get("from")); err == nil && n > 0 && n < 1<<30 {
		r.From = n
	}
	return r
}

// Any reports whether the query leaves runs out.
func (q runQuery) Any() bool { return q.Rev != "" || q.State != "" || q.Signer != "" }

// URL returns the query of another page of the same runs.
func (q runQuery) URL(from int) string {
	v := url.Values{}
	for name, s := range map[string]string{"rev": q.Rev, "state": q.State, "signer": q.Signer} {
		if s != "" {
			v.Set(name, s)
		}
	}
	if from > 0 {
		v.Set("from", strconv.Itoa(from))
	}
	return "?" + v.Encode()
}

// Newer returns the query of the runs before those of the page.
func (q runQuery) Newer() string { return q.URL(q.From - perPage) }

// wants reports whether the page lists a run.
func (q runQuery) wants(l *runLine) bool {
	switch {
	case q.State == "running" && l.Finished(), q.State != "" && q.State != "running" && l.State != q.State:
		return false
	case q.Signer != "" && !strings.Contains(l.Signer, q.Signer):
		return false
	}
	return q.Rev == "" || strings.HasPrefix(l.Commit, q.Rev) || strings.HasPrefix(l.Tree, q.Rev) || strings.HasPrefix(l.ID, q.Rev) || l.Score == q.Rev
}

// words returns what the line of each run that the page lists has in it.
func (q runQuery) words() (all []string) {
	if q.State != "" && q.State != "running" {
		all = append(all, " "+q.State+" ")
	}
	if !strings.ContainsRune(q.Signer, '\'') { // which the line may have twice
		all = append(all, q.Signer)
	}
	return append(all, q.Rev)
}

// runs lists the runs of a namespace.
func (p *Page) runs(r *reading) error {
	at, err := r.place()
	if err != nil {
		return err
	}
	q := parseRunQuery(r.r.URL.Query())
	var lines []runLine
	skip, room, more := q.From, pageRoom, false
	err = r.eachRun(at.Namespace, q.words(), func(l runLine) bool {
		switch {
		case !q.wants(&l):
		case skip > 0:
			skip--
		case len(lines) == perPage || room < 0:
			more = true
		default:
			lines = append(lines, l)
			room -= l.size()
		}
		return !more
	})
	if err != nil {
		return err
	}
	return r.render(http.StatusOK, "runs", at.Namespace, struct {
		Place  place
		Runs   []runLine
		Query  runQuery
		States []string
		More   bool
		Older  string // the query of the runs behind these
	}{at, lines, q, states, more, q.URL(q.From + len(lines))})
}

// size returns about how many bytes of HTML the row of a run has.
func (l *runLine) size() int {
	return 220 + 2*htmlSize(l.Place.Run()) + len(l.Place.URL("run")) + len(l.ID) + htmlSize(l.Place.Executor) + 2*len(l.State) + htmlSize(short(l.Signer))
}

// revision leads to the best run of a revision, as ci/REV is an alias of it.
func (p *Page) revision(r *reading) error {
	at, err := r.place()
	if err != nil {
		return err
	}
	rev := r.r.PathValue("rev")
	if rev != "last" && (len(rev) < 7 || !ci.IsHex(rev)) {
		return errNoPage
	}
	n, err := r.node(at.Namespace + "/ci/" + rev)
	if err != nil {
		return err
	}
	st, err := n.Stat(r.ctx)
	if err != nil {
		return err
	}
	f := strings.Split(st.Target, "/") // ../n/EXECUTOR/ci/ID
	if len(f) != 5 {
		return errNoPage
	}
	if at, err = parsePlace(at.Namespace, f[2], f[4]); err != nil {
		return err
	}
	return r.redirect(at.URL("run"))
}

// took returns how long something took, in words.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "–"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min " + strconv.Itoa(int(d.Seconds())%60) + " s"
	}
	return strconv.Itoa(int(d.Hours())) + " h " + strconv.Itoa(int(d.Minutes())%60) + " min"
}

// short returns the beginning of a digest or a fingerprint, which the whole of stands
// elsewhere.
func short(s string) string {
	const most = 19 // SHA256: and twelve characters
	if len(s) > most {
		s = s[:most] + "…"
	}
	return visible(s)
}

// mark returns the class of a state, for its colour. The state itself stands beside it.
func mark(state string) string {
	switch state {
	case "passed", "failed", "error", "cancelled", "skipped", "queued":
		return state
	}
	return "running"
}

// size returns a count of bytes, in words.
func size(n int64) string {
	const units = "KMGT"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[i:i+1] + "iB"
}
