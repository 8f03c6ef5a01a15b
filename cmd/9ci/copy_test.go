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

	"golang.org/x/sys/unix"

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

// tempDir returns a directory that goes with the test, though directories in it may
// be read-only.
func tempDir(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				os.Chmod(name, 0o700)
			}
			return nil
		})
	})
	return dir
}

// A copy has the bytes, modes, times and links of a tree, also one that is made in
// place of another.
func TestCopy(t *testing.T) {
	from, to := filepath.Join(tempDir(t), "from"), filepath.Join(tempDir(t), "to")
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
	lutimes := func(name string) error {
		ts := unix.NsecToTimespec(when.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}
	many := filepath.Join(from, "many")
	if err := errors.Join(os.Chtimes(many, when, when), os.Chmod(many, 0o555), lutimes(filepath.Join(from, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), importDir(t, from), nil, "from", to); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(filepath.Join(to, "many"), 0o755), os.WriteFile(filepath.Join(to, "size"), []byte("more than there was\n"), 0o644),
		os.Remove(filepath.Join(to, "link")), os.Symlink("/etc/passwd", filepath.Join(to, "link")),
		os.Remove(filepath.Join(to, "empty")), os.Symlink(filepath.Join(from, "size"), filepath.Join(to, "empty"))); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), importDir(t, from), nil, "from", to); err != nil {
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
	if err := errors.Join(os.Chmod(many, 0o755), os.WriteFile(filepath.Join(many, "secret"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	err := copyTree(t.Context(), importDir(t, from), nil, "from", to+"2")
	if !errors.Is(err, iofs.ErrPermission) || !strings.HasPrefix(err.Error(), "from/many/secret: ") {
		t.Errorf("copyTree = %v, want %v for from/many/secret", err, iofs.ErrPermission)
	}
	if err := os.Remove(filepath.Join(many, "secret")); err != nil {
		t.Fatal(err)
	}
	// So is what cannot be written: no file takes the place of a directory, nor the
	// other way round.
	for _, tt := range []struct{ name, want string }{{"size", "is a directory"}, {"link", "is a directory"}, {"bin", "is not a directory"}} {
		name := filepath.Join(to, tt.name)
		make := func() error { return os.Mkdir(name, 0o755) }
		if tt.name == "bin" {
			make = func() error { return os.WriteFile(name, nil, 0o644) }
		}
		if err := errors.Join(os.RemoveAll(name), make()); err != nil {
			t.Fatal(err)
		}
		err := copyTree(t.Context(), importDir(t, from), nil, "from", to)
		if _, ok := errors.AsType[*writeError](err); !ok || !strings.HasPrefix(err.Error(), name+": it is there and "+tt.want) {
			t.Errorf("copyTree = %v, want one of writing %s, that it %s", err, name, tt.want)
		}
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(t.Context(), importDir(t, from), nil, "from", filepath.Join(to, "none", "such")); err == nil || !strings.HasPrefix(err.Error(), filepath.Join(to, "none")+": ") {
		t.Errorf("copyTree to a directory that is not there = %v", err)
	}
}

// A file is copied as cp(1) does: to a new file, over one that is there, through a
// link, and to a device. What cannot be written is named.
func TestCopyOne(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	when := time.Unix(1500000000, 5)
	name := filepath.Join(from, "a")
	if err := errors.Join(os.WriteFile(name, []byte("short\n"), 0o444), os.Chtimes(name, when, when),
		os.WriteFile(filepath.Join(to, "old"), []byte("one that is longer\n"), 0o444),
		os.WriteFile(filepath.Join(to, "target"), []byte("one that is longer\n"), 0o644),
		os.Symlink("target", filepath.Join(to, "link")), os.Mkdir(filepath.Join(to, "dir"), 0o755)); err != nil {
		t.Fatal(err)
	}
	n, err := fs.Walk(t.Context(), importDir(t, from), "a")
	if err != nil {
		t.Fatal(err)
	}
	for dst, copied := range map[string]string{"new": "new", "old": "old", "link": "target", "dir": "dir/a"} {
		if err := copyTo(t.Context(), n, place{}, "x/a", filepath.Join(to, dst)); err != nil {
			t.Errorf("copyTo %s = %v", dst, err)
			continue
		}
		copied = filepath.Join(to, copied)
		b, err := os.ReadFile(copied)
		if string(b) != "short\n" || err != nil {
			t.Errorf("%s = %q, %v", copied, b, err)
		}
		if fi, err := os.Lstat(copied); err != nil || fi.Mode() != 0o444 || !fi.ModTime().Equal(when) {
			t.Errorf("%s is %v, %v, want -r--r--r-- of %v", copied, fi, err, when)
		}
	}
	if err := copyTo(t.Context(), n, place{}, "x/a", "/dev/null"); err != nil {
		t.Errorf("copyTo /dev/null = %v", err)
	}
	for dst, want := range map[string]string{
		"/dev/full":                       "/dev/full: no space left on device",
		filepath.Join(to, "none/such"):    filepath.Join(to, "none/such") + ": no such file or directory",
		filepath.Join(to, "target/below"): filepath.Join(to, "target/below") + ": not a directory",
	} {
		err := copyTo(t.Context(), n, place{}, "x/a", dst)
		if _, ok := errors.AsType[*writeError](err); !ok || err.Error() != want {
			t.Errorf("copyTo %s = %v, want %s", dst, err, want)
		}
	}
}

// Each run is copied once: what leads to it is a link. The alias that is asked
// for is the directory.
func TestCopyRuns(t *testing.T) {
	_, tree := treetest.New(t)
	to, id := tempDir(t), treetest.PassedCommit[:12]+".1"
	if err := copyTree(t.Context(), tree, nil, "/", filepath.Join(to, "all")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(to, "all", "artifacts", id)
	if got, err := os.Readlink(name); err != nil || got != "../ci/"+id+"/artifacts" {
		t.Errorf("Readlink(%s) = %q, %v", name, got, err)
	}
	alias, err := fs.WalkDir(t.Context(), tree, "ci/"+treetest.PassedCommit)
	if err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), alias, nil, "ci/x", filepath.Join(to, "run")); err != nil {
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
	if err := copyTree(t.Context(), importDir(t, from), nil, "from", filepath.Join(to, "copy")); err != nil {
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
	if err := copyTree(t.Context(), importDir(t, from), nil, "from", filepath.Join(to, "link")); err == nil || !strings.Contains(err.Error(), "link: it is there and is not a directory") {
		t.Errorf("copyTree to a link = %v", err)
	}
	if list, err := os.ReadDir(hooks); err != nil || len(list) > 0 {
		t.Errorf("through the link came %v, %v", list, err)
	}
}
