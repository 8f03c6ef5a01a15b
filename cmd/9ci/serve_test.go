package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
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
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
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

func startDaemon(t *testing.T) *server {
	t.Helper()
	s, err := newServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
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
	s := startDaemon(t)
	for _, top := range []string{a, b} {
		if _, err := s.add(t.Context(), top); err != nil {
			t.Fatal(err)
		}
	}
	check("at first", a, b)
	s.close()

	away := a + ".away" // as of a disk that is not mounted
	if err := os.Rename(a, away); err != nil {
		t.Fatal(err)
	}
	s = startDaemon(t)
	check("one is away", a, b)
	if _, err := s.add(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	check("another is added", a, b, c)
	s.close()
	if err := os.Rename(away, a); err != nil {
		t.Fatal(err)
	}
	s = startDaemon(t)
	if names := s.trees.Names(); len(names) != 3 {
		t.Errorf("the daemon serves %q, want three", names)
	}

	// Another clone takes the place of the first.
	d := newClone(t, "https://example.org/o/a")
	if _, err := s.add(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	check("another clone", d, b, c)
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
