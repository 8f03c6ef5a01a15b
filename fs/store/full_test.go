package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"9ci/fs/ci"
)

// smallDisk mounts a tmpfs of so many bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("9ci-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("a small file system needs the right to mount one: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// Output fills the disk: the run ends in error, says so, and is sealed; when
// it is gone the store takes another.
func TestFullDisk(t *testing.T) {
	s, err := Open(filepath.Join(smallDisk(t, 4<<20), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	small := writeRun(t, s, commitB, treeA, "passed", 0)

	r, err := s.Create(commitA)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Enter("test"); err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("flood ", 1000) + "\n")
	for err = nil; err == nil; {
		_, err = r.Stdout().Write(line)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write to a full disk = %v, want %v", err, syscall.ENOSPC)
	}
	if _, err := r.Stderr().Write(line); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the next Write = %v, want %v", err, syscall.ENOSPC)
	}
	if err := r.Leave("test", "error", -1); err != nil {
		t.Errorf("Leave: %v", err)
	}
	if err := r.Seal(t.Context(), "passed", 0, testSign); err != nil {
		t.Fatalf("Seal: %v", err)
	}
	e, err := s.Get(r.ID())
	if err != nil || e.State != "error" {
		t.Errorf("Get(%s) = %s, %v, want state error", r.ID(), e.State, err)
	}
	log, _ := os.ReadFile(filepath.Join(e.Dir, "step/test/log"))
	if i := bytes.LastIndex(log, []byte("stderr F 9ci: ")); i < 0 || !bytes.Contains(log[i:], []byte("no space left on device")) {
		t.Errorf("the step's log ends in %q, want the error", log[max(0, len(log)-200):])
	}
	verifyRun(t, s, r.ID())
	verifyRun(t, s, small)

	if err := s.Forget(r.ID()); err != nil {
		t.Fatalf("Forget: %v", err)
	}
	verifyRun(t, s, writeRun(t, s, commitA, treeA, "passed", 0))
}

// Artifacts that do not fit are an error of their step; the run has none, and
// is sealed.
func TestArtifactsFillDisk(t *testing.T) {
	s, err := Open(filepath.Join(smallDisk(t, 2<<20), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Create(commitA)
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	for i := range 4 {
		os.WriteFile(filepath.Join(src, fmt.Sprint(i)), bytes.Repeat([]byte("full"), 1<<18), 0o644)
	}
	r.Enter("artifacts")
	if err := r.AddArtifacts(t.Context(), tarOf(t, src)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("AddArtifacts = %v, want %v", err, syscall.ENOSPC)
	}
	fmt.Fprintln(r.Stderr(), "so it goes")
	if err := r.Leave("artifacts", "error", -1); err != nil {
		t.Errorf("Leave: %v", err)
	}
	if err := r.Seal(t.Context(), "error", -1, testSign); err != nil {
		t.Fatalf("Seal: %v", err)
	}
	verifyRun(t, s, r.ID())
	if list, _ := os.ReadDir(filepath.Join(s.runPath(r.ID()), "artifacts")); len(list) > 0 {
		t.Errorf("%d artifacts are left", len(list))
	}
}

// What fills the disk is somebody else: a run without room for its seal gives
// up its output rather than be lost.
func TestNoRoomToSeal(t *testing.T) {
	disk := smallDisk(t, 2<<20)
	s, err := Open(filepath.Join(disk, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Create(commitA)
	if err != nil {
		t.Fatal(err)
	}
	r.Enter("test")
	r.Stdout().Write(bytes.Repeat([]byte("x"), 200<<10))
	fill, err := os.Create(filepath.Join(disk, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(fill, zeros{})
	fill.Close()
	r.lock.Truncate(0) // no reserve either: others take it
	fill, _ = os.OpenFile(fill.Name(), os.O_APPEND|os.O_WRONLY, 0)
	io.Copy(fill, zeros{})
	fill.Close()
	if err := r.Seal(t.Context(), "passed", 0, testSign); err != nil {
		t.Fatalf("Seal: %v", err)
	}
	e, _ := s.Get(r.ID())
	log, _ := os.ReadFile(filepath.Join(e.Dir, "log"))
	if e.State != "error" || !strings.Contains(string(log), "no space left") {
		t.Errorf("state %s, log %q, want error and the reason", e.State, log)
	}
	verifyRun(t, s, r.ID())
	// A run that cannot even begin leaves nothing.
	fill, _ = os.OpenFile(fill.Name(), os.O_APPEND|os.O_WRONLY, 0)
	io.Copy(fill, zeros{})
	fill.Close()
	if _, err := s.Create(commitB); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Create on a full disk = %v, want %v", err, syscall.ENOSPC)
	}
	if work, _ := os.ReadDir(s.path("work")); len(work) > 0 {
		t.Errorf("%q is left in work", work)
	}
	os.Remove(fill.Name())
	verifyRun(t, s, writeRun(t, s, commitB, treeA, "passed", 0))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// An adoption that fills the disk leaves nothing.
func TestAdoptionFillsDisk(t *testing.T) {
	from := newStore(t)
	id := writeRun(t, from, commitA, treeA, "passed", 0)
	var tar bytes.Buffer
	if err := from.WriteTar(t.Context(), &tar, id); err != nil {
		t.Fatal(err)
	}
	disk := smallDisk(t, 160<<10)
	s, err := Open(filepath.Join(disk, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Adopt(t.Context(), &tar, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Adopt = %v, want %v", err, syscall.ENOSPC)
	}
	if _, err := s.Get(id); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Get = %v, want %v", err, iofs.ErrNotExist)
	}
	if names, _ := os.ReadDir(s.RunDir()); len(names) > 0 {
		t.Errorf("%v is left", names)
	}
}

func verifyRun(t *testing.T, s *Store, id string) {
	t.Helper()
	rep, err := ci.VerifyDir(s.runPath(id))
	if err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
		t.Errorf("VerifyDir(%s) = %q, %q, %v", id, rep.Content, rep.Metadata, err)
	}
}
