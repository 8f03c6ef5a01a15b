package treetest_test

import (
	"context"
	"io"
	iofs "io/fs"
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

// The tree keeps its rules as an io/fs.FS.
func TestIOView(t *testing.T) {
	_, root := treetest.New(t)
	treetest.TestDoor(t, treetest.Tree(ioView{t, root}), treetest.Lacks{
		Writes: true, // io/fs only reads
	})
}

// An ioView is what IOFS shows.
type ioView struct {
	t    *testing.T
	root fs.Dir
}

func (v ioView) Lstat(name string) (fs.Stat, error) { return v.stat(iofs.Lstat, name) }
func (v ioView) Stat(name string) (fs.Stat, error)  { return v.stat(iofs.Stat, name) }

func (v ioView) stat(f func(iofs.FS, string) (iofs.FileInfo, error), name string) (fs.Stat, error) {
	fi, err := f(fs.IOFS(v.t.Context(), v.root), name)
	if err != nil {
		return fs.Stat{}, err
	}
	return statOf(fi), nil
}

func statOf(fi iofs.FileInfo) fs.Stat {
	st := fi.Sys().(fs.Stat)
	st.Name, st.Mode, st.Size, st.ModTime = fi.Name(), fi.Mode(), fi.Size(), fi.ModTime()
	return st
}

func (v ioView) ReadDir(name string) ([]fs.Stat, error) {
	entries, err := iofs.ReadDir(fs.IOFS(v.t.Context(), v.root), name)
	var list []fs.Stat
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		list = append(list, statOf(fi))
	}
	return list, err
}

func (v ioView) Open(name string, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	// A File of io/fs has no context but that of its FS.
	ctx, cancel := context.WithCancel(v.t.Context())
	f, err := fs.IOFS(ctx, v.root).Open(name)
	if err != nil {
		cancel()
		return nil, err
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		defer cancel()
		_, err := f.Read(make([]byte, 1))
		return nil, err
	}
	return ioFile{r, f, cancel}, nil
}

type ioFile struct {
	r      io.ReaderAt
	f      iofs.File
	cancel func()
}

func (f ioFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	n, err := f.r.ReadAt(p, off)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f ioFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, iofs.ErrPermission }

func (f ioFile) Close() error {
	f.cancel()
	return f.f.Close()
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
