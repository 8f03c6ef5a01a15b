package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/fs/ci"
)

// A Show has nothing until it is due, then the runs asked for and no others,
// whole and unchanged, however long the store keeps them.
func TestShow(t *testing.T) {
	s := newStore(t)
	first := writeRun(t, s, commitA, treeA, "passed", 0)
	second := writeRun(t, s, commitB, treeA, "failed", 1)
	other := writeRun(t, s, commitB, treeA, "passed", 0)
	open := mustCreate(t, s)
	v, err := s.NewShow()
	if err != nil {
		t.Fatal(err)
	}
	list := func() (names []string) {
		t.Helper()
		entries, err := os.ReadDir(v.Dir())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := list(); len(got) > 0 {
		t.Errorf("a new Show has %q", got)
	}
	ids := []string{second, first, second, open.ID(), "000000000000.1"}
	shown, err := v.Fill(t.Context(), ids, map[string]string{"green": first, "last": open.ID()})
	if shown != 2 || err != nil {
		t.Errorf("Fill = %d, %v, want 2 runs", shown, err)
	}
	want := []string{first, second, "green"}
	slices.Sort(want)
	if got := list(); !slices.Equal(got, want) {
		t.Errorf("it shows %q, want %q", got, want)
	}
	if target, err := os.Readlink(filepath.Join(v.Dir(), "green")); target != first {
		t.Errorf("green is %q, %v, want %s", target, err, first)
	}
	in, err1 := os.Stat(filepath.Join(s.runPath(first), "artifacts", "size"))
	out, err2 := os.Stat(filepath.Join(v.Dir(), first, "artifacts", "size"))
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(in, out) {
		t.Errorf("what is shown takes room: %v", err)
	}
	whole := func(id string) {
		t.Helper()
		rep, err := ci.VerifyDir(filepath.Join(v.Dir(), id))
		if err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
			t.Errorf("VerifyDir of what is shown of %s = %q, %q, %v", id, rep.Content, rep.Metadata, err)
		}
	}
	whole(first)
	whole(second)
	s.dropLeases() // rather than wait for their end
	if err := s.Forget(first); err != nil {
		t.Fatal(err)
	}
	whole(first)
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(v.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close there is still %s: %v", v.Dir(), err)
	}
	verifyRun(t, s, second)
	verifyRun(t, s, other)
}

// A run of too many files is not shown in part.
func TestShowTooMuch(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	v, err := s.NewShow()
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{0, 1, 20} {
		if _, err := v.add(id, room); !errors.Is(err, errManyFiles) {
			t.Errorf("add with room for %d files = %v, want %v", room, err, errManyFiles)
		}
		if list, _ := os.ReadDir(v.Dir()); len(list) > 0 {
			t.Errorf("with room for %d files it shows %v", room, list)
		}
	}
	if n, err := v.add(id, 1000); err != nil || n < 20 {
		t.Errorf("add = %d files, %v", n, err)
	}
}

// What a dead process showed is removed, what a live one shows is not.
func TestShowOfDead(t *testing.T) {
	s := newStore(t)
	v, err := s.NewShow()
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(filepath.Dir(v.Dir()), "1.DEAD+123")
	if err := errors.Join(os.MkdirAll(filepath.Join(dead, "x"), 0o700), os.Chmod(filepath.Join(dead, "x"), 0o500)); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a dead process showed is still there: %v", err)
	}
	if _, err := os.Stat(v.Dir()); err != nil {
		t.Errorf("what a live process shows is gone: %v", err)
	}
}

// Where there are no hard links, what is shown is a copy.
func TestShowCopies(t *testing.T) {
	from, to := smallDisk(t, 1<<20), t.TempDir()
	when := time.Unix(1700000000, 123456789)
	file := filepath.Join(from, "file")
	if err := errors.Join(os.WriteFile(file, []byte("shown\n"), 0o600), os.Chmod(file, 0o444), os.Chtimes(file, when, when), os.Symlink("file", filepath.Join(from, "link"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link"} {
		if err := link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(to, "link"))
	if err != nil || string(b) != "shown\n" {
		t.Errorf("the copy of a link reads %q, %v", b, err)
	}
	if fi, err := os.Stat(filepath.Join(to, "file")); err != nil || fi.Mode() != 0o444 || !fi.ModTime().Equal(when) {
		t.Errorf("the copy is %v, %v", fi, err)
	}
	if err := link(filepath.Join(from, "file"), filepath.Join(to, "file")); err == nil || !strings.Contains(err.Error(), "exist") {
		t.Errorf("link to what is there = %v", err)
	}
}
