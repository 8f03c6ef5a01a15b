package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// A commit's statuses are known from when its run has ended, and why the forge has not got
// one yet.
func TestTold(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		answer := func(want string) {
			t.Helper()
			synctest.Wait()
			a, err := w.reporter.Told(hello, commit)
			got, _, _ := strings.Cut(a.Text(), " 2")
			for _, s := range a.Statuses {
				got += fmt.Sprintf(" ... %q", s.Why)
			}
			if err != nil || got != want {
				t.Errorf("Told = %q, %v, want %q", got, err, want)
			}
			if again, err := ParseAnswer(a.Text()); err != nil || again.Text() != a.Text() {
				t.Errorf("ParseAnswer(%q) = %+v, %v", a.Text(), again, err)
			}
		}
		const page = "page https://ci.example.org/rev/" + commit + "/" + hello + "\nforge github.com\n"
		answer(page)
		w.join(hello, "box")
		w.set(func(context.Context, access.CommitStatus) error { return access.ErrNoCommit })
		w.show(hello, "box", "3f2a9c1d0b7e.1", commit, "passed 0 1.000", amd64)
		answer(page + fmt.Sprintf("status begun 9ci/amd64 passed 0 1.000 ... %q", noCommit))
		for _, test := range []struct {
			err  error
			mark string
			why  string
		}{
			{&access.ForbiddenError{Words: "the file /secret"}, "begun", forbids},
			{errors.New("silent"), "begun", isBusy},
			{nil, "told", ""},
			{&access.RejectedError{Words: "/secret"}, "rejected", refuses},
		} {
			time.Sleep(forbiddenMax)
			w.set(func(context.Context, access.CommitStatus) error { return test.err })
			w.show(hello, "box", "3f2a9c1d0b7e.2", commit, "passed 0 1.000", amd64)
			time.Sleep(forbiddenMax)
			answer(page + fmt.Sprintf("status %s 9ci/amd64 passed 0 1.000 ... %q", test.mark, test.why))
		}
		w.site.mu.Lock()
		w.tells = func(string) bool { return false }
		w.site.mu.Unlock()
		answer(strings.Replace(page, "github.com\n", "-\n", 1))
	})
}

// Before the file of what was told is read, nobody knows.
func TestToldBefore(t *testing.T) {
	r := New(Options{URL: "https://ci.example.org", Forge: &site{}, Log: slog.New(slog.DiscardHandler)})
	if _, err := r.Told(hello, commit); !errors.Is(err, fs.ErrBusy) {
		t.Errorf("Told = %v", err)
	}
}

// An answer that anybody may have made makes no panic, and reads the same when it is written
// again.
func FuzzAnswer(f *testing.F) {
	f.Add(Answer{Page: "https://ci.example.org/rev/x", Forge: "github.com", Statuses: []Told{
		{"due", "9ci/amd64 a b", ci.Status{State: "passed", Took: time.Second, Time: time.Unix(1e9, 0)}, noCommit},
	}}.Text())
	f.Add("more words\npage -\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAnswer(text)
		if err != nil || strings.ContainsAny(fmt.Sprintf("%v", a), "\n\r") {
			return
		}
		if again, err := ParseAnswer(a.Text()); err != nil || again.Text() != a.Text() {
			t.Errorf("%q reads %+v, and then %+v, %v", text, a, again, err)
		}
	})
}
