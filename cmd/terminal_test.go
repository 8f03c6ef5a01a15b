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
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/store"
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
	play(true, "evil\ufffd2J\ufffd\r\b\x1b[8m\n\x1b[mtest            passed 0.0s\nartifacts       passed", "9ci", "-x", "-r")
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

// A terminal shows one line a step, with the time that has passed, in place. What the test
// says stands above it, and our lines begin a line. Off a terminal there are only lines.
func TestTerminalSteps(t *testing.T) {
	ctx, work := t.Context(), t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"repo", "ns", "home"} {
		check(os.Mkdir(filepath.Join(work, dir), 0o700))
	}
	env := append(noGit(), "HOME="+filepath.Join(work, "home"), "NAMESPACE="+filepath.Join(work, "ns"), "XDG_STATE_HOME=", "XDG_CONFIG_HOME=", "TERM=xterm",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = filepath.Join(work, "repo"), env
		return cmd
	}
	for _, args := range [][]string{{"init", "-q"}, {"commit", "-q", "--allow-empty", "-m", "one"}} {
		if out, err := command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	commit, err := command("git", "rev-parse", "HEAD").Output()
	check(err)

	// A daemon whose only run goes on as the test says.
	kept, err := store.Open(filepath.Join(work, "store"))
	check(err)
	defer kept.Close()
	run, err := kept.Create(strings.TrimSpace(string(commit)))
	check(err)
	runs, err := fs.WalkDir(ctx, store.NewTree(kept, nil), "ci")
	check(err)
	replies := func(text string) fs.Node {
		return fs.CtlFile("ctl", "", func(context.Context, string) (string, error) { return text, nil })
	}
	l, err := ninep.Listen(filepath.Join(work, "ns/9ci"))
	check(err)
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan bool)
	go func() {
		defer close(served)
		(&ninep.Server{Root: fs.NewDir("/", replies("all"),
			fs.TextFile("status", func(context.Context) ([]byte, error) { return []byte("mode=daemon\n"), nil }),
			fs.NewDir("all", replies(run.ID()), runs))}).ServeListener(ctx, l)
	}()
	defer func() { cancel(); <-served }()

	master, tty, err := openTerminal()
	check(err)
	defer master.Close()
	check(unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	cmd := command(filepath.Join(bin, "9ci"))
	cmd.Stdout, cmd.Stderr = tty, tty
	check(cmd.Start())
	tty.Close()
	check(master.SetReadDeadline(time.Now().Add(patience)))
	var screen screen
	buf := make([]byte, 4096)
	await := func(lines ...string) {
		t.Helper()
		want := regexp.MustCompile("^" + strings.Join(lines, "\n") + "$")
		for !want.MatchString(screen.String()) {
			n, err := master.Read(buf)
			if screen.write(buf[:n]); err != nil {
				t.Fatalf("the terminal shows\n%s\nwant\n%s\n%v", &screen, want, err)
			}
		}
	}
	leave := func(step, state string) { t.Helper(); check(run.Leave(step, state, 0)) }
	enter := func(step string) { t.Helper(); check(run.Enter(step)) }
	await(`queued          \d+s`)
	enter("boot")
	await(`boot            [01]s`)
	await(`boot            ([2-9]|\d\d+)s`)
	leave("boot", "passed")
	enter("clone")
	await(`boot            passed \d+\.\ds`, `clone           \d+s`)
	fmt.Fprint(run.Stderr(), "half")
	fmt.Fprint(run.Stderr(), "\n9ci: a remark\n")
	leave("clone", "passed")
	leave("prepare-runtime", "skipped")
	leave("base-image", "skipped")
	enter("test")
	before := []string{`boot            passed \d+\.\ds`, `clone           passed \d+\.\ds`, `9ci: a remark`}
	await(append(before, `test            \d+s`)...)
	fmt.Fprint(run.Stdout(), "ok 1\n")
	await(append(before, `ok 1`, `test            \d+s`)...)
	fmt.Fprint(run.Stdout(), "ok")
	fmt.Fprint(run.Stdout(), " 2\nhal")
	await(append(before, `ok 1`, `ok 2`, `hal`)...)
	fmt.Fprint(run.Stdout(), "f")
	leave("test", "passed")
	after := append(before, `ok 1`, `ok 2`, `half`, `test            passed \d+\.\ds`)
	enter("artifacts")
	await(append(after, `artifacts       \d+s`)...)
	leave("artifacts", "skipped")
	check(run.Seal(ctx, "passed", 0, nil))
	await(append(after, `run \S+ passed in \d+\.\ds`, ``)...)
	check(cmd.Wait())

	// Off a terminal, in one file and in two.
	cmd = command(filepath.Join(bin, "9ci"))
	both, err := cmd.CombinedOutput()
	if want := regexp.MustCompile(`^half\n9ci: a remark\nok 1\nok 2\nhalf\nreplayed from [^\n]*\n$`); err != nil || !want.Match(both) {
		t.Errorf("off a terminal 9ci says %q, %v, want %s", both, err, want)
	}
	out, err := command(filepath.Join(bin, "9ci")).Output()
	if want := "ok 1\nok 2\nhalf"; err != nil || string(out) != want {
		t.Errorf("standard output is %q, %v, want %q", out, err, want)
	}
}

// A screen is what a terminal shows that never scrolls.
type screen struct {
	lines   [][]byte
	row     int
	col     int
	control []byte // a control sequence that has not ended
}

func (s *screen) write(p []byte) {
	for _, c := range p {
		for len(s.lines) <= s.row {
			s.lines = append(s.lines, nil)
		}
		line := &s.lines[s.row]
		switch {
		case len(s.control) > 0 || c == '\x1b':
			if s.control = append(s.control, c); string(s.control) == "\x1b[K" {
				*line = (*line)[:min(s.col, len(*line))]
			}
			if c >= '@' && c != '[' {
				s.control = nil
			}
		case c == '\r':
			s.col = 0
		case c == '\n':
			s.row, s.col = s.row+1, 0
		default:
			*line = append((*line)[:min(s.col, len(*line))], append([]byte{c}, (*line)[min(s.col+1, len(*line)):]...)...)
			s.col++
		}
	}
}

func (s *screen) String() string {
	text := string(bytes.Join(s.lines, []byte("\n")))
	if s.row == len(s.lines) {
		text += "\n"
	}
	return text
}

// onTerminal runs a command on a terminal of its own, and returns what the
// terminal got.
func onTerminal(cmd *exec.Cmd) ([]byte, error) {
	master, tty, err := openTerminal()
	if err != nil {
		return nil, err
	}
	defer master.Close()
	cmd.Stdout, cmd.Stderr = tty, tty
	err = cmd.Start()
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

// openTerminal makes a terminal: what is written to tty can be read from master.
func openTerminal() (master, tty *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var n int
	if cerr := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); cerr != nil || err != nil {
		return nil, nil, errors.Join(cerr, err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if _, err = term.MakeRaw(int(tty.Fd())); err != nil { // no \r before newlines
		tty.Close()
	}
	return master, tty, err
}

// noGit returns the environment without git's variables: in a hook of git they name
// the repository that is worked on, and not that of a test.
func noGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}
