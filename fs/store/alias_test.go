package store

import (
	"slices"
	"testing"
	"time"

	"9ci/fs/ci"
)

// The runs of a commit or of a tree come in the order of ci/REV, and the first is the one
// that its name means.
func TestRanked(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	made := func(commit, tree, target, state string, ago time.Duration) string {
		t.Helper()
		r, err := s.Create(commit)
		if err != nil {
			t.Fatal(err)
		}
		r.SetKey(ci.Attrs{{Name: "commit", Value: commit}, {Name: "target", Value: target}})
		r.SetInfo(ci.Attrs{{Name: "tree", Value: tree}, {Name: "end", Value: ci.FormatTime(now.Add(-ago))}})
		if state != "queued" {
			if err := r.Seal(t.Context(), state, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		return r.ID()
	}
	const treeB = "89abcdef0123456789abcdef0123456789abcdef"
	lint := made(commitA, treeA, "lint", "passed", 0)
	cancelled := made(commitA, treeA, "test", "cancelled", 0)
	old := made(commitA, treeA, "test", "passed", 2*time.Hour)
	failed := made(commitA, treeA, "test", "failed", 0)
	same := made(commitB, treeA, "test", "passed", time.Hour)
	later := made(commitA, treeA, "test", "passed", 2*time.Hour)
	queued := made(commitA, treeA, "test", "queued", 0)
	made("0000bbbbccccddddeeeeffff0000111122223333", "", "test", "passed", 0)
	other := made(commitB, treeB, "test", "failed", 0)
	for name, want := range map[string][]string{
		commitA:      {later, old, failed, queued, cancelled, lint},
		commitB:      {same, other},
		treeA:        {same, later, old, failed, queued, cancelled, lint},
		treeB:        {other},
		commitA[:12]: nil,
		"":           nil,
	} {
		var got []string
		for _, e := range s.Ranked(name) {
			got = append(got, e.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("Ranked(%q) = %q, want %q", name, got, want)
		}
		if len(want) == 0 {
			continue
		}
		if best, err := s.Lookup(name); err != nil || best.ID != want[0] {
			t.Errorf("Lookup(%q) = %q, %v, want %q", name, best.ID, err, want[0])
		}
	}
}
