package statedir

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A link in the place of a file, or of a directory below, leads a command of root's to no
// file elsewhere.
func TestLinks(t *testing.T) {
	d, other := Dir(t.TempDir()), t.TempDir()
	if err := d.MakeDir("accounts"); err != nil {
		t.Fatal(err)
	}
	if err := d.Write("accounts/a", []byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Read("accounts/a"); err != nil || string(b) != "x\n" {
		t.Errorf("Read = %q, %v", b, err)
	}
	if b, err := d.Read("accounts/b"); err != nil || b != nil {
		t.Errorf("Read of none = %q, %v", b, err)
	}
	if fi, err := os.Stat(d.Path("accounts/a")); err != nil || fi.Mode() != 0o600 {
		t.Errorf("Stat = %v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(other, "a"), []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, d.Path("linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "a"), d.Path("link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"linked/a", "link"} {
		if b, err := d.Read(name); err == nil {
			t.Errorf("Read(%s) = %q", name, b)
		}
	}
	for _, name := range []string{"linked/a", "linked/b"} {
		if err := d.Write(name, []byte("ours")); err == nil || errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("Write(%s): %v", name, err)
		}
	}
	files, err := os.ReadDir(other)
	if err != nil || len(files) != 1 {
		t.Errorf("there are %v, %v", files, err)
	}
	if b, err := os.ReadFile(filepath.Join(other, "a")); err != nil || string(b) != "theirs" {
		t.Errorf("the other file has %q, %v", b, err)
	}
}
