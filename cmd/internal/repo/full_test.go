package repo_test

import (
	"errors"
	"fmt"
	"math/rand"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// However much room there is, a clone for which it does not do says so, be it git that
// found out or we.
func TestCloneFullDisk(t *testing.T) {
	dir, _ := newRepo(t)
	data := make([]byte, 200<<10)
	rand.New(rand.NewSource(1)).Read(data) // which git cannot compress
	write(t, filepath.Join(dir, "big"), string(data))
	for i := range 100 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i))
	}
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "big")
	head := git(t, dir, "rev-parse", "HEAD")
	for _, tt := range []struct {
		name            string
		squash, partial bool
	}{{"whole", false, false}, {"squashed", true, false}, {"partial", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.partial {
				git(t, dir, "config", "remote.origin.promisor", "true")
			}
			r := open(t, dir)
			full := 0
			for room := 4 << 10; ; room += 12 << 10 {
				disk := t.TempDir()
				if err := unix.Mount("9ci-test", disk, "tmpfs", 0, fmt.Sprint("size=", room)); err != nil {
					t.Skipf("a small file system needs the right to mount one: %v", err)
				}
				_, err := r.Clone(t.Context(), head, tt.squash, disk)
				unix.Unmount(disk, unix.MNT_DETACH)
				if err == nil {
					break
				}
				if !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("Clone in %d bytes: %v, want %v", room, err, syscall.ENOSPC)
				}
				if full++; full == 100 {
					t.Fatalf("Clone in %d bytes: %v", room, err)
				}
			}
			if full < 3 {
				t.Errorf("the disk was full %d times, want more", full)
			}
		})
	}
}
