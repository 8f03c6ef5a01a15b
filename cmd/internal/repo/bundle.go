package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"9ci/fs/ci"
)

// Ref is the name under which a bundle holds the revision.
const Ref = "refs/9ci/run"

// Bundle writes a bundle (git-bundle(1)) of commit, its history and its tags to
// file, and returns the commit that the bundle has under Ref. With squash that is a
// commit of the same tree with no parents and a fixed author and date: equal trees
// then give equal repositories.
//
// The bundle of a shallow clone ends where the clone does. A fetch from it needs
// the clone's list of ends, which Bundle writes to file.shallow. A tree with
// submodules or Git LFS files is an error: a run never sees pointers.
//
// The error goes into the log of a run, which others may read. It repeats none of
// git's words: these may quote a file outside the repository to which the
// repository has led git.
func (r *Repo) Bundle(ctx context.Context, commit string, squash bool, file string) (string, error) {
	head, err := r.bundle(ctx, commit, squash, file)
	if failed, ok := errors.AsType[*gitError](err); ok {
		why := "git fsck in the repository says why"
		switch {
		case r.partial:
			why = "the clone is partial, and objects are missing: make one without --filter"
		case strings.Contains(strings.ToLower(failed.words), syscall.ENOSPC.Error()):
			why = syscall.ENOSPC.Error()
		}
		err = fmt.Errorf("git %s: %w: %s", failed.command, failed.err, why)
	}
	return head, err
}

func (r *Repo) bundle(ctx context.Context, commit string, squash bool, file string) (string, error) {
	id, tree, err := r.commit(ctx, commit)
	if err != nil {
		return "", fmt.Errorf("%s: %w", commit, err)
	}
	commit = id
	if err := r.whole(ctx, tree); err != nil {
		return "", err
	}
	// A bare repository of ours borrows the objects: refs can be made in it, and
	// neither hooks nor configuration of r are in force.
	tmp, err := os.MkdirTemp(filepath.Dir(file), ".bundle")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := r.borrower(tmp); err != nil {
		return "", err
	}
	shallow, err := r.shallow()
	if err == nil && shallow != "" {
		err = errors.Join(os.WriteFile(filepath.Join(tmp, "shallow"), []byte(shallow), 0o600),
			os.WriteFile(file+".shallow", []byte(shallow), 0o666))
	}
	if err != nil {
		return "", err
	}
	env := append(ownEnv(), "GIT_DIR="+tmp)
	var refs, updates bytes.Buffer
	ref := func(id, name string) {
		fmt.Fprintln(&refs, name)
		fmt.Fprintf(&updates, "create %s\x00%s\x00", name, id)
	}
	if squash {
		if commit, err = squashed(ctx, env, tmp, tree); err != nil {
			return "", err
		}
	} else if shallow == "" {
		tag := func(line string) error {
			id, name, _ := strings.Cut(line, " ")
			ref(id, name)
			return nil
		}
		if err := r.each(ctx, '\n', tag, "for-each-ref", "--merged="+commit, "--format=%(objectname) %(refname)", "refs/tags"); err != nil {
			return "", err
		}
	}
	ref(commit, Ref)
	if err := run(ctx, tmp, env, &updates, io.Discard, "update-ref", "-z", "--stdin"); err != nil {
		return "", err
	}
	return commit, run(ctx, tmp, env, &refs, io.Discard, "bundle", "create", "--quiet", file, "--stdin")
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

// whole returns an error if files of a tree are not in the repository.
func (r *Repo) whole(ctx context.Context, tree string) error {
	// Entries of type commit are submodules (gitmodules(5)).
	submodule := func(e string) error {
		if path, ok := strings.CutPrefix(e, "commit "); ok {
			return fmt.Errorf("%s is a submodule: this version of 9ci cannot run a repository with submodules", path)
		}
		return nil
	}
	if err := r.each(ctx, 0, submodule, "ls-tree", "-r", "-z", "--format=%(objecttype) %(path)", tree); err != nil {
		return err
	}
	// A Git LFS pointer is a blob with that first line and less than 1024 bytes,
	// under a filter that .gitattributes names.
	err := r.grep(ctx, tree, "filter=lfs", func(string) error { return errFound }, ".gitattributes", "**/.gitattributes")
	if err != errFound {
		return err
	}
	const first = "version https://git-lfs.github.com/spec/v1"
	return r.grep(ctx, tree, "^"+first+"$", func(path string) error {
		text, err := r.git(ctx, "", "cat-file", "blob", tree+":"+path)
		switch {
		case errors.Is(err, errTooLong) || err == nil && (len(text) >= 1024 || !strings.HasPrefix(text, first+"\n")):
			return nil
		case err != nil:
			return err
		}
		return fmt.Errorf("%s is kept in Git LFS: this version of 9ci cannot run a repository with LFS files", path)
	})
}

var errFound = errors.New("found")

// grep calls f with the path of each file of tree that has a line which matches
// pattern.
func (r *Repo) grep(ctx context.Context, tree, pattern string, f func(path string) error, paths ...string) error {
	path := func(e string) error { return f(strings.TrimPrefix(e, tree+":")) }
	err := r.each(ctx, 0, path, append([]string{"grep", "-a", "-l", "-z", "-e", pattern, tree, "--"}, paths...)...)
	if status(err) == 1 { // no line matches
		return nil
	}
	return err
}
