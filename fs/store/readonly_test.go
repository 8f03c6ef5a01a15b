package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"9ci/fs"
)

// A store on a read-only file system is served as it is, with its index and
// without.
func TestOpenReadOnly(t *testing.T) {
	disk := smallDisk(t, 4<<20)
	s, err := Open(filepath.Join(disk, "store"))
	if err != nil {
		t.Fatal(err)
	}
	first := writeRun(t, s, commitA, treeA, "passed", 0)
	second := writeRun(t, s, commitB, treeA, "passed", 0)
	dir := s.Dir()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".store/index", ".store"} { // what it has lost
		if name != "" {
			if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatalf("Open without %q: %v", name, err)
		}
		s.SetKeep(Keep{Once: true})
		if _, err := s.Recover(t.Context(), nil); err != nil {
			t.Errorf("Recover: %v", err)
		}
		wantRuns(t, s, second, first)
		if got := mustRead(t, NewTree(s, nil), "ci/"+commitA+"/status"); got == "" {
			t.Error("the status of a run is empty")
		}
		if _, err := s.Create(commitA); !errors.Is(err, fs.ErrReadOnly) {
			t.Errorf("Create = %v, want %v", err, fs.ErrReadOnly)
		}
		if err := s.Forget(first); !errors.Is(err, fs.ErrReadOnly) {
			t.Errorf("Forget = %v, want %v", err, fs.ErrReadOnly)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}
