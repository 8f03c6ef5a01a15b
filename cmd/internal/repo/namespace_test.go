package repo_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"9ci/cmd/internal/repo"
	"9ci/fs/ci"
)

// urls are remotes' URLs and their namespaces, "" where they name none.
var urls = map[string]string{
	"https://github.com/alice/hello":                    "github.com/alice/hello",
	"https://bob:secret@GitHub.com:443/Alice/Hello.git": "github.com/alice/hello",
	"https://bob:secret@Git.Example.org/Alice/Hello":    "git.example.org/Alice/Hello",
	"https://secret@gitlab.com/a/b/c":                   "gitlab.com/a/b/c",
	"git@github.com:alice/hello.git":                    "github.com/alice/hello",
	"ssh://git@git.example.org:2222/a/b/c.git/":         "git.example.org/a/b/c",
	"git+ssh://host/~alice/hello":                       "host/~alice/hello",
	"host:a/b":                                          "host/a/b",
	"host:/srv/git/hello/.git":                          "host/srv/git/hello",
	"https://dev.azure.com/o/My%20P/_git/r":             "dev.azure.com/o/my%20p/_git/r",
	"https://example.org/one":                           "",
	"https://example.org/../etc":                        "",
	"https://example.org/a//b":                          "",
	"https://example.org/a/b/ci":                        "", // in the store of example.org/a/b
	"https://local/a/b":                                 "",
	"https://.repos/a/b":                                "",
	"status:a/b":                                        "",
	"LOCAL:x":                                           "",
	"/srv/git/hello.git":                                "",
	"../hello":                                          "",
	"./a:b/c":                                           "",
	"file:///srv/git/hello":                             "",
	"FILE:///srv/git/hello":                             "",
	"ssh://[::1]/a/b":                                   "::1/a/b",
	"ssh://git@[::1]:2222/a/b.git":                      "::1/a/b",
	"https://[2001:DB8:0::1]:443/a/B":                   "2001:db8::1/a/B",
	"git@[::1]:a/b":                                     "::1/a/b",
	"[::1]:/a/b":                                        "::1/a/b",
	"ssh://[::1]x/a/b":                                  "",
	"ssh://[::1]:x/a/b":                                 "",
	"ssh://[::1%25eth0]/a/b":                            "",
	"ssh://[127.0.0.1]/a/b":                             "",
	"ssh://[host]/a/b":                                  "",
	"ssh://::1/a/b":                                     "",
	"ssh://host:/a/b":                                   "host/a/b",
	"https://ho st/a/b":                                 "",
	"https:///a/b":                                      "",
	"ext::sh -c touch% /tmp/x":                          "",
	"foo::https://host/a/b":                             "",
	"":                                                  "",
	"origin":                                            "",

	// Passwords where they do not belong.
	"https://bob:sec@secret@host/a/b":     "",
	"https://bob:sec/secret@host/a/b":     "",
	"https://bob:sec?secret@host/a/b":     "",
	"https://bob:sec#secret@host/a/b":     "",
	"https://bob:sec\\secret@host/a/b":    "",
	"https://host:secret/a/b":             "",
	"https://host/a/b?token=secret":       "",
	"https://host/a/b#secret":             "",
	"https://host/a/b@secret":             "",
	"https://host/bob:secret@a/b":         "",
	"https://host/bob:secret/a/b":         "",
	"https://host/a/b%3Ftoken=secret":     "",
	"https://host/a/b%40secret":           "",
	"https:/bob:secret@host/a/b":          "",
	"https:bob:secret@host/a/b":           "",
	"bob:secret@host/a/b":                 "",
	"bob:secret@host:a/b":                 "",
	"bob@host:secret@a/b":                 "",
	"https://https://bob:secret@host/a/b": "",
	"https://host/a/b secret":             "",
	"https://host/a/b\tsecret":            "",
	"https://host/a/b;secret":             "",
	"https://host/a/b&token=secret":       "",
}

func TestParseNamespace(t *testing.T) {
	for url, want := range urls {
		if got, ok := repo.ParseNamespace(url); got != want || ok != (want != "") {
			t.Errorf("ParseNamespace(%q) = %q, %v, want %q", url, got, ok, want)
		}
	}
}

var notInNamespace = regexp.MustCompile(`[^\pL\pM\p{Nd}._~+%/-]`)

// No namespace holds what stands before an @, or behind a ? or a #, or what no
// namespace may hold.
func FuzzParseNamespace(f *testing.F) {
	for url := range urls {
		before, after, ok := strings.Cut(url, "secret")
		f.Add(before, after)
		if !ok {
			f.Add("https://bob:", "@"+url)
		}
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "hunter2zq"
		if strings.Contains(strings.ToLower(before+after), secret) {
			return
		}
		ns, ok := repo.ParseNamespace(before + after)
		if !ok {
			if ns != "" {
				t.Errorf("ParseNamespace(%q) = %q, false", before+after, ns)
			}
			return
		}
		if clean, err := ci.CleanNamespace(ns); clean != ns || err != nil {
			t.Errorf("ParseNamespace(%q) = %q, which is %q, %v", before+after, ns, clean, err)
		}
		host, path, _ := strings.Cut(ns, "/")
		url := "https://" + ns
		if strings.Contains(host, ":") {
			url = "https://[" + host + "]/" + path
		} else {
			path = ns
		}
		if bad := notInNamespace.FindString(path); bad != "" || strings.HasSuffix(ns, ".git") {
			t.Errorf("ParseNamespace(%q) = %q, which holds %q", before+after, ns, bad)
		}
		if again, ok := repo.ParseNamespace(url); again != ns || !ok {
			t.Errorf("ParseNamespace of a URL of %q = %q", ns, again)
		}
		for _, url := range []string{before + secret + "@" + after, before + "?" + secret + after, before + "#" + secret + after} {
			if ns, _ := repo.ParseNamespace(url); strings.Contains(ns, secret) {
				t.Errorf("ParseNamespace(%q) = %q", url, ns)
			}
		}
	})
}

// The user's url.*.insteadOf redirect the origin, as they do git's.
func TestOriginInsteadOf(t *testing.T) {
	dir, _ := newRepo(t)
	git(t, dir, "remote", "add", "origin", "gh:alice/hello")
	write(t, filepath.Join(dir, "user"), "[url \"https://bob:secret@github.com/\"]\n\tinsteadOf = gh:\n[remote \"other\"]\n\turl = x\n")
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	for config, want := range map[string]string{"/dev/null": "gh/alice/hello", filepath.Join(dir, "user"): "github.com/alice/hello"} {
		t.Setenv("GIT_CONFIG_GLOBAL", config)
		r, err := repo.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if ns := r.Namespace("SHA256:x"); ns != want {
			t.Errorf("Namespace with %s = %q, want %q", config, ns, want)
		}
	}
}

// A password in the origin's URL is in no argument of a program, which others
// of this machine could read, and in no error.
func TestOriginPassword(t *testing.T) {
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := newRepo(t)
	git(t, dir, "remote", "add", "origin", "https://bob:hunter2@example.org/alice/hello?hunter2")
	git(t, dir, "config", "extensions.partialClone", "origin")
	head := git(t, dir, "rev-parse", "HEAD")
	bin := t.TempDir()
	write(t, filepath.Join(bin, "git"), "#!/bin/sh\necho \"$@\" >>"+bin+"/args\nexec "+real+" \"$@\"\n")
	if err := os.Chmod(filepath.Join(bin, "git"), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	r, err := repo.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if ns := r.Namespace("x"); !strings.HasPrefix(ns, "local/") || strings.Contains(ns, "hunter2") {
		t.Errorf("Namespace = %q", ns)
	}
	if _, err := r.Clone(t.Context(), head, false, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "config", "transfer.credentialsInUrl", "die")
	if _, err := repo.Open(t.Context(), dir); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open where git wants no passwords in URLs: %v", err)
	}
	args, err := os.ReadFile(filepath.Join(bin, "args"))
	if n := strings.Count(string(args), "\n"); n < 6 || err != nil {
		t.Errorf("git was called %d times, %v", n, err)
	}
	for line := range strings.Lines(string(args)) {
		if strings.Contains(line, "hunter2") && !strings.Contains(line, "protocol.file.allow") {
			t.Errorf("git %s", line)
		}
	}
}

// Repositories without a remote are namespaces of their own, work trees of one
// repository the same.
func TestLocalNamespace(t *testing.T) {
	open := func(dir string) *repo.Repo {
		t.Helper()
		r, err := repo.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	tmp, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, b, tree, bare := filepath.Join(tmp, "a/my work"), filepath.Join(tmp, "b/my work"), filepath.Join(tmp, "other"), filepath.Join(tmp, "hello.git")
	for _, dir := range []string{a, b} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		git(t, dir, "init", "-q")
		git(t, dir, "commit", "-q", "--allow-empty", "-m", "one")
	}
	git(t, a, "worktree", "add", "-q", tree)
	git(t, tmp, "init", "-q", "--bare", bare)
	git(t, bare, "remote", "add", "origin", "/srv/bob:secret@x/y")

	const key = "SHA256:abc"
	sum := sha256.Sum256([]byte(key + "\n" + a + "/.git"))
	want := fmt.Sprintf("local/my-work-%x", sum[:4])
	if ns := open(a).Namespace(key); ns != want {
		t.Errorf("Namespace = %q, want %q", ns, want)
	}
	if ns := open(tree).Namespace(key); ns != want {
		t.Errorf("Namespace of a work tree = %q, want %q", ns, want)
	}
	if ns := open(b).Namespace(key); ns == want || !strings.HasPrefix(ns, "local/my-work-") {
		t.Errorf("Namespace of another repository of that name = %q", ns)
	}
	if ns := open(a).Namespace("SHA256:def"); ns == want {
		t.Errorf("Namespace at another executor = %q", ns)
	}
	ns := open(bare).Namespace(key)
	if clean, err := ci.CleanNamespace(ns); !regexp.MustCompile(`^local/hello-[0-9a-f]{8}$`).MatchString(ns) || clean != ns || err != nil {
		t.Errorf("Namespace of a bare repository = %q, %v", ns, err)
	}
}
