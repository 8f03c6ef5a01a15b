package home_test

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"9ci/cmd/internal/home"
)

// Whatever HOME is, the directories are absolute: its own, or those of the
// password file.
func TestDirs(t *testing.T) {
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, "")
	}
	check := func(what string, f func() (string, error), want string) {
		t.Helper()
		if got, err := f(); got != want || err != nil {
			t.Errorf("with HOME=%q %s = %q, %v, want %q", os.Getenv("HOME"), what, got, err, want)
		}
	}
	for env, want := range map[string]string{"/home/alice": "/home/alice", "/home/alice/": "/home/alice", "": u.HomeDir, "alice": u.HomeDir, "../alice": u.HomeDir} {
		t.Setenv("HOME", env)
		check("Dir", home.Dir, want)
		check("Config", home.Config, filepath.Join(want, ".config/9ci"))
		check("State", home.State, filepath.Join(want, ".local/state/9ci"))
		check("Cache", home.Cache, filepath.Join(want, ".cache/9ci"))
	}
	os.Unsetenv("HOME")
	check("Dir", home.Dir, u.HomeDir)
	t.Setenv("XDG_STATE_HOME", "/srv/state")
	check("State", home.State, "/srv/state/9ci")
	t.Setenv("XDG_STATE_HOME", "state")
	check("State", home.State, filepath.Join(u.HomeDir, ".local/state/9ci"))
}

func TestExpand(t *testing.T) {
	t.Setenv("HOME", "/home/alice")
	for path, want := range map[string]string{"~": "/home/alice", "~/": "/home/alice", "~/k": "/home/alice/k", "/k": "/k", "k": "k", "~bob/k": "~bob/k", "a~/k": "a~/k", "": ""} {
		if got, err := home.Expand(path); got != want || err != nil {
			t.Errorf("Expand(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
}

// An error of TMPDIR says what to do.
func TestTempDir(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, err := home.TempDir("git")
	if want := fmt.Sprintf("9ci-%d-git", os.Getpid()); err != nil || !strings.HasPrefix(filepath.Base(dir), want) {
		t.Errorf("TempDir = %q, %v, want %s and a number", dir, err, want)
	}
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	if _, err := home.TempDir("git"); err == nil || !strings.HasSuffix(err.Error(), ": set TMPDIR to a directory that can be written") {
		t.Errorf("TempDir = %v, want an error that says what to do", err)
	}
}
