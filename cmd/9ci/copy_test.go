package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/treetest"
	"9ci/proto/ninep"
)

// importDir imports a directory as somebody who may read what others may.
func importDir(t *testing.T, dir string) fs.Dir {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- (&ninep.Server{Root: fs.DiskDir(root, "/")}).Serve(context.Background(), far) }()
	c, err := ninep.Import(t.Context(), near, ninep.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		<-done
		root.Close()
	})
	return c.Root()
}

// A copy has the bytes, modes, times and links of a tree.
func TestCopy(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	treetest.MakeArtifacts(t, from)
	if err := os.Remove(filepath.Join(from, "mine")); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 3<<20+1)
	for i := range big {
		big[i] = byte(rand.Int())
	}
	if err := os.Mkdir(filepath.Join(from, "many"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		name := filepath.Join(from, "many", fmt.Sprint(i))
		if err := os.WriteFile(name, big[i:2*i], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(from, "big"), big, 0o444); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1500000000, 0)
	if err := os.Chtimes(filepath.Join(from, "many"), when, when); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), importDir(t, from), to); err != nil {
		t.Fatal(err)
	}
	n := 0
	filepath.WalkDir(from, func(name string, _ iofs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		n++
		rel, _ := filepath.Rel(from, name)
		copied := filepath.Join(to, rel)
		a, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Lstat(copied)
		if err != nil {
			t.Error(err)
			return nil
		}
		if a.Mode() != b.Mode() {
			t.Errorf("%s has mode %v, want %v", rel, b.Mode(), a.Mode())
		}
		switch {
		case a.Mode()&iofs.ModeSymlink != 0:
			x, _ := os.Readlink(name)
			if y, _ := os.Readlink(copied); x != y {
				t.Errorf("%s points to %q, want %q", rel, y, x)
			}
			return nil
		case a.Mode().IsRegular():
			x, _ := os.ReadFile(name)
			if y, _ := os.ReadFile(copied); !bytes.Equal(x, y) {
				t.Errorf("%s has %d bytes, want the %d of the original", rel, len(y), len(x))
			}
		}
		if !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s is of %v, want %v", rel, b.ModTime(), a.ModTime())
		}
		return nil
	})
	if n < 610 {
		t.Errorf("compared %d files", n)
	}

	// What cannot be read is named.
	if err := os.WriteFile(filepath.Join(from, "many", "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := copyTree(t.Context(), importDir(t, from), to+"2")
	if !errors.Is(err, iofs.ErrPermission) || !bytes.Contains([]byte(err.Error()), []byte("many/secret")) {
		t.Errorf("copyTree = %v, want %v for many/secret", err, iofs.ErrPermission)
	}
}

// Each run is copied once: what leads to it is a link. The alias that is asked
// for is the directory.
func TestCopyRuns(t *testing.T) {
	_, tree := treetest.New(t)
	to, id := t.TempDir(), treetest.PassedCommit[:12]+".1"
	if err := copyTree(t.Context(), tree, filepath.Join(to, "all")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(to, "all", "artifacts", id)
	if got, err := os.Readlink(name); err != nil || got != "../ci/"+id+"/artifacts" {
		t.Errorf("Readlink(%s) = %q, %v", name, got, err)
	}
	alias, err := fs.Walk(t.Context(), tree, "ci/"+treetest.PassedCommit)
	if err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), alias, filepath.Join(to, "run")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(name, "size"), filepath.Join(to, "run/artifacts/size")} {
		if b, err := os.ReadFile(name); string(b) != "42\n" {
			t.Errorf("%s = %q, %v", name, b, err)
		}
	}
}

// What is large and empty takes no room, and a link that is there is not gone
// through.
func TestCopyHoles(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(from, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 1<<28 + 1
	_, err = f.WriteAt([]byte("x"), 1<<20)
	if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), importDir(t, from), filepath.Join(to, "copy")); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(to, "copy/hole"))
	if err != nil {
		t.Fatal(err)
	}
	if n := fi.Sys().(*syscall.Stat_t).Blocks * 512; fi.Size() != size || n > 1<<20 {
		t.Errorf("the copy has %d bytes in %d, want %d in few", fi.Size(), n, size)
	}
	b := make([]byte, 3)
	f, err = os.Open(filepath.Join(to, "copy/hole"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(b, 1<<20-1); err != nil || string(b) != "\x00x\x00" {
		t.Errorf("in the hole is %q, %v", b, err)
	}

	hooks := filepath.Join(to, "hooks")
	if err := errors.Join(os.Mkdir(hooks, 0o755), os.Symlink("hooks", filepath.Join(to, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), importDir(t, from), filepath.Join(to, "link")); err == nil || !strings.Contains(err.Error(), "link is there and is not a directory") {
		t.Errorf("copyTree to a link = %v", err)
	}
	if list, err := os.ReadDir(hooks); err != nil || len(list) > 0 {
		t.Errorf("through the link came %v, %v", list, err)
	}
}
