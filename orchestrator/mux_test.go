package orchestrator

import (
	"bufio"
	"errors"
	iofs "io/fs"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/fs/treetest"
	"9ci/orchestrator/dial"
)

// An executor's tree is ci(4) through the mux too, and the mux's own directories
// keep the rules of every tree.
func TestTreeThroughMux(t *testing.T) {
	m := startMux(t)
	k, _ := m.key(`namespace="`+hello+`"`, "alice")
	kb, _ := m.key(`namespace="`+hello+`",namespace="gitlab.com/a/b",namespace="gitlab.com/a/b/c"`, "bob")
	_, tree := treetest.New(t)
	c := m.dial(kb)
	ev := watchEvents(t, m.tree(c, hello))
	m.export(m.dial(k), dial.Announce{Name: "a.1", Namespaces: []string{hello}}, tree)
	_, tree2 := treetest.New(t)
	m.export(c, dial.Announce{Name: "b", Namespaces: []string{hello}}, tree2)
	ev.await("/n/a.1/ci/" + treetest.PassedCommit[:12] + ".1 passed")
	ev.await("/n/b/ci/" + treetest.PassedCommit[:12] + ".1 passed")

	root := m.tree(c, "")
	t.Run("all", func(t *testing.T) { treetest.TestDir(t, root) })
	member, err := fs.Walk(t.Context(), root, hello+"/n/b") // its own: others see no ctl
	if err != nil {
		t.Fatal(err)
	}
	t.Run("executor", func(t *testing.T) { treetest.Test(t, member.(fs.Dir)) })

	if _, err := fs.Walk(t.Context(), root, hello+"/n/a.1/ctl"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("another's ctl: %v, want not found", err)
	}
	space := m.tree(c, hello)
	const id = "/ci/" + "3f2a9c1d0b7e.1/manifest"
	a, b := read(t, space, "n/a.1"+id), read(t, space, "n/b"+id)
	for _, rev := range []string{treetest.PassedCommit, treetest.PassedCommit[:7], treetest.PassedCommit[20:] + treetest.PassedCommit[:20]} {
		if got := read(t, space, "ci/"+rev+"/manifest"); got != a && got != b {
			t.Errorf("ci/%s/manifest is neither executor's", rev)
		}
		st, err := fs.Walk(t.Context(), space, "ci/"+rev)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := st.Stat(t.Context()); err != nil || st.Mode&iofs.ModeSymlink == 0 || !strings.HasPrefix(st.Target, "../n/") {
			t.Errorf("ci/%s: %+v, %v, want a link", rev, st, err)
		}
	}
	for _, rev := range []string{"3f2a9", "ffffffffff", "0123456789ab", treetest.RunningCommit, "nonsense", "..", treetest.PassedCommit + "0"} {
		if _, err := fs.Walk(t.Context(), space, "ci/"+rev); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("ci/%s: %v, want not found", rev, err)
		}
	}
	if sts, err := fs.Walk(t.Context(), space, "ci"); err != nil {
		t.Error(err)
	} else if list, err := sts.(fs.Dir).ReadDir(t.Context(), 0, 10); err != nil || len(list) > 0 {
		t.Errorf("ci lists %v, %v", list, err)
	}
	// One namespace below another: both are there.
	read(t, root, "gitlab.com/a/b/status")
	read(t, root, "gitlab.com/a/b/c/status")
}

// A run is adopted through the mux: found by its key, fetched as a tar, verified
// and sealed, and then the same in every byte.
func TestAdoptThroughMux(t *testing.T) {
	m := startMux(t)
	ka, _ := m.key(`namespace="`+hello+`"`, "alice")
	kb, _ := m.key(`namespace="`+hello+`"`, "bob")
	_, tree := treetest.New(t)
	root := m.tree(m.dial(kb), hello)
	ev := watchEvents(t, root)
	m.export(m.dial(ka), dial.Announce{Name: "a.1", Namespaces: []string{hello}}, tree)
	const run = "/n/a.1/ci/3f2a9c1d0b7e.1"
	ev.await(run + " passed")

	answer, f := find(t, root, read(t, root, run+"/key"))
	f.Close()
	if !strings.HasPrefix(answer, run+" passed ") {
		t.Fatalf("find = %q", answer)
	}
	n, err := fs.Walk(t.Context(), root, run+".tar")
	if err != nil {
		t.Fatal(err)
	}
	tar, err := n.Open(t.Context(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	in := bufio.NewReaderSize(fs.NewReader(t.Context(), tar), 1<<20)
	e, err := s.Adopt(t.Context(), in, func(_, _ []byte, _ ci.Attrs) (string, error) { return "alice", nil })
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != "3f2a9c1d0b7e.1" || e.State != "passed" || !strings.Contains(answer, " "+e.Score+" ") {
		t.Errorf("adopted %+v, found %q", e, answer)
	}
	own := store.NewTree(s, nil)
	for _, name := range []string{"manifest", "stdout", "log", "artifacts.mtree", "artifacts/size"} {
		if got, want := read(t, own, "ci/"+e.ID+"/"+name), read(t, root, run+"/"+name); got != want {
			t.Errorf("%s is another", name)
		}
	}
}
