package repo_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lfsPointer returns the pointer of a file with that text, and the name of its object
// below lfs.
func lfsPointer(text string) (pointer, object string) {
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(text)),
		filepath.Join("objects", oid[:2], oid[2:4], oid)
}

// keep puts the object of text into the directory lfs.
func keep(t *testing.T, lfs, text string) {
	t.Helper()
	_, object := lfsPointer(text)
	if err := os.MkdirAll(filepath.Join(lfs, filepath.Dir(object)), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(lfs, object), text)
}

// newLFS makes a repository with files in Git LFS, and what looks like them.
func newLFS(t *testing.T) (dir string) {
	t.Helper()
	dir, _ = newRepo(t)
	write(t, filepath.Join(dir, ".gitattributes"), "[attr]large filter=lfs diff=lfs merge=lfs -text\n*.bin large\n")
	os.MkdirAll(filepath.Join(dir, "d d"), 0o777)
	for name, text := range map[string]string{"a.bin": "a\x00\r\n", "d d/b\n.bin": "b", "same.bin": "b", "run.bin": "#!/bin/sh\n"} {
		pointer, _ := lfsPointer(text)
		write(t, filepath.Join(dir, name), pointer)
	}
	os.Chmod(filepath.Join(dir, "run.bin"), 0o777)
	pointer, _ := lfsPointer("no attribute says so")
	write(t, filepath.Join(dir, "pointer.txt"), pointer)
	write(t, filepath.Join(dir, "long.bin"), pointer+strings.Repeat("x", 2000))
	write(t, filepath.Join(dir, "other.bin"), "version of something else\n")
	write(t, filepath.Join(dir, "empty.bin"), "")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "lfs")
	return dir
}

// Git LFS files are in the work tree with their contents, their objects are where
// git-lfs keeps them, and git sees no change. They come from where the user has them.
func TestLFS(t *testing.T) {
	dir := newLFS(t)
	head := git(t, dir, "rev-parse", "HEAD")
	lfs := filepath.Join(dir, ".git/lfs")
	whole := func(in string) {
		t.Helper()
		for _, squash := range []bool{false, true} {
			clone, _ := made(t, open(t, in), head, squash)
			for name, want := range map[string]string{"a.bin": "a\x00\r\n", "d d/b\n.bin": "b", "same.bin": "b", "run.bin": "#!/bin/sh\n", "other.bin": "version of something else\n", "empty.bin": ""} {
				if text, err := os.ReadFile(filepath.Join(clone, name)); string(text) != want || err != nil {
					t.Errorf("%q of the clone = %q, %v, want %q", name, text, err, want)
				}
			}
			if fi, err := os.Stat(filepath.Join(clone, "run.bin")); err != nil || fi.Mode().Perm()&0o100 == 0 {
				t.Errorf("run.bin: %v, %v, want it executable", fi.Mode(), err)
			}
			if text, _ := os.ReadFile(filepath.Join(clone, "pointer.txt")); !strings.HasPrefix(string(text), "version ") {
				t.Errorf("pointer.txt = %q, want the pointer", text)
			}
			// The work tree and the objects do not share files.
			write(t, filepath.Join(clone, "same.bin"), "changed")
			_, object := lfsPointer("b")
			if text, err := os.ReadFile(filepath.Join(clone, ".git/lfs", object)); string(text) != "b" || err != nil {
				t.Errorf("the object of b = %q, %v", text, err)
			}
			if got := git(t, clone, "status", "--porcelain"); got != "M same.bin" {
				t.Errorf("git status = %s", got)
			}
		}
	}
	lacks := func(want string) {
		t.Helper()
		want = "this host lacks the Git LFS objects of " + want + ": git lfs fetch origin " + head + " fetches them"
		if got := refused(t, dir); got != want {
			t.Errorf("Clone: %s, want\n%s", got, want)
		}
	}
	lacks(`a.bin, "d d/b\n.bin", run.bin and 1 more`)
	keep(t, lfs, "b")
	lacks("a.bin, run.bin")
	keep(t, lfs, "a\x00\r\n")
	keep(t, lfs, "#!/bin/sh\n")
	whole(dir)
	linked := filepath.Join(t.TempDir(), "linked")
	git(t, dir, "worktree", "add", "-q", "--detach", linked)
	whole(linked)

	// An object that is not what its name says.
	_, object := lfsPointer("b")
	for _, text := range []string{"c", "bb", ""} {
		write(t, filepath.Join(lfs, object), text)
		if got := refused(t, dir); !strings.Contains(got, "b\\n.bin\" is kept in Git LFS: its object ") || !strings.Contains(got, "is damaged: git lfs fsck") {
			t.Errorf("Clone with the object %q: %s", text, got)
		}
	}
	write(t, filepath.Join(lfs, object), "b")

	// Where lfs.storage of the user's says.
	for _, to := range []string{filepath.Join(t.TempDir(), "lfs"), "elsewhere"} {
		git(t, dir, "config", "lfs.storage", to)
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, ".git", to)
		}
		if err := os.Rename(lfs, to); err != nil {
			t.Fatal(err)
		}
		lfs = to
		if _, err := open(t, dir).Clone(t.Context(), head, false, t.TempDir()); err != nil {
			t.Errorf("lfs.storage %s: %v", to, err)
		}
	}
}

// No file of the user's comes along because a link in the git directory leads to
// it, and a fifo is waited for by nobody.
func TestLFSLeadsNowhere(t *testing.T) {
	dir := newLFS(t)
	lfs := filepath.Join(dir, ".git/lfs")
	keep(t, lfs, "a\x00\r\n")
	keep(t, lfs, "#!/bin/sh\n")
	keep(t, lfs, "b")
	_, object := lfsPointer("b")
	object = filepath.Join(lfs, object)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "s")
	os.Remove(object)
	if err := os.Symlink(secret, object); err != nil {
		t.Fatal(err)
	}
	if got := refused(t, dir); !strings.Contains(got, "damaged") || strings.Contains(got, secret) {
		t.Errorf("with a link: %s", got)
	}
	os.Remove(object)
	sh(t, dir, "mkfifo "+object)
	if got := refused(t, dir); !strings.Contains(got, "damaged") {
		t.Errorf("with a fifo: %s", got)
	}
	os.Remove(object)
	os.Mkdir(object, 0o777)
	if got := refused(t, dir); !strings.Contains(got, "damaged") {
		t.Errorf("with a directory: %s", got)
	}
	os.RemoveAll(filepath.Dir(object))
	write(t, filepath.Dir(object), "")
	if got := refused(t, dir); strings.Contains(got, dir) {
		t.Errorf("with a file for a directory: %s", got)
	}

	// An extension of git-lfs would have to be run.
	pointer, _ := lfsPointer("b")
	write(t, filepath.Join(dir, "same.bin"), strings.Replace(pointer, "oid", "ext-0-foo sha256:"+strings.Repeat("0", 64)+"\noid", 1))
	git(t, dir, "commit", "-q", "-a", "-m", "extension")
	if got := refused(t, dir); !strings.Contains(got, "same.bin is kept in Git LFS with an extension") {
		t.Errorf("with an extension: %s", got)
	}
}

// A submodule's Git LFS files come from its own clone.
func TestLFSOfSubmodule(t *testing.T) {
	sub := newLFS(t)
	dir, _ := newRepo(t)
	git(t, dir, "submodule", "--quiet", "add", sub, "sub")
	git(t, dir, "commit", "-q", "-m", "sub")
	head := git(t, sub, "rev-parse", "HEAD")
	if got, want := refused(t, dir), `sub/a.bin, "sub/d d/b\n.bin", sub/run.bin and 1 more: git -C sub lfs fetch origin `+head; !strings.Contains(got, want) {
		t.Errorf("Clone: %s, want\n%s", got, want)
	}
	for _, text := range []string{"a\x00\r\n", "b", "#!/bin/sh\n"} {
		keep(t, filepath.Join(dir, ".git/modules/sub/lfs"), text)
	}
	clone, _ := made(t, open(t, dir), git(t, dir, "rev-parse", "HEAD"), false)
	if text, err := os.ReadFile(filepath.Join(clone, "sub/same.bin")); string(text) != "b" || err != nil {
		t.Errorf("sub/same.bin = %q, %v", text, err)
	}
	if got := git(t, filepath.Join(clone, "sub"), "status", "--porcelain"); got != "" {
		t.Errorf("git status in the submodule: %s", got)
	}
}
