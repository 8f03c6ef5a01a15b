package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"strings"
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

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "...": true, "Grüße": true, "a\nb": true, strings.Repeat("x", 255): true,
		"": false, ".": false, "..": false, "a/b": false, "a\x00": false, "\xff": false, strings.Repeat("x", 256): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
}
