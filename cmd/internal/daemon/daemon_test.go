package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/fs"
	"9ci/fs/store"
)

// newClone makes a repository with one commit and the origin given.
func newClone(t *testing.T, origin string) (top string) {
	t.Helper()
	top = t.TempDir()
	for _, args := range [][]string{
		{"init", "-q"},
		{"remote", "add", "origin", origin},
		{"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one"},
	} {
		cmd := exec.Command("git", append([]string{"-C", top}, args...)...)
		cmd.Env = append(noGit(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return top
}

// newHome gives the process a user's directories of its own.
func newHome(t *testing.T) (state string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, filepath.Join(dir, name))
	}
	return filepath.Join(dir, "XDG_STATE_HOME", "9ci")
}

func noTool(name string) (string, error) { return "", errors.New("no " + name + " in this test") }

func startDaemon(t *testing.T, tool func(string) (string, error)) *Daemon {
	t.Helper()
	d, err := New(t.Context(), Options{Version: "test", Tool: tool, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// A repository without an origin that is named before there is a key has the namespace
// that clients look for once the daemon has made the key.
func TestLocalOnFirstUse(t *testing.T) {
	newHome(t)
	top := newClone(t, "")
	d := startDaemon(t, noTool)
	first, err := d.add(t.Context(), top)
	if err != nil || !strings.HasPrefix(first, "local/") {
		t.Fatalf("add = %q, %v", first, err)
	}
	if again, err := d.add(t.Context(), top); again != first || err != nil {
		t.Errorf("add of the same = %q, %v, want %q", again, err, first)
	}
	if ns := d.Executor(first).Namespace; ns != first {
		t.Errorf("the executor's namespace is %q, want %q", ns, first)
	}
}

// A repository that cannot be opened when the daemon starts is not forgotten,
// whatever is added then. The start itself changes no list.
func TestReposKept(t *testing.T) {
	list := repoList{filepath.Join(newHome(t), ".repos")}
	a, b, c := newClone(t, "https://example.org/o/a"), newClone(t, "https://example.org/o/b"), newClone(t, "https://example.org/o/c")
	check := func(when string, want ...string) {
		t.Helper()
		if got, err := list.read(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: the list is %q, %v, want %q", when, got, err, want)
		}
	}
	d := startDaemon(t, noTool)
	for _, top := range []string{a, b} {
		if _, err := d.add(t.Context(), top); err != nil {
			t.Fatal(err)
		}
	}
	check("at first", a, b)
	d.Close()

	away := a + ".away" // as of a disk that is not mounted
	if err := os.Rename(a, away); err != nil {
		t.Fatal(err)
	}
	d = startDaemon(t, noTool)
	check("one is away", a, b)
	if _, err := d.add(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	check("another is added", a, b, c)
	d.Close()
	if err := os.Rename(away, a); err != nil {
		t.Fatal(err)
	}
	d = startDaemon(t, noTool)
	if names := d.trees.Names(); len(names) != 3 {
		t.Errorf("the daemon serves %q, want three", names)
	}

	// Another clone takes the place of the first.
	e := newClone(t, "https://example.org/o/a")
	if _, err := d.add(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	check("another clone", e, b, c)
}

// Two daemons of one user add to one list.
func TestReposShared(t *testing.T) {
	list := repoList{filepath.Join(t.TempDir(), "9ci", ".repos")}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := list.replace("", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tops, err := list.read(); err != nil || len(tops) != 20 {
		t.Errorf("the list is %q, %v, want 20", tops, err)
	}
}

// queued puts a run into the store of a repository that a daemon which was
// killed had queued, and returns its id.
func queued(t *testing.T, top, kept string) string {
	t.Helper()
	rp, err := repo.Open(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(t.Context(), rp, nil)
	if err != nil {
		t.Fatal(err)
	}
	commit, tree, err := rp.Resolve(t.Context(), "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(kept)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	run, err := s.Create(commit)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(run.SetKey(replay.Key(c, commit, tree, []string{"test"})), run.SetAsked(c.Attrs())); err != nil {
		t.Fatal(err)
	}
	return run.ID()
}

// Runs that were queued when a daemon was killed go on in the next one, once it
// serves their repository, and not before.
func TestResume(t *testing.T) {
	state := newHome(t)
	const ns = "example.org/o/a"
	top := newClone(t, "https://"+ns)
	id := queued(t, top, filepath.Join(state, ns))
	if err := (repoList{filepath.Join(state, ".repos")}).replace("", top); err != nil {
		t.Fatal(err)
	}

	// A daemon that cannot serve it leaves them as they are.
	t.Setenv("CI_ORCHESTRATOR", "ssh://127.0.0.1/no-namespace")
	d := startDaemon(t, func(string) (string, error) {
		t.Error("a run begins of a repository that is not served")
		return noTool("")
	})
	if names := d.trees.Names(); len(names) != 0 {
		t.Fatalf("the daemon serves %q, want none", names)
	}
	d.Close()

	t.Setenv("CI_ORCHESTRATOR", "")
	d = startDaemon(t, noTool)
	n, err := fs.Walk(t.Context(), d.root, ns+"/ci/"+id+"/wait")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := fs.ReadAll(t.Context(), n); err != nil || !strings.HasPrefix(string(text), "error 125 ") {
		t.Errorf("the run ended as %q, %v, want error 125 for lack of a tool", text, err)
	}
}

// noGit returns the environment without git's variables: in a hook of git they name
// the repository that is worked on, and not that of a test.
func noGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}

// A repository whose disk or key is slow to come holds up no other.
func TestReposApart(t *testing.T) {
	newHome(t)
	d := startDaemon(t, noTool)
	slow, other := newClone(t, "https://example.org/o/slow"), newClone(t, "https://example.org/o/other")
	key := filepath.Join(t.TempDir(), "key")
	if err := syscall.Mkfifo(key, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CI_KEY", key)
	ended := make(chan error, 1)
	go func() {
		_, err := d.add(t.Context(), slow)
		ended <- err
	}()
	opened := make(chan *os.File, 1)
	go func() {
		f, err := os.OpenFile(key, os.O_WRONLY, 0) // waits until the key is read
		if err != nil {
			t.Error(err)
		}
		opened <- f
	}()
	var f *os.File
	select {
	case f = <-opened:
	case err := <-ended:
		t.Fatalf("the repository whose key does not come: %v", err)
	}
	t.Setenv("CI_KEY", "")
	if ns, err := d.add(t.Context(), other); err != nil || d.Executor(ns) == nil {
		t.Errorf("another repository meanwhile: %q, %v", ns, err)
	}
	if d.Executor("example.org/o/slow") != nil {
		t.Error("there is an executor that has no key")
	}
	f.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("the repository whose key is empty: %v, want an error that names the key", err)
	}
	if _, err := d.add(t.Context(), slow); err != nil || d.Executor("example.org/o/slow") == nil {
		t.Errorf("with a key: %v", err)
	}
}
