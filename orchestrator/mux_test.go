package orchestrator

import (
	"errors"
	iofs "io/fs"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/fs/treetest"
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
	m.export(m.dial(k), Announce{Name: "a.1", Namespaces: []string{hello}}, tree)
	_, tree2 := treetest.New(t)
	m.export(c, Announce{Name: "b", Namespaces: []string{hello}}, tree2)
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
