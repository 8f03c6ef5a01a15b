package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"9ci/fs/ci"
)

// Names of what Clone makes.
const (
	gitDir = "git"     // the git directory
	lfsTar = "lfs.tar" // Git LFS files, to be unpacked into it; not there if there are none
)

// Checkout is a script of sh(1) that makes the current directory, which is empty, the
// work tree of what Clone has made in the directory $1. $2 is the commit.
//
// Git finds the git directories of the submodules, and fetches nothing. The Git LFS
// files replace their pointers behind git's back: it takes them as unchanged because
// a filter says so, once. It then goes by their times, which must be older than the
// index.
const Checkout = `
set -e
git init --quiet .
cp -R --no-preserve=mode "$1/` + gitDir + `/." .git
if [ -e "$1/` + lfsTar + `" ]; then tar -xf "$1/` + lfsTar + `" -C .git; fi
git checkout --quiet --detach "$2"
if [ -e .git/modules ]; then
	git -c protocol.allow=never submodule --quiet update --init --recursive --no-fetch
fi
lfs='
set -e
tree=$(git rev-parse --absolute-git-dir)/lfs/tree
if [ -e "$tree" ]; then
	find "$tree" -type f -exec touch -d "10 seconds ago" {} +
	cp -R --preserve=timestamps "$tree/." .
	find "$tree" -type f -printf "%P\0" | git -c filter.lfs.clean="git cat-file blob :%f" update-index -z --stdin
	rm -r "$tree"
fi
'
eval "$lfs"
if [ -e .git/modules ]; then git submodule --quiet foreach --recursive "$lfs"; fi
`

// Clone makes in dir what a machine checks commit out from: a git directory with
// the commit, its history, its tags and its submodules, and the Git LFS files of
// both. It returns the commit to check out. With squash that is a commit of the same
// tree with no parents and a fixed author and date, and submodules have no history:
// equal trees then give equal repositories.
//
// All of it comes from this host, and nothing is fetched. A clone of a shallow
// repository ends where that one does. A clone of a partial one lacks what that one
// lacks. If a file of the commit itself is missing, be it an object, a submodule or a
// Git LFS file, the error names it and the command that fetches it.
//
// The error goes into the log of a run, which others may read. It repeats none of
// git's words: these may quote a file outside the repository to which the
// repository has led git.
func (r *Repo) Clone(ctx context.Context, commit string, squash bool, dir string) (string, error) {
	c := &cloning{dir: dir, squash: squash}
	top := source{Repo: r, url: r.remote(), git: "git", shellDir: `"$(git rev-parse --git-common-dir)"`}
	if !r.Bare {
		top.work = r.Top
	}
	head, err := c.clone(ctx, top, commit, gitDir)
	if cerr := c.lfs.close(); err == nil {
		err = cerr
	}
	if failed, ok := errors.AsType[*gitError](err); ok {
		err = fmt.Errorf("git %s: %w", failed.command, failed.err)
		switch full := failed.full(); {
		case full != nil:
			err = fmt.Errorf("%w: %w: make room where TMPDIR is", err, full)
		case status(failed) > 0: // else git has said nothing
			err = fmt.Errorf("%w: git fsck in the repository says why", err)
		}
	}
	return head, err
}

// A cloning is the state of one Clone.
type cloning struct {
	dir        string
	squash     bool
	lfs        lfsFiles
	submodules int // so far
}

// A source is a repository that is cloned: the one of Clone, or a submodule's.
type source struct {
	*Repo
	work string // its work tree, or ""
	path string // where it is in the work tree of the first; empty for the first
	url  string // of its remote origin, which may hold a password; or ""

	// How its user calls git about it, and names its git directory, in a shell in
	// the work tree of the first.
	git, shellDir string
}

// A target is the git directory that is made of a source.
type target struct {
	*Repo
	at       string // its name in the directory of Clone
	head     string // the commit to check out
	tree     string // of head
	settings []setting
}

// clone makes the git directory at, a name below c.dir, with commit.
func (c *cloning) clone(ctx context.Context, src source, commit, at string) (string, error) {
	id, tree, err := src.commit(ctx, commit)
	if err != nil {
		return "", fmt.Errorf("%s: %w", commit, err)
	}
	commit = id // unless it is squashed
	out := filepath.Join(c.dir, at)
	for _, d := range []string{"refs", "objects/pack"} {
		if err := os.MkdirAll(filepath.Join(out, d), 0o777); err != nil {
			return "", err
		}
	}
	// A bare repository of ours borrows the objects: neither hooks nor configuration
	// of the source are in force.
	tmp, err := os.MkdirTemp(c.dir, ".borrower")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := src.borrower(tmp); err != nil {
		return "", err
	}
	env := append(ownEnv(), "GIT_DIR="+tmp)
	shallow, err := src.shallow()
	if err != nil {
		return "", err
	}
	var refs, ids bytes.Buffer
	switch {
	case c.squash && src.path == "":
		shallow = ""
		if src.partial && !src.has(ctx, tree) {
			return "", src.lacksTree(commit)
		}
		if commit, err = squashed(ctx, env, tmp, tree); err != nil {
			return "", err
		}
	case c.squash: // a tree names the commit of a submodule
		shallow = commit + "\n"
	default:
		// This is the format of packed-refs, too: git sorts a file that does not
		// say that it is sorted.
		tag := func(line string) error {
			id, _, _ := strings.Cut(line, " ")
			fmt.Fprintln(&refs, line)
			fmt.Fprintln(&ids, id)
			return nil
		}
		if err := src.each(ctx, '\n', tag, "for-each-ref", "--merged="+commit, "--format=%(objectname) %(refname)", "refs/tags"); err != nil {
			return "", err
		}
	}
	fmt.Fprintln(&ids, commit)
	for _, f := range []struct{ dir, name, text string }{
		{out, "HEAD", "ref: refs/heads/main\n"}, // until the checkout
		{out, "packed-refs", refs.String()},
		{out, "shallow", shallow},
		{tmp, "shallow", shallow},
	} {
		if f.text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(f.dir, f.name), []byte(f.text), 0o666); err != nil {
			return "", err
		}
	}
	dst := &target{Repo: &Repo{Top: out, GitDir: out, Bare: true, dir: out, format: src.format, partial: src.partial}, at: at, head: commit, tree: tree}
	if err := dst.pack(ctx, tmp, env, &ids, filepath.Join(out, "objects", "pack", "pack-"+commit+".pack")); err != nil {
		return "", err
	}
	// All else is asked of what was made: there an object is what its name says.
	if err := dst.complete(ctx, src, id); err != nil {
		return "", err
	}
	if err := c.cloneSubmodules(ctx, src, dst, id); err != nil {
		return "", err
	}
	if err := c.cloneLFS(ctx, src, dst, id); err != nil {
		return "", err
	}
	return commit, os.WriteFile(filepath.Join(out, "config"), []byte(dst.config()), 0o666)
}

// borrower makes dir a bare repository with the objects of r and without refs.
func (r *Repo) borrower(dir string) error {
	var err error
	for _, d := range []string{"refs", "objects", "objects/info"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	for name, text := range map[string]string{
		"HEAD":                    "ref: refs/heads/none\n",
		"config":                  r.config(true, false),
		"objects/info/alternates": r.objects() + "\n",
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return err
}

// squashed makes a commit that depends on nothing but tree.
func squashed(ctx context.Context, env []string, dir, tree string) (string, error) {
	env = append([]string(nil), env...)
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		env = append(env, "GIT_"+who+"_NAME=9ci", "GIT_"+who+"_EMAIL=9ci@localhost", "GIT_"+who+"_DATE=1000000000 +0000")
	}
	out, err := answer(ctx, dir, env, "", "commit-tree", "-m", "9ci", tree)
	return strings.TrimSpace(out), err
}

// shallow returns the list of ends of a shallow clone, or "" for a whole one. The
// list goes into the machine, so it is an error if it holds anything but names of
// objects.
func (r *Repo) shallow() (string, error) {
	bad := errors.New("the file shallow of the git directory is no list of commits: clone it anew")
	name := filepath.Join(r.GitDir, "shallow")
	fi, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case !fi.Mode().IsRegular():
		return "", bad
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if !ci.IsHash(strings.TrimSuffix(line, "\n")) {
			return "", bad
		}
	}
	return string(text), nil
}

// pack writes the objects with those ids, and all that they lead to, to the pack
// file and its index. The ids and the objects are those of the repository at dir.
// The index has the names that the objects have by their content, so an object that
// is not what its name said is missing.
func (t *target) pack(ctx context.Context, dir string, env []string, ids io.Reader, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	pack, index := []string{"pack-objects", "--quiet", "--delta-base-offset", "--stdout"}, []string{"index-pack"}
	if t.partial {
		// With --revs pack-objects takes no list in which trees are missing.
		err = pipe(ctx, dir, env, ids, f, []string{"rev-list", "--objects", "--missing=allow-any", "--stdin"}, pack)
		index = append(index, "--promisor")
	} else {
		err = run(ctx, dir, env, ids, f, append(pack, "--revs")...)
		index = append(index, "--check-self-contained-and-connected")
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return t.borrow(func(env []string) error { return run(ctx, t.dir, env, nil, io.Discard, append(index, file)...) })
}

// complete returns an error if t is partial and lacks a directory or file of its
// head, which is commit in src.
func (t *target) complete(ctx context.Context, src source, commit string) error {
	if !t.partial {
		return nil
	}
	missing := make(map[string]bool)
	object := func(line string) error {
		if id, ok := strings.CutPrefix(line, "?"); ok {
			missing[id] = true
		}
		return nil
	}
	if err := t.each(ctx, '\n', object, "rev-list", "--objects", "--missing=print", "--no-walk", t.head); err != nil || len(missing) == 0 {
		return err
	}
	var lacks names
	name := func(e entry) error {
		if missing[e.id] {
			lacks.add(src.name(e.path))
		}
		return nil
	}
	// It fails at the first directory that is missing, and has then named that.
	switch err := t.list(ctx, t.tree, name, "-t"); {
	case lacks.n == 0:
		return src.lacksTree(commit)
	case err != nil:
		lacks.add("perhaps others")
	}
	return src.lacks(&lacks, commit)
}

// lacks is the error of a partial clone that lacks some of the files of commit.
func (s source) lacks(files *names, commit string) error {
	// Git fetches all that a diff needs at once.
	return fmt.Errorf("the clone is partial and lacks %s: %s diff --shortstat %s %s fetches what this commit needs", files, s.git, emptyTree(s.format), commit)
}

// lacksTree is the error of a partial clone that lacks the tree of commit.
func (s source) lacksTree(commit string) error {
	var all names
	all.add("the files of " + commit)
	return s.lacks(&all, commit)
}

// An entry is what git ls-tree says of one.
type entry struct {
	kind, id string
	size     int64 // of a blob, in bytes, if it was asked for
	path     string
}

// list calls f with each entry of a tree and those below it. The flags are those of
// git ls-tree: -t for the trees, -l for sizes.
func (r *Repo) list(ctx context.Context, tree string, f func(entry) error, flags ...string) error {
	// Not by --format: that quotes a path even with -z.
	line := func(line string) error {
		var e entry
		what, path, ok := strings.Cut(line, "\t")
		w := strings.Fields(what) // mode, kind, id, size
		if !ok || len(w) < 3 {
			return fmt.Errorf("git ls-tree answered %q", line)
		}
		e.kind, e.id, e.path = w[1], w[2], path
		if len(w) > 3 && e.kind == "blob" {
			var err error
			if e.size, err = strconv.ParseInt(w[3], 10, 64); err != nil {
				return fmt.Errorf("git ls-tree answered %q", line)
			}
		}
		return f(e)
	}
	return r.each(ctx, 0, line, append(append([]string{"ls-tree", "-r", "-z"}, flags...), tree)...)
}

// emptyTree returns the name of the tree without entries, which every repository has.
func emptyTree(format string) string {
	if format == "sha256" {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
}

// config returns the configuration of the git directory, as git init would write it
// in a work tree.
func (t *target) config() string {
	version, extensions := 0, ""
	if t.format != "sha1" {
		version, extensions = 1, "\tobjectFormat = "+t.format+"\n"
	}
	if t.partial {
		// What is missing is no fault.
		version, extensions = 1, extensions+"\tpartialClone = origin\n"
		t.settings = append(t.settings, setting{"remote", "origin", "promisor", "true", true})
	}
	text := fmt.Sprintf("[core]\n\trepositoryformatversion = %d\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n", version)
	if extensions != "" {
		text += "[extensions]\n" + extensions
	}
	for _, s := range t.settings {
		text += s.text()
	}
	return text
}

// name returns the name of a file of s in the work tree of the first source.
func (s source) name(path string) string {
	if s.path == "" {
		return path
	}
	return s.path + "/" + path
}

// names is a list of names, of which the first few are told.
type names struct {
	first []string
	n     int
}

func (l *names) add(name string) {
	if l.n++; len(l.first) < 3 {
		l.first = append(l.first, printable(name))
	}
}

func (l *names) String() string {
	text := strings.Join(l.first, ", ")
	if more := l.n - len(l.first); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// printable returns a name that a commit has given to a file, as it may be printed.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

// ShellQuote returns s as one word of sh(1).
func ShellQuote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@+,%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
