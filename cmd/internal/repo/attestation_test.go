package repo_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"9ci/cmd/internal/repo"
)

// A file at a ref is an object as git itself makes it: with the clone's modes, in a bare
// clone and one of SHA-256 too, the same each time, and no hook sees it.
func TestSetFile(t *testing.T) {
	at := time.Unix(1e9, 0)
	for name, test := range map[string]struct {
		init []string
		mode fs.FileMode // of an object's directory, of the bits that the clone sets
	}{
		"plain":   {nil, 0o700},
		"shared":  {[]string{"--shared=group"}, 0o770},
		"bare":    {[]string{"--bare"}, 0o700},
		"SHA-256": {[]string{"--object-format=sha256"}, 0o700},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			git(t, dir, append([]string{"init", "-q", "-b", "main"}, test.init...)...)
			gitDir := git(t, dir, "rev-parse", "--absolute-git-dir")
			hook := filepath.Join(gitDir, "hooks", "reference-transaction")
			if err := os.MkdirAll(filepath.Dir(hook), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+gitDir+"/hooked\n"), 0o777); err != nil {
				t.Fatal(err)
			}
			r, err := repo.Open(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			var first string
			for range 2 {
				if err := r.SetFile(t.Context(), "refs/attestations/x/y", "f.json", "text\n", at); err != nil {
					t.Fatal(err)
				}
				id := git(t, dir, "rev-parse", "refs/attestations/x/y")
				if first == "" {
					first = id
				}
				if id != first {
					t.Errorf("the ref is %s, and then %s", first, id)
				}
			}
			if refs, err := r.Refs(t.Context(), "refs/attestations/x/"); err != nil || !slices.Equal(refs, []string{"refs/attestations/x/y"}) {
				t.Errorf("Refs = %v, %v", refs, err)
			}
			if refs, err := r.Refs(t.Context(), "refs/attestations/none/"); err != nil || len(refs) != 0 {
				t.Errorf("Refs = %v, %v", refs, err)
			}
			if got := git(t, dir, "show", "refs/attestations/x/y:f.json"); got != "text" {
				t.Errorf("the file has %q", got)
			}
			if got := git(t, dir, "log", "-1", "--format=%an %cn %ct %P", "refs/attestations/x/y"); got != "9ci 9ci 1000000000" {
				t.Errorf("the commit is %q", got)
			}
			git(t, dir, "fsck", "--strict")
			if _, err := os.Stat(filepath.Join(gitDir, "hooked")); err == nil {
				t.Error("a hook has run")
			}
			objects := 0
			filepath.WalkDir(filepath.Join(gitDir, "objects"), func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					t.Error(err)
					return nil
				}
				fi, err := d.Info()
				if err != nil {
					t.Error(err)
					return nil
				}
				parent := filepath.Base(filepath.Dir(path))
				switch mode := fi.Mode().Perm(); {
				case fi.IsDir() && len(d.Name()) == 2 && mode&test.mode != test.mode:
					t.Errorf("%s has the mode %v: others of the clone cannot write there", path, mode)
				case fi.Mode().IsRegular() && len(parent) == 2:
					if objects++; mode&0o222 != 0 || mode&0o444&test.mode != 0o444&test.mode {
						t.Errorf("%s has the mode %v", path, mode)
					}
				}
				return nil
			})
			if objects < 3 {
				t.Errorf("there are %d objects of a commit, a tree and a file", objects)
			}
		})
	}
}

// A push takes the place of what is there, by no configuration of the clone's but the URL,
// and without its hooks.
func TestPush(t *testing.T) {
	dir, r := newRepo(t)
	if err := r.Push(t.Context(), "refs/heads/main"); err == nil || !strings.Contains(err.Error(), "git remote add origin") {
		t.Errorf("Push without origin: %v", err)
	}
	remote := filepath.Join(t.TempDir(), "remote.git")
	git(t, dir, "init", "-q", "--bare", remote)
	git(t, dir, "remote", "add", "origin", remote)
	hooked := filepath.Join(dir, "hooked")
	git(t, dir, "config", "core.sshCommand", "touch "+hooked)
	git(t, dir, "config", "remote.origin.receivepack", "touch "+hooked+"; false")
	write(t, filepath.Join(dir, ".git/hooks/pre-push"), "#!/bin/sh\ntouch "+hooked+"\nexit 1\n")
	if err := os.Chmod(filepath.Join(dir, ".git/hooks/pre-push"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one\n", "two\n"} {
		if err := r.SetFile(t.Context(), "refs/attestations/x/y", "f", text, time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
		if err := r.Push(t.Context(), "refs/attestations/x/y"); err != nil {
			t.Fatal(err)
		}
		if got := git(t, remote, "show", "refs/attestations/x/y:f"); got+"\n" != text {
			t.Errorf("the remote has %q, want %q", got, text)
		}
	}
	if _, err := os.Stat(hooked); err == nil {
		t.Error("the clone's configuration or hook has run a program")
	}
	if got := git(t, remote, "for-each-ref", "--format=%(refname)"); got != "refs/attestations/x/y" {
		t.Errorf("the remote has the refs %q", got)
	}
}
