package executor

import (
	"sync"
	"testing"

	"9ci/cmd/internal/repo"
)

// Head is of the clone that was last named, and of no other: a commit that a
// run was asked for in one clone is not looked for in another.
func TestHead(t *testing.T) {
	a, b := newClone(t, "a"), newClone(t, "b")
	of := func(r *repo.Repo) string {
		t.Helper()
		commit, _, err := r.Resolve(t.Context(), "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	e := new(Executor)
	check := func(when string, want *repo.Repo) {
		t.Helper()
		commit, _, past, err := e.Head(t.Context())
		if err != nil || commit != of(want) || len(past) != 1 || past[0] != commit {
			t.Errorf("%s: Head = %.7s, %.7s, %v, want %.7s", when, commit, past, err, of(want))
		}
	}
	e.SetRepo(a)
	check("one clone", a)
	e.setHead(a, of(a))
	check("a run in it", a)
	e.SetRepo(b)
	check("another clone", b)
	e.setHead(a, of(a)) // a run that was asked for before the other was named
	check("a run in the first", a)
	e.SetRepo(b)
	check("the other again", b)

	// And while the clone changes it is of either.
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 4 {
		wg.Go(func() {
			e.SetRepo(a)
			if e.Repo() == nil {
				t.Error("Repo is nil")
			}
			if _, _, past, err := e.Head(t.Context()); err != nil || len(past) != 1 {
				t.Errorf("Head = %v, %v", past, err)
			}
			e.SetRepo(b)
		})
	}
}
