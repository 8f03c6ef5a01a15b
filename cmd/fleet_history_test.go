package cmd_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An event is a line of the history of a fleet. Executors, readers and the test itself
// write them, all by one clock.
type event struct {
	What string
	At   time.Time
	From time.Time // of a look or a question: when it began

	Tenant string
	Name   string // of the executor that the event is of
	Life   int    // which process of that name, from 1 on

	Key    string // COMMIT/TARGET
	ID     string
	State  string
	Score  string
	Digest string // of the bytes of stdout
	Signer string
	Text   string
}

// What happens in a fleet.
const (
	// Of executors, by the test.
	starts   = "starts"   // a process
	killed   = "killed"   // it is about to be
	stops    = "stops"    // it is about to be stopped,
	goesOn   = "goes on"  // and was let go on
	cutOff   = "cut off"  // it is about to lose its way to the orchestrator,
	reaches  = "reaches"  // and has it again
	wentDown = "is down"  // the orchestrator is about to be killed,
	cameUp   = "is up"    // and serves again
	wasMade  = "was made" // at the end: the sealed run that is in its maker's store

	// Of executors, by the log of the orchestrator.
	joins  = "joins"
	leaves = "leaves"

	// Of executors, by themselves.
	asks      = "asks"      // for a key
	turn      = "turn"      // nobody else runs the key: it does
	tests     = "tests"     // mk makes the targets
	ends      = "ends"      // what was asked for is there: run or replayed
	fails     = "fails"     // to do what was asked
	complains = "complains" // that the orchestrator cannot be asked

	// Of executors, by readers.
	serves  = "serves"  // Life is what its tree says
	offers  = "offers"  // find has a passed run of that key there
	shows   = "shows"   // the bytes of a run
	foreign = "foreign" // Text is what another tenant's reader saw
)

// A history is what happened in a fleet, in the order of At.
type history []event

// sorted returns the events by time.
func sorted(events []event) history {
	h := slices.Clone(events)
	slices.SortStableFunc(h, func(a, b event) int { return a.At.Compare(b.At) })
	return h
}

// A span is a time in which something holds, both ends included. A zero end is none.
type span struct{ from, to time.Time }

func (s span) meets(from, to time.Time) bool {
	return !s.from.After(to) && (s.to.IsZero() || !s.to.Before(from))
}

func (s span) covers(from, to time.Time) bool {
	return !s.from.After(from) && (s.to.IsZero() || s.to.After(to))
}

// A life is one process of an executor's name.
type life struct {
	name string
	n    int
}

// trouble is when what could not be relied on.
type trouble struct {
	lives  map[life]span
	away   map[life][]span   // stopped, or cut off
	joined map[string][]span // by name
	down   []span            // the orchestrator
	moans  map[life][]time.Time
}

func (h history) trouble() *trouble {
	x := &trouble{lives: map[life]span{}, away: map[life][]span{}, joined: map[string][]span{}, moans: map[life][]time.Time{}}
	begun := map[string]span{} // by what and of whom
	end := func(what string, to time.Time) (span, bool) {
		s, ok := begun[what]
		delete(begun, what)
		s.to = to
		return s, ok
	}
	leave := func(name string, at time.Time) {
		if s, ok := end("joined "+name, at); ok {
			x.joined[name] = append(x.joined[name], s)
		}
	}
	for _, e := range h {
		l := life{e.Name, e.Life}
		of := fmt.Sprint(e.Name, e.Life)
		switch e.What {
		case starts:
			x.lives[l] = span{from: e.At}
			if before, ok := x.lives[life{e.Name, e.Life - 1}]; ok && before.to.IsZero() {
				x.lives[life{e.Name, e.Life - 1}] = span{before.from, e.At}
			}
		case killed:
			if s := x.lives[l]; s.to.IsZero() {
				x.lives[l] = span{s.from, e.At}
			}
		case stops, cutOff:
			begun[e.What+of] = span{from: e.At}
		case goesOn, reaches:
			if s, ok := end(map[string]string{goesOn: stops, reaches: cutOff}[e.What]+of, e.At); ok {
				x.away[l] = append(x.away[l], s)
			}
		case wentDown:
			if _, ok := begun[wentDown]; !ok {
				begun[wentDown] = span{from: e.At}
			}
			for what := range begun {
				if name, ok := strings.CutPrefix(what, "joined "); ok {
					leave(name, e.At)
				}
			}
		case cameUp:
			if s, ok := end(wentDown, e.At); ok {
				x.down = append(x.down, s)
			}
		case joins:
			leave(e.Name, e.At)
			begun["joined "+e.Name] = span{from: e.At.Add(time.Millisecond)} // the log has whole ones
		case leaves:
			leave(e.Name, e.At)
		case complains:
			x.moans[l] = append(x.moans[l], e.At)
		}
		if e.What == stops || e.What == cutOff { // it may never end
			x.away[l] = append(x.away[l], span{e.At, e.At})
		}
	}
	for what, s := range begun {
		if name, ok := strings.CutPrefix(what, "joined "); ok {
			x.joined[name] = append(x.joined[name], s)
		} else if what == wentDown {
			x.down = append(x.down, s)
		} else {
			for l := range x.lives {
				if what == stops+fmt.Sprint(l.name, l.n) || what == cutOff+fmt.Sprint(l.name, l.n) {
					x.away[l] = append(x.away[l], s)
				}
			}
		}
	}
	return x
}

// well reports whether a life and the orchestrator reached each other all the time,
// and it knew.
func (x *trouble) well(l life, from, to time.Time) bool {
	meets := func(s span) bool { return s.meets(from, to) }
	return x.lives[l].covers(from, to) &&
		!slices.ContainsFunc(x.away[l], meets) && !slices.ContainsFunc(x.down, meets) &&
		slices.ContainsFunc(x.joined[l.name], func(s span) bool { return s.covers(from, to) }) &&
		!slices.ContainsFunc(x.moans[l], func(at time.Time) bool { return !at.Before(from) && !at.After(to) })
}

// A turned is a run that an executor has begun, as nobody else ran the key.
type turned struct {
	life
	key       string
	asked, at time.Time
}

// turns returns the runs that were begun, in their order.
func (h history) turns() []turned {
	var all []turned
	started := map[life]time.Time{}
	asked := map[string]time.Time{}
	open := map[string]int{} // questions, of which asked is when the first came
	for _, e := range h {
		of := fmt.Sprint(e.Name, " ", e.Life, " ", e.Key)
		switch e.What {
		case starts:
			started[life{e.Name, e.Life}] = e.At
		case asks:
			if open[of]++; open[of] == 1 {
				asked[of] = e.At
			}
		case ends, fails:
			open[of]--
		case turn:
			from := started[life{e.Name, e.Life}] // if it was queued by the process before
			if open[of] > 0 {
				from = asked[of]
			}
			all = append(all, turned{life{e.Name, e.Life}, e.Key, from, e.At})
		}
	}
	return all
}

// checkRuns returns what is wrong with how often keys were run. An executor runs a key
// that another runs, or has, only if the other was killed or could not be reached, or
// if it could not reach the orchestrator itself.
func checkRuns(h history) (wrong []string) {
	x := h.trouble()
	turns := h.turns()
	for i, b := range turns {
		if !x.well(b.life, b.asked, b.at) {
			continue
		}
		for _, a := range turns[:i] {
			if a.key == b.key && x.well(a.life, a.asked, b.at) {
				wrong = append(wrong, fmt.Sprintf("%s.%d runs %s at %s, asked at %s, which %s.%d runs since %s, asked at %s",
					b.name, b.n, b.key, clock(b.at), clock(b.asked), a.name, a.n, clock(a.at), clock(a.asked)))
			}
		}
		for _, o := range h {
			if o.What != offers || o.Key != b.key || o.At.After(b.asked) {
				continue
			}
			for l := range x.lives {
				if l.name == o.Name && x.well(l, o.From, b.at) {
					wrong = append(wrong, fmt.Sprintf("%s.%d runs %s at %s, asked at %s, which %s.%d has at the latest since %s",
						b.name, b.n, b.key, clock(b.at), clock(b.asked), l.name, l.n, clock(o.At)))
				}
			}
		}
	}
	slices.Sort(wrong)
	return slices.Compact(wrong)
}

// checkTurns returns which runs were begun by an executor that had not waited for its
// turn.
func checkTurns(h history) (wrong []string) {
	had := map[string]bool{}
	for _, e := range h {
		of := fmt.Sprint(e.Name, " ", e.Life, " ", e.Key)
		switch e.What {
		case turn:
			had[of] = true
		case tests:
			if !had[of] {
				wrong = append(wrong, fmt.Sprintf("%s.%d runs %s at %s without having asked whose turn it is", e.Name, e.Life, e.Key, clock(e.At)))
			}
		}
	}
	return wrong
}

// clock returns a time as the orchestrator's log has it.
func clock(t time.Time) string { return t.UTC().Format("15:04:05.000000") }

// checkServed returns what is wrong with who served a name. What a name's tree is
// changes at a join alone. A reader that saw two of them in turn saw a join for each
// change, and no two saw them the other way round.
func checkServed(h history) (wrong []string) {
	joined := map[string][]time.Time{}
	seen := map[string][]event{}
	for _, e := range h {
		switch e.What {
		case joins:
			joined[e.Name] = append(joined[e.Name], e.At)
		case serves:
			seen[e.Name] = append(seen[e.Name], e)
		}
	}
	for name, all := range seen {
		between := func(from, to time.Time) int {
			n := 0
			for _, at := range joined[name] {
				if !at.Before(from.Truncate(time.Millisecond)) && !at.After(to) {
					n++
				}
			}
			return n
		}
		slices.SortFunc(all, func(a, b event) int { return a.From.Compare(b.From) })
		for i, a := range all {
			// The changes that any order of what was seen has: last is one that
			// surely was seen before the next.
			changes, last := 0, a
			for _, b := range all[i+1:] {
				if !b.From.After(last.At) {
					continue
				}
				if b.Life != last.Life {
					changes++
				}
				last = b
				if changes > between(a.From, b.At) {
					wrong = append(wrong, fmt.Sprintf("n/%s was process %d at %s and %d at %s, with %d changes and %d joins between", name, a.Life, clock(a.At), b.Life, clock(b.At), changes, between(a.From, b.At)))
					break
				}
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// checkJoins returns what is wrong with the orchestrator's own log: a name has one
// generation at once, and each is newer than the last.
func checkJoins(h history) (wrong []string) {
	now := map[string]int{}
	newest := 0
	for _, e := range h {
		switch e.What {
		case wentDown:
			clear(now)
			newest = 0
		case joins:
			if now[e.Name] != 0 {
				wrong = append(wrong, fmt.Sprintf("%s joins as generation %d, and %d has not left", e.Name, e.Life, now[e.Name]))
			}
			if e.Life <= newest {
				wrong = append(wrong, fmt.Sprintf("%s joins as generation %d after %d", e.Name, e.Life, newest))
			}
			now[e.Name], newest = e.Life, e.Life
		case leaves:
			if now[e.Name] != e.Life {
				wrong = append(wrong, fmt.Sprintf("%s leaves as generation %d, and %d had joined", e.Name, e.Life, now[e.Name]))
			}
			now[e.Name] = 0
		}
	}
	return wrong
}

// checkSigned returns which runs were given out, by an executor or the orchestrator,
// with other bytes than their maker signed.
func checkSigned(h history) (wrong []string) {
	made := map[string]event{} // by score
	for _, e := range h {
		if e.What == wasMade {
			made[e.Score] = e
		}
	}
	for _, e := range h {
		if e.What != ends && e.What != shows {
			continue
		}
		m, ok := made[e.Score]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s of %s.%d %s a run of %s with the score %.12s, which nobody has made", e.ID, e.Name, e.Life, e.What, e.Key, e.Score))
		case m.Tenant != e.Tenant:
			wrong = append(wrong, fmt.Sprintf("%s of %s.%d is a run of the tenant %s", e.ID, e.Name, e.Life, m.Tenant))
		case m.Key != e.Key || m.Digest != e.Digest || e.Signer != "" && m.Signer != e.Signer:
			wrong = append(wrong, fmt.Sprintf("%s of %s.%d %s %s with the bytes %.12s by %s, and its maker signed %s, %.12s by %s",
				e.ID, e.Name, e.Life, e.What, e.Key, e.Digest, e.Signer, m.Key, m.Digest, m.Signer))
		}
	}
	return wrong
}

// checkAnswers returns which questions of executors were not answered with a passed
// run.
func checkAnswers(h history) (wrong []string) {
	for _, e := range h {
		if e.What == fails || e.What == ends && e.State != "passed" {
			wrong = append(wrong, fmt.Sprintf("%s.%d %s %s: %s %s", e.Name, e.Life, e.What, e.Key, e.State, e.Text))
		}
	}
	return wrong
}

// checkTenants returns what tenants saw of each other.
func checkTenants(h history) (wrong []string) {
	for _, e := range h {
		if e.What == foreign {
			wrong = append(wrong, fmt.Sprintf("the tenant %s reads %s", e.Tenant, e.Text))
		}
	}
	return wrong
}

// foreignTo returns what of the other tenants is in b, or "".
func foreignTo(t *tenant, all []*tenant, b []byte) string {
	text := string(b)
	for _, other := range all {
		if other == t {
			continue
		}
		for _, mark := range append([]string{other.name}, other.commits...) {
			if i := strings.Index(text, mark[:min(len(mark), 12)]); i >= 0 {
				return fmt.Sprintf("%q", text[max(0, i-40):min(len(text), i+40)])
			}
		}
	}
	return ""
}

// checks are all that a history must hold.
var checks = []struct {
	what  string
	check func(history) []string
}{
	{"one run for each key unless its runner died", checkRuns},
	{"nobody runs before its turn", checkTurns},
	{"one generation of a name is served at once", checkServed},
	{"one generation of a name is joined at once", checkJoins},
	{"what was replayed is what was signed", checkSigned},
	{"what was asked for is there", checkAnswers},
	{"no byte of a foreign tenant", checkTenants},
}

// summary counts the events by what they are.
func (h history) summary() string {
	n := map[string]int{}
	for _, e := range h {
		n[e.What]++
	}
	var all []string
	for what, k := range n {
		all = append(all, fmt.Sprintf("%s %d", what, k))
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(a, b) })
	return strings.Join(all, ", ")
}
