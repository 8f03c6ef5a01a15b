package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/treetest"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// The manual names each flag, and no other.
func TestManual(t *testing.T) {
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	synopsis, _, _ := bytes.Cut(b, []byte("// Executors dial"))
	lines := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^//\t(-\w+)( [A-Z]+)? `).FindAllSubmatch(b, -1) {
		lines[string(m[1])] = true
	}
	sets := map[string]*flag.FlagSet{"": flags(new(options))}
	for name, c := range commands {
		sets[name] = flag.NewFlagSet(name, flag.ContinueOnError)
		c.flags(sets[name], new(options))
		if !strings.Contains(string(synopsis), "//\torchestrator "+c.usage+"\n") {
			t.Errorf("the synopsis has no line %q", c.usage)
		}
	}
	known := map[string]bool{}
	for name, f := range sets {
		f.VisitAll(func(f *flag.Flag) {
			known["-"+f.Name] = true
			arg, _ := flag.UnquoteUsage(f)
			usage := strings.TrimSpace("-" + f.Name + " " + arg)
			in := string(synopsis)
			if name != "" {
				in = commands[name].usage
			}
			if !strings.Contains(in, "["+usage+"]") || !lines["-"+f.Name] {
				t.Errorf("the manual does not have %s of %q", usage, name)
			}
		})
	}
	if len(known) != len(lines) {
		t.Errorf("the manual has the flags %v, and there are %v", lines, known)
	}
}

// The manual names each command of ssh HOST COMMAND.
func TestManualCommands(t *testing.T) {
	manual, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../orchestrator/door/exec.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(manual), "ssh HOST cat ")
	line, _, ok := strings.Cut("cat "+line, ";")
	names := regexp.MustCompile(`(?m)^\t+\{"(\w+)", "`).FindAllSubmatch(source, -1)
	if !ok || len(names) < 5 {
		t.Fatalf("the manual's list is %.40q, and there are %d commands", line, len(names))
	}
	for _, m := range names {
		word, row := `\b`+string(m[1])+`\b`, `(?m)^//\t(ssh HOST )?`+string(m[1])+` `
		if !regexp.MustCompile(word).MatchString(line) && !regexp.MustCompile(row).Match(manual) {
			t.Errorf("the manual does not have the command %s", m[1])
		}
	}
}

// A misuse is told and serves nothing. An orchestrator that served all the same
// would end at once, with status 0: its context is done.
func TestMisused(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("STATE_DIRECTORY", filepath.Join(dir, "state"))
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		args   string
		status int
		stderr string
	}{
		{"-x", 2, "orchestrator: flag provided but not defined: -x\nusage: orchestrator [-a"},
		{"word", 2, "orchestrator: unknown command word\nusage: orchestrator [-a"},
		{"-D word", 2, "orchestrator: unknown command word\n"},
		{"check word", 2, "usage: orchestrator check [-state DIR]"},
		{"check -a tcp!127.0.0.1!0", 2, "not defined: -a"},
		{"-log loud", 2, "want debug, info, warn or error"},
		{"-a nonsense!x!y", 1, "bad address"},
		{"-a tcp!127.0.0.1!0 -ca " + filepath.Join(dir, "none"), 1, "-ca: "},
		{"-a tcp!127.0.0.1!0 -metrics tcp!*!0", 1, "not an address of this machine alone"},
		{"-a tcp!127.0.0.1!0 -state " + filepath.Join(file, "x"), 1, "state: "},
		{"-a tcp!127.0.0.1!0", 0, "msg=listen"},
	} {
		var stderr bytes.Buffer
		status := run(ctx, t.Context(), strings.Fields(test.args), io.Discard, &stderr)
		if status != test.status || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("orchestrator %s: status %d, %q; want %d, %q", test.args, status, &stderr, test.status, test.stderr)
		}
	}
}

// Help that is asked for stands on standard output, and is of what is asked about.
func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"-h":           "usage: orchestrator [-a ADDR]",
		"--help":       "usage: orchestrator [-a ADDR]",
		"token -h":     "usage: orchestrator token [-state DIR]",
		"check --help": "usage: orchestrator check [-state DIR]",
		"version":      "orchestrator ",
		"--version":    "orchestrator ",
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), t.Context(), strings.Fields(args), &stdout, &stderr)
		if status != 0 || stderr.Len() > 0 || !strings.HasPrefix(stdout.String(), want) {
			t.Errorf("orchestrator %s: status %d, %q, and on stderr %q; want %q", args, status, &stdout, &stderr, want)
		}
		if strings.Contains(args, " ") && strings.Contains(stdout.String(), "-a ADDR") {
			t.Errorf("orchestrator %s says what is not of the command: %q", args, &stdout)
		}
	}
}

// A level keeps what is below it out of the log.
func TestLevel(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", filepath.Join(t.TempDir(), "state"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for level, want := range map[string]bool{"debug": true, "info": true, "warn": false, "error": false} {
		var stderr bytes.Buffer
		status := run(ctx, t.Context(), []string{"-log", level, "-a", "tcp!127.0.0.1!0"}, io.Discard, &stderr)
		if got := strings.Contains(stderr.String(), "msg=listen"); status != 0 || got != want {
			t.Errorf("-log %s: status %d, %q", level, status, &stderr)
		}
	}
}

// TestMain is the orchestrator itself where a test has started it as one.
func TestMain(m *testing.M) {
	if args := os.Getenv("ORCHESTRATOR_TEST_ARGS"); args != "" {
		os.Args = append([]string{"orchestrator"}, strings.Fields(args)...)
		main()
	}
	os.Exit(m.Run())
}

// start starts an orchestrator of its own process, and returns when it listens
// on as many addresses as args say, with the last of them.
func start(t *testing.T, args ...string) (cmd *exec.Cmd, addr string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ORCHESTRATOR_TEST_ARGS="+strings.Join(args, " "))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(stderr)
	for n := strings.Count(strings.Join(args, " "), "-a "); n > 0; n-- {
		if !lines.Scan() {
			t.Fatal("the orchestrator ended")
		}
		m := regexp.MustCompile(`msg=listen addr=(\S+)`).FindStringSubmatch(lines.Text())
		if m == nil {
			t.Fatalf("the orchestrator says %q", lines.Text())
		}
		addr = m[1]
	}
	go io.Copy(io.Discard, stderr)
	return cmd, addr
}

// A first start makes the state, a second one keeps it, and SIGTERM ends it.
func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	var keys [][]byte
	for range 2 {
		cmd, _ := start(t, "-state", dir, "-a", "unix!"+dir+"/sock", "-a", "tcp!127.0.0.1!0")
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		if _, err := os.Stat(dir + "/sock"); err == nil {
			t.Error("the socket is left")
		}
		key, err := os.ReadFile(filepath.Join(dir, "ssh_host_ed25519_key"))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
		for name, mode := range map[string]os.FileMode{"": 0o700, "ssh_host_ed25519_key": 0o600, "ssh_host_ed25519_key.pub": 0o644, "authorized_keys": 0o600} {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err != nil || fi.Mode().Perm() != mode {
				t.Errorf("%s: %v %v, want %v", name, fi, err, mode)
			}
		}
	}
	if !bytes.Equal(keys[0], keys[1]) {
		t.Error("the second start made another host key")
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", filepath.Join(dir, "ssh_host_ed25519_key.pub")).Output()
	if err != nil || !strings.Contains(string(out), "ED25519") {
		t.Errorf("ssh-keygen: %q %v", out, err)
	}
}

// An orchestrator that is killed and started again has its executors back: they
// know it by its key, and it learns of their runs from them.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	cmd, addr := start(t, "-state", state, "-a", "tcp!127.0.0.1!0")
	_, port, _ := strings.Cut(addr, ":")
	if err := os.WriteFile(filepath.Join(state, "authorized_keys"), append([]byte(`namespace="local/x" `), pub...), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile(filepath.Join(state, "ssh_host_ed25519_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, append([]byte("[127.0.0.1]:"+port+" "), host...), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := sign.LoadKey(key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial.Open("ssh://"+addr, dial.Options{Signers: []ssh.Signer{signer}, KnownHosts: known})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, tree := treetest.New(t)
	joined, ended := make(chan bool, 10), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		ended <- conn.Export(ctx, dial.Announce{Name: "a", Namespaces: []string{"local/x"}, Joined: func() { joined <- true }},
			func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
				srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree, nil }}
				srv.Serve(ctx, rwc)
			})
	})
	for range 3 {
		select {
		case <-joined:
		case err := <-ended:
			t.Fatalf("Export: %v", err)
		}
		out, err := exec.Command("ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile="+known, "-p", port,
			"127.0.0.1", "cat", "n/a/ci/"+treetest.PassedCommit[:12]+".1/status").Output()
		if err != nil || !strings.HasPrefix(string(out), "passed 0 ") {
			t.Fatalf("ssh HOST cat: %q, %v", out, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		cmd, _ = start(t, "-state", state, "-a", "tcp!127.0.0.1!"+port)
	}
}
