package cmd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// bin holds the programs under test.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "9ci-bin-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		build := exec.Command("go", "build", "-o", bin+"/", "9ci/cmd/9ci", "9ci/cmd/orchestrator", "9ci/cmd/mk", "9ci/cmd/guest")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// TestScripts plays the stories of testdata. Each is a user with a home of
// his own; all share the core OS.
func TestScripts(t *testing.T) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, ".cache")
	}
	sample, err := filepath.Abs("testdata/sample")
	if err != nil {
		t.Fatal(err)
	}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Setenv("SAMPLE", sample)
			e.Setenv("GIT", git)
			e.Setenv("BIN", bin)
			e.Setenv("NAMESPACE", filepath.Join(e.WorkDir, "ns"))
			e.Setenv("XDG_CACHE_HOME", cache)
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, ".tmp"))
			e.Setenv("CI_MEMORY", "1G")
			config := "[user]\n\tname = gopher\n\temail = gopher@example.org\n[init]\n\tdefaultBranch = main\n"
			return errors.Join(os.Mkdir(home, 0o777), os.Mkdir(e.Getenv("NAMESPACE"), 0o700),
				os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o666))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"status":  status,
		},
	})
}

// patience is how long a story waits for what must come. It is no measure of
// speed: machines under TCG on a busy host take their time.
const patience = 2 * time.Minute

// waitFor blocks until a file is there, with the words given in it.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: waitfor FILE [WORDS...]")
	}
	name, words := ts.MkAbs(args[0]), strings.Join(args[1:], " ")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	ts.Check(err)
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	_, err = unix.InotifyAddWatch(fd, filepath.Dir(name), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY)
	ts.Check(err)
	ts.Check(f.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 64<<10)
	for {
		if words == "" {
			if _, err := os.Stat(name); err == nil {
				return
			}
		} else if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), words) {
			return
		}
		if _, err := f.Read(buf); err != nil {
			ts.Fatalf("waiting for %s %s: %v", args[0], words, err)
		}
	}
}

// status runs a command and wants an exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit status %d, want %s", code, args[0])
	}
}
