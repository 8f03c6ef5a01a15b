// Package repo asks git(1) about a repository: its revisions, its namespace, and a
// clone of one revision for a machine. A repository decides nothing about the
// host: no program that its configuration names is run, and nothing in it is
// evaluated. Git itself refuses the repositories of other users (safe.directory in
// git-config(1)).
package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"9ci/fs/ci"
)

// A Repo is a git repository on this machine, with the configuration that it had
// when it was opened.
type Repo struct {
	Top    string // the work tree, or the repository itself if it is bare
	GitDir string // the common git directory, absolute and without symbolic links
	Bare   bool

	dir      string // the git directory of this work tree, in GitDir or GitDir itself
	format   string // of object names: sha1 or sha256
	reftable bool   // refs are in a reftable rather than in files
	partial  bool   // objects may be missing
	settings string // the part of the repository's configuration that is in force
	origin   string // the URL of the remote origin: it may hold a password
}

// Errors of Open that callers may test for.
var (
	ErrNone  = errors.New("not in a git repository")
	ErrNoGit = errors.New("git is not installed: on Debian, apt-get install git")
)

// Open finds the repository that dir is in. It refuses what git refuses: a
// repository of another user that safe.directory does not list.
func Open(ctx context.Context, dir string) (*Repo, error) {
	switch _, err := exec.LookPath("git"); {
	case errors.Is(err, exec.ErrDot): // a git in the repository
		return nil, fmt.Errorf("%w: take relative directories out of PATH", err)
	case err != nil:
		return nil, ErrNoGit
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r, err := discover(ctx, abs)
	if err != nil {
		return nil, err
	}
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// discover asks git where the repository of dir is, with the user's own
// configuration.
func discover(ctx context.Context, dir string) (*Repo, error) {
	// Without a work tree the last question fails after the others are answered.
	out, err := answer(ctx, dir, userEnv(), "", "rev-parse", "--path-format=absolute",
		"--show-object-format", "--is-bare-repository", "--git-dir", "--git-common-dir", "--show-toplevel")
	a := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	var failed *gitError
	switch {
	case len(a) > 5:
		return nil, fmt.Errorf("the path of the repository of %q has a newline in it: rename the directory", dir)
	case err == nil && len(a) == 5:
		r := &Repo{format: a[0], dir: a[2], GitDir: a[3], Top: a[4]}
		if !leadsTo(filepath.Join(r.Top, ".git"), r.dir) {
			return nil, fmt.Errorf("core.worktree of %s is %s, which has another repository or none: git config --unset core.worktree there", r.dir, r.Top)
		}
		return r, nil
	case errors.As(err, &failed) && strings.HasPrefix(failed.words, "not a git repository (or any"):
		return nil, fmt.Errorf("%s is %w: 9ci runs a commit, so git init and commit first", dir, ErrNone)
	case errors.As(err, &failed) && strings.HasPrefix(failed.words, "not a git repository: "):
		gone := strings.TrimPrefix(failed.words, "not a git repository: ")
		return nil, fmt.Errorf("the file .git of %s names the git directory %s, which is not there: bring that back, or git worktree repair %s in the repository that was moved", dir, gone, dir)
	case err != nil && len(a) == 4 && a[1] == "true":
		r := &Repo{format: a[0], dir: a[2], GitDir: a[3], Top: a[2], Bare: true}
		if err := r.freestanding(); err != nil {
			return nil, err
		}
		return r, nil
	case err != nil && len(a) == 4 && a[1] == "false":
		return nil, fmt.Errorf("%s is in the git directory %s: go to its work tree", dir, a[2])
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("git rev-parse answered %q", out)
}

// freestanding refuses a bare repository inside a work tree: a commit can hold one,
// and its author has then written the configuration.
func (r *Repo) freestanding() error {
	for d := r.dir; d != filepath.Dir(d); {
		d = filepath.Dir(d)
		link := filepath.Join(d, ".git")
		if _, err := os.Lstat(link); err == nil && !leadsTo(link, r.dir) {
			return fmt.Errorf("%s is a bare repository in the work tree %s, which may have brought it along: git clone it to another place", r.dir, d)
		}
	}
	return nil
}

// leadsTo reports whether link, the .git of a work tree, is the git directory dir
// or a file that names dir (gitrepository-layout(5)).
func leadsTo(link, dir string) bool {
	fi, err := os.Stat(link)
	if err != nil {
		return false
	}
	if fi.Mode().IsRegular() && fi.Size() < maxWords {
		text, err := os.ReadFile(link)
		if err != nil {
			return false
		}
		name := strings.TrimRight(strings.TrimPrefix(string(text), "gitdir: "), "\r\n")
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(link), name)
		}
		if fi, err = os.Stat(name); err != nil {
			return false
		}
	}
	to, err := os.Stat(dir)
	return err == nil && os.SameFile(fi, to)
}

// Resolve returns the commit that rev names, and its tree. The error says why rev
// names none, and where to look.
func (r *Repo) Resolve(ctx context.Context, rev string) (commit, tree string, err error) {
	commit, tree, err = r.commit(ctx, rev)
	switch {
	case errors.Is(err, errNoCommit):
		return "", "", r.unknown(ctx, rev)
	case err != nil:
		return "", "", err
	}
	if err := r.unambiguous(ctx, rev); err != nil {
		return "", "", err
	}
	return commit, tree, nil
}

var errNoCommit = errors.New("no such commit")

// commit is Resolve, but its error is errNoCommit. It reads the commit itself,
// because git then checks it against its name: a commit-graph may hold lies.
func (r *Repo) commit(ctx context.Context, rev string) (commit, tree string, err error) {
	if strings.ContainsAny(rev, "\n\x00") {
		return "", "", errNoCommit
	}
	as := "^{commit}"
	if strings.HasPrefix(rev, ":/") {
		as = "" // that is a commit, and all that follows is searched for
	}
	out, err := r.git(ctx, rev+as+"\n", "cat-file", "--batch")
	if err != nil {
		return "", "", err
	}
	head, body, _ := strings.Cut(out, "\n")
	var kind string
	var size int
	if n, _ := fmt.Sscanf(head, "%s %s %d", &commit, &kind, &size); n != 3 || kind != "commit" || size < 0 || size != len(body)-1 {
		return "", "", errNoCommit
	}
	first, _, _ := strings.Cut(body, "\n")
	tree, ok := strings.CutPrefix(first, "tree ")
	if !ok || len(tree) != len(commit) {
		return "", "", fmt.Errorf("git cat-file answered %q for %s", first, rev)
	}
	return commit, tree, nil
}

// unknown returns the error that says why rev names no commit.
func (r *Repo) unknown(ctx context.Context, rev string) error {
	if _, err := r.git(ctx, "", "rev-parse", "--verify", "--quiet", "HEAD"); status(err) == 1 {
		return fmt.Errorf("%s has no commits yet: commit something first", r.Top)
	}
	if rev != "" && !strings.ContainsAny(rev, "\n\x00") {
		if err := r.misfit(ctx, rev); err != nil {
			return err
		}
	}
	more := ""
	if ends, err := r.shallow(); ends != "" || err != nil {
		more = ". The clone is shallow: git fetch --unshallow brings older ones"
	}
	return fmt.Errorf("unknown revision %s: git log shows the revisions that %s has%s", rev, r.Top, more)
}

// misfit returns an error if git knows rev as something that is no one commit.
func (r *Repo) misfit(ctx context.Context, rev string) error {
	if name := baseName(rev); abbreviated(name) {
		commits, err := r.beginning(ctx, name)
		if err != nil {
			return err
		}
		if len(commits) > 1 {
			return fmt.Errorf("revision %s is ambiguous: %s begins the names of the commits %s: give more digits", rev, name, strings.Join(commits, " "))
		}
	}
	kind, err := r.git(ctx, rev+"\n", "cat-file", "--batch-check=%(objecttype)")
	if err != nil {
		return err
	}
	if kind = strings.TrimSuffix(kind, "\n"); kind == "tree" || kind == "blob" || kind == "tag" {
		return fmt.Errorf("revision %s names a %s: a run is of a commit", rev, kind)
	}
	// Gitrevisions(7) lists what names several commits.
	last := ""
	if from, to, ok := strings.Cut(rev, ".."); ok {
		last = cmp.Or(strings.TrimPrefix(to, "."), "HEAD")
		if _, _, err := r.commit(ctx, cmp.Or(from, "HEAD")); err != nil {
			return nil // of a range that is itself unknown
		}
	} else if rest, ok := strings.CutPrefix(rev, "^"); ok {
		last = rest
	} else if i := max(strings.LastIndex(rev, "^@"), strings.LastIndex(rev, "^!"), strings.LastIndex(rev, "^-")); i > 0 {
		last = rev[:i]
	}
	if last == "" {
		return nil
	}
	if _, _, err := r.commit(ctx, last); err != nil {
		return nil
	}
	return fmt.Errorf("revision %s is a range, and a run is of one commit: %s is its last", rev, last)
}

// unambiguous returns an error if rev begins with a name that several refs have and
// that are different commits. Of these git itself takes one (gitrevisions(7)), but
// not every command of git takes the same.
func (r *Repo) unambiguous(ctx context.Context, rev string) error {
	name := baseName(rev)
	if name == "" || name == "HEAD" || ci.IsHash(name) || strings.ContainsAny(name, "*?[\\") {
		return nil
	}
	places := []string{"refs/" + name, "refs/tags/" + name, "refs/heads/" + name, "refs/remotes/" + name, "refs/remotes/" + name + "/HEAD"}
	if strings.HasPrefix(name, "refs/") {
		places = append(places, name)
	}
	var refs []string
	ref := func(name string) error {
		if slices.Contains(places, name) { // and is not below one of them
			refs = append(refs, name)
		}
		return nil
	}
	if err := r.each(ctx, '\n', ref, append([]string{"for-each-ref", "--format=%(refname)"}, places...)...); err != nil {
		return err
	}
	if slices.Contains(refs, name) {
		return nil // the first place of all
	}
	if len(refs) > 0 && abbreviated(name) {
		commits, err := r.beginning(ctx, name)
		if err != nil {
			return err
		}
		refs = append(refs, commits...)
	}
	var can []string
	commits := make(map[string]bool)
	if len(refs) > 1 {
		for _, ref := range refs {
			switch id, _, err := r.commit(ctx, ref); {
			case err == nil:
				commits[id] = true
				can = append(can, ref)
			case !errors.Is(err, errNoCommit):
				return err
			}
		}
	}
	if len(commits) > 1 {
		return fmt.Errorf("revision %s is ambiguous: %s can be %s: give one of these", rev, name, strings.Join(can, " or "))
	}
	return nil
}

// baseName returns the name with which a revision begins, before what gitrevisions(7)
// lets follow.
func baseName(rev string) string {
	if i := strings.IndexAny(rev, "^~:@"); i >= 0 {
		return rev[:i]
	}
	return rev
}

// abbreviated reports whether git would take name for the first digits of an object's
// name.
func abbreviated(name string) bool { return len(name) >= 4 && ci.IsHex(name) }

// beginning returns the commits whose names begin with those digits.
func (r *Repo) beginning(ctx context.Context, digits string) ([]string, error) {
	ids, err := r.git(ctx, "", "rev-parse", "--disambiguate="+digits)
	if err != nil {
		return nil, err
	}
	var commits []string
	for id := range strings.FieldsSeq(ids) {
		if c, _, err := r.commit(ctx, id); err == nil && c == id {
			commits = append(commits, id)
		} else if err != nil && !errors.Is(err, errNoCommit) {
			return nil, err
		}
	}
	return commits, nil
}

// Ancestors returns commit and the commits it descends from, nearest first, n at
// most.
func (r *Repo) Ancestors(ctx context.Context, commit string, n int) ([]string, error) {
	out, err := r.git(ctx, "", "rev-list", "--topo-order", fmt.Sprintf("--max-count=%d", n), "--end-of-options", commit)
	return strings.Fields(out), err
}

// Hooks returns the directory in which git looks for the hooks of r: core.hooksPath, of
// the user's configuration too, or hooks in the common git directory. It is absolute,
// without symbolic links as far as it is there.
func (r *Repo) Hooks(ctx context.Context) (string, error) {
	out, err := answer(ctx, r.Top, append(userEnv(), "GIT_DIR="+r.dir), "", "rev-parse", "--path-format=absolute", "--git-path", "hooks")
	if err != nil {
		return "", err
	}
	dir := filepath.Clean(strings.TrimSuffix(out, "\n"))
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real, nil
	}
	return dir, nil
}

// Dirty counts the files whose changes a run of HEAD does not see: changed, staged
// or untracked. A submodule counts if another commit of it is checked out. Its
// files are not looked at: git would do so with the submodule's configuration.
func (r *Repo) Dirty(ctx context.Context) (int, error) {
	if r.Bare {
		return 0, nil
	}
	n := 0
	count := func(string) error { n++; return nil }
	err := r.each(ctx, 0, count, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=dirty")
	return n, r.fetchable(err, "status")
}

// fetchable returns the error of a git command that asked a repository. If the clone is
// partial, the error has the command that asks the same and may fetch.
func (r *Repo) fetchable(err error, command string) error {
	if _, ok := errors.AsType[*gitError](err); ok && r.partial {
		return fmt.Errorf("the clone is partial and lacks what git %s asks for, which fetches it", command)
	}
	return err
}

// Tracked reports whether git tracks the file of that name at the top of the work
// tree: the index or HEAD has it, under this name or, on a file system that ignores
// case, under another that means the same file.
func (r *Repo) Tracked(ctx context.Context, name string) (bool, error) {
	file, err := os.Lstat(filepath.Join(r.Top, name))
	if errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	index, err := r.git(ctx, "", "ls-files", "-z", "--", ":(top,glob)*", ":(top,literal)"+name)
	if err != nil {
		return false, err
	}
	head, err := r.git(ctx, "", "ls-tree", "-z", "--name-only", "--full-tree", "HEAD")
	if err != nil {
		if _, unborn := r.git(ctx, "", "rev-parse", "--verify", "--quiet", "HEAD"); unborn == nil {
			return false, r.fetchable(err, "ls-tree HEAD")
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
	return r.has(ctx, commit+":"+name)
}

// has reports whether the object that rev names is there.
func (r *Repo) has(ctx context.Context, rev string) bool {
	_, err := r.git(ctx, "", "cat-file", "-e", rev)
	return err == nil
}

// Files returns the files of those names in the tree of a ref, by name, without
// those that are not there. The ref is a full name, so no tag can stand for it; if
// there is no such ref, there are no files. A file of more than 16 MiB is an error.
func (r *Repo) Files(ctx context.Context, ref string, names ...string) (map[string]string, error) {
	// The pattern matches what is below a ref, too: a branch of the remote's.
	refs, err := r.git(ctx, "", "for-each-ref", "--format=%(refname) %(objectname)", ref)
	if err != nil {
		return nil, err
	}
	id := ""
	for line := range strings.Lines(refs) {
		if name, hash, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); name == ref {
			id = hash
		}
	}
	if id == "" {
		return nil, nil
	}
	list, err := r.git(ctx, "", append([]string{"ls-tree", "-z", "--full-tree", id, "--"}, names...)...)
	if err != nil {
		return nil, r.fetchable(err, "ls-tree -r "+ref+" "+strings.Join(names, " "))
	}
	files := make(map[string]string)
	for entry := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		what, name, ok := strings.Cut(entry, "\t")
		if f := strings.Fields(what); ok && len(f) == 3 { // mode type object
			if files[name], err = r.git(ctx, "", "cat-file", "blob", f[2]); err != nil {
				return nil, fmt.Errorf("%s:%s: %w", ref, name, r.fetchable(err, "cat-file blob "+ref+":"+name))
			}
		}
	}
	return files, nil
}
