package ci

import (
	"errors"
	iofs "io/fs"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	testID     = "3f2a9c1d0b7e.1"
	testCommit = "3f2a9c1d0b7e5f6a7b8c9d0e1f2a3b4c5d6e7f80"
	testScore  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

var testTime = time.Date(2026, 11, 24, 21, 52, 55, 0, time.UTC)

func TestIDs(t *testing.T) {
	if id := string(AppendID(nil, []byte{0x3f, 0x2a, 0x9c, 0x1d, 0x0b, 0x7e, 0x5f}, 1)); id != testID {
		t.Errorf("AppendID = %q, want %q", id, testID)
	}
	for id, want := range map[string]uint64{
		testID:                              1,
		"000000000000.9007199254740992":     MaxNumber,
		"000000000000.9007199254740993":     0,
		"000000000000.99999999999999999999": 0,
		"000000000000.0":                    0,
		"000000000000.01":                   0,
		"000000000000.+1":                   0,
		"000000000000.1_0":                  0,
		"000000000000.":                     0,
		"000000000000":                      0,
		"00000000000.1":                     0,
		"0000000000000.1":                   0,
		"00000000000A.1":                    0,
		"00000000000g.1":                    0,
		"":                                  0,
	} {
		if _, n, ok := SplitID(id); n != want || ok != (want != 0) || IsID(id) != ok {
			t.Errorf("SplitID(%q) = %d, %v, want %d", id, n, ok, want)
		}
	}
}

// A sealed run has an end: "-" and times that ci(4) does not write are none.
func TestEnd(t *testing.T) {
	for _, tt := range []struct {
		info Attrs
		want time.Time // zero: an error
	}{
		{Attrs{{"end", "2026-11-24T21:52:55Z"}}, testTime},
		{Attrs{{"end", "2026-11-24T22:52:55+01:00"}}, time.Time{}},
		{Attrs{{"end", "2026-11-24T21:52:55.5Z"}}, time.Time{}},
		{Attrs{{"end", "-"}}, time.Time{}},
		{nil, time.Time{}},
	} {
		if got, err := End(tt.info); !got.Equal(tt.want) || (err != nil) != tt.want.IsZero() {
			t.Errorf("End(%v) = %v, %v, want %v", tt.info, got, err, tt.want)
		}
	}
}

func TestIndexLine(t *testing.T) {
	for _, tt := range []struct {
		line IndexLine
		text string
	}{
		{
			IndexLine{ID: testID, Status: Status{"passed", 0, 7 * time.Millisecond, testTime}, Commit: testCommit, Tree: testCommit, Signer: "it's alice", Score: testScore},
			testID + " passed 0 0.007 2026-11-24T21:52:55Z " + testCommit + " " + testCommit + " 'it''s alice' " + testScore,
		},
		{
			IndexLine{ID: testID, Status: Status{State: "queued", Code: -1, Took: -1}, Commit: testCommit},
			testID + " queued - - - - " + testCommit + " - -",
		},
	} {
		if got := string(tt.line.Append(nil)); got != tt.text+"\n" {
			t.Errorf("Append = %q, want %q", got, tt.text)
		}
		if got, err := ParseIndexLine(tt.text); got != tt.line || err != nil {
			t.Errorf("ParseIndexLine(%q) = %v, %v, want %v", tt.text, got, err, tt.line)
		}
	}
	good := testID + " passed 0 0.007 2026-11-24T21:52:55Z - " + testCommit + " - -"
	for _, tt := range []struct{ old, new, want string }{
		{testID, "3f2a9c1d0b7e.0", "no run's id"},
		{"passed", "running", "no state of a run"},
		{"passed", "'passed 0'", "four fields"},
		{testCommit, testCommit[1:], "name of a git object"},
		{" - -", " - abc", "SHA-256"},
		{" - -", " -", "nine fields"},
		{" - -", " - 'x", "not closed"},
	} {
		if _, err := ParseIndexLine(strings.Replace(good, tt.old, tt.new, 1)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseIndexLine with %q in place of %q: %v, want %q", tt.new, tt.old, err, tt.want)
		}
	}
}

func TestEvents(t *testing.T) {
	s := Status{State: "base-image", Code: -1, Took: time.Second, Time: testTime}
	line := FormatEvent(testID, s)
	if want := testID + " base-image - 1.000 2026-11-24T21:52:55Z"; line != want {
		t.Errorf("FormatEvent = %q, want %q", line, want)
	}
	if id, got, err := ParseEvent(line); id != testID || got != s || err != nil {
		t.Errorf("ParseEvent(%q) = %q, %v, %v", line, id, got, err)
	}
	for _, bad := range []string{"", testID, "x " + s.String(), testID + " running - - -", testID + " skipped - - -"} {
		if _, _, err := ParseEvent(bad); err == nil {
			t.Errorf("ParseEvent(%q) is no error", bad)
		}
	}
	if got := NamespaceEvent("h/o/r", line); got != "h/o/r/ci/"+line {
		t.Errorf("NamespaceEvent = %q", got)
	}
}

func TestMuxEvents(t *testing.T) {
	for line, want := range map[string]MuxEvent{
		"/n/box join 2026-11-24T21:04:05Z":      {Executor: "box", What: "join"},
		"/n/box.7+2 leave 2026-11-24T21:04:05Z": {Executor: "box.7+2", What: "leave"},
	} {
		if got, err := ParseMuxEvent(line); got != want || err != nil {
			t.Errorf("ParseMuxEvent(%q) = %+v, %v, want %+v", line, got, err, want)
		}
	}
	e, err := ParseMuxEvent("/n/box/ci/3f2a9c1d0b7e.1 passed 0 1.000 2026-11-24T21:04:05Z")
	if err != nil || e.Executor != "box" || e.What != "" || e.ID != "3f2a9c1d0b7e.1" || e.Status.State != "passed" {
		t.Errorf("ParseMuxEvent of a run = %+v, %v", e, err)
	}
	for _, line := range []string{
		"", "/", "/n", "/n/", "/n/box", "/n/box arrive 2026-11-24T21:04:05Z", "/n/box join now", "/n/../ci/3f2a9c1d0b7e.1 passed 0 1.000 -",
		"/n/.. join -", "/n/a\x1b[2J join -", "/n/box/ci passed 0 1.000 -", "/n/box/ci/x passed 0 1.000 -", "/n/box/artifacts/3f2a9c1d0b7e.1 passed 0 1.000 -",
		"/n/box/ci/3f2a9c1d0b7e.1 dancing 0 1.000 -", "n/box join -",
	} {
		if e, err := ParseMuxEvent(line); err == nil {
			t.Errorf("ParseMuxEvent(%q) = %+v, want an error", line, e)
		}
	}
}

// The best run of a revision comes first, however they were shuffled.
func TestCompareBest(t *testing.T) {
	at := func(s int) time.Time { return testTime.Add(time.Duration(s) * time.Second) }
	want := []Candidate{
		{true, "passed", at(2), 1},
		{true, "passed", at(1), 3},
		{true, "passed", at(1), 2},
		{true, "failed", at(9), 4},
		{true, "test", at(9), 5},
		{true, "queued", at(8), 6},
		{true, "error", at(9), 7},
		{true, "cancelled", at(8), 8},
		{false, "passed", at(99), 9},
		{false, "failed", at(99), 10},
	}
	for range 20 {
		got := slices.Clone(want)
		rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, CompareBest)
		if !slices.Equal(got, want) {
			t.Fatalf("sorted are %v, want %v", got, want)
		}
	}
	for target, want := range map[string]bool{"": true, "test": true, "lint": false, "test lint": false} {
		if got := DefaultTargets(Attrs{{"target", target}}); got != want {
			t.Errorf("DefaultTargets of %q = %v", target, got)
		}
	}
}

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]Command{
		"run HEAD":                        {Verb: "run", Rev: "HEAD", Targets: []string{}},
		"run force=1 net= HEAD a=b 'c d'": {Verb: "run", Attrs: Attrs{{"force", "1"}, {"net", ""}}, Rev: "HEAD", Targets: []string{"a=b", "c d"}},
		" cancel\tx":                      {Verb: "cancel", Run: "x"},
		"keep last":                       {Verb: "keep", Run: "last"},
		"gc":                              {Verb: "gc"},
	} {
		if got, err := ParseCommand(line); !reflect.DeepEqual(got, want) || err != nil {
			t.Errorf("ParseCommand(%q) = %+v, %v, want %+v", line, got, err, want)
		}
	}
	for line, want := range map[string]Command{
		"cancel":   {Verb: "cancel"},
		"hold 90s": {Verb: "hold", Duration: 90 * time.Second},
		"hold 2":   {Verb: "hold", Duration: 2 * time.Second}, // as CI_HOLD=2
		"hold 1d":  {Verb: "hold", Duration: 24 * time.Hour},
	} {
		if got, err := ParseRunCommand(line); !reflect.DeepEqual(got, want) || err != nil {
			t.Errorf("ParseRunCommand(%q) = %+v, %v, want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{"", " ", "''", "run", "run a=b", "gc 1", "cancel", "keep a b", "hold 1m", "'run"} {
		if _, err := ParseCommand(line); !errors.Is(err, iofs.ErrInvalid) {
			t.Errorf("ParseCommand(%q): %v, want %v", line, err, iofs.ErrInvalid)
		}
	}
	for _, line := range []string{"", "run HEAD", "gc", "keep x", "hold", "hold -1s", "hold 1m 1m", "hold 1x", "hold 1.5d", "hold 99999999999w"} {
		if _, err := ParseRunCommand(line); !errors.Is(err, iofs.ErrInvalid) {
			t.Errorf("ParseRunCommand(%q): %v, want %v", line, err, iofs.ErrInvalid)
		}
	}
	// The manuals name the commands that there are.
	for manual, parse := range map[string]func(string) (Command, error){CtlManual: ParseCommand, RunCtlManual(true): ParseRunCommand} {
		for line := range strings.Lines(manual) {
			line = strings.NewReplacer("[ATTR=VALUE...] ", "", " [TARGET...]", "", "DURATION", "1m").Replace(strings.TrimSpace(line))
			if _, err := parse(line); err != nil {
				t.Errorf("the manual has %q: %v", line, err)
			}
		}
	}
}

// Whatever a peer says in an index, an event file or a ctl: what is accepted is
// written as it was read.
func FuzzLines(f *testing.F) {
	f.Add(testID + " passed 0 0.007 2026-11-24T21:52:55Z - " + testCommit + " 'a b' " + testScore)
	f.Add(testID + " queued - - -")
	f.Add("run a=b HEAD 'it''s'")
	f.Fuzz(func(t *testing.T, line string) {
		if l, err := ParseIndexLine(line); err == nil {
			text := strings.TrimSuffix(string(l.Append(nil)), "\n")
			if again, err := ParseIndexLine(text); again != l || err != nil {
				t.Errorf("ParseIndexLine(%q) = %v, and of that %v, %v", line, l, again, err)
			}
		}
		if id, s, err := ParseEvent(line); err == nil {
			if id2, again, err := ParseEvent(FormatEvent(id, s)); id2 != id || again != s || err != nil {
				t.Errorf("ParseEvent(%q) = %q %v, and of that %q %v, %v", line, id, s, id2, again, err)
			}
		}
		for _, parse := range []func(string) (Command, error){ParseCommand, ParseRunCommand} {
			if _, err := parse(line); err != nil && !errors.Is(err, iofs.ErrInvalid) {
				t.Errorf("%q: %v, want %v", line, err, iofs.ErrInvalid)
			}
		}
	})
}
