package repo_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/cmd/internal/repo"
)

// A trap is a program that a repository names: nothing of ours may run it.
type trap struct{ program, marks string }

func newTrap(t *testing.T) trap {
	dir := t.TempDir()
	tr := trap{filepath.Join(dir, "trap"), filepath.Join(dir, "marks")}
	write(t, tr.program, "#!/bin/sh\necho $0 \"$@\" >>"+tr.marks+"\n")
	if err := os.Chmod(tr.program, 0o777); err != nil {
		t.Fatal(err)
	}
	return tr
}

// sprung returns what the trap was run with since it was last asked.
func (tr trap) sprung() string {
	b, _ := os.ReadFile(tr.marks)
	os.Remove(tr.marks)
	return string(b)
}

// plain runs git as a careless user does. Its error does not matter.
func plain(dir string, args ...string) string {
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.Env = environ()
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// configKeys returns every key of git's configuration, with names where git has
// a place for one.
func configKeys(t *testing.T) []string {
	out, err := exec.Command("git", "help", "-c").Output()
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for key := range strings.FieldsSeq(string(out)) {
		key = strings.NewReplacer("<url>.*", "ssh://host/x.helper", "<id>.*", "x.uri", "<identity>.*", "x.smtpserver",
			"remote.<name>", "remote.origin", "branch.<name>", "branch.main", "<condition>", "gitdir:**").Replace(key)
		for i := strings.IndexByte(key, '<'); i >= 0; i = strings.IndexByte(key, '<') {
			key = key[:i] + "x" + key[i+1+strings.IndexByte(key[i:], '>'):]
		}
		if !strings.Contains(key, "*.") && strings.Contains(key, ".") {
			keys = append(keys, strings.TrimSuffix(key, ".*"))
		}
	}
	if keys = slices.DeleteFunc(keys, func(k string) bool { return strings.Count(k, ".") == 0 }); len(keys) < 500 {
		t.Fatalf("git help -c has %d keys", len(keys))
	}
	// Those that it does not list.
	return append(keys, "filter.x.process", "filter.x.required", "core.fsmonitor", "diff.x.command", "merge.x.driver")
}

// hostile makes a repository whose configuration, attributes and hooks all name
// the trap, with what makes git look at each.
func hostile(t *testing.T, tr trap) string {
	dir, _ := newRepo(t)
	dot := filepath.Join(dir, ".git")
	write(t, filepath.Join(dir, ".gitattributes"), "* filter=x diff=x merge=x\n*.lfs filter=lfs\n")
	write(t, filepath.Join(dir, ".env"), "CI_NET=all\n")
	write(t, filepath.Join(dir, "mkfile"), "test:V:\n")
	write(t, filepath.Join(dir, "gone"), "a blob that is missing\n")
	os.Mkdir(filepath.Join(dir, ".9ci"), 0o777)
	write(t, filepath.Join(dir, ".9ci/allowed_signers"), "# nobody\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "three")
	git(t, dir, "tag", "-a", "-m", "a tag", "v2")
	git(t, dir, "update-ref", "refs/remotes/origin/main", "HEAD")
	git(t, dir, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
	git(t, dir, "config", "uploadpack.allowFilter", "true")

	// A submodule with a configuration of its own.
	sub, _ := newRepo(t)
	git(t, dir, "submodule", "--quiet", "add", sub, "sub")
	git(t, filepath.Join(dir, "sub"), "config", "core.fsmonitor", tr.program)
	git(t, filepath.Join(dir, "sub"), "config", "filter.x.clean", tr.program)
	write(t, filepath.Join(dot, "modules/sub/info/attributes"), "* filter=x\n")
	write(t, filepath.Join(dir, "sub/f"), "changed\n")

	// The trap as the value of each key that git takes it for.
	var config bytes.Buffer
	set := func(key, value string) {
		section, name, _ := strings.Cut(key, ".")
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			section, name = section+" \""+name[:i]+"\"", name[i+1:]
		}
		fmt.Fprintf(&config, "[%s]\n\t%s = %s\n", section, name, value)
	}
	n := 0
	empty, _ := newRepo(t)
	for _, key := range configKeys(t) {
		section, _, _ := strings.Cut(key, ".")
		if slices.Contains([]string{"extensions", "include", "includeIf", "alias"}, section) || slices.Contains([]string{"core.worktree", "core.bare", "core.repositoryFormatVersion", "core.fsmonitorHookVersion", "transfer.credentialsInUrl"}, key) {
			continue
		}
		for _, value := range []string{tr.program, "true", "1"} {
			if exec.Command("git", "-C", empty, "-c", key+"="+value, "status").Run() == nil {
				set(key, value)
				n++
				break
			}
		}
	}
	if n < 600 {
		t.Fatalf("git takes a value for %d keys", n)
	}
	for _, command := range strings.Fields("bundle cat-file commit-tree config for-each-ref grep init ls-files ls-remote ls-tree rev-list rev-parse show-ref status update-ref") {
		set("alias."+command, "!"+tr.program)
	}
	set("include.path", filepath.Join(dot, "more"))
	set("includeIf.gitdir:**.path", filepath.Join(dot, "more"))
	set("extensions.worktreeConfig", "true")
	set("extensions.partialClone", "origin")
	set("remote.origin.promisor", "true")
	set("protocol.allow", "always")
	for _, name := range []string{"more", "config.worktree"} {
		write(t, filepath.Join(dot, name), "[core]\n\tfsmonitor = "+tr.program+"\n[filter \"x\"]\n\tclean = "+tr.program+"\n\tprocess = "+tr.program+"\n")
	}
	f, err := os.OpenFile(filepath.Join(dot, "config"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "[core]\n\trepositoryformatversion = 1\n%s", &config); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dot, "hooks"))
	os.Mkdir(filepath.Join(dot, "hooks"), 0o777)
	for _, hook := range strings.Fields("fsmonitor-watchman post-checkout post-index-change pre-auto-gc pre-commit reference-transaction update") {
		if err := os.Symlink(tr.program, filepath.Join(dot, "hooks", hook)); err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(filepath.Join(dir, "f"), later, later); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Every method of a Repo is called on a repository that names a program
// wherever it can. Then the configuration becomes one that no git can read, and
// nothing changes: it is not read any more.
func TestNoProgramRuns(t *testing.T) {
	tr := newTrap(t)
	dir := hostile(t, tr)
	// The trap works: git itself falls into it.
	for _, command := range []string{"status", "diff", "ls-files -m"} {
		tr.sprung()
		out := plain(dir, strings.Fields(command)...)
		if tr.sprung() == "" {
			t.Errorf("git %s runs nothing, and says %s", command, out)
		}
	}
	for _, name := range []string{"GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND", "GIT_PAGER", "GIT_EDITOR", "GIT_ASKPASS", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH", "GIT_DIR", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"} {
		t.Setenv(name, tr.program)
	}

	ctx := t.Context()
	r, err := repo.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
	t.Setenv("GIT_CONFIG_VALUE_0", tr.program)
	head, tree, err := r.Resolve(ctx, "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]func() error{
		"Resolve": func() error {
			if c, tr, err := r.Resolve(ctx, "v2"); c != head || tr != tree {
				return fmt.Errorf("v2 is %s %s, %v, want %s %s", c, tr, err, head, tree)
			}
			return nil
		},
		"Ancestors": func() error {
			if past, err := r.Ancestors(ctx, head, 9); len(past) != 3 {
				return fmt.Errorf("%v, %v", past, err)
			}
			return nil
		},
		"Refs": func() error {
			if refs, err := r.Refs(ctx, "refs/heads/"); !slices.Contains(refs, "refs/heads/main") || err != nil {
				return fmt.Errorf("%q, %v", refs, err)
			}
			return nil
		},
		"Hooks": func() error {
			// It is what git reads now, not what it read at Open.
			if _, err := r.Hooks(ctx); err != nil && !strings.Contains(err.Error(), "bad config") {
				return err
			}
			return nil
		},
		"Dirty": func() error {
			// .gitmodules and sub are staged; f has another time, and what
			// its filter would make of it is not asked.
			if n, err := r.Dirty(ctx); n != 2 || err != nil {
				return fmt.Errorf("%d, %v, want 2", n, err)
			}
			return nil
		},
		"Tracked": func() error {
			if ok, err := r.Tracked(ctx, ".env"); !ok || err != nil {
				return fmt.Errorf("wrong")
			}
			return nil
		},
		"HasFile": func() error {
			if !r.HasFile(ctx, head, "mkfile") || r.HasFile(ctx, head, "nothing") {
				return fmt.Errorf("wrong")
			}
			return nil
		},
		"Files": func() error {
			files, err := r.Files(ctx, "refs/remotes/origin/HEAD", ".9ci/allowed_signers", ".9ci/revoked")
			if len(files) != 1 || files[".9ci/allowed_signers"] != "# nobody\n" || err != nil {
				return fmt.Errorf("%q, %v", files, err)
			}
			return nil
		},
		"Origin": func() error {
			if ns, ok := r.Origin(); ok {
				return fmt.Errorf("%q", ns)
			}
			return nil
		},
		"Namespace": func() error {
			if ns := r.Namespace("x"); !strings.HasPrefix(ns, "local/") {
				return fmt.Errorf("%q", ns)
			}
			return nil
		},
		"SetFile": func() error { return r.SetFile(ctx, "refs/attestations/x/y", "f", "text\n", time.Unix(1e9, 0)) },
		"Push": func() error {
			remote := t.TempDir()
			plain(remote, "init", "-q", "--bare")
			plain(dir, "config", "remote.origin.url", remote)
			r.Push(ctx, "refs/heads/main") // to where this configuration says: TestPush has what arrives
			return nil
		},
		"Clone": func() error {
			for _, squash := range []bool{false, true} {
				to := t.TempDir()
				got, err := r.Clone(ctx, head, squash, to)
				if err != nil || !squash && got != head {
					return fmt.Errorf("%s, %v", got, err)
				}
				checkout(t, to, got)
			}
			return nil
		},
	}
	for m := range reflect.TypeFor[*repo.Repo]().Methods() {
		if methods[m.Name] == nil {
			t.Errorf("%s is not tried", m.Name)
		}
	}
	try := func() {
		t.Helper()
		for name, call := range methods {
			if err := call(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if ran := tr.sprung(); ran != "" {
				t.Errorf("%s runs %s", name, ran)
			}
		}
	}
	if ran := tr.sprung(); ran != "" {
		t.Errorf("Open runs %s", ran)
	}
	try()
	for _, name := range []string{"config", "config.worktree", "more"} {
		write(t, filepath.Join(dir, ".git", name), "[[\n")
	}
	if out := plain(dir, "status"); !strings.Contains(out, "bad config") {
		t.Errorf("git status says %q", out)
	}
	tr.sprung()
	try()
}

// What is there of a partial clone serves. What is missing of the commit is named with
// the command that fetches it, which does, and nothing else fetches it.
func TestClonePartial(t *testing.T) {
	dir, _ := newRepo(t)
	os.MkdirAll(filepath.Join(dir, "d"), 0o777)
	for i := range 5 {
		write(t, filepath.Join(dir, "d", fmt.Sprint(i)), fmt.Sprint(i))
	}
	write(t, filepath.Join(dir, "ö\n"), "odd")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "three")
	git(t, dir, "tag", "-a", "-m", "three", "v3")
	git(t, dir, "rm", "-q", "d/0")
	git(t, dir, "commit", "-q", "-m", "four")
	git(t, dir, "config", "uploadpack.allowFilter", "true")
	git(t, dir, "config", "uploadpack.allowAnySHA1InWant", "true")
	for filter, want := range map[string]string{
		"blob:none": `lacks d/0, d/1, d/2 and 4 more: git diff`,
		"tree:0":    `lacks the files of `,
		"tree:1":    `lacks d, `,
	} {
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, dir, "clone", "-q", "--filter="+filter, "file://"+dir, clone)
		objects := func() string { return plain(clone, "count-objects", "-v") }
		before := objects()
		head, old := git(t, dir, "rev-parse", "HEAD"), git(t, dir, "rev-parse", "HEAD~1")
		r := open(t, clone)
		for _, squash := range []bool{false, true} {
			checked, _ := made(t, r, head, squash)
			if got := plain(checked, "describe"); !squash && !strings.HasPrefix(got, "v3-1-g") {
				t.Errorf("%s: git describe = %s", filter, got)
			}
		}
		_, err := r.Clone(t.Context(), old, false, t.TempDir())
		if err == nil || !strings.HasPrefix(err.Error(), "the clone is partial and lacks ") {
			t.Errorf("%s: Clone of HEAD~1: %v", filter, err)
		}
		bare := filepath.Join(t.TempDir(), "bare")
		git(t, dir, "clone", "-q", "--bare", "--filter="+filter, "file://"+dir, bare)
		for _, squash := range []bool{false, true} {
			if _, err := open(t, bare).Clone(t.Context(), old, squash, t.TempDir()); err == nil || !strings.HasPrefix(err.Error(), "the clone is partial and "+want) {
				t.Errorf("%s: Clone of the bare clone: %v, want %s", filter, err, want)
			}
		}
		if after := objects(); after != before {
			t.Errorf("%s: objects were fetched: %s, before %s", filter, after, before)
		}
		for _, in := range []string{clone, bare} {
			_, err = open(t, in).Clone(t.Context(), old, false, t.TempDir())
			if err == nil {
				t.Fatalf("%s: Clone of HEAD~1 in %s = nil", filter, in)
			}
			_, command, _ := strings.Cut(err.Error(), ": ")
			sh(t, in, strings.TrimSuffix(command, " fetches what this commit needs"))
			checked, _ := made(t, open(t, in), old, false)
			if text, err := os.ReadFile(filepath.Join(checked, "d/0")); string(text) != "0" || err != nil {
				t.Errorf("%s: d/0 = %q, %v", filter, text, err)
			}
		}
	}
}

// Other questions to a partial clone name the command too.
func TestAskPartial(t *testing.T) {
	dir, _ := newRepo(t)
	os.Mkdir(filepath.Join(dir, ".9ci"), 0o777)
	write(t, filepath.Join(dir, ".9ci/allowed_signers"), "# nobody\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "three")
	git(t, dir, "config", "uploadpack.allowFilter", "true")
	git(t, dir, "config", "uploadpack.allowAnySHA1InWant", "true")
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, dir, "clone", "-q", "--filter=tree:0", "--no-checkout", "file://"+dir, clone)
	write(t, filepath.Join(clone, ".env"), "")
	const ref, name = "refs/remotes/origin/HEAD", ".9ci/allowed_signers"
	var files map[string]string
	r := open(t, clone)
	for what, ask := range map[string]func() error{
		"Dirty":   func() error { _, err := r.Dirty(t.Context()); return err },
		"Tracked": func() error { _, err := r.Tracked(t.Context(), ".env"); return err },
		"Files":   func() (err error) { files, err = r.Files(t.Context(), ref, name); return err },
	} {
		n := 0
		for err := ask(); err != nil; err = ask() {
			_, rest, ok := strings.Cut(err.Error(), "the clone is partial and lacks what ")
			if n++; !ok || n > 2 {
				t.Fatalf("%s: %v", what, err)
			}
			sh(t, clone, strings.TrimSuffix(rest, " asks for, which fetches it"))
		}
	}
	if files[name] != "# nobody\n" {
		t.Errorf("Files = %q", files)
	}
}

// In a partial clone git fetches what is missing, by whatever the repository
// says. For 9ci it is missing.
func TestPartialClone(t *testing.T) {
	for _, url := range []string{"ssh://host/x", "ext::%s"} {
		tr := newTrap(t)
		dir, _ := newRepo(t)
		head, id := git(t, dir, "rev-parse", "HEAD"), git(t, dir, "rev-parse", "HEAD:f")
		git(t, dir, "remote", "add", "origin", strings.Replace(url, "%s", tr.program, 1))
		for key, value := range map[string]string{"extensions.partialClone": "origin", "remote.origin.promisor": "true", "core.sshCommand": tr.program, "protocol.allow": "always"} {
			git(t, dir, "config", key, value)
		}
		if err := os.Remove(filepath.Join(dir, ".git/objects", id[:2], id[2:])); err != nil {
			t.Fatal(err)
		}
		plain(dir, "cat-file", "-p", id)
		if tr.sprung() == "" {
			t.Errorf("%s: git cat-file fetches nothing", url)
		}
		r, err := repo.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if !r.HasFile(t.Context(), head, "f") {
			_, err = r.Clone(t.Context(), head, false, t.TempDir())
		}
		if err == nil || !strings.Contains(err.Error(), "the clone is partial and lacks f: git diff --shortstat ") {
			t.Errorf("%s: Clone of a partial clone: %v", url, err)
		}
		if ran := tr.sprung(); ran != "" {
			t.Errorf("%s: %s is run", url, ran)
		}
	}
}

// What filters would change counts as dirty by its stat alone.
func TestDirtyFiltered(t *testing.T) {
	dir, _ := newRepo(t)
	git(t, dir, "config", "filter.up.clean", "tr a-z A-Z")
	git(t, dir, "config", "filter.up.smudge", "tr A-Z a-z")
	write(t, filepath.Join(dir, ".gitattributes"), "f filter=up\n")
	git(t, dir, "add", ".gitattributes")
	git(t, dir, "commit", "-q", "-m", "three")
	past := time.Now().Add(-time.Hour)
	write(t, filepath.Join(dir, "f"), "text\n")
	if err := os.Chtimes(filepath.Join(dir, "f"), past, past); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", "f")
	git(t, dir, "commit", "-q", "-m", "four")
	r, err := repo.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.Dirty(t.Context()); n != 0 || err != nil {
		t.Errorf("Dirty = %d, %v, want 0", n, err)
	}
	if err := os.Chtimes(filepath.Join(dir, "f"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Dirty(t.Context()); n != 1 || err != nil {
		t.Errorf("Dirty after a touch = %d, %v, want 1", n, err)
	}
}

// A repository that another user owns is refused as git refuses it, with the
// command that allows it, and allowed as git allows it.
func TestOpenOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a repository to another user")
	}
	dir, _ := newRepo(t)
	git(t, dir, "config", "safe.directory", "*")
	const nobody = 65534
	for _, name := range []string{dir, filepath.Join(dir, ".git")} {
		if err := os.Chown(name, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(t.TempDir(), "gitconfig")
	write(t, config, "[safe]\n\tdirectory = "+dir+"\n")
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	for _, test := range []struct {
		env  []string
		open bool
	}{
		{nil, false},
		{[]string{"GIT_DIR", filepath.Join(dir, ".git"), "GIT_WORK_TREE", dir}, false}, // git believes these
		{[]string{"SUDO_UID", "1"}, false},
		{[]string{"SUDO_UID", "65534"}, true},
		{[]string{"GIT_CONFIG_GLOBAL", config}, true},
		{[]string{"GIT_CONFIG_NOSYSTEM", "0", "GIT_CONFIG_SYSTEM", config}, true},
		{[]string{"GIT_CONFIG_COUNT", "1", "GIT_CONFIG_KEY_0", "safe.directory", "GIT_CONFIG_VALUE_0", "*"}, true},
		{[]string{"GIT_CONFIG_PARAMETERS", "'safe.directory'='*'"}, true},
	} {
		t.Run(strings.Join(test.env, " "), func(t *testing.T) {
			t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
			for i := 0; i < len(test.env); i += 2 {
				t.Setenv(test.env[i], test.env[i+1])
			}
			r, err := repo.Open(t.Context(), dir)
			if test.open {
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := r.Resolve(t.Context(), "HEAD"); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "dubious ownership in repository at '"+dir+"'") || !strings.Contains(err.Error(), "git config --global --add safe.directory "+dir) {
				t.Errorf("Open: %v, want git's words", err)
			}
		})
	}
}

// A work tree is where its .git is, and a bare repository stands free.
func TestOpenPlace(t *testing.T) {
	tmp, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := func(name string) string { return filepath.Join(tmp, name) }
	for _, dir := range []string{"work", "elsewhere", "bare", "outer"} {
		if err := os.Mkdir(p(dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	git(t, tmp, "init", "-q", "work")
	git(t, p("work"), "commit", "-q", "--allow-empty", "-m", "one")
	git(t, p("work"), "worktree", "add", "-q", p("linked"))
	git(t, p("work"), "submodule", "--quiet", "add", "./", "sub")
	git(t, tmp, "init", "-q", "--separate-git-dir", p("apart.git"), "separate")
	git(t, tmp, "init", "-q", "--bare", "bare/hello.git")
	git(t, tmp, "init", "-q", "--bare", "work/inner")
	git(t, tmp, "init", "-q", "--bare", "work/inner/deeper")
	git(t, tmp, "init", "-q", "--bare", "work/posing")
	git(t, p("work/posing"), "config", "core.bare", "false")
	git(t, p("work/posing"), "config", "core.worktree", "..")
	git(t, tmp, "init", "-q", "--bare", "work/far")
	git(t, p("work/far"), "config", "core.bare", "false")
	git(t, p("work/far"), "config", "core.worktree", p("elsewhere"))
	git(t, tmp, "init", "-q", "--bare", "work/none")
	git(t, p("work/none"), "config", "core.bare", "false")
	git(t, tmp, "init", "-q", "away")
	git(t, p("away"), "config", "core.worktree", tmp)
	git(t, tmp, "init", "-q", "old")
	git(t, p("old"), "config", "core.bare", "true")
	git(t, tmp, "init", "-q", "new\nline")
	git(t, tmp, "init", "-q", "--bare", "bare/new\nline")
	if err := os.Symlink(p("work"), p("link")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ dir, top, gitDir, err string }{
		{"work", "work", "work/.git", ""},
		{"link", "work", "work/.git", ""},
		{"linked", "linked", "work/.git", ""},
		{"work/sub", "work/sub", "work/.git/modules/sub", ""},
		{"work/.git/modules/sub", "work/sub", "work/.git/modules/sub", ""},
		{"separate", "separate", "apart.git", ""},
		{"bare/hello.git", "bare/hello.git", "bare/hello.git", ""},
		{"bare/hello.git/refs", "bare/hello.git", "bare/hello.git", ""},
		{"old", "old/.git", "old/.git", ""}, // bare, by its configuration
		{"apart.git", "", "", "is in the git directory"},
		{"work/.git", "", "", "is in the git directory"},
		{"work/none", "", "", "is in the git directory"},
		{"work/inner", "", "", "is a bare repository in the work tree " + p("work")},
		{"work/inner/deeper", "", "", "is a bare repository in the work tree " + p("work")},
		{"work/posing", "", "", "core.worktree of " + p("work/posing") + " is " + p("work")},
		{"work/far", "", "", "core.worktree of"},
		{"away", "", "", "core.worktree of " + p("away/.git") + " is " + tmp},
		{"elsewhere", "", "", "is not in a git repository"},
		{"new\nline", "", "", "has a newline in it: rename the directory"},
		{"bare/new\nline", "", "", "has a newline in it: rename the directory"},
	} {
		r, err := repo.Open(t.Context(), p(test.dir))
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("Open(%s): %v, want %s", test.dir, err, test.err)
			}
		case err != nil:
			t.Errorf("Open(%s): %v", test.dir, err)
		case r.Top != p(test.top) || r.GitDir != p(test.gitDir) || r.Bare != (r.Top == r.GitDir):
			t.Errorf("Open(%s) = %+v", test.dir, r)
		}
	}
}

// An object is what its name is the hash of: neither replaced, nor grafted, nor
// another one's.
func TestObjectsAreTheirNames(t *testing.T) {
	dir, r := newRepo(t)
	head, tree, old := git(t, dir, "rev-parse", "HEAD"), git(t, dir, "rev-parse", "HEAD^{tree}"), git(t, dir, "rev-parse", "v1")
	other := git(t, dir, "commit-tree", "-m", "other", old+"^{tree}")
	git(t, dir, "replace", head, other)
	write(t, filepath.Join(dir, ".git/info/grafts"), head+"\n")
	if got := git(t, dir, "rev-parse", "HEAD^{tree}"); got == tree {
		t.Errorf("git is not deceived: %s", got)
	}
	if c, got, err := r.Resolve(t.Context(), "HEAD"); c != head || got != tree || err != nil {
		t.Errorf("Resolve = %s %s, %v, want %s %s", c, got, err, head, tree)
	}
	if past, err := r.Ancestors(t.Context(), head, 9); err != nil || len(past) != 2 {
		t.Errorf("Ancestors = %v, %v, want two", past, err)
	}
	to := t.TempDir()
	if _, err := r.Clone(t.Context(), head, false, to); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(checkout(t, to, head), "f")); string(text) != "two\n" || err != nil {
		t.Errorf("the clone's f = %q, %v", text, err)
	}

	// A loose object under another's name.
	object := func(id string) string { return filepath.Join(dir, ".git/objects", id[:2], id[2:]) }
	lie, err := os.ReadFile(object(other))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(object(head))
	write(t, object(head), string(lie))
	for _, squash := range []bool{false, true} {
		if _, err := r.Clone(t.Context(), head, squash, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no such commit") {
			t.Errorf("Clone: %v, want no such commit", err)
		}
	}
	if c, _, err := r.Resolve(t.Context(), "HEAD"); err == nil || !strings.Contains(err.Error(), "unknown revision HEAD") {
		t.Errorf("Resolve = %s, %v, want it unknown", c, err)
	}
}

// A file under another's name is missing, be it of the commit or of one before.
func TestFilesAreTheirNames(t *testing.T) {
	for _, rev := range []string{"HEAD", "v1"} {
		dir, r := newRepo(t)
		head, id := git(t, dir, "rev-parse", "HEAD"), git(t, dir, "rev-parse", rev+":f")
		write(t, filepath.Join(dir, "lie"), "lie\n")
		lie := git(t, dir, "hash-object", "-w", "lie")
		object := func(id string) string { return filepath.Join(dir, ".git/objects", id[:2], id[2:]) }
		if err := os.Rename(object(lie), object(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Clone(t.Context(), head, false, t.TempDir()); err == nil || !strings.Contains(err.Error(), "git fsck in the repository says why") {
			t.Errorf("Clone with a lie in %s: %v", rev, err)
		}
		git(t, dir, "config", "remote.origin.promisor", "true")
		_, err := open(t, dir).Clone(t.Context(), head, false, t.TempDir())
		if rev == "HEAD" && (err == nil || !strings.Contains(err.Error(), "lacks f:")) || rev == "v1" && err != nil {
			t.Errorf("Clone of a partial clone with a lie in %s: %v", rev, err)
		}
	}
}

// Links in a git directory lead git, and us, to files of the user's: their
// contents are in no error, and not in what goes into the machine.
func TestNoFileOfTheUsers(t *testing.T) {
	const secret = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAE"
	key := filepath.Join(t.TempDir(), "id_ed25519")
	write(t, key, "-----BEGIN-----\n"+secret+"\n-----END-----\n")
	for _, name := range []string{"shallow", "packed-refs", "objects/info/alternates", "objects/info/commit-graphs/commit-graph-chain", "info/grafts", "info/exclude", "info/attributes"} {
		dir, r := newRepo(t)
		head, id := git(t, dir, "rev-parse", "HEAD"), git(t, dir, "rev-parse", "HEAD:f")
		link := filepath.Join(dir, ".git", name)
		if err := os.MkdirAll(filepath.Dir(link), 0o777); err != nil {
			t.Fatal(err)
		}
		os.Remove(link)
		if err := os.Symlink(key, link); err != nil {
			t.Fatal(err)
		}
		// Something fails besides.
		if err := os.Remove(filepath.Join(dir, ".git/objects", id[:2], id[2:])); err != nil {
			t.Fatal(err)
		}
		if out := plain(dir, "log", "-p", "--all"); name == "objects/info/alternates" && !strings.Contains(out, secret) {
			t.Errorf("%s: git does not tell: %s", name, out)
		}
		for _, squash := range []bool{false, true} {
			to := t.TempDir()
			_, err := r.Clone(t.Context(), head, squash, to)
			if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "BEGIN") {
				t.Errorf("%s: Clone: %v", name, err)
			}
			if out, err := exec.Command("grep", "-r", secret, to).CombinedOutput(); err == nil {
				t.Errorf("%s: the clone has %s", name, out)
			}
		}
	}
}

// What a repository holds is taken up to a limit.
func TestFilesTooLong(t *testing.T) {
	dir, r := newRepo(t)
	write(t, filepath.Join(dir, "f"), strings.Repeat("x", 17<<20))
	git(t, dir, "commit", "-q", "-a", "-m", "long")
	git(t, dir, "update-ref", "refs/remotes/origin/HEAD", "HEAD")
	if files, err := r.Files(t.Context(), "refs/remotes/origin/HEAD", "f"); err == nil || !strings.Contains(err.Error(), "it is too long") {
		t.Errorf("Files, of %d bytes: %v", len(files["f"]), err)
	}
}

// A file of the upstream is what the ref of that very name has.
func TestFilesOfRef(t *testing.T) {
	dir, r := newRepo(t)
	const ref = "refs/remotes/origin/HEAD"
	git(t, dir, "tag", ref, "v1")
	git(t, dir, "branch", ref)
	git(t, dir, "update-ref", ref+"/x", "HEAD")
	if files, err := r.Files(t.Context(), ref, "f"); len(files) > 0 || err != nil {
		t.Errorf("Files of others = %q, %v", files, err)
	}
	git(t, dir, "update-ref", "-d", ref+"/x")
	git(t, dir, "update-ref", ref, "HEAD")
	files, err := r.Files(t.Context(), ref, "none", "f")
	if len(files) != 1 || files["f"] != "two\n" || err != nil {
		t.Errorf("Files = %q, %v", files, err)
	}
	// A file that cannot be read is not one that is not there.
	blob := git(t, dir, "rev-parse", "HEAD:f")
	if err := os.Remove(filepath.Join(dir, ".git", "objects", blob[:2], blob[2:])); err != nil {
		t.Fatal(err)
	}
	if files, err := r.Files(t.Context(), ref, "f"); err == nil {
		t.Errorf("Files without the object = %q", files)
	}
}

// Names that git allows a tag and nobody expects. Each is there, at its own commit.
func TestCloneTags(t *testing.T) {
	dir, r := newRepo(t)
	head := git(t, dir, "rev-parse", "HEAD")
	names := []string{"-x", "'quoted'", "$(touch${IFS}x)", "ö", "\xff\xfe", "a;b", "%(refname)", "--stdin",
		"end\u00a0", "\u00a0begin", "end\u0085", "end\u2003", "\ufeff", "end\xa0", "refs/tags/x"}
	for _, name := range names {
		git(t, dir, "update-ref", "refs/tags/"+name, "v1")
	}
	for _, name := range []string{"end", "begin", "x"} { // what a trimmed name would be
		git(t, dir, "update-ref", "refs/tags/"+name, head)
	}
	to := t.TempDir()
	if _, err := r.Clone(t.Context(), head, false, to); err != nil {
		t.Fatal(err)
	}
	clone := checkout(t, to, head)
	if got, want := git(t, clone, "show-ref", "--tags", "-d"), git(t, dir, "show-ref", "--tags", "-d"); got != want {
		t.Errorf("tags of the clone:\n%s\nwant:\n%s", got, want)
	}
}

// 20,000 tags cost the same processes as one, and no list of arguments is long.
func TestCloneManyTags(t *testing.T) {
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir, r := newRepo(t)
	head := git(t, dir, "rev-parse", "HEAD")
	bin, path := t.TempDir(), os.Getenv("PATH")
	write(t, filepath.Join(bin, "git"), "#!/bin/sh\necho \"$@\" >>"+bin+"/args\nexec "+real+" \"$@\"\n")
	if err := os.Chmod(filepath.Join(bin, "git"), 0o777); err != nil {
		t.Fatal(err)
	}
	clone := func() (tags string, calls int) {
		t.Helper()
		os.Remove(filepath.Join(bin, "args"))
		t.Setenv("PATH", bin+":"+path)
		to := t.TempDir()
		if _, err := r.Clone(t.Context(), head, false, to); err != nil {
			t.Fatal(err)
		}
		checked := checkout(t, to, head)
		t.Setenv("PATH", path)
		args, err := os.ReadFile(filepath.Join(bin, "args"))
		if err != nil || len(args) > 8<<10 {
			t.Errorf("arguments of %d bytes, %v", len(args), err)
		}
		return git(t, checked, "show-ref", "--tags"), strings.Count(string(args), "\n")
	}
	_, want := clone()
	var refs strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&refs, "%s refs/tags/%s%d\n", head, strings.Repeat("long/", 20), i)
	}
	write(t, filepath.Join(dir, ".git/packed-refs"), refs.String())
	tags, got := clone()
	if got != want {
		t.Errorf("git is called %d times for 20,001 tags, and %d times for one", got, want)
	}
	if tags != git(t, dir, "show-ref", "--tags") {
		t.Errorf("the clone has %d tags, want 20,001", strings.Count(tags, "\n")+1)
	}
}
