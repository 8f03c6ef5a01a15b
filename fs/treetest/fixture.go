package treetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// The runs of New's store, in the order in which they were made.
const (
	PassedCommit  = "3f2a9c1d0b7e5f6a7b8c9d0e1f2a3b4c5d6e7f80" // with artifacts of all kinds and two services, signed
	FailedCommit  = "aaaabbbbccccddddeeeeffff0000111122223333" // in the step test
	RunningCommit = "0123456789abcdef0123456789abcdef01234567" // in the step test, with output
)

// treeOf is the tree hash of a commit of the runs.
func treeOf(commit string) string { return commit[20:] + commit[:20] }

// New returns a store in a temporary directory with one run of each kind, and
// its tree, whose Control answers an error to every command. The store is
// closed when the test ends.
func New(t testing.TB) (*store.Store, fs.Dir) {
	t.Helper()
	s := NewStore(t)
	passed := begin(t, s, PassedCommit, 7)
	must(t, passed.Seal(context.Background(), "passed", 0, Sign))
	failed := begin(t, s, FailedCommit, 4)
	must(t, failed.Enter("test"))
	fmt.Fprint(failed.Stderr(), "no such thing\n")
	must(t, failed.Leave("test", "failed", 1))
	must(t, failed.Seal(context.Background(), "failed", 1, nil))
	running := begin(t, s, RunningCommit, 4)
	must(t, running.Enter("test"))
	fmt.Fprint(running.Stdout(), "so far\n")
	return s, store.NewTree(s, Control{})
}

// NewStore returns an empty store in a temporary directory, which is closed
// and removed when the test ends.
func NewStore(t testing.TB) *store.Store {
	t.Helper()
	s, _ := newStore(t)
	return s
}

func newStore(t testing.TB) (s *store.Store, dir string) {
	dir = filepath.Join(t.TempDir(), "store")
	s, err := store.Open(dir)
	must(t, err)
	t.Cleanup(func() {
		s.Close()
		removeAll(dir)
	})
	return s, dir
}

// NewLarge returns a store with n passed runs, and its tree. Only the first of
// them is there with its files: of the others there is what the store's index
// says, which is enough to list, walk to and stat them.
func NewLarge(t testing.TB, n int) (*store.Store, fs.Dir) {
	t.Helper()
	s, dir := newStore(t)
	must(t, begin(t, s, PassedCommit, 7).Seal(context.Background(), "passed", 0, Sign))
	index := filepath.Join(dir, ".store", "index")
	text, err := os.ReadFile(index)
	must(t, err)
	// The line of a run begins with a word and two numbers: its place in
	// listings, and that of its id.
	f := strings.SplitN(strings.TrimSuffix(string(text), "\n"), " ", 4)
	if len(f) != 4 || f[1] != "1" || f[2] != "1" || strings.Contains(f[3], "\n") {
		t.Fatalf("the index of one run is %q", text)
	}
	for i := 2; i <= n; i++ {
		text = fmt.Appendf(text, "%s %d %d %s\n", f[0], i, i, f[3])
	}
	must(t, os.WriteFile(index, text, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, ".store", "next"), fmt.Appendln(nil, n+1), 0o600))
	return s, store.NewTree(s, Control{})
}

// removeAll removes what a store keeps read-only.
func removeAll(dir string) {
	filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(name, 0o700)
		}
		return nil
	})
	os.RemoveAll(dir)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// begin makes a run and takes it through its first n steps.
func begin(t testing.TB, s *store.Store, commit string, n int) *store.Run {
	t.Helper()
	r, err := s.Create(commit)
	must(t, err)
	must(t, r.SetKey(ci.Attrs{
		{Name: "version", Value: "1"}, {Name: "commit", Value: commit}, {Name: "target", Value: "test"},
		{Name: "arch", Value: "amd64"}, {Name: "coreos", Value: "debian-12/1"}, {Name: "net", Value: "build"},
		{Name: "env", Value: ci.QuoteWords([]string{"CI_NAME=it's quoted"})}, {Name: "secrets", Value: ""},
	}))
	must(t, r.SetInfo(ci.Attrs{
		{Name: "tree", Value: treeOf(commit)}, {Name: "repo", Value: "example.org/alice/hello"},
		{Name: "host", Value: "nemo"}, {Name: "image", Value: "localhost/hello:1 sha256:0"}, {Name: "version", Value: "1"},
	}))
	for _, step := range ci.Steps[:n] {
		must(t, r.Enter(step))
		fmt.Fprintf(r.Stdout(), "%s: \x00\xff\r\n\n", step)
		fmt.Fprintf(r.Stderr(), "%s: %s", step, strings.Repeat("a long line ", 3000))
		if step == "test" && commit == PassedCommit {
			for _, name := range []string{"web_1", "db"} {
				svc, err := r.AddService(name)
				must(t, err)
				fmt.Fprintf(svc.Stdout(), "%s: \xff\r\n\npart", name)
				fmt.Fprintf(svc.Stderr(), "%s is ready\n", name)
				must(t, svc.Close())
			}
		}
		if step == "artifacts" {
			src := filepath.Join(t.TempDir(), "artifacts")
			MakeArtifacts(t, src)
			out, err := exec.Command("tar", "--format=pax", "-C", src, "-c", ".").Output()
			must(t, err)
			must(t, r.AddArtifacts(context.Background(), bytes.NewReader(out)))
		}
		must(t, r.Leave(step, "passed", 0))
	}
	return r
}

// MakeArtifacts makes, in a new directory, what a run may leave: odd names,
// modes, times and links.
func MakeArtifacts(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "bin", "empty dir"), 0o755))
	write := func(name, text string, mode os.FileMode) {
		name = filepath.Join(dir, name)
		must(t, os.WriteFile(name, []byte(text), mode))
		must(t, os.Chmod(name, mode))
		must(t, os.Chtimes(name, time.Time{}, time.Unix(1700000000, 123456789)))
	}
	write("bin/hello", "#!/bin/sh\necho hello\n", 0o755)
	write("size", "42\n", 0o644)
	write("empty", "", 0o444)
	write("live", "not what blocks\n", 0o644)
	write("blanks # and = signs", "odd\n", 0o644)
	write("mine", "his own\n", 0o600)
	write("Grüße", "utf-8\n", 0o604)
	write(strings.Repeat("long", 50), strings.Repeat("x", 100000), 0o644)
	must(t, os.Symlink("bin/hello", filepath.Join(dir, "link")))
	must(t, os.Symlink("../../../../etc/passwd", filepath.Join(dir, "out")))
	must(t, os.Chtimes(filepath.Join(dir, "bin"), time.Time{}, time.Unix(1600000000, 0)))
}

// Sign makes what looks like an SSHSIG and signs nothing.
func Sign([]byte) ([]byte, error) {
	return []byte("-----BEGIN SSH SIGNATURE-----\n" +
		"U1NIU0lHAAAAAQAAAANrZXkAAAAKcnVuQDljaQ==\n" + // version 1, the key "key"
		"-----END SSH SIGNATURE-----\n"), nil
}

// A Control refuses all commands.
type Control struct{}

var errNo = errors.New("this executor does nothing")

func (Control) Command(context.Context, ci.Command) (string, error) { return "", errNo }
func (Control) Status() ci.Attrs                                    { return ci.Attrs{{Name: "mode", Value: "run"}} }
func (Control) Head(context.Context) (commit, tree string, ancestors []string, err error) {
	return PassedCommit, treeOf(PassedCommit), nil, nil
}
