package cmd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs/ci"
	"9ci/fs/store"
)

// bin holds the programs under test.
var bin string

func TestMain(m *testing.M) {
	testscript.Main(built{m}, map[string]func(){"until": until, "asker": asker, "member": member, "play": play})
}

// built runs the tests once the programs are built.
type built struct{ *testing.M }

func (m built) Run() int {
	if bin = os.Getenv(doneBin); bin != "" {
		return m.M.Run()
	}
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
	return m.M.Run()
}

// until is a program: until WORDS COMMAND... runs a command, interrupts it when it
// has written the words, and exits with its status.
func until() {
	words := []byte(os.Args[1])
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	seen := make(chan struct{})
	var once sync.Once
	watch := func(w io.Writer) io.Writer {
		var all []byte
		return writer(func(p []byte) (int, error) {
			if all = append(all, p...); bytes.Contains(all, words) {
				once.Do(func() { close(seen) })
			}
			return w.Write(p)
		})
	}
	cmd.Stdout, cmd.Stderr = watch(os.Stdout), watch(os.Stderr)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		<-seen
		cmd.Process.Signal(os.Interrupt)
	}()
	cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestScripts plays the stories of testdata. Each story has a user with a home of
// their own. All stories share the core OS.
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
	person, err := filepath.Abs("testdata/person.sh")
	if err != nil {
		t.Fatal(err)
	}
	tutorial, err := filepath.Abs("9ci/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	project, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	goEnv, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOENV", "GOPROXY").Output()
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
			e.Setenv("PERSON", person)
			e.Setenv("TUTORIAL", tutorial)
			for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"} {
				e.Setenv(name, "") // nothing opens a page but what the story says
			}
			e.Setenv("GIT", git)
			e.Setenv("PROJECT", project)
			for i, value := range strings.Split(strings.TrimSuffix(string(goEnv), "\n"), "\n") {
				e.Setenv([]string{"GOCACHE", "GOMODCACHE", "GOENV", "GOPROXY"}[i], value)
			}
			e.Setenv("FORGES", os.Getenv("FORGES"))
			e.Setenv("BIN", bin)
			e.Setenv("ARCH", runtime.GOARCH)
			e.Setenv("HOST", hostname)
			e.Setenv("NAMESPACE", filepath.Join(e.WorkDir, "ns"))
			e.Setenv("XDG_CACHE_HOME", cache)
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, ".tmp"))
			e.Setenv("CI_MEMORY", "1G")
			config := "[user]\n\tname = gopher\n\temail = gopher@example.org\n[init]\n\tdefaultBranch = main\n"
			return errors.Join(os.Mkdir(home, 0o777), os.Mkdir(e.Getenv("NAMESPACE"), 0o700),
				os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o666))
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "check":
				return os.Getenv("CHECK") != "", nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"status":  status,
			"init":    initRepo,
			"commit":  commit,
			"ran":     ran,

			"orchestrator": startOrchestrator,
			"account":      makeAccount,
			"silent":       startSilent,
			"user":         user,
			"trust":        trust,
			"forge":        startForge,
			"pushed":       pushed,
		},
	})
}

// initRepo makes the repository in which the rest of a story happens: an empty one,
// or with the argument sample that sample.
func initRepo(ts *testscript.TestScript, neg bool, args []string) {
	repo := ts.MkAbs("repo")
	ts.Check(os.Mkdir(repo, 0o777))
	ts.Check(ts.Chdir("repo"))
	ts.Check(ts.Exec("git", "init", "-q"))
	ts.Check(ts.Exec("git", "remote", "add", "origin", "https://example.org/alice/hello.git"))
	if len(args) == 1 && args[0] == "sample" {
		ts.Check(os.CopyFS(repo, os.DirFS(ts.Getenv("SAMPLE"))))
		ts.Check(ts.Exec("git", "add", "-A"))
		ts.Check(ts.Exec("git", "commit", "-q", "-m", "sample"))
	}
}

// commit commits files of the story: the first as mkfile, the others under their
// own names.
func commit(ts *testscript.TestScript, neg bool, args []string) {
	for i, name := range args {
		text, err := os.ReadFile(filepath.Join(ts.Getenv("WORK"), name))
		ts.Check(err)
		if i == 0 {
			name = "mkfile"
		}
		ts.Check(os.WriteFile(ts.MkAbs(name), text, 0o666))
	}
	ts.Check(ts.Exec("git", "add", "-A"))
	ts.Check(ts.Exec("git", "commit", "-q", "-m", strings.Join(args, " ")))
}

// ran puts a passed run of HEAD, signed by the user, into the user's store, as if a
// machine had made it. Its artifacts are those in the directory named, or else
// roman.tar. With the argument failed the run's test has failed.
func ran(ts *testscript.TestScript, neg bool, args []string) {
	var left made
	if len(args) > 0 && args[0] == "failed" {
		left.failed = true
	} else if len(args) > 0 {
		left.artifacts = ts.MkAbs(args[0])
	}
	s, err := sign.LoadKey(strings.TrimSuffix(publicKey(ts, filepath.Base(filepath.Dir(ts.Getenv("NAMESPACE")))), ".pub"))
	ts.Check(err)
	rp, err := repo.Open(context.Background(), ts.MkAbs("."))
	ts.Check(err)
	ns, _ := rp.Origin()
	ts.Check(sealRun(context.Background(), filepath.Join(ts.Getenv("XDG_STATE_HOME"), "9ci", ns), ts.MkAbs("."),
		func(m []byte) ([]byte, error) { return sign.Manifest(s, m) }, left))
}

// made says where a run was made, and what it left.
type made struct {
	host      string
	output    string // of each step
	artifacts string // a directory
	failed    bool   // in the step test
}

// sealRun puts a run of HEAD into the store at dir.
func sealRun(ctx context.Context, dir, repository string, by store.SignFunc, left made) error {
	if left.host == "" {
		left.host = "elsewhere"
	}
	if left.output == "" {
		for i := range 10 {
			left.output += fmt.Sprintf("ok %d\n", i+1)
		}
	}
	rp, err := repo.Open(ctx, repository)
	if err != nil {
		return err
	}
	commit, tree, err := rp.Resolve(ctx, "HEAD")
	if err != nil {
		return err
	}
	c, err := config.Load(ctx, nil, nil)
	if err != nil {
		return err
	}
	s, err := store.Open(dir)
	if err != nil {
		return err
	}
	defer s.Close()
	run, err := s.Create(commit)
	if err != nil {
		return err
	}
	run.SetKey(replay.Key(c, commit, tree, []string{"test"}))
	run.SetInfo(ci.Attrs{{Name: "tree", Value: tree}, {Name: "host", Value: left.host}})
	state, code := "passed", 0
	for _, step := range ci.Steps {
		run.Enter(step)
		io.WriteString(run.Stdout(), left.output)
		if left.failed && step == "test" {
			state, code = "failed", 1
		}
		run.Leave(step, state, code)
		if left.failed && step == "test" {
			return run.Seal(ctx, state, code, by)
		}
	}
	if left.artifacts == "" {
		if left.artifacts, err = os.MkdirTemp("", "artifacts"); err != nil {
			return err
		}
		defer os.RemoveAll(left.artifacts)
		if err := os.WriteFile(filepath.Join(left.artifacts, "roman.tar"), make([]byte, 10240), 0o644); err != nil {
			return err
		}
	}
	var artifacts bytes.Buffer
	w := tar.NewWriter(&artifacts)
	return errors.Join(w.AddFS(os.DirFS(left.artifacts)), w.Close(), run.AddArtifacts(ctx, &artifacts), run.Seal(ctx, "passed", 0, by))
}

// startOrchestrator starts an orchestrator on a port of its own. The users named
// after this may enter it. Its log is orchestrator.log. With the word tls, alice and
// bob may enter by certificates of the CA whose key is ca.key, and nobody by a key. With
// the word page, it has a page, which the socket page answers as a proxy would.
func startOrchestrator(ts *testscript.TestScript, neg bool, args []string) {
	work := ts.Getenv("WORK")
	state, logName := filepath.Join(work, "orchestrator"), filepath.Join(work, "orchestrator.log")
	log, err := os.Create(logName)
	ts.Check(err)
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "orchestrator"), "-a", "tcp!127.0.0.1!0", "-url", "https://127.0.0.1", "-state", state)
	overTLS := slices.Contains(args, "tls")
	if overTLS {
		cmd.Args = append(cmd.Args, "-tls", "tcp!127.0.0.1!0")
		ts.Check(makeAuthority(work, state))
	}
	if slices.Contains(args, "page") {
		cmd.Args = append(cmd.Args, "-web", "unix!"+filepath.Join(work, "page"))
	}
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"))
	cmd.Stderr = log
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Signal(syscall.SIGCONT) // the story may have stopped it
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	waitFor(ts, false, []string{logName, "addr="})
	ts.Setenv("ORCHESTRATOR_PID", strconv.Itoa(cmd.Process.Pid))
	text, err := os.ReadFile(logName)
	ts.Check(err)
	_, addr, _ := strings.Cut(string(text), "addr=")
	addr, _, _ = strings.Cut(addr, " ")
	host, port, err := net.SplitHostPort(addr)
	ts.Check(err)
	key, err := os.ReadFile(filepath.Join(state, "ssh_host_ed25519_key.pub"))
	ts.Check(err)
	ssh := filepath.Join(ts.Getenv("HOME"), ".ssh")
	ts.Check(os.MkdirAll(ssh, 0o700))
	ts.Check(os.WriteFile(filepath.Join(ssh, "known_hosts"), fmt.Appendf(nil, "[%s]:%s %s", host, port, key), 0o600))
	ts.Setenv("CI_ORCHESTRATOR", "ssh://"+addr)
	ts.Setenv("ORCHESTRATOR", addr)
	if overTLS {
		waitFor(ts, false, []string{logName, "tls="})
		text, err := os.ReadFile(logName)
		ts.Check(err)
		_, addr, _ := strings.Cut(string(text), "tls=")
		addr, _, _ = strings.Cut(addr, " ")
		ts.Setenv("CI_ORCHESTRATOR", "tls://"+addr)
	}
}

// makeAccount makes the account of a principal, which may read and publish in the
// namespaces that follow, as an invitation has it. A browser has logged in as that, whose
// cookie is in the file session: testdata/person.sh is the person.
func makeAccount(ts *testscript.TestScript, neg bool, args []string) {
	work, principal := ts.Getenv("WORK"), args[0]
	secret := base64.RawURLEncoding.EncodeToString([]byte(principal)) + "." + base64.RawURLEncoding.EncodeToString([]byte(rand.Text()))
	now := time.Now()
	var text strings.Builder
	fmt.Fprintf(&text, "principal=%s name=%[1]s login=%[1]s forge=test made=%s last=%[2]s\n", principal, ci.FormatTime(now))
	for _, ns := range args[1:] {
		fmt.Fprintf(&text, "namespace='%s'\n", ns)
	}
	fmt.Fprintf(&text, "session=%x by=test from=127.0.0.1 agent='' made=%s expires=%s\n", sha256.Sum256([]byte(secret)), ci.FormatTime(now), ci.FormatTime(now.Add(time.Hour)))
	dir := filepath.Join(work, "orchestrator", "accounts")
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(os.WriteFile(filepath.Join(dir, principal), []byte(text.String()), 0o600))
	ts.Check(os.WriteFile(filepath.Join(work, "session"), []byte(secret), 0o600))
}

// makeAuthority makes a CA, what an orchestrator with TLS has of it in its state
// directory, and lines for alice and bob.
func makeAuthority(work, state string) error {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	req := []string{"req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", "/CN=ci"}
	for _, args := range [][]string{
		{"-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", filepath.Join(work, "ca.key"), "-out", filepath.Join(state, "tls-ca.pem")},
		{"-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1", "-CA", filepath.Join(state, "tls-ca.pem"),
			"-CAkey", filepath.Join(work, "ca.key"), "-keyout", filepath.Join(state, "tls.key"), "-out", filepath.Join(state, "tls.crt")},
	} {
		if out, err := exec.Command("openssl", append(slices.Clone(req), args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("openssl: %w: %s", err, out)
		}
	}
	const lines = "namespace=\"example.org/alice/*\" ci:alice\nnamespace=\"example.org/alice/*\" ci:bob\n"
	return os.WriteFile(filepath.Join(state, "authorized_tls"), []byte(lines), 0o600)
}

// startSilent makes the orchestrator of the story one that accepts connections and
// says nothing but the words given. Once there was one, the file accepted is there.
func startSilent(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	var wg sync.WaitGroup
	ended := make(chan struct{})
	accepted := filepath.Join(ts.Getenv("WORK"), "accepted")
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				os.WriteFile(accepted, nil, 0o666)
				io.WriteString(c, strings.Join(args, " ")+"\r\n")
				<-ended
			})
		}
	})
	ts.Defer(func() {
		close(ended)
		l.Close()
		wg.Wait()
	})
	ts.Setenv("CI_ORCHESTRATOR", "ssh://"+l.Addr().String())
}

// user makes the story go on as the user named, with a key, a store and a
// $NAMESPACE of their own. If the story has an orchestrator, they may enter it.
func user(ts *testscript.TestScript, neg bool, args []string) {
	work := ts.Getenv("WORK")
	home := filepath.Join(work, args[0])
	for name, dir := range map[string]string{"NAMESPACE": "ns", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"} {
		ts.Check(os.MkdirAll(filepath.Join(home, dir), 0o700))
		ts.Setenv(name, filepath.Join(home, dir))
	}
	if _, err := os.Stat(publicKey(ts, args[0])); err == nil {
		return
	}
	ts.Check(os.MkdirAll(filepath.Join(home, "config", "9ci"), 0o700))
	ts.Check(ts.Exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", args[0], "-f", strings.TrimSuffix(publicKey(ts, args[0]), ".pub")))
	key, err := os.ReadFile(publicKey(ts, args[0]))
	ts.Check(err)
	if state := filepath.Join(work, "orchestrator"); dirExists(state) && !strings.HasPrefix(ts.Getenv("CI_ORCHESTRATOR"), "tls:") {
		appendFile(ts, filepath.Join(state, "authorized_keys"), key)
	}
}

// trust makes the current user trust the signatures of the users named.
func trust(ts *testscript.TestScript, neg bool, args []string) {
	for _, who := range args {
		key, err := os.ReadFile(publicKey(ts, who))
		ts.Check(err)
		appendFile(ts, filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "9ci", "allowed_signers"), append([]byte(who+" "), key...))
	}
}

func dirExists(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.IsDir()
}

func publicKey(ts *testscript.TestScript, who string) string {
	return filepath.Join(ts.Getenv("WORK"), who, "config", "9ci", "id_ed25519.pub")
}

func appendFile(ts *testscript.TestScript, name string, text []byte) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	ts.Check(err)
	_, err = f.Write(text)
	ts.Check(errors.Join(err, f.Close()))
}

// patience is how long a story waits for an event that must come. It says nothing of
// speed: machines under TCG on a busy host are slow.
const patience = 2 * time.Minute

// waitFor blocks until a file exists and has the words given in it.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: waitfor FILE [WORDS...]")
	}
	ts.Check(waitForFile(ts.MkAbs(args[0]), strings.Join(args[1:], " ")))
}

func waitForFile(name, words string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(name), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY); err != nil {
		return err
	}
	if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		if words == "" {
			if _, err := os.Stat(name); err == nil {
				return nil
			}
		} else if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), words) {
			return nil
		}
		if _, err := f.Read(buf); err != nil {
			return fmt.Errorf("waiting for %s %s: %w", name, words, err)
		}
	}
}

// status runs a command that must exit with the status given.
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
