package main

import (
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Modes are printed as ls(1) prints those of the same files.
func TestModeString(t *testing.T) {
	dir := t.TempDir()
	check := func(name string) {
		t.Helper()
		fi, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ls", "-ld", name).Output()
		want := strings.TrimRight(strings.Fields(string(out))[0], ".+") // marks of security modules
		if got := modeString(fi.Mode()); got != want || err != nil {
			t.Errorf("modeString(%v) = %s, ls has %s, %v", fi.Mode(), got, want, err)
		}
	}
	for _, m := range []iofs.FileMode{0, 0o777, 0o644, 0o421, 0o124, iofs.ModeSetuid | 0o755, iofs.ModeSetuid | 0o644, iofs.ModeSetgid | 0o755,
		iofs.ModeSetgid | 0o744, iofs.ModeSticky | 0o777, iofs.ModeSticky | 0o776, iofs.ModeSetuid | iofs.ModeSetgid | iofs.ModeSticky} {
		for _, kind := range []string{"file", "dir"} {
			name := filepath.Join(dir, kind)
			var err error
			if kind == "dir" {
				err = os.Mkdir(name, 0o755)
			} else {
				err = os.WriteFile(name, nil, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(name, m); err != nil {
				t.Fatal(err)
			}
			check(name)
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("x", link); err != nil {
		t.Fatal(err)
	}
	check(link)
	if got := modeString(iofs.ModeDir | iofs.ModeSymlink | 0o555); got != "lr-xr-xr-x" {
		t.Errorf("an alias is printed as %s", got)
	}
}
