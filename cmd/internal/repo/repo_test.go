package repo_test

import (
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

// checkout checks commit out of what Clone has made, as the machine does.
func checkout(t *testing.T, made, commit string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", repo.Checkout, "9ci", made, commit)
	cmd.Dir, cmd.Env = dir, environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("checkout: %v\n%s", err, out)
	}
	if got := git(t, dir, "rev-parse", "HEAD"); got != commit {
		t.Errorf("HEAD of the clone = %s, want %s", got, commit)
	}
	if got := git(t, dir, "status", "--porcelain", "--ignored"); got != "" {
		t.Errorf("git status in the clone: %s", got)
	}
	git(t, dir, "fsck", "--strict")
	return dir
}

// made clones rev of r, checks it out, and returns the work tree.
func made(t *testing.T, r *repo.Repo, rev string, squash bool) (dir, commit string) {
	t.Helper()
	tmp := t.TempDir()
	commit, err := r.Clone(t.Context(), rev, squash, tmp)
	if err != nil {
		t.Fatal(err)
	}
	return checkout(t, tmp, commit), commit
}

// refused returns the error of a Clone of HEAD of the repository at dir.
func refused(t *testing.T, dir string) string {
	t.Helper()
	r, err := repo.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Clone(t.Context(), git(t, dir, "rev-parse", "HEAD"), false, t.TempDir())
	if err == nil {
		t.Fatalf("Clone of %s = nil, want an error", dir)
	}
	return err.Error()
}

func open(t *testing.T, dir string) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestClone(t *testing.T) {
	dir, r := newRepo(t)
	head := git(t, dir, "rev-parse", "HEAD")
	clone, _ := made(t, r, head, false)
	if got := git(t, clone, "describe", "--tags"); !strings.HasPrefix(got, "v1-1-g") {
		t.Errorf("git describe in the clone = %s, want v1-1-g...: history and tags are there", got)
	}

	// Equal trees give equal repositories.
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "three")
	clone, a := made(t, r, head, true)
	_, b := made(t, r, git(t, dir, "rev-parse", "HEAD"), true)
	if a != b || a == head {
		t.Errorf("squashed commits of one tree are %s and %s", a, b)
	}
	if n := git(t, clone, "rev-list", "--count", "HEAD"); n != "1" {
		t.Errorf("a squashed repository has %s commits", n)
	}
	if tags := git(t, clone, "tag"); tags != "" {
		t.Errorf("a squashed repository has the tags %s", tags)
	}

	// A linked work tree has the same objects and tags, and a HEAD of its own.
	linked := filepath.Join(t.TempDir(), "linked")
	git(t, dir, "worktree", "add", "-q", "--detach", linked, "v1")
	head, _, err := open(t, linked).Resolve(t.Context(), "HEAD")
	if want := git(t, dir, "rev-parse", "v1"); head != want || err != nil {
		t.Errorf("HEAD of the linked work tree = %s, %v, want %s", head, err, want)
	}
	for rev, in := range map[string]string{"main-worktree/HEAD": dir, "worktrees/linked/HEAD": linked} {
		for _, r := range []*repo.Repo{r, open(t, linked)} {
			if got, _, err := r.Resolve(t.Context(), rev); got != git(t, in, "rev-parse", "HEAD") || err != nil {
				t.Errorf("Resolve(%s) in %s = %s, %v", rev, r.Top, got, err)
			}
		}
	}
	clone, _ = made(t, open(t, linked), head, false)
	if got := git(t, clone, "describe", "--tags"); got != "v1" {
		t.Errorf("git describe = %s, want v1", got)
	}
}

// The clone of a shallow clone has its history and tags, to its end.
func TestCloneShallow(t *testing.T) {
	dir, _ := newRepo(t)
	git(t, dir, "tag", "-a", "-m", "two", "v2")
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "three")
	for depth, want := range map[string]string{"1": "", "2": "v2-1-g", "3": "v2-1-g"} {
		shallow := filepath.Join(t.TempDir(), "shallow")
		git(t, t.TempDir(), "clone", "-q", "--depth="+depth, "file://"+dir, shallow)
		if depth == "2" { // the tag at the end itself
			git(t, shallow, "fetch", "-q", "--tags")
		}
		r := open(t, shallow)
		clone, _ := made(t, r, git(t, shallow, "rev-parse", "HEAD"), false)
		if n := git(t, clone, "rev-list", "--count", "HEAD"); n != depth {
			t.Errorf("depth %s: %s commits", depth, n)
		}
		if got, want := plain(clone, "tag"), plain(shallow, "tag", "--merged", "HEAD"); got != want {
			t.Errorf("depth %s: tags %q, want %q", depth, got, want)
		}
		if got := plain(clone, "describe"); want != "" && !strings.HasPrefix(got, want) {
			t.Errorf("depth %s: git describe = %s, want %s", depth, got, want)
		}
		if squashed, _ := made(t, r, "HEAD", true); git(t, squashed, "rev-list", "--count", "HEAD") != "1" {
			t.Errorf("depth %s: a squashed repository has more than one commit", depth)
		}
		if _, _, err := r.Resolve(t.Context(), "HEAD~3"); err == nil || !strings.Contains(err.Error(), "git fetch --unshallow") {
			t.Errorf("depth %s: Resolve(HEAD~3): %v, want the clone called shallow", depth, err)
		}
	}
}

// Object names of SHA-256 are as good as others.
func TestCloneSHA256(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main", "--object-format=sha256")
	write(t, filepath.Join(dir, "f"), "one\n")
	git(t, dir, "add", "f")
	git(t, dir, "commit", "-q", "-m", "one")
	git(t, dir, "tag", "-a", "-m", "one", "v1")
	sub := t.TempDir()
	git(t, sub, "init", "-q", "--object-format=sha256")
	git(t, sub, "commit", "-q", "--allow-empty", "-m", "one")
	git(t, dir, "submodule", "--quiet", "add", sub, "sub")
	git(t, dir, "commit", "-q", "-m", "two")
	r := open(t, dir)
	head, tree, err := r.Resolve(t.Context(), "main")
	if len(head) != 64 || len(tree) != 64 || err != nil {
		t.Fatalf("Resolve = %s, %s, %v", head, tree, err)
	}
	if c, _, err := r.Resolve(t.Context(), head[:9]); c != head || err != nil {
		t.Errorf("Resolve(%s) = %s, %v", head[:9], c, err)
	}
	for _, squash := range []bool{false, true} {
		clone, commit := made(t, r, head, squash)
		if got := git(t, clone, "rev-parse", "--show-object-format"); got != "sha256" || len(commit) != 64 {
			t.Errorf("the clone is of %s, %s", got, commit)
		}
		if got := git(t, clone, "submodule", "status"); !strings.HasPrefix(got, git(t, dir, "rev-parse", "HEAD:sub")) {
			t.Errorf("git submodule status = %s", got)
		}
	}
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

// sh runs a command as a user in dir would.
func sh(t *testing.T, dir, command string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}
