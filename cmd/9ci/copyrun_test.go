package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/fs/treetest"
	"9ci/proto/ninep"
)

// importTree imports a tree as its owner.
func importTree(t *testing.T, root fs.Dir, d ninep.Dialect) fs.Dir {
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- (&ninep.Server{Root: root, User: fs.User{Name: "glenda"}}).Serve(context.Background(), far)
	}()
	c, err := ninep.Import(t.Context(), near, ninep.ImportOptions{Dialect: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c.Root()
}

// listing describes all that is in a directory.
func listing(t *testing.T, dir string) string {
	var b strings.Builder
	filepath.WalkDir(dir, func(name string, _ iofs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		fi, err := os.Lstat(name)
		if err != nil {
			t.Error(err)
			return nil
		}
		var text []byte
		if fi.Mode().IsRegular() {
			text, err = os.ReadFile(name)
		}
		link, _ := os.Readlink(name)
		rel, _ := filepath.Rel(dir, name)
		fmt.Fprintf(&b, "%q %v %v %q %q %v\n", rel, fi.Mode(), fi.ModTime().UTC(), link, text, err)
		return nil
	})
	return b.String()
}

// A copy of a run, or of its artifacts, is the same by its tar and by its tree.
func TestCopyRun(t *testing.T) {
	_, tree := treetest.New(t)
	const passed = treetest.PassedCommit
	root := importTree(t, tree, ninep.DotL)
	for name, sub := range map[string]string{
		"ci/" + passed[:12] + ".1":                   ".",
		"ci/" + passed:                               ".",
		"ci/" + treetest.FailedCommit[:12]:           ".",
		"artifacts/" + passed[:12] + ".1":            "artifacts",
		"artifacts/" + passed[:7]:                    "artifacts",
		"ci/" + passed[:12] + ".1/artifacts":         "artifacts",
		"ci/" + passed[:12] + ".1/artifacts/bin":     "artifacts/bin",
		"artifacts/" + passed + "/bin/empty dir":     "artifacts/bin/empty dir",
		"ci/" + treetest.FailedCommit + "/artifacts": "artifacts",
	} {
		n, err := fs.Walk(t.Context(), root, name)
		if err != nil {
			t.Fatal(err)
		}
		run, got, ok := splitRun("n/box/" + name)
		if !ok || got != sub {
			t.Errorf("splitRun(%s) = %q, %q, want %q", name, run, got, sub)
		}
		if run, err = followRun(t.Context(), root, strings.TrimPrefix(run, "n/box/")); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Walk(t.Context(), root, run+".tar")
		if err != nil {
			t.Fatal(err)
		}
		from, err := ninep.Stream(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		dir := tempDir(t)
		for to, from := range map[string]*runTar{"tree": nil, "tar": {from, sub}} {
			if err := copyTree(t.Context(), n.(fs.Dir), from, name, filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := listing(t, filepath.Join(dir, "tar")), listing(t, filepath.Join(dir, "tree")); got != want {
			t.Errorf("%s by its tar:\n%s\nby its tree:\n%s", name, got, want)
		}
	}
}

// The tar of a run is used where there is one, and most of it is needed.
func TestFindTar(t *testing.T) {
	s := treetest.NewStore(t)
	const commit = treetest.PassedCommit
	for i := range 2 {
		r, err := s.Create(commit)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: "many", Typeflag: tar.TypeDir, Mode: 0o755})
		for j := range 100 {
			w.WriteHeader(&tar.Header{Name: fmt.Sprintf("many/%d", j), Mode: 0o644})
		}
		w.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: 1 << 20})
		w.Write(make([]byte, 1<<20))
		w.WriteHeader(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "many"})
		w.Close()
		if err := r.AddArtifacts(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			err := errors.Join(r.SetKey(ci.Attrs{{Name: "commit", Value: commit}}), r.SetInfo(ci.Attrs{}), r.Seal(t.Context(), "passed", 0, treetest.Sign))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const sealed, open = "ci/" + "3f2a9c1d0b7e.1", "ci/" + "3f2a9c1d0b7e.2"
	for _, d := range []ninep.Dialect{ninep.DotL, ninep.Plan9} {
		root := importTree(t, store.NewTree(s, nil), d)
		for name, want := range map[string]bool{
			sealed:                       true,
			"artifacts/3f2a9c1d0b7e.1":   true,
			sealed + "/artifacts":        true,
			sealed + "/artifacts/many":   true,
			sealed + "/artifacts/link":   false, // what it leads to was found, and not it
			sealed + "/artifacts/many/1": false,
			sealed + "/step":             false,
			"ci":                         false,
			"artifacts":                  false,
			open:                         false,
			open + "/artifacts":          false,
			"ci/nothing":                 false,
		} {
			from, err := findTar(t.Context(), place{root: root, name: name})
			if err != nil || (from != nil) != want {
				t.Errorf("%v: findTar(%s) = %v, %v", d, name, from, err)
			}
			if from != nil {
				from.close()
			}
		}
	}
}

// What no run's tar has is refused, and nothing is written but in the copy.
func TestCopyBadTar(t *testing.T) {
	root := importDir(t, t.TempDir())
	for want, hs := range map[string][]tar.Header{
		"is no name of a run":     {{Name: "1/../x", Size: 1}},
		"is no name":              {{Name: "1/a\x1b", Size: 1}},
		"\"2/b\" is no name":      {{Name: "1/a", Size: 1}, {Name: "2/b", Size: 1}},
		"\"1/a\" is there twice":  {{Name: "1/a", Size: 1}, {Name: "1/a", Size: 1}},
		"is in no directory of":   {{Name: "1/l", Typeflag: tar.TypeSymlink, Linkname: "../beside"}, {Name: "1/l/x", Size: 1}},
		"in no directory":         {{Name: "1/a", Size: 1}, {Name: "1/a/b", Size: 1}},
		"there twice":             {{Name: "1/l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "1/l/", Typeflag: tar.TypeDir}},
		"is a file of type '1'":   {{Name: "1/h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"is a file of type '4'":   {{Name: "1/h", Typeflag: tar.TypeBlock}},
		"unexpected EOF":          {{Name: "1/cut", Size: 1 << 20}},
		"copy/old: it is there a": {{Name: "1/old", Size: 1}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size == 1 {
				w.Write([]byte("x"))
			}
		}
		if hs[0].Size < 2 {
			w.Close()
		}
		dir := t.TempDir()
		for _, name := range []string{"beside", "copy/old"} {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		err := copyTree(t.Context(), root, &runTar{io.NopCloser(&b), "."}, "from", filepath.Join(dir, "copy"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("copyTree = %v, want %s", err, want)
		}
		if list, err := os.ReadDir(filepath.Join(dir, "beside")); err != nil || len(list) > 0 {
			t.Errorf("%s: beside the copy is %v, %v", want, list, err)
		}
	}
}
