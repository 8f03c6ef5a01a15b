package cmd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/proto/ninep"
)

// evil has sequences that take over a terminal: as escapes, as C1 controls in UTF-8
// and as single bytes. The text in it shows that it was printed.
const evil = "e\x1b]52;c;ZXZpbA==\x07v\x1b[2J\x1b[?1049hi\x1bP+q\x1b\\l\u009b2J\u009d0;t\u009c\x9b2J\x84\r\b\x1b[8m"

// evilName is the same for a name. 9P carries only names in UTF-8.
const evilName = "n\x1b]0;t\x07\x1b[31m\u009b2J\u202eame\n9ci: ok"

// Whatever bytes a run, a name or a peer has, every command prints only text and SGR
// on a terminal, and our own words are never coloured by them.
func TestTerminal(t *testing.T) {
	work := t.TempDir()
	home, repository := filepath.Join(work, "home"), filepath.Join(work, "repo")
	env := append(noGit(), "HOME="+home, "NAMESPACE="+filepath.Join(work, "ns"), "XDG_STATE_HOME="+filepath.Join(work, "state"),
		"XDG_CONFIG_HOME="+filepath.Join(work, "config"), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"CI_KEEP=9", "STATE_DIRECTORY="+filepath.Join(work, "orchestrator"))
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"home", "repo", "ns", "config/9ci", "tree", "tree/run"} {
		check(os.MkdirAll(filepath.Join(work, dir), 0o700))
	}
	for _, args := range [][]string{{"init", "-q"}, {"remote", "add", "origin", "https://example.org/alice/hello.git"}, {"commit", "-q", "--allow-empty", "-m", evil}} {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = repository, env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}

	// A tree of another user, and one whose ctl obeys.
	tree := filepath.Join(work, "tree")
	check(os.WriteFile(filepath.Join(tree, "file"), []byte(evil), 0o600))
	check(os.WriteFile(filepath.Join(tree, evilName), nil, 0o600))
	check(os.Symlink(evil[:strings.Index(evil, "\x9b")], filepath.Join(tree, "link")))
	check(os.WriteFile(filepath.Join(tree, "run", "wait"), []byte(evil), 0o600))
	check(os.WriteFile(filepath.Join(tree, "run", "manifest"), []byte(evil), 0o600))
	root, err := os.OpenRoot(tree)
	check(err)
	defer root.Close()
	listen := func(name string, root fs.Dir) (stop func()) {
		l, err := ninep.Listen(filepath.Join(work, name))
		check(err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() {
			defer close(done)
			(&ninep.Server{Root: root}).ServeListener(ctx, l)
		}()
		return func() { cancel(); <-done }
	}
	defer listen("sock", fs.DiskDir(root, "/"))()
	var refuse bool
	defer listen("ctl", fs.NewDir("/", fs.CtlFile("ctl", evil, func(context.Context, string) (string, error) {
		if refuse {
			return "", errors.New(evil)
		}
		return evil, nil
	})))()

	// A run of the user's own.
	key, err := sign.LoadKey(filepath.Join(work, "config/9ci/id_ed25519"))
	check(err)
	check(sealRun(t.Context(), filepath.Join(work, "state/9ci/example.org/alice/hello"), repository,
		func(m []byte) ([]byte, error) { return sign.Manifest(key, m) }, made{host: "h" + evil, output: evil + "\n"}))

	sgr := regexp.MustCompile("\x1b\\[[0-9:;]*m")
	control := regexp.MustCompile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f\u0080-\u009f]")
	play := func(content bool, want, command string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if command != "sh" {
			command = filepath.Join(bin, command)
		}
		cmd := exec.CommandContext(ctx, command, args...)
		cmd.Dir, cmd.Env = repository, env
		got, err := onTerminal(cmd)
		if err != nil {
			t.Fatalf("%s %q: %v", command, args, err)
		}
		rest := got
		if content {
			rest = sgr.ReplaceAll(got, nil)
		}
		if !utf8.Valid(got) || control.Match(rest) || !content && bytes.ContainsAny(got, "\r\b\u202e") || bytes.Contains(got, []byte("\n9ci: ok")) {
			t.Errorf("%s %q sent the terminal %q", command, args, got)
		}
		if !strings.Contains(string(got), want) {
			t.Errorf("%s %q sent the terminal %q, want %q in it", command, args, got, want)
		}
	}
	const escaped = `e\x1b]52;c;ZXZpbA==\av\x1b[2J`
	addr := "unix!" + filepath.Join(work, "sock")
	ctl := "unix!" + filepath.Join(work, "ctl")

	play(true, "evil\ufffd2J\ufffd\r\b\x1b[8m", "9ci", "cat", "-a", addr, "file")
	play(false, "how the run ended is not known", "9ci", "wait", "-a", addr, "run/wait")
	play(true, "evil\ufffd2J\ufffd\r\b\x1b[8m", "9ci", "cat", "-a", ctl, "ctl")
	play(true, "evil\ufffd2J\ufffd\r\b\x1b[8m\n\x1b[martifacts       passed", "9ci", "-x", "-r")
	play(true, `from he\x1b]52;c;ZXZpbA==\av\x1b[2J`, "9ci", "-x", "-v")
	play(false, `"n\x1b]0;t\a\x1b[31m\u009b2J\u202eame\n9ci: ok"`, "9ci", "ls", "-a", addr)
	play(false, `link -> "e\x1b]52;c;`, "9ci", "ls", "-l", "-a", addr)
	play(false, escaped, "9ci", "ls", "-a", addr, evil)
	play(false, `n\x1b]0;t`, "9ci", "cat", "-a", addr, "file/"+evilName)
	play(false, "\n\t9ci: ok", "9ci", "cp", "-a", addr, evilName, filepath.Join(work, evilName, "x"))
	play(false, escaped, "9ci", "wait", "-a", addr, evil)
	play(false, escaped, "9ci", "write", "-a", addr, evil)
	play(false, escaped, "9ci", "mount", evil)
	play(false, escaped, "9ci", "verify", evil)
	play(false, "9ci: ci: verify: ", "9ci", "verify", filepath.Join(tree, "run"))
	last := filepath.Join(work, "state/9ci/example.org/alice/hello/ci/last")
	check(os.WriteFile(filepath.Join(last, evilName), nil, 0o444)) // as root
	play(false, `n\x1b]0;t`, "9ci", "verify", last)
	play(false, escaped, "9ci", "image", evil)
	play(false, escaped, "9ci", evil)
	play(false, `\x1b]52;c;`, "9ci", "run", "-"+evil)
	play(false, escaped, "9ci", "run", evil)
	play(false, escaped, "9ci", "ls", "-a", evil)
	play(false, escaped, "9ci", "serve", "-a", "x!"+evil)
	play(false, escaped, "9ci", "serve", "-a", filepath.Join(work, "s"), "-root", evil)
	play(false, `\x1b]52;c;`, "orchestrator", "-"+evil)
	play(false, escaped, "orchestrator", "-a", "x!"+evil)
	play(false, escaped, "orchestrator", "-ca", evil)

	// A ctl answers and refuses.
	play(true, "evil\ufffd2J\ufffd\r\b\x1b[8m", "sh", "-c", "echo x | "+filepath.Join(bin, "9ci")+" write -a "+ctl+" ctl")
	refuse = true
	play(false, escaped, "sh", "-c", "echo x | "+filepath.Join(bin, "9ci")+" write -a "+ctl+" ctl")

	// The user's own daemon repeats what it was told.
	stop := listen("ns/9ci", fs.NewDir("/",
		fs.TextFile("status", func(context.Context) ([]byte, error) { return []byte("mode=daemon\n"), nil }),
		fs.CtlFile("ctl", "", func(context.Context, string) (string, error) { return "", errors.New(evil) })))
	play(false, "9ci: daemon: "+escaped, "9ci")
	stop()

	// The configuration.
	env = append(env, "CI_NET="+evil)
	play(false, escaped, "9ci")
	play(false, escaped, "9ci", "doctor")
	env = append(env, "CI_NET=", "NAMESPACE="+filepath.Join(work, evil), "DISPLAY=")
	check(os.WriteFile(filepath.Join(work, evil), nil, 0o600))
	play(false, escaped, "9ci", "ls")

	// With --raw all bytes come through, so this was a terminal.
	for _, args := range [][]string{{"cat", "--raw", "-a", addr, "file"}, {"run", "--raw", "-r", "-x"}} {
		cmd := exec.Command(filepath.Join(bin, "9ci"), args...)
		cmd.Dir, cmd.Env = repository, env
		if got, err := onTerminal(cmd); err != nil || !bytes.Contains(got, []byte(evil)) {
			t.Errorf("9ci %q sent the terminal %q, %v, want all of it", args, got, err)
		}
	}
}

// onTerminal runs a command on a terminal of its own, and returns what the
// terminal got.
func onTerminal(cmd *exec.Cmd) ([]byte, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	var n int
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); cerr != nil || err != nil {
		return nil, errors.Join(cerr, err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	_, err = term.MakeRaw(int(tty.Fd())) // no \r before newlines
	cmd.Stdout, cmd.Stderr = tty, tty
	if err == nil {
		err = cmd.Start()
	}
	tty.Close()
	if err != nil {
		return nil, err
	}
	text, rerr := io.ReadAll(master)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if !errors.Is(rerr, unix.EIO) { // nobody has the other side open
		err = errors.Join(err, rerr)
	}
	return text, err
}

// noGit returns the environment without git's variables: in a hook of git they name
// the repository that is worked on, and not that of a test.
func noGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}
