package repo_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"9ci/cmd/internal/repo"
)

// git runs git in dir as a user with a name would.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// environ is the test's environment without what it sets for the code under
// test.
func environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
	return append(env, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// newRepo makes a repository with two commits and a tag at the first.
func newRepo(t *testing.T) (dir string, r *repo.Repo) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	write(t, filepath.Join(dir, "f"), "one\n")
	git(t, dir, "add", "f")
	git(t, dir, "commit", "-q", "-m", "one")
	git(t, dir, "tag", "v1")
	write(t, filepath.Join(dir, "f"), "two\n")
	git(t, dir, "commit", "-q", "-a", "-m", "two")
	r, err := repo.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func TestResolve(t *testing.T) {
	ctx := t.Context()
	dir, r := newRepo(t)
	head, tree := git(t, dir, "rev-parse", "HEAD"), git(t, dir, "rev-parse", "HEAD^{tree}")
	if c, tr, err := r.Resolve(ctx, "main"); c != head || tr != tree || err != nil {
		t.Errorf("Resolve(main) = %s, %s, %v, want %s, %s", c, tr, err, head, tree)
	}
	for _, rev := range []string{"nowhere", "--help", "nowhere..main", "main..nowhere", "^nowhere", ""} {
		if _, _, err := r.Resolve(ctx, rev); err == nil || !strings.HasPrefix(err.Error(), "unknown revision "+rev) {
			t.Errorf("Resolve(%q): %v, want unknown revision", rev, err)
		}
	}
	for _, rev := range []string{"main\nHEAD", head + " commit -1", head + " commit 5"} {
		if c, _, err := r.Resolve(ctx, rev); err == nil {
			t.Errorf("Resolve(%q) = %s", rev, c)
		}
	}
	git(t, dir, "remote", "add", "origin", "https://example.org/a/b")
	git(t, dir, "update-ref", "refs/remotes/origin/main", head)
	git(t, dir, "branch", "-q", "--set-upstream-to=origin/main", "main")
	r, err := repo.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, rev := range []string{"@{upstream}", "HEAD@{0}", "v1~0", "HEAD^{/two}", head[:9]} {
		if c, _, err := r.Resolve(ctx, rev); err != nil || len(c) != len(head) {
			t.Errorf("Resolve(%q) = %s, %v", rev, c, err)
		}
	}
	if past, err := r.Ancestors(ctx, head, 9); err != nil || len(past) != 2 || past[0] != head {
		t.Errorf("Ancestors = %v, %v", past, err)
	}
	if n, err := r.Dirty(ctx); n != 0 || err != nil {
		t.Errorf("Dirty of a clean tree = %d, %v", n, err)
	}
	write(t, filepath.Join(dir, "f"), "three\n")
	os.Mkdir(filepath.Join(dir, "d"), 0o777)
	write(t, filepath.Join(dir, "d", "new"), "")
	if n, err := r.Dirty(ctx); n != 2 || err != nil {
		t.Errorf("Dirty = %d, %v, want 2: one changed, one untracked", n, err)
	}
	if _, err := repo.Open(ctx, t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not in a git repository") {
		t.Errorf("Open of no repository: %v", err)
	}
	empty := t.TempDir()
	git(t, empty, "init", "-q")
	if r, err = repo.Open(ctx, empty); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Resolve(ctx, "HEAD"); err == nil || !strings.Contains(err.Error(), "has no commits yet") {
		t.Errorf("Resolve in an empty repository: %v", err)
	}
}

// A revision that is no one commit is told so, in words of its own.
func TestResolveWords(t *testing.T) {
	ctx := t.Context()
	dir, r := newRepo(t)
	head := git(t, dir, "rev-parse", "HEAD")
	for rev, want := range map[string]string{
		"main..main":     "main..main is a range, and a run is of one commit: main is its last",
		"v1..HEAD":       "v1..HEAD is a range, and a run is of one commit: HEAD is its last",
		"v1..":           "v1.. is a range, and a run is of one commit: HEAD is its last",
		"..main":         "..main is a range, and a run is of one commit: main is its last",
		"v1...main":      "v1...main is a range, and a run is of one commit: main is its last",
		"^main":          "^main is a range, and a run is of one commit: main is its last",
		"main^@":         "main^@ is a range, and a run is of one commit: main is its last",
		"main^!":         "main^! is a range, and a run is of one commit: main is its last",
		"main^-":         "main^- is a range, and a run is of one commit: main is its last",
		"main^{tree}":    "main^{tree} names a tree: a run is of a commit",
		"main:f":         "main:f names a blob: a run is of a commit",
		"main:":          "main: names a tree: a run is of a commit",
		"..":             ".. is a range, and a run is of one commit: HEAD is its last",
		"nowhere..main":  "unknown revision nowhere..main",
		"HEAD^{/a..b}":   "unknown revision HEAD^{/a..b}",
		"v1\xa0":         "unknown revision v1\xa0",
		"main\u00a0":     "unknown revision main\u00a0",
		"refs/tags/v1/x": "unknown revision refs/tags/v1/x",
	} {
		if c, _, err := r.Resolve(ctx, rev); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Resolve(%q) = %s, %v, want %s", rev, c, err, want)
		}
	}

	// A name that several refs have.
	ambiguous := func(rev string, can ...string) {
		t.Helper()
		want := "revision " + rev + " is ambiguous: "
		if _, _, err := r.Resolve(ctx, rev); err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), " can be "+strings.Join(can, " or ")+": give one") {
			t.Errorf("Resolve(%q): %v, want %s%v", rev, err, want, can)
		}
	}
	is := func(rev, want string) {
		t.Helper()
		if c, _, err := r.Resolve(ctx, rev); c != want || err != nil {
			t.Errorf("Resolve(%q) = %s, %v, want %s", rev, c, err, want)
		}
	}
	git(t, dir, "tag", "dup", "v1")
	git(t, dir, "update-ref", "refs/heads/dup", head)
	git(t, dir, "update-ref", "refs/tags/dup2/x", "v1") // below it, and no other dup2
	git(t, dir, "update-ref", "refs/heads/dup2", head)
	ambiguous("dup", "refs/heads/dup", "refs/tags/dup")
	ambiguous("dup~0", "refs/heads/dup", "refs/tags/dup")
	ambiguous("dup^{commit}", "refs/heads/dup", "refs/tags/dup")
	is("refs/heads/dup", head)
	is("heads/dup", head)
	is("tags/dup", git(t, dir, "rev-parse", "v1"))
	is("dup2", head)
	is("HEAD^{/two}", head)
	is(":/two", head)
	git(t, dir, "tag", "-a", "-f", "-m", "one commit", "dup", head)
	is("dup", head)
	git(t, dir, "update-ref", "refs/heads/HEAD", "v1")
	is("HEAD", head) // git itself means that one everywhere
	git(t, dir, "tag", head, "v1")
	is(head, head)
	short := git(t, dir, "rev-parse", "v1")[:7]
	git(t, dir, "update-ref", "refs/heads/"+short, head)
	ambiguous(short, "refs/heads/"+short, git(t, dir, "rev-parse", "v1"))

	// Digits that begin the names of several commits.
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "commit refs/heads/many\ncommitter a <a@b> %d +0000\ndata 0\n", 1e9+i)
	}
	cmd := exec.Command("git", "-C", dir, "fast-import", "--quiet")
	cmd.Stdin, cmd.Env = strings.NewReader(many.String()), environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first := make(map[string]string)
	for id := range strings.FieldsSeq(git(t, dir, "rev-list", "many")) {
		other, found := first[id[:4]]
		if first[id[:4]] = id; !found {
			continue
		}
		_, _, err := r.Resolve(ctx, id[:4])
		if _, _, err := r.Resolve(ctx, id[:4]+"~1"); err == nil || !strings.Contains(err.Error(), " is ambiguous: "+id[:4]+" begins") {
			t.Errorf("Resolve(%s~1): %v, want it ambiguous", id[:4], err)
		}
		if err == nil || !strings.Contains(err.Error(), "revision "+id[:4]+" is ambiguous: ") || !strings.Contains(err.Error(), id) || !strings.Contains(err.Error(), other) {
			t.Errorf("Resolve(%s): %v, want it to be %s or %s", id[:4], err, id, other)
		}
		return
	}
	t.Error("no two of 2,000 commits begin with the same four digits")
}

// fetch clones what a bundle holds, as the machine does.
func fetch(t *testing.T, file, commit string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "init", "-q")
	if b, err := os.ReadFile(file + ".shallow"); err == nil {
		write(t, filepath.Join(dir, ".git/shallow"), string(b))
	}
	git(t, dir, "fetch", "-q", file, "refs/*:refs/*")
	git(t, dir, "checkout", "-q", "--detach", commit)
	git(t, dir, "fsck", "--strict")
	return dir
}

func TestBundle(t *testing.T) {
	dir, r := newRepo(t)
	head := git(t, dir, "rev-parse", "HEAD")
	bundle := func(r *repo.Repo, rev string, squash bool) (string, string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "bundle")
		commit, err := r.Bundle(t.Context(), rev, squash, file)
		if err != nil {
			t.Fatal(err)
		}
		return file, commit
	}

	clone := fetch(t, first(bundle(r, head, false)), head)
	if got := git(t, clone, "describe", "--tags"); !strings.HasPrefix(got, "v1-1-g") {
		t.Errorf("git describe in the clone = %s, want v1-1-g...: history and tags are there", got)
	}

	// Equal trees give equal repositories.
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "three")
	file, a := bundle(r, head, true)
	_, b := bundle(r, git(t, dir, "rev-parse", "HEAD"), true)
	if a != b || a == head {
		t.Errorf("squashed commits of one tree are %s and %s", a, b)
	}
	if n := git(t, fetch(t, file, a), "rev-list", "--count", "HEAD"); n != "1" {
		t.Errorf("a squashed repository has %s commits", n)
	}

	shallow := filepath.Join(t.TempDir(), "shallow")
	git(t, t.TempDir(), "clone", "-q", "--depth=1", "file://"+dir, shallow)
	r, err := repo.Open(t.Context(), shallow)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Resolve(t.Context(), "HEAD~9"); err == nil || !strings.Contains(err.Error(), "git fetch --unshallow") {
		t.Errorf("Resolve(HEAD~9): %v, want the clone called shallow", err)
	}
	head = git(t, shallow, "rev-parse", "HEAD")
	fetch(t, first(bundle(r, head, false)), head)
}

func first(a, _ string) string { return a }

// What would be a pointer in the machine is refused, by its name.
func TestBundleNotWhole(t *testing.T) {
	dir, r := newRepo(t)
	refuse := func(want string) {
		t.Helper()
		_, err := r.Bundle(context.Background(), git(t, dir, "rev-parse", "HEAD"), false, filepath.Join(t.TempDir(), "bundle"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Bundle: %v, want %q", err, want)
		}
	}
	write(t, filepath.Join(dir, ".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	write(t, filepath.Join(dir, "big.bin"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "lfs")
	refuse("big.bin is kept in Git LFS")

	git(t, dir, "rm", "-q", "big.bin")
	sub, _ := newRepo(t)
	git(t, dir, "submodule", "--quiet", "add", sub, "lib/sub")
	git(t, dir, "commit", "-q", "-m", "submodule")
	refuse("lib/sub is a submodule")
}

// A file is tracked if the index or HEAD has it, by any name that is the same
// file; and git that cannot tell is an error.
func TestTracked(t *testing.T) {
	ctx := t.Context()
	dir, r := newRepo(t)
	tracked := func(when string, want bool) {
		t.Helper()
		if got, err := r.Tracked(ctx, ".env"); got != want || err != nil {
			t.Errorf("Tracked(.env) %s = %v, %v, want %v", when, got, err, want)
		}
	}
	env := filepath.Join(dir, ".env")
	tracked("that is not there", false)
	write(t, env, "A=1\n")
	tracked("untracked", false)
	git(t, dir, "add", "-N", ".env")
	tracked("to be added", true)
	git(t, dir, "add", ".env")
	git(t, dir, "commit", "-q", "-m", "env")
	git(t, dir, "rm", "-q", "--cached", ".env")
	tracked("in HEAD alone", true)
	git(t, dir, "commit", "-q", "-m", "no env")
	tracked("no more", false)
	// What a file system that ignores case does: one file, another name.
	if err := os.Link(env, filepath.Join(dir, ".ENV")); err != nil {
		t.Fatal(err)
	}
	tracked("beside an untracked .ENV", false)
	git(t, dir, "add", ".ENV")
	tracked("that the index has as .ENV", true)
	git(t, dir, "commit", "-q", "-m", "ENV")
	git(t, dir, "rm", "-q", "--cached", ".ENV")
	tracked("that HEAD has as .ENV", true)
	git(t, dir, "update-index", "--add", "--cacheinfo", "100644,"+git(t, dir, "hash-object", "-w", ".env")+",.env/x")
	tracked("that the index has as a directory", true)

	write(t, filepath.Join(dir, ".git", "index"), "nonsense")
	if got, err := r.Tracked(ctx, ".env"); err == nil {
		t.Errorf("Tracked(.env) with a broken index = %v, nil, want an error", got)
	}

	fresh := t.TempDir()
	git(t, fresh, "init", "-q")
	write(t, filepath.Join(fresh, ".env"), "A=1\n")
	r, err := repo.Open(ctx, fresh)
	if err != nil {
		t.Fatal(err)
	}
	tracked("before the first commit", false)
	git(t, fresh, "add", ".env")
	tracked("in the index before the first commit", true)
}
