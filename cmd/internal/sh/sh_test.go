package sh

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test binary the shell itself where a test says so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--sh" {
		os.Exit(Main([]string{os.Args[0], "--sh"}, os.Args[2:]))
	}
	os.Exit(m.Run())
}

// outcome is what a script left.
type outcome struct {
	stdout, stderr string
	status         int
}

func (o outcome) String() string {
	return fmt.Sprintf("status %d\nstdout %q\nstderr %q", o.status, o.stdout, o.stderr)
}

// runScript runs a script on the standard input of a shell, in an empty directory.
func runScript(t *testing.T, shell []string, script string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // where it hangs
	defer cancel()
	cmd := exec.CommandContext(ctx, shell[0], shell[1:]...)
	cmd.WaitDelay = time.Second
	if !strings.HasSuffix(shell[0], ".test") {
		cmd.Args[0] = "sh"
	}
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/home/me", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(script)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok || ctx.Err() != nil {
		t.Fatalf("%v\n%s", err, script)
	}
	text := strings.ReplaceAll(stdout.String(), cmd.Dir, "$DIR")
	return outcome{text, stderr.String(), cmd.ProcessState.ExitCode()}
}

func ours(t *testing.T) []string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, "--sh"}
}

// dash is the peer: /bin/sh may be something else.
func dash(t *testing.T) string {
	path, err := exec.LookPath("dash")
	if err != nil {
		t.Skip("no dash to compare with")
	}
	return path
}

// Each script of testdata does the same in dash and in this shell: what it prints
// on 1, its status, and whether it prints something on 2. Scripts are separated by
// lines of three dots.
func TestPeer(t *testing.T) {
	peer := dash(t)
	files, _ := filepath.Glob("testdata/*.sh")
	n := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, script := range strings.Split(string(text), "...\n") {
			n++
			t.Run(fmt.Sprintf("%s/%d", strings.TrimSuffix(filepath.Base(name), ".sh"), i+1), func(t *testing.T) {
				t.Parallel()
				want := runScript(t, []string{peer, "-e"}, script)
				got := runScript(t, append(ours(t), "-e"), script)
				if got.status != want.status || got.stdout != want.stdout || (got.stderr == "") != (want.stderr == "") {
					t.Errorf("script\n%s\n%v\nwant\n%v", script, got, want)
				}
			})
		}
	}
	if n < 200 {
		t.Errorf("%d scripts, want 200 at least", n)
	}
}

// What the shell lacks ends the script, whatever is around it, and says where.
func TestLacks(t *testing.T) {
	for _, c := range []struct{ script, stderr string }{
		{"\n\nalias x=y || true\necho on", "sh: 3: the built-in shell has no alias: it needs a real sh, see MKSHELL in mk(1)\n"},
		{"if jobs; then :; fi; echo on", "sh: 1: the built-in shell has no jobs: it needs a real sh, see MKSHELL in mk(1)\n"},
		{"ulimit -n 100; echo on", "has no ulimit"},
		{"fg; echo on", "has no fg"},
		{"bg; echo on", "has no bg"},
		{"fc; echo on", "has no fc"},
		{"unalias x; echo on", "has no unalias"},
		{"sleep 0 & wait %1; echo on", "has no job control (%1)"},
		{"sleep 0 & kill %1; echo on", "has no job control (%1)"},
		{"set -m; echo on", "has no option -m"},
		{"set -o pipefail; echo on", "has no option -o pipefail"},
		{"exec 10>f; echo on", "sh: 1: 10: descriptors are 0 to 9\n"},
		{"a=(1 2); echo on", "sh: 1: "},
		{"cat <(echo a); echo on", "sh: 1: "},
	} {
		got := runScript(t, append(ours(t), "-e"), c.script)
		if got.status != 2 || got.stdout != "" || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("%q: %v\nwant status 2, nothing on stdout and %q on stderr", c.script, got, c.stderr)
		}
	}
}

// Where this shell and dash differ, it is on purpose.
func TestDiffers(t *testing.T) {
	for _, c := range []struct {
		script string
		want   outcome
	}{
		// A background process is not deaf to an interrupt: mk's must reach it.
		{"sh -c 'kill -INT $$; echo deaf' & wait $!", outcome{"", "", 130}},
		// Where dash ends the script.
		{"echo 'return 3' >f; . ./f || echo $?", outcome{"3\n", "", 0}},
		// By the number of its signal; dash by the signal itself.
		{"kill -QUIT $$; echo no", outcome{"", "", 131}},
		{"(kill -USR1 $(sh -c 'echo $PPID')); echo no", outcome{"", "", 138}},
		// Messages have sh's name and the line.
		{"\nnosuchcommand", outcome{"", "sh: 2: nosuchcommand: not found\n", 127}},
	} {
		if got := runScript(t, append(ours(t), "-e"), c.script); got != c.want {
			t.Errorf("%q: %v\nwant\n%v", c.script, got, c.want)
		}
	}
}

// Redirections, here-documents, pipelines and substitutions leave no descriptor open.
func TestLeaks(t *testing.T) {
	const script = `n() { ls /proc/$$/fd | wc -l; }
before=$(n)
for i in 1 2 3 4 5 6 7 8 9; do
	: >f
	{ :; } 3<f 4<&3 <<X; x=$(echo a | cat); (:) & wait
here
X
done
[ $before = $(n) ] && echo none
`
	if got, want := runScript(t, append(ours(t), "-e"), script), (outcome{"none\n", "", 0}); got != want {
		t.Errorf("%v\nwant\n%v", got, want)
	}
}
