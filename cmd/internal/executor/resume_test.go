package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
)

// newClone makes a repository with one commit.
func newClone(t *testing.T, message string) *repo.Repo {
	t.Helper()
	top := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", message}} {
		cmd := exec.Command("git", append([]string{"-C", top}, args...)...)
		cmd.Env = append(noGit(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	r, err := repo.Open(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newExecutor returns an executor of the store in dir and of a clone with one commit, and
// a request for that.
func newExecutor(t *testing.T, dir string, c *config.Config) (*Executor, Request) {
	t.Helper()
	rp := newClone(t, "one")
	commit, tree, err := rp.Resolve(t.Context(), "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	return openExecutor(t, dir, rp, c), Request{Repo: rp, Commit: commit, Tree: tree, Targets: []string{"test"}, Config: c}
}

// openExecutor returns an executor of the store in dir and of a clone. It signs, but has no
// machines.
func openExecutor(t *testing.T, dir string, rp *repo.Repo, c *config.Config) *Executor {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	e := &Executor{Context: t.Context(), Store: s, Config: c, Namespace: "local/a-01234567", Queue: new(Queue), Log: slog.New(slog.DiscardHandler)}
	e.Tool = func(string) (string, error) { return "", nil }
	e.Start = func(context.Context, vm.Config) (Machine, error) { return nil, errors.New("no machine in this test") }
	e.Sign = func([]byte) ([]byte, error) { return []byte("signature"), nil }
	e.SetRepo(rp)
	return e
}

// A queued run that another process takes over is the one that was asked for, in the
// clone in which that was, whatever that process's own configuration is; one with secrets, whose values
// no file has, is not run with others.
func TestRequest(t *testing.T) {
	ctx := t.Context()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	rp := newClone(t, "one")
	top := rp.Top
	commit, tree, err := rp.Resolve(ctx, "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	queued := func(set map[string]string) *config.Config {
		t.Helper()
		c, err := config.Load(ctx, rp, set)
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close() // as after a kill
		e := &Executor{Context: ctx, Store: s, Config: c}
		req := Request{Repo: rp, Commit: commit, Tree: tree, Targets: []string{"lint", "test"}, Config: c}
		if _, _, err := e.create(req, replay.Key(c, commit, tree, req.Targets), true); err != nil {
			t.Fatal(err)
		}
		return c
	}
	resume := func() (Request, error) {
		t.Helper()
		s, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		runs, err := s.Resume()
		if err != nil || len(runs) != 1 {
			t.Fatalf("Resume = %v, %v, want one run", runs, err)
		}
		defer runs[0].Discard()
		e := &Executor{Context: ctx, Store: s, Log: slog.New(slog.DiscardHandler)}
		e.Namespace = "local/a-01234567"
		e.SetRepo(newClone(t, "another, named last"))
		return e.request(ctx, runs[0])
	}
	want := queued(map[string]string{"CI_NET": "all", "CI_MATCH": "tree", "CI_TIMEOUT": "2h", "CI_MEMORY": "512M", "CI_CPUS": "1", "CI_MAXAGE": "1d", "CI_HOLD": "3m",
		"CI_RUNS": "1", "CI_ENV": "A=b"})
	t.Setenv("CI_NET", "none")
	t.Setenv("CI_TIMEOUT", "5m")
	if err := os.WriteFile(filepath.Join(top, ".env"), []byte("CI_MEMORY=256M\nCI_ENV=B=c\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := resume()
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.Config.Attrs()) != fmt.Sprint(want.Attrs()) || got.Repo.Top != top || got.Commit != commit || got.Tree != tree || fmt.Sprint(got.Targets) != "[lint test]" {
		t.Errorf("taken over: %+v of %v, want %v", got, got.Config.Attrs(), want.Attrs())
	}

	queued(map[string]string{"CI_SECRETS": "TOKEN=hunter2hunter2"})
	t.Setenv("TOKEN", "another's token")
	err = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if text, err := os.ReadFile(name); err != nil || strings.Contains(string(text), "hunter2") {
			t.Errorf("%s has the secret: %q, %v", name, text, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := resume(); err == nil || !strings.Contains(err.Error(), "the values of its secrets with it") {
		t.Errorf("with secrets: %v", err)
	}
}

// A run that was queued in a clone which is gone, or has become another repository's, is
// not run in another clone.
func TestReopen(t *testing.T) {
	e := &Executor{Context: t.Context(), Namespace: "example.org/alice/hello", Log: slog.New(slog.DiscardHandler)}
	here := newClone(t, "here")
	e.SetRepo(here)
	if r, err := e.reopen(t.Context(), here.Top); r != here || err != nil {
		t.Errorf("a clone that was named: %v, %v", r, err)
	}
	if _, err := e.reopen(t.Context(), newClone(t, "other").Top); err == nil || !strings.Contains(err.Error(), "is no clone of example.org/alice/hello any more") {
		t.Errorf("another repository: %v", err)
	}
	if _, err := e.reopen(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "the clone in which the run was asked for") {
		t.Errorf("no repository: %v", err)
	}
	if _, err := e.Command(t.Context(), ci.Command{Verb: "run", Attrs: ci.Attrs{{Name: "repo", Value: "/elsewhere"}}, Rev: "HEAD"}); err == nil || !strings.Contains(err.Error(), "repo=/elsewhere is no clone of") {
		t.Errorf("a clone that was not named: %v", err)
	}
}

// noGit returns the environment without git's variables: in a hook of git they name
// the repository that is worked on, and not that of a test.
func noGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}
