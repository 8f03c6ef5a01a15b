package treetest_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"9ci/fs"
	"9ci/fs/treetest"
)

func TestTree(t *testing.T) {
	_, root := treetest.New(t)
	treetest.Test(t, root)
}

// The standard library's test of file systems passes too.
func TestIOFS(t *testing.T) {
	s, root := treetest.New(t)
	failed, running := treetest.FailedCommit[:12]+".2", treetest.RunningCommit[:12]+".3"
	// It opens every link, and this run has one that leads out.
	if err := s.Forget(treetest.PassedCommit[:12] + ".1"); err != nil {
		t.Fatal(err)
	}
	err := fstest.TestFS(fs.IOFS(t.Context(), root), "index", "ctl", "ci/"+failed+"/manifest",
		"ci/"+failed+"/step/test/log", "ci/"+running+"/stdout", "artifacts/"+failed, "artifacts/"+running)
	if err != nil {
		t.Error(err)
	}
}

func TestNamespace(t *testing.T) {
	_, tree := treetest.New(t)
	var ns fs.Namespaces
	ns.Add("example.org/alice/hello", tree)
	ns.Add("example.org/alice/other", fs.NewDir("other"))
	ns.Add("local/x", fs.NewDir("x"))
	root := ns.Root([]fs.Node{fs.CtlFile("ctl", "repo PATH\n", nil)})
	treetest.TestDir(t, root)
	in, err := fs.Walk(t.Context(), root, "example.org/alice/hello")
	if err != nil {
		t.Fatal(err)
	}
	treetest.Test(t, in.(fs.Dir))
}

func TestDiskDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	treetest.MakeArtifacts(t, dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	treetest.TestDir(t, fs.DiskDir(root, "d"))
}
