package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Odd modes, times before 1970 and holes are the same in a sealed run and in
// one that was adopted; a mode gets read permission for the owner.
func TestArtifactsAsTheyWere(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	var b bytes.Buffer
	if err := s.WriteTar(t.Context(), &b, id); err != nil {
		t.Fatal(err)
	}
	to := newStore(t)
	e, err := to.Adopt(t.Context(), &b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.runPath(id), e.Dir} {
		for name, want := range map[string]struct {
			mode os.FileMode
			time time.Time
		}{
			"mode 0": {0o400, time.Unix(1700000000, 123456789)},
			"old":    {0o755 | os.ModeSetuid, time.Unix(-500000000, 0)},
		} {
			fi, err := os.Lstat(filepath.Join(dir, "artifacts", name))
			if err != nil {
				t.Fatal(err)
			}
			if fi.Mode() != want.mode || !fi.ModTime().Equal(want.time) {
				t.Errorf("%s in %s has %v and %v, want %v and %v", name, dir, fi.Mode(), fi.ModTime(), want.mode, want.time)
			}
		}
		fi, err := os.Lstat(filepath.Join(dir, "artifacts", "sparse"))
		if err != nil {
			t.Fatal(err)
		}
		if used := fi.Sys().(*syscall.Stat_t).Blocks * 512; fi.Size() != 1<<20 || used > 64<<10 {
			t.Errorf("sparse in %s has %d bytes and takes %d", dir, fi.Size(), used)
		}
	}
}

// closedArtifacts is what a machine's root may leave and another user could not
// read or remove.
var closedArtifacts = []tar.Header{
	{Name: "./", Typeflag: tar.TypeDir, Mode: 0o1777},
	{Name: "./0", Size: 1, Mode: mode0},
	{Name: "./dir 0/", Typeflag: tar.TypeDir, Mode: mode0},
	{Name: "./dir 0/0", Size: 1, Mode: mode0},
	{Name: "./dir 0/dir/", Typeflag: tar.TypeDir, Mode: 0o555},
	{Name: "./dir 0/dir/file", Size: 1, Mode: 0o444},
	{Name: "./dir 0/dir/link", Typeflag: tar.TypeSymlink, Linkname: "/no/such"},
	{Name: "./others/", Typeflag: tar.TypeDir, Mode: 0o077},
	{Name: "./others/write", Size: 1, Mode: 0o222},
	{Name: "./set", Size: 1, Mode: 0o6711},
	{Name: "./set dir/", Typeflag: tar.TypeDir, Mode: 0o7070},
	{Name: "./set dir/file", Size: 1, Mode: 0o1644},
}

// mode0 has none of the bits that are kept; of 0, headers makes another.
const mode0 = 0o100000

// wantClosed is how a run keeps them, whoever its executor is.
const wantClosed = `-r-------- 0
dr-x------ dir 0
-r-------- dir 0/0
dr-xr-xr-x dir 0/dir
-r--r--r-- dir 0/dir/file
Lrwxrwxrwx dir 0/dir/link
dr-xrwxrwx others
-rw--w--w- others/write
ugrwx--x--x set
dugtr-xrwx--- set dir
trw-r--r-- set dir/file
`

// Artifacts are kept the same by root and by another user, who can also seal, copy,
// adopt and forget them.
func TestArtifactsOfAnyUser(t *testing.T) {
	b := headers(t, closedArtifacts)
	mine, err := keepClosed(t.TempDir(), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	listing, mtree, _ := strings.Cut(mine, "\n\n")
	if listing+"\n" != wantClosed {
		t.Errorf("kept are\n%s\nwant\n%s", listing, wantClosed)
	}
	for _, h := range closedArtifacts[1:] {
		if name := strings.ReplaceAll(strings.Trim(h.Name, "./"), " ", `\040`); !strings.Contains(mtree, name) {
			t.Errorf("artifacts.mtree lacks %s:\n%s", name, mtree)
		}
	}
	if os.Getuid() != 0 {
		return // there is but one user to try
	}
	dir, err := os.MkdirTemp("", "9ci-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FS_TEST_NOBODY="+dir)
	cmd.Stdin = bytes.NewReader(b)
	theirs, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, theirs)
	}
	if string(theirs) != mine {
		t.Errorf("root keeps\n%s\nand another user\n%s", mine, theirs)
	}
}

// nobody is Debian's user and group without files.
const nobody = 65534

// keepAsNobody is keepClosed in a process of its own, of a tar on standard input.
func keepAsNobody(dir string) {
	text, err := "", errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody))
	if err == nil {
		text, err = keepClosed(dir, os.Stdin)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(text)
}

// keepClosed keeps a tar in a run, adopts the run in another store, and forgets both. It
// returns how the artifacts were kept there, a blank line, and their artifacts.mtree.
func keepClosed(dir string, from io.Reader) (string, error) {
	ctx := context.Background()
	s, err := Open(filepath.Join(dir, "store"))
	if err != nil {
		return "", err
	}
	defer s.Close()
	r, err := s.Create(commitA)
	if err != nil {
		return "", err
	}
	if err := errors.Join(r.Enter("artifacts"), r.AddArtifacts(ctx, from), r.Seal(ctx, "passed", 0, testSign)); err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := s.WriteTar(ctx, &b, r.ID()); err != nil {
		return "", err
	}
	other, err := Open(filepath.Join(dir, "other"))
	if err != nil {
		return "", err
	}
	defer other.Close()
	e, err := other.Adopt(ctx, &b, nil)
	if err != nil {
		return "", err
	}
	var texts []string
	for _, top := range []string{s.runPath(r.ID()), e.Dir} {
		text, err := listModes(top)
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	if texts[0] != texts[1] {
		return "", fmt.Errorf("kept are\n%s\nand adopted\n%s", texts[0], texts[1])
	}
	if err := errors.Join(s.Forget(r.ID()), other.Forget(e.ID)); err != nil {
		return "", err
	}
	for _, top := range []string{s.runPath(r.ID()), e.Dir} {
		if _, err := os.Lstat(top); err == nil {
			return "", fmt.Errorf("%s was forgotten and is there", top)
		}
	}
	return texts[0], nil
}

// listModes lists the artifacts of the run in top with their modes, and then its
// artifacts.mtree.
func listModes(top string) (string, error) {
	var b strings.Builder
	artifacts := filepath.Join(top, "artifacts")
	err := filepath.Walk(artifacts, func(name string, fi os.FileInfo, err error) error {
		if err == nil && name != artifacts {
			fmt.Fprintln(&b, fi.Mode(), strings.TrimPrefix(name, artifacts+"/"))
		}
		return err
	})
	if err != nil {
		return "", err
	}
	mtree, err := os.ReadFile(filepath.Join(top, "artifacts.mtree"))
	return b.String() + "\n" + string(mtree), err
}
