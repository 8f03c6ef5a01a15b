package fs_test

import (
	"bufio"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/fs/store"
	"9ci/fs/treetest"
)

// The root of a daemon tells of the runs of all its namespaces, also of one
// that it takes up later.
func TestNamespacesEvent(t *testing.T) {
	ctx := t.Context()
	var ns fs.Namespaces
	root := ns.Root([]fs.Node{ns.Gather("event", func(ns, line string) string { return ns + "/ci/" + line })}, "event")
	add := func(name string) *store.Store {
		s := treetest.NewStore(t)
		ns.Add(name, store.NewTree(s, nil))
		return s
	}
	const commit = "0123456789abcdef0123456789abcdef01234567"
	one := add("example.org/alice/one")
	if _, err := one.Create(commit); err != nil {
		t.Fatal(err)
	}
	n, err := root.Walk(ctx, "event")
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(fs.NewReader(ctx, f))
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), want) {
			t.Fatalf("event reads %q, %v, want %s...", lines.Text(), lines.Err(), want)
		}
	}
	next("example.org/alice/one/ci/0123456789ab.1 queued ")
	two := add("example.org/alice/two")
	run, err := two.Create(commit)
	if err != nil {
		t.Fatal(err)
	}
	next("example.org/alice/two/ci/0123456789ab.1 queued ")
	if err := run.Seal(ctx, "cancelled", 130, nil); err != nil {
		t.Fatal(err)
	}
	for want := "example.org/alice/two/ci/0123456789ab.1 cancelled 130 "; lines.Scan(); {
		if strings.HasPrefix(lines.Text(), want) {
			return // it may be told twice that it was queued
		}
	}
	t.Fatal(lines.Err())
}
