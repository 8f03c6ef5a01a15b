package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"9ci/fs/ci"
)

const (
	commitA = "3f2a9c1d0b7e5f6a7b8c9d0e1f2a3b4c5d6e7f80"
	commitB = "aaaabbbbccccddddeeeeffff0000111122223333"
	treeA   = "0123456789abcdef0123456789abcdef01234567"
)

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); removeAll(s.dir) })
	return s
}

// makeArtifacts makes what a run may leave: odd names, modes, times, links.
func makeArtifacts(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "bin", "empty dir"), 0o755))
	write := func(name, text string, mode os.FileMode) {
		must(os.WriteFile(filepath.Join(dir, name), []byte(text), mode))
		must(os.Chmod(filepath.Join(dir, name), mode))
		must(os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(1700000000, 123456789)))
	}
	write("bin/hello", "#!/bin/sh\necho hello\n", 0o755)
	write("size", "42\n", 0o640)
	write("a \\ and blanks", "odd\n", 0o600)
	write("Grüße", "utf-8\n", 0o644)
	write(strings.Repeat("long", 50), strings.Repeat("x", 100000), 0o644)
	write("mode 0", "closed\n", 0)
	write("old", "of 1954\n", 0o4755)
	must(os.Chmod(filepath.Join(dir, "old"), 0o755|os.ModeSetuid))
	must(os.Chtimes(filepath.Join(dir, "old"), time.Time{}, time.Unix(-500000000, 0)))
	write("sparse", "", 0o644)
	must(os.Truncate(filepath.Join(dir, "sparse"), 1<<20))
	must(os.Symlink("bin/hello", filepath.Join(dir, "link")))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "out")))
	must(os.Chmod(filepath.Join(dir, "bin", "empty dir"), 0o700))
	must(os.Chtimes(filepath.Join(dir, "bin"), time.Time{}, time.Unix(1600000000, 0)))
}

// tarOf is what is in dir as a machine hands it over.
func tarOf(t testing.TB, dir string) io.Reader {
	t.Helper()
	cmd := exec.Command("tar", "--format=pax", "--sparse", "-C", dir, "-c", ".")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, &stderr)
	}
	return bytes.NewReader(b)
}

// writeRun makes a run and takes it through its steps.
func writeRun(t testing.TB, s *Store, commit, tree, state string, code int) string {
	t.Helper()
	r, err := s.Create(commit)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.SetKey(ci.Attrs{{Name: "version", Value: "1"}, {Name: "commit", Value: commit}, {Name: "target", Value: "test"}, {Name: "env", Value: ""}}))
	must(r.SetInfo(ci.Attrs{{Name: "tree", Value: tree}, {Name: "repo", Value: "example.org/a/b"}, {Name: "image", Value: "localhost/x:1 sha256:0"}}))
	for _, step := range ci.Steps {
		must(r.Enter(step))
		fmt.Fprintf(r.Stdout(), "out of %s\n", step)
		fmt.Fprintf(r.Stderr(), "err of %s", step)
		if step == "artifacts" {
			src := filepath.Join(t.TempDir(), "a")
			makeArtifacts(t, src)
			must(r.AddArtifacts(t.Context(), tarOf(t, src)))
		}
		must(r.Leave(step, "passed", 0))
	}
	must(r.Seal(t.Context(), state, code, nil))
	return r.ID()
}

func TestRunIsSealedAsServed(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	dir := s.runPath(id)
	rep, err := ci.VerifyDir(dir)
	if err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
		t.Fatalf("VerifyDir = %q, %q, %v", rep.Content, rep.Metadata, err)
	}
	if out, err := exec.Command("sh", "-c", "cd "+dir+" && sha256sum -c --quiet manifest").CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c manifest: %v\n%s", err, out)
	}
	tarName := filepath.Join(t.TempDir(), "run.tar")
	f, _ := os.Create(tarName)
	if err := s.WriteTar(context.Background(), f, id); err != nil {
		t.Fatal(err)
	}
	f.Close()
	out := t.TempDir()
	for _, tool := range []string{"tar", "bsdtar"} {
		d := filepath.Join(out, tool)
		os.Mkdir(d, 0o755)
		cmd := exec.Command(tool, "-xpf", tarName, "-C", d)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // bsdtar wants to know what names are in
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", tool, err, msg)
		}
		rep, err := ci.VerifyDir(filepath.Join(d, id))
		if err != nil || len(rep.Content)+len(rep.Metadata) > 0 {
			t.Errorf("VerifyDir after %s = %q, %q, %v", tool, rep.Content, rep.Metadata, err)
		}
		removeAll(d)
	}
	s2 := newStore(t)
	b, _ := os.ReadFile(tarName)
	e, err := s2.Adopt(t.Context(), bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if e.Score != rep.Score {
		t.Errorf("adopted score = %s, want %s", e.Score, rep.Score)
	}
	var again bytes.Buffer
	if err := s2.WriteTar(t.Context(), &again, e.ID); err != nil || !bytes.Equal(again.Bytes(), b) {
		t.Errorf("the adopter's tar is another: %v", err)
	}
}

// verified are the sealed runs that were verified: they do not change.
var verified sync.Map
