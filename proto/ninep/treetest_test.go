package ninep

import (
	"testing"

	"9ci/fs"
	"9ci/fs/treetest"
)

// The tree of runs keeps its rules through server and client.
func TestTree(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		_, root := treetest.New(t)
		treetest.TestDoor(t, importTest(t, &Server{Root: root, User: me()}, d).Root(), treetest.Lacks{Links: d == Plan9})
	})
}

// Whoever may read a run may read what it left, whatever its mode: over a
// connection, and through a door on an imported tree.
func TestReadArtifacts(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		_, root := treetest.New(t)
		far := importTest(t, &Server{Root: root}, d)
		for _, c := range []*Client{far, importTest(t, &Server{Root: far.Root()}, d)} {
			n := walk(t, c.Root(), "ci", treetest.PassedCommit, "artifacts", "mine")
			if st, err := n.Stat(t.Context()); err != nil || st.Mode != 0o600 {
				t.Errorf("Stat = %v, %v, want mode 0600", st.Mode, err)
			}
			if b, err := fs.ReadAll(t.Context(), n); err != nil || string(b) != "his own\n" {
				t.Errorf("ReadAll = %q, %v", b, err)
			}
		}
	})
}
