package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWalkDir(t *testing.T) {
	text := TextFile("f", func(context.Context) ([]byte, error) { return []byte("x"), nil })
	root := NewDir("/", NewDir("d", NewDir("e"), text))
	for path, want := range map[string]error{
		"": nil, "d": nil, "/d//e/": nil, "./d": nil,
		"d/f": ErrNotDir, "d/f/x": ErrNotDir, "x": iofs.ErrNotExist, "d/..": iofs.ErrNotExist,
	} {
		d, err := WalkDir(t.Context(), root, path)
		if !errors.Is(err, want) || (d == nil) != (want != nil) {
			t.Errorf("WalkDir(%q) = %v, %v, want %v", path, d, err, want)
		}
	}
}

// Links are followed, one after the other, and nothing leads above the directory.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "run/d/e"), 0o755), os.WriteFile(filepath.Join(dir, "run/d/f"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"f": "d/f", "e": "d/e", "twice": "f", "up": "e/../f", "d/e/back": "../../f", "d/back": "..", "above": "../f", "far": "d/../../run/d/f",
		"abs": "/f", "abs2": filepath.Join(dir, "run/d/f"), "loop": "loop", "a": "b", "b": "a", "none": "nosuch", "under": "d/f/..", "self": ".",
	} {
		if err := os.Symlink(target, filepath.Join(dir, "run", name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for path, want := range map[string]string{
		"": "/", "d": "d", "f": "f", "twice": "f", "e": "e", "up": "f", "e/back": "f", "d/back/d/back/f": "f", "e/../f": "f", "self/self/f": "f",
		"d/../f": "f", "./d//f": "f", "d/back": "/",
	} {
		n, err := Follow(t.Context(), DiskDir(root, "/"), path)
		if err != nil {
			t.Errorf("Follow(%q) = %v", path, err)
			continue
		}
		if st, err := n.Stat(t.Context()); st.Name != want || st.Mode&iofs.ModeSymlink != 0 || err != nil {
			t.Errorf("Follow(%q) = %v, %v, want %s", path, st, err, want)
		}
	}
	for path, want := range map[string]error{
		"above": iofs.ErrNotExist, "far": iofs.ErrNotExist, "abs": iofs.ErrNotExist, "abs2": iofs.ErrNotExist, "..": iofs.ErrNotExist,
		"d/back/..": iofs.ErrNotExist, "none": iofs.ErrNotExist, "loop": syscall.ELOOP, "a": syscall.ELOOP, "f/x": ErrNotDir, "under": ErrNotDir, "f/.": ErrNotDir,
	} {
		if n, err := Follow(t.Context(), DiskDir(root, "/"), path); !errors.Is(err, want) || n != nil {
			t.Errorf("Follow(%q) = %v, %v, want %v", path, n, err, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "...": true, "Grüße": true, "a\nb": true, strings.Repeat("x", 255): true,
		"": false, ".": false, "..": false, "a/b": false, "a\x00": false, "\xff": false, strings.Repeat("x", 256): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
		if err := CheckPlain(name); (err == nil) != (ok && name != "a\nb") {
			t.Errorf("CheckPlain(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"a\x7f", "\x1b[2J", "a\u0085"} {
		if err := CheckPlain(name); err == nil {
			t.Errorf("CheckPlain(%q) = nil", name)
		}
	}
}
