// Package repo asks git(1) about a repository: its revisions, its namespace,
// and a bundle of one revision to clone from. Nothing of the repository is
// evaluated, and no git configuration but the repository's own is read.
package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Repo is a git repository on this machine.
type Repo struct {
	Top    string // the work tree, or the repository itself where it is bare
	GitDir string // the common git directory, absolute
	Bare   bool
}

// Open finds the repository that dir is in.
func Open(ctx context.Context, dir string) (*Repo, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, errors.New("git is not installed: on Debian, apt-get install git")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Repo{Top: abs}
	// In a bare repository the last question fails, once the others are answered.
	out, err := r.git(ctx, "rev-parse", "--path-format=absolute", "--is-bare-repository", "--git-common-dir", "--show-toplevel")
	lines := strings.Split(out, "\n")
	switch {
	case len(lines) >= 2 && lines[0] == "true":
		return &Repo{Top: lines[1], GitDir: lines[1], Bare: true}, nil
	case err != nil && strings.Contains(err.Error(), "not a git repository"):
		return nil, fmt.Errorf("%s is not in a git repository: 9ci runs a commit, so git init and commit first", abs)
	case err != nil:
		return nil, err
	case len(lines) != 3:
		return nil, fmt.Errorf("git rev-parse answered %q", out)
	}
	return &Repo{Top: lines[2], GitDir: lines[1]}, nil
}

// git runs git with args and returns its output less the last newline, also
// where it failed.
func (r *Repo) git(ctx context.Context, args ...string) (string, error) {
	cmd := r.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := strings.TrimSuffix(stdout.String(), "\n")
	switch msg := strings.TrimSpace(stderr.String()); {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return out, ctx.Err()
	case msg != "":
		return out, fmt.Errorf("git %s: %s", args[0], strings.TrimPrefix(msg, "fatal: "))
	}
	return out, fmt.Errorf("git %s: %w", args[0], err)
}

func (r *Repo) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", r.Top,
		"-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=" + os.DevNull}, args...)...)
	cmd.Env = cleanEnv()
	return cmd
}

// cleanEnv is this process's environment without what would point git at
// another repository (a hook sets GIT_DIR and GIT_INDEX_FILE) or at
// configuration of the host.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_") {
			env = append(env, v)
		}
	}
	return append(env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "LC_ALL=C")
}

// Resolve returns the commit that rev names, and its tree.
func (r *Repo) Resolve(ctx context.Context, rev string) (commit, tree string, err error) {
	out, err := r.git(ctx, "rev-list", "--max-count=1", "--no-commit-header", "--format=%H %T", "--end-of-options", rev+"^{commit}", "--")
	if err == nil {
		var ok bool
		if commit, tree, ok = strings.Cut(out, " "); !ok {
			return "", "", fmt.Errorf("git rev-list answered %q", out)
		}
		return commit, tree, nil
	}
	if ctx.Err() != nil {
		return "", "", ctx.Err()
	}
	if _, err := r.git(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil {
		return "", "", fmt.Errorf("%s has no commits yet: commit something first", r.Top)
	}
	return "", "", fmt.Errorf("unknown revision %s: git log shows the revisions that %s has", rev, r.Top)
}

// Ancestors returns commit and the commits it descends from, nearest first,
// at most n.
func (r *Repo) Ancestors(ctx context.Context, commit string, n int) ([]string, error) {
	out, err := r.git(ctx, "rev-list", "--topo-order", fmt.Sprintf("--max-count=%d", n), commit)
	return strings.Fields(out), err
}

// Dirty counts the files that a run of HEAD does not see: changed, staged or
// untracked.
func (r *Repo) Dirty(ctx context.Context) (int, error) {
	if r.Bare {
		return 0, nil
	}
	out, err := r.git(ctx, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
	return strings.Count(out, "\x00"), err
}

// Tracked reports whether the file of that name at the top of the work tree is
// one that git tracks: the index or HEAD has it, under this name or under
// another that the file system takes for it, where case does not count. An
// error of git's is no answer.
func (r *Repo) Tracked(ctx context.Context, name string) (bool, error) {
	file, err := os.Lstat(filepath.Join(r.Top, name))
	if errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	index, err := r.git(ctx, "ls-files", "-z", "--", ":(top,glob)*", ":(top,literal)"+name)
	if err != nil {
		return false, err
	}
	head, err := r.git(ctx, "ls-tree", "-z", "--name-only", "--full-tree", "HEAD")
	if err != nil {
		if _, unborn := r.git(ctx, "rev-parse", "--verify", "--quiet", "HEAD"); unborn == nil {
			return false, err
		}
	}
	for _, tracked := range strings.Split(index+"\x00"+head, "\x00") {
		if tracked, _, _ = strings.Cut(tracked, "/"); tracked == name {
			return true, nil
		}
		if other, err := os.Lstat(filepath.Join(r.Top, tracked)); err == nil && os.SameFile(file, other) {
			return true, nil
		}
	}
	return false, nil
}

// HasFile reports whether the tree of commit holds a file of that name.
func (r *Repo) HasFile(ctx context.Context, commit, name string) bool {
	_, err := r.git(ctx, "cat-file", "-e", commit+":"+name)
	return err == nil
}

// File returns the file of that name in the tree of rev.
func (r *Repo) File(ctx context.Context, rev, name string) (string, error) {
	return r.git(ctx, "show", "--end-of-options", rev+":"+name)
}

// Namespace returns host/owner/repo from the URL of the remote origin, or
// local/NAME where that is a path or there is none.
func (r *Repo) Namespace(ctx context.Context) string {
	url, _ := r.git(ctx, "config", "--get", "remote.origin.url")
	if ns, ok := ParseNamespace(url); ok {
		return ns
	}
	return "local/" + strings.TrimSuffix(filepath.Base(strings.TrimSuffix(r.Top, "/.git")), ".git")
}

// ParseNamespace returns the namespace of a remote's URL, in any of the forms
// of git-fetch(1): the host in lower case, no user, port or .git. ok is false
// for a path.
func ParseNamespace(url string) (ns string, ok bool) {
	var host, path string
	if scheme, rest, found := strings.Cut(url, "://"); found {
		if scheme == "file" {
			return "", false
		}
		host, path, _ = strings.Cut(rest, "/")
	} else if host, path, found = strings.Cut(url, ":"); !found || strings.Contains(host, "/") {
		return "", false // a path; only a colon before the first slash makes it scp-like
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if h, _, ok := strings.Cut(host, ":"); ok && !strings.HasPrefix(host, "[") {
		host = h
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	elems := strings.Split(path, "/")
	if host == "" || len(elems) < 2 {
		return "", false
	}
	for _, e := range elems {
		if e == "" || e == "." || e == ".." || strings.ContainsFunc(e, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return "", false
		}
	}
	return strings.ToLower(host) + "/" + path, true
}
