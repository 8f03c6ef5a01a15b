package store

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"9ci/fs"
)

// eventReader reads lines of an open event file.
func eventReader(t *testing.T, root fs.Dir) (next func() string) {
	t.Helper()
	f := mustOpen(t, root, "event", fs.OpenRead)
	var off int64
	var text string
	return func() string {
		t.Helper()
		for !strings.Contains(text, "\n") {
			b := make([]byte, 4096)
			n, err := f.ReadAt(t.Context(), b, off)
			if err != nil {
				t.Fatalf("event: %v", err)
			}
			off += int64(n)
			text += string(b[:n])
		}
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		return strings.Join(strings.Fields(line)[:2], " ")
	}
}

// What another process seals, adopts or recovers is told of once, however its
// index came to this one.
func TestEventOfOtherProcesses(t *testing.T) {
	s := newStore(t)
	other, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	quick(t, other, commitB) // before the file is opened
	next := eventReader(t, NewTree(s, nil))
	want := func(id string) {
		t.Helper()
		if got := next(); got != id+" passed" {
			t.Errorf("event reads %q, want %q", got, id+" passed")
		}
	}
	want(quick(t, other, commitA))

	// An adoption.
	from := newStore(t)
	var b bytes.Buffer
	if err := from.WriteTar(t.Context(), &b, writeRun(t, from, commitB, treeA, "passed", 0)); err != nil {
		t.Fatal(err)
	}
	e, err := other.Adopt(t.Context(), &b, nil)
	if err != nil {
		t.Fatal(err)
	}
	want(e.ID)

	// An index that the other process wrote anew meanwhile.
	s.mu.Lock()
	id := quick(t, other, commitA)
	unlock, err := other.lock()
	if err != nil {
		t.Fatal(err)
	}
	other.mu.Lock()
	err = other.rewriteIndex()
	other.mu.Unlock()
	unlock()
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	want(id)

	// Our own are told of by their steps, and once when they are sealed.
	id = quick(t, s, commitA)
	last := quick(t, other, commitB)
	var ours []string
	for line := next(); line != last+" passed"; line = next() {
		ours = append(ours, line)
	}
	sealed := 0
	for _, line := range ours {
		if !strings.HasPrefix(line, id+" ") {
			t.Errorf("event reads %q, want lines of %s and %s", line, id, last)
		}
		if line == id+" passed" {
			sealed++
		}
	}
	if sealed != 1 || !slices.Contains(ours, id+" queued") {
		t.Errorf("event reads %q of %s", ours, id)
	}
}

// Without inotify the index is looked at now and then.
func TestEventPoll(t *testing.T) {
	defer func(f func(int) (int, error)) { inotify = f }(inotify)
	inotify = func(int) (int, error) { return -1, unix.EMFILE }
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		other, err := Open(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		next := eventReader(t, NewTree(s, nil))
		id := quick(t, other, commitA)
		if got := next(); got != id+" passed" {
			t.Errorf("event reads %q, want %q", got, id+" passed")
		}
	})
}
