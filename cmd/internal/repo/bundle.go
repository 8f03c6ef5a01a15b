package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Ref is the name under which a bundle holds the revision.
const Ref = "refs/9ci/run"

// Bundle writes a bundle (git-bundle(1)) of commit, its history and its tags
// to file, and returns the commit that it holds under Ref. With squash that is
// a commit of the same tree with no parents and a fixed author and date, so
// that equal trees give equal repositories.
//
// The bundle of a shallow clone ends where the clone does; who fetches from it
// needs the clone's list of ends, which Bundle leaves in file.shallow.
// Submodules and Git LFS files are refused, never left as pointers.
func (r *Repo) Bundle(ctx context.Context, commit string, squash bool, file string) (string, error) {
	if err := r.whole(ctx, commit); err != nil {
		return "", err
	}
	// A bare repository of its own borrows the objects: refs can be made in
	// it, and neither hooks nor configuration of r's are in force.
	tmp, err := os.MkdirTemp(filepath.Dir(file), ".bundle")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	t := &Repo{Top: tmp, GitDir: tmp, Bare: true}
	init := []string{"init", "--quiet", "--bare", "--template="}
	if len(commit) == 64 {
		init = append(init, "--object-format=sha256")
	}
	if _, err := t.git(ctx, init...); err != nil {
		return "", err
	}
	alternates := filepath.Join(tmp, "objects/info/alternates")
	if err := os.MkdirAll(filepath.Dir(alternates), 0o777); err != nil {
		return "", err
	}
	if err := os.WriteFile(alternates, []byte(filepath.Join(r.GitDir, "objects")+"\n"), 0o666); err != nil {
		return "", err
	}
	shallow, err := os.ReadFile(filepath.Join(r.GitDir, "shallow"))
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(tmp, "shallow"), shallow, 0o666),
			os.WriteFile(file+".shallow", shallow, 0o666))
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return "", err
	}
	refs := []string{Ref}
	if squash {
		if commit, err = t.squash(ctx, commit); err != nil {
			return "", err
		}
	} else if len(shallow) == 0 {
		tags, err := r.git(ctx, "for-each-ref", "--merged", commit, "--format=%(objectname) %(refname)", "refs/tags")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(tags) {
			id, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name == "" {
				continue
			}
			if _, err := t.git(ctx, "update-ref", name, id); err != nil {
				return "", err
			}
			refs = append(refs, name)
		}
	}
	if _, err := t.git(ctx, "update-ref", Ref, commit); err != nil {
		return "", err
	}
	_, err = t.git(ctx, append([]string{"bundle", "create", "--quiet", file}, refs...)...)
	return commit, err
}

// squash makes a commit of the tree of commit that depends on nothing else.
func (r *Repo) squash(ctx context.Context, commit string) (string, error) {
	cmd := r.command(ctx, "commit-tree", "-m", "9ci", commit+"^{tree}")
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		cmd.Env = append(cmd.Env, "GIT_"+who+"_NAME=9ci", "GIT_"+who+"_EMAIL=9ci@localhost", "GIT_"+who+"_DATE=1000000000 +0000")
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git commit-tree: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// whole reports why the files of commit are not all in the repository.
func (r *Repo) whole(ctx context.Context, commit string) error {
	// Entries of type commit are submodules (gitmodules(5)).
	out, err := r.git(ctx, "ls-tree", "-r", "-z", "--format=%(objecttype) %(path)", commit)
	if err != nil {
		return err
	}
	for _, e := range strings.Split(out, "\x00") {
		if path, ok := strings.CutPrefix(e, "commit "); ok {
			return fmt.Errorf("%s is a submodule: this version of 9ci cannot run a repository with submodules", path)
		}
	}
	// A Git LFS pointer is a blob of that first line and less than 1024 bytes,
	// under a filter that .gitattributes names. grep's status 1 is no match.
	if _, err := r.git(ctx, "grep", "-q", "-e", "filter=lfs", commit, "--", ".gitattributes", "**/.gitattributes"); err != nil {
		return ctx.Err()
	}
	out, err = r.git(ctx, "grep", "-l", "-z", "-I", "-e", "^version https://git-lfs.github.com/spec/v1$", commit)
	if err != nil {
		return ctx.Err()
	}
	for _, e := range strings.Split(strings.TrimSuffix(out, "\x00"), "\x00") {
		path := strings.TrimPrefix(e, commit+":")
		text, err := r.File(ctx, commit, path)
		if err == nil && len(text) < 1024 && strings.HasPrefix(text, "version https://git-lfs.github.com/spec/v1\n") {
			return fmt.Errorf("%s is kept in Git LFS: this version of 9ci cannot run a repository with LFS files", path)
		}
	}
	return nil
}
