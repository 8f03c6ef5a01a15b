package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

func TestParseKeep(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct {
		in   string
		want Keep
	}{
		{"", Keep{}},
		{"once", Keep{Once: true}},
		{"10", Keep{Count: 10}},
		{"7d", Keep{Age: 7 * day}},
		{"2w", Keep{Age: 14 * day}},
		{"90m", Keep{Age: 90 * time.Minute}},
		{"1h30m", Keep{Age: 90 * time.Minute}},
		{"1G", Keep{Size: 1 << 30}},
		{"1.5M", Keep{Size: 3 << 19}},
		{"10 7d 1G", Keep{Count: 10, Age: 7 * day, Size: 1 << 30}},
		{"once 1G", Keep{Once: true, Size: 1 << 30}},
	} {
		if got, err := ParseKeep(tt.in); got != tt.want || err != nil {
			t.Errorf("ParseKeep(%q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"twice", "-1", "0", "1.5", "7x", "G", "0d", "10,7d", "1e999", "NaN"} {
		if got, err := ParseKeep(in); err == nil {
			t.Errorf("ParseKeep(%q) = %+v, want an error", in, got)
		}
	}
}

// quick makes a run without much in it.
func quick(t testing.TB, s *Store, commit string, info ...ci.Attr) string {
	t.Helper()
	r, err := s.Create(commit)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetInfo(info); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal(context.Background(), "passed", 0, nil); err != nil {
		t.Fatal(err)
	}
	return r.ID()
}

func ids(s *Store) (ids []string) {
	for e := range s.Runs() {
		ids = append(ids, e.ID)
	}
	return ids
}

func wantRuns(t *testing.T, s *Store, want ...string) {
	t.Helper()
	if got := ids(s); !slices.Equal(got, want) {
		t.Errorf("the store has %q, want %q", got, want)
	}
	names, _ := os.ReadDir(s.RunDir())
	var disk []string
	for _, n := range names {
		if _, _, ok := ci.SplitID(n.Name()); ok {
			disk = append(disk, n.Name())
		} else if n.Name() != "last" {
			t.Errorf("%s is on disk", n.Name())
		}
	}
	slices.Sort(disk)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(disk, want) {
		t.Errorf("on disk is %q, want %q", disk, want)
	}
}

func TestEvict(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	day := 24 * time.Hour
	var runs []string
	for i := range 6 {
		id := quick(t, s, commitA)
		s.index.byName(id).came = now.Add(-time.Duration(10-i) * day).Unix()
		runs = append(runs, id)
	}
	newestFirst := func(from int) []string {
		l := slices.Clone(runs[from:])
		slices.Reverse(l)
		return l
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(s.Evict(Keep{}))
	wantRuns(t, s, newestFirst(0)...)
	must(s.Evict(Keep{Count: 5}))
	wantRuns(t, s, newestFirst(1)...)
	must(s.Evict(Keep{Count: 5, Age: 8*day + time.Hour}))
	wantRuns(t, s, newestFirst(2)...)
	e, err := s.Get(runs[5])
	must(err)
	must(s.Evict(Keep{Count: 5, Age: 8*day + time.Hour, Size: 3*e.Size + 10}))
	wantRuns(t, s, newestFirst(3)...)
	must(s.Evict(Keep{Size: 1, Age: time.Second})) // the newest stays, whatever its size and age
	wantRuns(t, s, runs[5])
	runs[3], runs[5] = runs[5], quick(t, s, commitA)
	must(s.Keep(runs[3])) // does not count, and stays
	must(s.Evict(Keep{Once: true}))
	wantRuns(t, s, runs[5], runs[3])
	must(s.Forget(runs[3]))
	wantRuns(t, s, runs[5])
	s.SetKeep(Keep{Once: true})
	last := quick(t, s, commitB)
	wantRuns(t, s, last)
	if target, err := os.Readlink(filepath.Join(s.RunDir(), "last")); target != last {
		t.Errorf("last -> %q, %v, want %q", target, err, last)
	}
	if err := s.Forget("3f2a9c1d0b7e.99"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Forget of no run = %v, want %v", err, os.ErrNotExist)
	}
	must(s.Close())
	if s, err = Open(s.dir); err != nil {
		t.Fatal(err)
	}
	wantRuns(t, s, last)
}

// Once keeps the last run and the last that passed, over processes, until the next of
// that kind has ended. Adoption evicts neither.
func TestKeepOnce(t *testing.T) {
	from := newStore(t)
	dir := t.TempDir()
	var s *Store
	var all []string
	for i, tt := range []struct {
		state string // or adopted
		want  []int  // which of the runs so far are kept, newest first
	}{
		{"passed", []int{0}},
		{"failed", []int{1, 0}},
		{"error", []int{2, 0}},
		{"passed", []int{3}},
		{"cancelled", []int{4, 3}},
		{"adopted", []int{5, 4, 3}},
		{"adopted", []int{6, 4, 3}},
		{"failed", []int{7, 6, 3}},
		{"passed", []int{8}},
	} {
		var err error
		if s, err = Open(dir); err != nil {
			t.Fatal(err)
		}
		s.SetKeep(Keep{Once: true})
		var id string
		if tt.state == "adopted" {
			var b bytes.Buffer
			if err := from.WriteTar(t.Context(), &b, quick(t, from, commitB)); err != nil {
				t.Fatal(err)
			}
			e, err := s.Adopt(t.Context(), &b, nil)
			if err != nil {
				t.Fatal(err)
			}
			id = e.ID
		} else {
			id = writeRun(t, s, commitA, treeA, tt.state, 0)
		}
		all = append(all, id)
		var want []string
		for _, w := range tt.want {
			want = append(want, all[w])
		}
		if t.Run(fmt.Sprintf("%d %s", i, tt.state), func(t *testing.T) { wantRuns(t, s, want...) }); t.Failed() {
			break
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A run that has a reader stays until the reader is done: through this store, and
// through another process's.
func TestEvictSparesReaders(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	for _, reader := range []string{"own", "other"} {
		by := s
		if reader == "other" {
			var err error
			if by, err = Open(s.dir); err != nil {
				t.Fatal(err)
			}
			defer by.Close()
		}
		n, err := fs.Walk(t.Context(), NewTree(by, nil), "ci/"+id+"/stdout")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Evict(Keep{Count: -1}); err != nil {
			t.Errorf("%s reader: Evict = %v", reader, err)
		}
		if err := s.Forget(id); !errors.Is(err, ErrInUse) {
			t.Errorf("%s reader: Forget = %v, want %v", reader, err, ErrInUse)
		}
		if b, err := io.ReadAll(fs.NewReader(t.Context(), f)); err != nil || string(b) != "out of test\n" {
			t.Errorf("%s reader: read %q, %v", reader, b, err)
		}
		f.Close()
		by.dropLeases()
	}
	if err := s.Evict(Keep{Count: -1}); err != nil {
		t.Error(err)
	}
	wantRuns(t, s)
}

// A run is forgotten at once after it was read, though a policy would spare it for a
// while.
func TestForgetAfterRead(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	mustReadText(t, NewTree(s, nil), "ci/"+id+"/stdout")
	if err := s.Forget(id); err != nil {
		t.Errorf("Forget right after a read = %v", err)
	}
	wantRuns(t, s)
}

// What was in use when the policy wanted it gone goes a little later.
func TestEvictTriesAgain(t *testing.T) {
	s := newStore(t)
	s.SetKeep(Keep{Count: 1})
	id := quick(t, s, commitA)
	f, err := s.openTar(id)
	if err != nil {
		t.Fatal(err)
	}
	next := quick(t, s, commitA)
	wantRuns(t, s, next, id)
	f.Close()
	for deadline := time.Now().Add(20 * leaseTime); time.Now().Before(deadline); {
		if names, _ := os.ReadDir(s.RunDir()); len(names) == 2 {
			break
		}
		<-time.After(leaseTime / 10)
	}
	wantRuns(t, s, next)
}

// A run that should have gone and had a reader goes at the latest with the process.
func TestEvictAtClose(t *testing.T) {
	s := newStore(t)
	s.SetKeep(Keep{Once: true})
	id := quick(t, s, commitA)
	f, err := s.openTar(id)
	if err != nil {
		t.Fatal(err)
	}
	second := quick(t, s, commitA)
	wantRuns(t, s, second, id)
	f.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Look(s.dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wantRuns(t, s, second)
}

// Two processes share a store: each sees the other's sealed runs, ids are
// given once, and each evicts its own runs until the other is gone.
func TestTwoProcesses(t *testing.T) {
	a := newStore(t)
	b, err := Open(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	all := make(map[string]bool)
	var wg sync.WaitGroup
	for _, s := range []*Store{a, b} {
		for range 2 {
			wg.Go(func() {
				for range 5 {
					id := quick(t, s, commitA)
					mu.Lock()
					if all[id] {
						t.Errorf("%s was given twice", id)
					}
					all[id] = true
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	for _, s := range []*Store{a, b} {
		if got := ids(s); len(got) != 20 {
			t.Errorf("a store has %d runs, want 20: %q", len(got), got)
		}
	}
	// Neither may touch the other's.
	ra, err := a.Create(commitB)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ra.ID()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished run of another process: Get = %v, want %v", err, os.ErrNotExist)
	}
	if err := a.Evict(Keep{Count: -1}); err != nil {
		t.Error(err)
	}
	if got := ids(b); len(got) != 10 {
		t.Errorf("%d runs of the other are left, want 10", len(got))
	}
	other := ids(b)[0]
	if err := a.Forget(other); !errors.Is(err, ErrInUse) {
		t.Errorf("Forget of another process's run = %v, want %v", err, ErrInUse)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Forget(other); err != nil {
		t.Errorf("Forget of a dead process's run: %v", err)
	}
	if err := a.Evict(Keep{Count: 1}); err != nil {
		t.Error(err)
	}
	if got := ids(a); len(got) != 2 || got[0] != ra.ID() {
		t.Errorf("the store has %q, want %s and one more", got, ra.ID())
	}
}

// entries prints what the store knows of its runs.
func entries(s *Store) string {
	var b strings.Builder
	for e := range s.Runs() {
		fmt.Fprintln(&b, e.ID, e.Status, e.Commit, e.Tree, e.Score, e.KeyDigest, e.Signer, e.Default, e.Size)
		if r := s.index.byName(e.ID); r == nil || time.Since(time.Unix(r.came, 0)) > time.Hour {
			fmt.Fprintln(&b, "came long ago")
		}
	}
	return b.String()
}

// The index is lost, or says what is not so: opening the store mends it, and
// a lost counter gives no number twice.
func TestIndexIsMended(t *testing.T) {
	s := newStore(t)
	a, b := writeRun(t, s, commitA, treeA, "passed", 0), writeRun(t, s, commitB, treeA, "failed", 1)
	c := quick(t, s, commitA)
	before := entries(s)
	s.Close()
	for _, damage := range []struct {
		name string
		do   func()
	}{
		{"no index", func() { os.Remove(s.path("index")) }},
		{"no counter", func() { os.Remove(s.path("next")); os.Remove(s.path("index")) }},
		{"half a line", func() {
			x, _ := os.ReadFile(s.path("index"))
			os.WriteFile(s.path("index"), x[:len(x)-20], 0o600)
		}},
		{"junk", func() {
			os.WriteFile(s.path("index"), []byte("sealed x\n\x00\n"+strings.Repeat("y", 60000)+"\ngone 3f2a9c1d0b7e.1"), 0o600)
		}},
		{"a run too many", func() {
			x, _ := os.ReadFile(s.path("index"))
			os.WriteFile(s.path("index"), append(x, []byte(strings.ReplaceAll(string(x), "7e.1", "7e.77"))...), 0o600)
		}},
	} {
		damage.do()
		s2, err := Open(s.dir)
		if err != nil {
			t.Errorf("%s: %v", damage.name, err)
			continue
		}
		if got := entries(s2); got != before {
			t.Errorf("%s: the runs are\n%s, want\n%s", damage.name, got, before)
		}
		r, err := s2.Create(commitA)
		if err != nil || slices.Contains([]string{a, b, c}, r.ID()) {
			t.Errorf("%s: Create = %s, %v", damage.name, r.ID(), err)
		}
		r.Discard()
		s2.Close()
	}
}

// A run that ended long ago is adopted to be read now: no policy takes it
// away at once. What was made here stays too.
func TestAdoptedRunIsKept(t *testing.T) {
	maker, s := newStore(t), newStore(t)
	id := quick(t, maker, commitA, ci.Attr{Name: "end", Value: ci.FormatTime(time.Now().Add(-48 * time.Hour))})
	s.SetKeep(Keep{Once: true, Age: time.Hour, Size: 1})
	own := quick(t, s, commitB)
	f, err := maker.openTar(id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e, err := s.Adopt(t.Context(), fs.NewReader(t.Context(), f), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantRuns(t, s, e.ID, own)
	if last, err := s.Lookup("last"); err != nil || last.ID != e.ID {
		t.Errorf("last is %s, %v, want %s", last.ID, err, e.ID)
	}
}

// Adoption makes what was adopted before go, never the last run that was made here
// nor the last that passed.
func TestEvictAdopted(t *testing.T) {
	from, s := newStore(t), newStore(t)
	now := time.Now().UTC().Truncate(time.Second)
	ended := func(ago time.Duration) ci.Attr {
		return ci.Attr{Name: "end", Value: ci.FormatTime(now.Add(-ago))}
	}
	adopt := func(ago time.Duration) string {
		t.Helper()
		var b bytes.Buffer
		if err := from.WriteTar(t.Context(), &b, quick(t, from, commitB, ended(ago))); err != nil {
			t.Fatal(err)
		}
		e, err := s.Adopt(t.Context(), &b, nil)
		if err != nil {
			t.Fatal(err)
		}
		return e.ID
	}
	wants := func(ago time.Duration, size int64, want bool) {
		t.Helper()
		if got, err := s.Wants(now.Add(-ago), size); got != want || err != nil {
			t.Errorf("Wants a run of %d bytes that ended %v ago = %v, %v, want %v", size, ago, got, err, want)
		}
	}
	passed := quick(t, s, commitA, ended(time.Hour))
	failed := writeRun(t, s, commitA, treeA, "failed", 1)
	s.SetKeep(Keep{Count: 2})
	wantRuns(t, s, failed, passed)
	wants(2*time.Hour, 1, true) // nothing goes for it
	one := adopt(2 * time.Hour)
	wantRuns(t, s, one, failed, passed)
	wants(time.Hour, 1, true)
	two := adopt(time.Hour)
	wantRuns(t, s, two, one, failed, passed)
	wants(3*time.Hour, 1, false) // one that ended later would go
	wants(time.Minute, 1, true)
	three := adopt(time.Minute)
	wantRuns(t, s, three, two, failed, passed)

	// The index is read anew by another process, and knows what was adopted.
	other, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if r := other.index.byName(three); r == nil || !r.adopted || other.index.byName(failed).adopted {
		t.Error("another process does not know which runs were adopted")
	}

	// Only runs that are made here make the last ones go.
	next := writeRun(t, s, commitA, treeA, "failed", 1)
	wantRuns(t, s, next, three)
	s.SetKeep(Keep{Once: true})
	wantRuns(t, s, next, three)
	four := adopt(time.Second)
	wantRuns(t, s, four, next)
	wants(time.Hour, 1, false)
	four = adopt(0)
	wantRuns(t, s, four, next)

	s.SetKeep(Keep{Age: time.Hour, Size: 1 << 20})
	wants(2*time.Hour, 1, false)
	wants(0, 1<<20+1, false)
	wants(0, 1<<20, true)

	score := ""
	for e := range s.Runs() {
		if e.ID == four {
			score = e.Score
		}
	}
	if !s.HasScore(score) || s.HasScore(strings.Repeat("0", 64)) || s.HasScore(score[:63]) || s.HasScore("") {
		t.Error("HasScore does not know what there is")
	}
	if err := s.Forget(four); err != nil {
		t.Fatal(err)
	}
	if s.HasScore(score) {
		t.Error("HasScore knows a run that was forgotten")
	}
}
