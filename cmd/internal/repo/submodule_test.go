package repo_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// super makes a repository with the submodule lib, whose url is relative and whose
// own submodule is deep, and clones it as a user does. It returns the clone.
func super(t *testing.T) (clone string) {
	t.Helper()
	remotes := t.TempDir()
	for _, name := range []string{"hello", "lib", "deep"} {
		dir := filepath.Join(remotes, name)
		git(t, remotes, "init", "-q", "-b", "main", name)
		write(t, filepath.Join(dir, name), name+"\n")
		git(t, dir, "add", name)
		git(t, dir, "commit", "-q", "-m", name)
		git(t, dir, "tag", name+"-v1")
	}
	git(t, filepath.Join(remotes, "lib"), "remote", "add", "origin", filepath.Join(remotes, "lib"))
	git(t, filepath.Join(remotes, "lib"), "submodule", "--quiet", "add", "../deep", "in/deep")
	git(t, filepath.Join(remotes, "lib"), "commit", "-q", "-m", "deep")
	hello := filepath.Join(remotes, "hello")
	git(t, hello, "remote", "add", "origin", hello)
	git(t, hello, "submodule", "--quiet", "add", "--name", "the lib", "../lib", "lib ö")
	git(t, hello, "commit", "-q", "-m", "lib")
	clone = filepath.Join(t.TempDir(), "hello")
	git(t, remotes, "clone", "-q", hello, clone)
	return clone
}

// A submodule comes from the clone that the host has of it, wherever that is, with
// its history, its tags and its own submodules. Without one the error has the command
// that makes it, and that command does.
func TestSubmodules(t *testing.T) {
	dir := super(t)
	head := git(t, dir, "rev-parse", "HEAD")
	whole := func(in string) {
		t.Helper()
		r := open(t, in)
		clone, _ := made(t, r, head, false)
		for name, want := range map[string]string{"lib ö/lib": "lib\n", "lib ö/in/deep/deep": "deep\n"} {
			if text, err := os.ReadFile(filepath.Join(clone, name)); string(text) != want || err != nil {
				t.Errorf("%s of the clone = %q, %v", name, text, err)
			}
		}
		lib := git(t, dir, "rev-parse", "HEAD:lib ö")
		if got := git(t, clone, "submodule", "status", "--recursive"); !strings.HasPrefix(got, lib+" lib ö (lib-v1-") || strings.Contains(got, "\n-") || strings.Contains(got, "\n+") {
			t.Errorf("git submodule status = %s", got)
		}
		// What a test may do finds nothing to fetch.
		git(t, clone, "-c", "protocol.allow=never", "submodule", "update", "--init", "--recursive")
	}
	// obey runs the command in an error.
	obey := func(in, message, want string) {
		t.Helper()
		_, command, _ := strings.Cut(message, ": ")
		command = strings.TrimSuffix(strings.TrimSuffix(command, " makes one"), " fetches it")
		if !strings.Contains(command, want) || strings.Contains(message, in) {
			t.Fatalf("the error is %s, want the command %s", message, want)
		}
		sh(t, in, command)
	}

	obey(dir, refused(t, dir), "git submodule update --init --recursive")
	whole(dir)
	squashed, _ := made(t, open(t, dir), head, true)
	if n := git(t, filepath.Join(squashed, "lib ö"), "rev-list", "--count", "HEAD"); n != "1" {
		t.Errorf("in a squashed clone the submodule has %s commits", n)
	}

	// Of a work tree where it was left out again.
	git(t, dir, "submodule", "--quiet", "deinit", "-f", "--all")
	os.RemoveAll(filepath.Join(dir, "lib ö"))
	whole(dir)

	// Of a linked work tree, from the clone of the first.
	linked := filepath.Join(t.TempDir(), "linked")
	git(t, dir, "worktree", "add", "-q", "--detach", linked)
	whole(linked)
	// And the other way around.
	os.RemoveAll(filepath.Join(dir, ".git/modules"))
	obey(linked, refused(t, linked), "git submodule update")
	whole(dir)
	git(t, dir, "worktree", "remove", "--force", linked)

	// Of a bare repository.
	bare := filepath.Join(t.TempDir(), "hello.git")
	git(t, dir, "clone", "-q", "--bare", git(t, dir, "remote", "get-url", "origin"), bare)
	for range 2 { // lib, and deep in it
		obey(bare, strings.ReplaceAll(refused(t, bare), filepath.Dir(bare), "/never"), "git clone --bare -- ")
	}
	whole(bare)

	// As an old git kept it: the clone is in the work tree.
	old := filepath.Join(t.TempDir(), "old")
	git(t, dir, "clone", "-q", git(t, dir, "remote", "get-url", "origin"), old)
	git(t, old, "clone", "-q", filepath.Join(filepath.Dir(git(t, dir, "remote", "get-url", "origin")), "lib"), "lib ö")
	obey(old, refused(t, old), "git -C 'lib ö' submodule update")
	whole(old)

	// The clone lacks the commit.
	lib := filepath.Join(filepath.Dir(git(t, dir, "remote", "get-url", "origin")), "lib")
	git(t, lib, "commit", "-q", "--allow-empty", "-m", "newer")
	next := git(t, lib, "rev-parse", "HEAD")
	git(t, old, "update-index", "--cacheinfo", "160000,"+next+",lib ö")
	git(t, old, "commit", "-q", "-m", "newer")
	head = git(t, old, "rev-parse", "HEAD")
	obey(old, refused(t, old), "git -C 'lib ö' fetch origin "+next)
	git(t, dir, "fetch", "-q", "--recurse-submodules=no", old)
	git(t, dir, "reset", "-q", "--hard", "FETCH_HEAD")
	git(t, dir, "submodule", "--quiet", "update", "--init", "--recursive")
	whole(dir)
}

// What is no submodule, or is not to be there, is told or left out.
func TestSubmodulesNamed(t *testing.T) {
	included := filepath.Join(t.TempDir(), "included")
	write(t, included, "[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib\n")
	for _, test := range []struct{ modules, want string }{
		{"", "lib is a submodule, and .gitmodules has no url for it"},
		{"[submodule \"lib\"]\n\tpath = lib\n", "lib is a submodule, and .gitmodules has no url for it"},
		{"[submodule \"x\"]\n\tpath = other\n\turl = ../lib\n", "lib is a submodule, and .gitmodules has no url for it"},
		{"[include]\n\tpath = " + included + "\n", "lib is a submodule, and .gitmodules has no url for it"},
		{"[submodule \"../../x\"]\n\tpath = lib\n\turl = ../lib\n", `the name "../../x" in .gitmodules, which git refuses`},
		{"[submodule \"/x\"]\n\tpath = lib\n\turl = ../lib\n", `the name "/x" in .gitmodules, which git refuses`},
		{"[submodule \"a\\\\..\\\\x\"]\n\tpath = lib\n\turl = ../lib\n", `in .gitmodules, which git refuses`},
		{"[[\n", "git config -f .gitmodules --list cannot read it"},
		{"[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib\n\tupdate = none\n", ""},
	} {
		dir, _ := newRepo(t)
		git(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+git(t, dir, "rev-parse", "HEAD")+",lib")
		if test.modules != "" {
			write(t, filepath.Join(dir, ".gitmodules"), test.modules)
			blob := git(t, dir, "hash-object", "-w", ".gitmodules")
			git(t, dir, "update-index", "--add", "--cacheinfo", "100644,"+blob+",.gitmodules")
		}
		head := git(t, dir, "commit-tree", "-m", "three", git(t, dir, "write-tree"))
		if test.want == "" {
			clone, _ := made(t, open(t, dir), head, false)
			if files, err := os.ReadDir(filepath.Join(clone, "lib")); len(files) > 0 || err != nil {
				t.Errorf("%s: lib has %v, %v", test.modules, files, err)
			}
			continue
		}
		if _, err := open(t, dir).Clone(t.Context(), head, false, t.TempDir()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Clone: %v, want %s", test.modules, err, test.want)
		}
	}
}

// A bare repository's error has the URL as git submodule resolves it, and never the
// password of the remote.
func TestSubmoduleURL(t *testing.T) {
	for _, test := range []struct{ origin, url, want string }{
		{"https://example.org/a/hello.git", "../lib.git", "https://example.org/a/lib.git"},
		{"https://example.org/a/hello/", "../../b/lib", "https://example.org/b/lib"},
		{"https://example.org/a/hello", "./lib/", "https://example.org/a/hello/lib"},
		{"git@example.org:a/hello.git", "../lib", "git@example.org:a/lib"},
		{"git@example.org:hello.git", "../lib", "git@example.org:lib"},
		{"ssh://git:hunter2@example.org/a/hello", "../lib", "ssh://git@example.org/a/lib"},
		{"https://hunter2@example.org/a/hello", "../lib", "https://example.org/a/lib"},
		{"https://bob:hunter2@example.org/a/hello", "../lib", "https://example.org/a/lib"},
		{"https://bob:hun@hunter2@example.org/a/hello", "../lib", "../lib"},
		{"https://example.org/a?token=hunter2/hello", "../lib", "../lib"},
		{"bob:hun@hunter2@example.org:a/hello", "../lib", "../lib"},
		{"", "../lib", "../lib"},
		{"https://example.org/a/hello", "ssh://other/lib", "ssh://other/lib"},
		{"https://example.org/a/hello", "$(touch x);'", `'$(touch x);'\'''`},
	} {
		dir, _ := newRepo(t)
		if test.origin != "" {
			git(t, dir, "remote", "add", "origin", test.origin)
		}
		git(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+git(t, dir, "rev-parse", "HEAD")+",lib")
		write(t, filepath.Join(dir, ".gitmodules"), fmt.Sprintf("[submodule \"lib\"]\n\tpath = lib\n\turl = %q\n", test.url))
		git(t, dir, "add", ".gitmodules")
		git(t, dir, "commit", "-q", "-m", "three")
		git(t, dir, "config", "core.bare", "true")
		got := refused(t, filepath.Join(dir, ".git"))
		if want := "git clone --bare -- " + test.want + ` "$(git rev-parse --git-common-dir)"/modules/lib makes one`; !strings.HasSuffix(got, want) || strings.Contains(got, "hunter2") {
			t.Errorf("%s of %s:\n%s, want\n%s", test.url, test.origin, got, want)
		}
		os.Remove(filepath.Join(dir, "x"))
	}
}

// A submodule that names the programs of a repository makes git run none.
func TestSubmoduleRunsNothing(t *testing.T) {
	tr := newTrap(t)
	dir := super(t)
	git(t, dir, "submodule", "--quiet", "update", "--init", "--recursive")
	for _, module := range []string{"the lib", "the lib/modules/in/deep"} {
		for key, value := range map[string]string{"core.fsmonitor": tr.program, "filter.x.smudge": tr.program, "core.sshCommand": tr.program,
			"uploadpack.packObjectsHook": tr.program, "core.hooksPath": filepath.Dir(tr.program), "remote.origin.url": "ext::" + tr.program, "remote.origin.promisor": "true"} {
			git(t, filepath.Join(dir, ".git/modules", module), "config", key, value)
		}
		write(t, filepath.Join(dir, ".git/modules", module, "info/attributes"), "* filter=x\n")
	}
	clone, _ := made(t, open(t, dir), git(t, dir, "rev-parse", "HEAD"), false)
	if ran := tr.sprung(); ran != "" {
		t.Errorf("the trap is run: %s", ran)
	}
	if text, err := os.ReadFile(filepath.Join(clone, "lib ö/lib")); string(text) != "lib\n" || err != nil {
		t.Errorf("lib = %q, %v", text, err)
	}
}
