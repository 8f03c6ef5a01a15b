package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Refs returns the names of the refs below prefixes, each of which ends with a slash.
func (r *Repo) Refs(ctx context.Context, prefixes ...string) ([]string, error) {
	var refs []string
	ref := func(name string) error { refs = append(refs, name); return nil }
	return refs, r.each(ctx, '\n', ref, append([]string{"for-each-ref", "--format=%(refname)"}, prefixes...)...)
}

// SetFile makes ref a commit without parents that holds one file, of that name and text.
// The commit is of 9ci at a time: equal calls make equal commits. No hook runs.
func (r *Repo) SetFile(ctx context.Context, ref, name, text string, at time.Time) error {
	blob, err := r.git(ctx, text, "hash-object", "-w", "--stdin")
	if err != nil {
		return err
	}
	tree, err := r.git(ctx, fmt.Sprintf("100644 blob %s\t%s\n", strings.TrimSpace(blob), name), "mktree")
	if err != nil {
		return err
	}
	return r.borrow(func(env []string) error {
		for _, who := range []string{"AUTHOR", "COMMITTER"} {
			env = append(env, "GIT_"+who+"_NAME=9ci", "GIT_"+who+"_EMAIL=9ci@localhost", fmt.Sprintf("GIT_%s_DATE=%d +0000", who, at.Unix()))
		}
		commit, err := answer(ctx, r.Top, env, "", "commit-tree", "-m", ref, strings.TrimSpace(tree))
		if err == nil {
			_, err = answer(ctx, r.Top, env, "", "update-ref", ref, strings.TrimSpace(commit))
		}
		return err
	})
}

// Push pushes ref to the remote origin under the same name, in the place of what is there.
// The configuration of the user is in force, with its helpers and ssh; of the repository's
// nothing but the URL, and none of its hooks. A URL that is a path leads to a repository of
// this host, whose own hooks git runs there.
func (r *Repo) Push(ctx context.Context, ref string) error {
	own := environ(func(name string) bool {
		return strings.HasPrefix(name, "GIT_CONFIG_") || strings.HasPrefix(name, "GIT_SSH") || name == "GIT_ASKPASS"
	})
	own = slices.DeleteFunc(own, func(v string) bool { return strings.HasPrefix(v, "GIT_NO_LAZY_FETCH=") })
	own = append(own, "GIT_ALLOW_PROTOCOL=file:git:http:https:ssh", "GIT_TERMINAL_PROMPT=1")
	out, err := answer(ctx, r.Top, append(userEnv(), "GIT_DIR="+r.dir), "", "remote", "get-url", "--push", "origin")
	if err != nil {
		return errors.New("there is no remote origin to push to: git remote add origin URL")
	}
	url := strings.TrimSuffix(out, "\n")
	return r.borrow(func(env []string) error {
		for _, v := range env {
			if name, dir, _ := strings.Cut(v, "="); slices.Contains([]string{"GIT_DIR", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE"}, name) {
				own = append(own, v)
				if name == "GIT_COMMON_DIR" {
					// The URL may hold a password, so it must not be an argument.
					if err := appendText(filepath.Join(dir, "config"), setting{"remote", "origin", "url", url, true}.text()); err != nil {
						return err
					}
				}
			}
		}
		_, err := answer(ctx, r.Top, own, "", "push", "--quiet", "--no-recurse-submodules", "origin", "+"+ref+":"+ref)
		if failed, ok := errors.AsType[*gitError](err); ok {
			failed.words = strings.ReplaceAll(failed.words, url, "origin")
			err = fmt.Errorf("%w: git push origin +%s:%s with the repository's own configuration may do", err, ref, ref)
		}
		return err
	})
}

func appendText(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
