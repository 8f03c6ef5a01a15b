package cmd_test

import (
	"slices"
	"testing"
	"time"
)

// told is a history in seconds.
type told []event

func (h told) with(events ...event) told { return append(slices.Clone(h), events...) }

func sec(s float64) time.Time { return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second))) }

// of makes an event of a first process.
func of(name, what string, at float64) event {
	return event{What: what, At: sec(at), Tenant: "heron", Name: name, Life: 1}
}

func keyed(name, what string, at float64) event {
	e := of(name, what, at)
	e.Key = "k/test"
	return e
}

func run(name, what string, at float64, score, digest string) event {
	e := keyed(name, what, at)
	e.ID, e.State, e.Score, e.Digest, e.Signer = "k.1", "passed", score, digest, "SHA256:a"
	return e
}

func looked(name string, life int, from, at float64) event {
	e := of(name, serves, at)
	e.From, e.Life = sec(from), life
	return e
}

func sighted(name string, from, at float64) event {
	e := keyed(name, offers, at)
	e.From = sec(from)
	return e
}

func generation(name, what string, n int, at float64) event {
	e := of(name, what, at)
	e.Life = n
	return e
}

func second(e event) event { e.Life = 2; return e }

// A history that is as it should be passes each check, and one that is forged fails the
// check that it is forged for, and no other.
func TestFleetChecks(t *testing.T) {
	good := told{
		of("a", starts, 0), of("b", starts, 0),
		generation("a", joins, 1, 1), generation("b", joins, 2, 1),
		keyed("a", asks, 10), keyed("a", turn, 11), keyed("a", tests, 11.5), keyed("b", asks, 12),
		run("a", ends, 20, "score", "digest"), run("b", ends, 21, "score", "digest"),
		looked("a", 1, 22, 23),
		run("a", wasMade, 100, "score", "digest"),
	}
	again := good.with(keyed("b", asks, 30), keyed("b", turn, 31), run("b", ends, 35, "score", "digest"))
	for _, tt := range []struct {
		name  string
		h     told
		check string // that fails; empty for none
	}{
		{"good", good, ""},
		{"two run it", again, "one run for each key unless its runner died"},
		{"the second asks before the first begins", good.with(keyed("b", asks, 10.5), keyed("b", turn, 11.5)), "one run for each key unless its runner died"},
		{"the runner was killed", again.with(of("a", killed, 25)), ""},
		{"the runner was killed before it ran", again.with(of("a", killed, 10.5)), ""},
		{"the runner was killed later", again.with(of("a", killed, 32)), "one run for each key unless its runner died"},
		{"the runner was replaced", again.with(second(of("a", starts, 30.5))), ""},
		{"the runner was stopped", again.with(of("a", stops, 25), of("a", goesOn, 30.5)), ""},
		{"the runner was stopped before", again.with(of("a", stops, 2), of("a", goesOn, 3)), "one run for each key unless its runner died"},
		{"the runner is still stopped", again.with(of("a", stops, 25)), ""},
		{"the runner was cut off", again.with(of("a", cutOff, 30.2), of("a", reaches, 40)), ""},
		{"the asker was cut off", again.with(of("b", cutOff, 30.2), of("b", reaches, 40)), ""},
		{"the asker was cut off before", again.with(of("b", cutOff, 25), of("b", reaches, 28)), "one run for each key unless its runner died"},
		{"the asker had no answer", again.with(of("b", complains, 30.5)), ""},
		{"the asker had none before", again.with(of("b", complains, 29)), "one run for each key unless its runner died"},
		{"the asker had left", again.with(generation("b", leaves, 2, 29)), ""},
		{"the asker came back", again.with(generation("b", leaves, 2, 28), generation("b", joins, 3, 29)), "one run for each key unless its runner died"},
		{"the orchestrator was down", again.with(event{What: wentDown, At: sec(30.1)}, event{What: cameUp, At: sec(30.2)}), ""},
		{"the orchestrator was down before, and they are not back", again.with(event{What: wentDown, At: sec(25)}, event{What: cameUp, At: sec(26)}), ""},
		{"another key", good.with(of("b", turn, 31)), ""},

		{"one that was queued before it was killed", good.with(second(of("b", starts, 30)), second(keyed("b", turn, 31))), "one run for each key unless its runner died"},
		{"one that does not ask", good.with(keyed("b", tests, 31)), "nobody runs before its turn"},

		{"who is back was seen to have it", again.with(of("a", stops, 24), of("a", goesOn, 25), sighted("a", 26, 27)), "one run for each key unless its runner died"},
		{"who is back was seen before", again.with(of("a", stops, 24), of("a", goesOn, 25), sighted("a", 22, 23)), ""},
		{"an adopter was seen to have it", again.with(of("a", killed, 25), of("c", starts, 0), generation("c", joins, 3, 1.5), sighted("c", 26, 27)), "one run for each key unless its runner died"},

		{"a second process without a join", good.with(looked("a", 2, 24, 25)), "one generation of a name is served at once"},
		{"a second process after a join", good.with(generation("a", leaves, 1, 23.5), generation("a", joins, 3, 23.5), looked("a", 2, 24, 25)), ""},
		{"a second process and then the first", good.with(generation("a", leaves, 1, 23.5), generation("a", joins, 3, 23.5), looked("a", 2, 24, 25), looked("a", 1, 26, 27)), "one generation of a name is served at once"},
		{"both, by looks at the same time", good.with(generation("a", leaves, 1, 25), generation("a", joins, 3, 25), looked("a", 2, 24, 27), looked("a", 1, 24.5, 28)), ""},
		{"the first is back", good.with(generation("a", leaves, 1, 23.5), generation("a", joins, 3, 23.5), looked("a", 2, 24, 25), generation("a", leaves, 3, 25.5), generation("a", joins, 4, 25.5), looked("a", 1, 26, 27)), ""},

		{"two joins", good.with(generation("a", joins, 3, 50)), "one generation of a name is joined at once"},
		{"an old generation", good.with(generation("a", leaves, 1, 50), generation("a", joins, 1, 51)), "one generation of a name is joined at once"},
		{"another leaves", good.with(generation("a", leaves, 2, 50)), "one generation of a name is joined at once"},

		{"a score that nobody made", good.with(run("b", ends, 40, "other", "digest")), "what was replayed is what was signed"},
		{"other bytes", good.with(run("b", ends, 40, "score", "other")), "what was replayed is what was signed"},
		{"other bytes by the orchestrator", good.with(run("b", shows, 40, "score", "other")), "what was replayed is what was signed"},
		{"another signer", good.with(func() event { e := run("b", ends, 40, "score", "digest"); e.Signer = "SHA256:b"; return e }()), "what was replayed is what was signed"},
		{"another key's run", good.with(func() event { e := run("b", ends, 40, "score", "digest"); e.Key = "k/lint"; return e }()), "what was replayed is what was signed"},
		{"another tenant's run", good.with(func() event { e := run("b", ends, 40, "score", "digest"); e.Tenant = "walrus"; return e }()), "what was replayed is what was signed"},

		{"an error", good.with(keyed("b", fails, 40)), "what was asked for is there"},
		{"a run that failed", good.with(func() event { e := run("b", ends, 40, "score", "digest"); e.State = "error"; return e }()), "what was asked for is there"},

		{"foreign bytes", good.with(event{What: foreign, At: sec(40), Tenant: "heron", Text: "walrus"}), "no byte of a foreign tenant"},
	} {
		for _, c := range checks {
			wrong := c.check(sorted(tt.h))
			if (len(wrong) > 0) != (c.what == tt.check) {
				t.Errorf("%s: %s: %q", tt.name, c.what, wrong)
			}
		}
	}
}

func TestForeignTo(t *testing.T) {
	heron := &tenant{name: "heron", commits: []string{"0123456789abcdef0123"}}
	walrus := &tenant{name: "walrus", commits: []string{"fedcba9876543210fedc"}}
	all := []*tenant{heron, walrus}
	for text, want := range map[string]bool{
		"":                                     false,
		"of heron at 0123456789abcdef0123":     false,
		"/n/walrus-1/ci":                       true,
		"fedcba987654.1 passed 0":              true,
		"commit=fedcba9876543210fedc\nnothing": true,
		"fedcba98":                             false, // any prefix might be a digest's
	} {
		if got := foreignTo(heron, all, []byte(text)); (got != "") != want {
			t.Errorf("foreignTo(%q) = %q, want something: %v", text, got, want)
		}
	}
}
