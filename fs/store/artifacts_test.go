package store

import (
	"bytes"
	"os"
	"path/filepath"
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
