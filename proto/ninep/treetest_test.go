package ninep

import (
	"testing"

	"9ci/fs/treetest"
)

// The tree of runs keeps its rules through server and client.
func TestTree(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		_, root := treetest.New(t)
		treetest.TestDoor(t, importTest(t, &Server{Root: root, User: me()}, d).Root(), treetest.Lacks{Links: d == Plan9})
	})
}
