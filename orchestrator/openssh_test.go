package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// opensshArgs are for a stock client that knows the server and has a key.
func (m *testMux) opensshArgs(keyFile string) []string {
	_, port, _ := net.SplitHostPort(m.addr)
	return []string{"-F", "none", "-o", "UserKnownHostsFile=" + m.hosts, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "StrictHostKeyChecking=yes", "-o", "Port=" + port, "-o", "IdentityFile=" + keyFile}
}

func (m *testMux) openssh(ctx context.Context, keyFile string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", slices.Concat(m.opensshArgs(keyFile), args)...)
}

// run runs ssh HOST command, and returns what it printed and its exit status.
func (m *testMux) run(keyFile, command string) (stdout, stderr string, status int) {
	m.t.Helper()
	cmd := m.openssh(m.t.Context(), keyFile, "127.0.0.1", command)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestOpenSSHCommands(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.add("3f2a9c1d0b7e.2", testCommit, "failed")
	tree.files["ci/3f2a9c1d0b7e.1/artifacts/big"] = strings.Repeat("0123456789abcdef", 50000)
	tree.links["ci/3f2a9c1d0b7e.1/artifacts/link"] = "size"
	tree.links["ci/3f2a9c1d0b7e.1/artifacts/escape"] = "a\x1b[2J"
	tree.links["ci/3f2a9c1d0b7e.1/artifacts/away"] = "../../../../../etc/passwd"
	root := m.tree(m.dial(k), hello)
	ev := watchEvents(t, root)
	m.export(m.dial(k), dial.Announce{Name: "laptop.9", Namespaces: []string{hello}}, tree.root())
	ev.await("/ci/3f2a9c1d0b7e.2")

	for _, test := range []struct {
		command, stdout, stderr string // each holds
		status                  int
	}{
		{"cat ci/3f2a9c1d0b7e/stdout", "ok 3f2a9c1d0b7e.1\n", "", 0},
		{"cat /ci/" + testCommit + "/stdout n/laptop.9/ci/3f2a9c1d0b7e.2/stdout", "ok 3f2a9c1d0b7e.1\nok 3f2a9c1d0b7e.2\n", "", 0},
		{"cat " + hello + "/ci/last/artifacts/size", "42\n", "", 0},
		{"cat namespace=" + hello + " ci/last/artifacts/size", "42\n", "", 0},
		{"cat namespace=" + hello + "/status ci/last/artifacts/size", "", "file not found", 1},
		{"cat namespace=ci ci/last/artifacts/size", "", "file not found", 1},
		{"cat namespace=github.com/o/x ci/last/artifacts/size", "", "file not found", 1},
		{"cat artifacts/" + testScore + "/link", "42\n", "", 0},
		{"cat ci/3f2a9c1d0b7e/artifacts/away", "", "cat: ci/3f2a9c1d0b7e/artifacts/away: file not found", 1},
		{"cat ci/3f2a9c1d0b7e/artifacts/big", tree.files["ci/3f2a9c1d0b7e.1/artifacts/big"], "", 0},
		{"cat ci/0000000/stdout ci/last/artifacts/size", "42\n", "cat: ci/0000000/stdout: file not found", 1},
		{"cat ci", "", "is a directory", 1},
		{"cat '../../etc/passwd'", "", "file not found", 1},
		{"ls", "status\ngithub.com\n", "", 0},
		{"ls n", "laptop.9\n", "", 0},
		{"ls -l n/laptop.9/ci/3f2a9c1d0b7e.1", "-r--r--r-- 18 1970-01-01T00:00:01Z stdout\n", "", 0},
		{"stat ci/3f2a9c1d0b7e", "ci/3f2a9c1d0b7e -> ../n/laptop.9/ci/3f2a9c1d0b7e.1", "", 0},
		{"ls -l n/laptop.9/ci/3f2a9c1d0b7e.1/artifacts", `escape -> "a\x1b[2J"`, "", 0},
		{"wait n/laptop.9/ci/3f2a9c1d0b7e.1", "passed 0 ", "", 0},
		{"wait n/laptop.9/ci/3f2a9c1d0b7e.2", "failed 1 ", "", 1},
		{"whoami", "rights='read publish'\nnamespaces=" + hello, "", 0},
		{"told " + testCommit, "page -\nforge -\n", "", 0}, // an orchestrator that has no page
		{"told namespace=github.com/o/x " + testCommit, "", "file not found", 1},
		{"told 3f2a9c1", "", "is not the whole name of a commit", 1},
		{"cat", "", "usage: cat PATH...", 2},
		{"rm -rf /", "", "rm: there is no such command here", 127},
		{"cat x; reboot", "", "this is not a shell", 2},
		{"cat 'x", "", "a quote is not closed", 2},
	} {
		stdout, stderr, status := m.run(file, test.command)
		if !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) || status != test.status {
			t.Errorf("ssh HOST %s:\nstdout %.200q, want %.200q\nstderr %q, want %q\nstatus %d, want %d",
				test.command, stdout, test.stdout, stderr, test.stderr, status, test.status)
		}
		if test.stdout == "" && stdout != "" || test.stderr == "" && stderr != "" {
			t.Errorf("ssh HOST %s: also stdout %q stderr %q", test.command, stdout, stderr)
		}
	}
	if out, err := m.openssh(t.Context(), file, "127.0.0.1").Output(); err != nil || !strings.Contains(string(out), "It has no shell") {
		t.Errorf("ssh HOST: %q, %v", out, err)
	}
}

// A key sees the namespaces of its line, and others as if they were not there.
func TestOpenSSHForbidden(t *testing.T) {
	m := startMux(t)
	const secret = "github.com/bob/secret"
	kb, _ := m.key("", "operator")
	_, file := m.key(`namespace="`+hello+`"`, "alice")
	_, pub := m.key(`publish,namespace="`+secret+`"`, "bob")
	_, nobody := m.stranger()
	m.export(m.dial(kb), dial.Announce{Name: "b", Namespaces: []string{secret, "gitlab.com/x/y/z"}}, newTestTree().root())

	if out, errs, status := m.run(nobody, "whoami"); status != 255 || out != "" || !strings.Contains(errs, "Permission denied") {
		t.Errorf("a stranger: %q %q %d", out, errs, status)
	}
	for _, path := range []string{secret, secret + "/n", secret + "/status", "github.com/bob", "gitlab.com", "github.com/bob/nothing"} {
		if out, errs, status := m.run(file, "ls "+path); status != 1 || out != "" || errs != "ls: "+path+": file not found\n" {
			t.Errorf("ls %s: %q %q %d", path, out, errs, status)
		}
	}
	if out, _, _ := m.run(file, "cat /status"); strings.Contains(out, "secret") || strings.Contains(out, "gitlab") {
		t.Errorf("the root's status tells of what is forbidden: %q", out)
	}
	if out, errs, status := m.run(pub, "ls "+secret); status != 1 || out != "" {
		t.Errorf("a key without the right read: %q %q %d", out, errs, status)
	}
}

// ssh -s HOST 9p is a 9P connection.
func TestOpenSSHSubsystem(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	for _, test := range []struct{ subsystem, aname, path string }{
		{"9p", hello, "n/a/ci/3f2a9c1d0b7e.1/stdout"},
		{"9p", "", hello + "/n/a/ci/3f2a9c1d0b7e.1/stdout"},
		{"9p/a", "", "ci/3f2a9c1d0b7e.1/stdout"},
		{"9p/" + hello + "/n/a", "ci", "3f2a9c1d0b7e.1/stdout"},
	} {
		for _, dialect := range []ninep.Dialect{ninep.DotL, ninep.Plan9} {
			cmd := m.openssh(t.Context(), file, "-s", "127.0.0.1", test.subsystem)
			p := startPipe(t, cmd)
			cl, err := ninep.Import(t.Context(), p, ninep.ImportOptions{Aname: test.aname, Dialect: dialect})
			if err != nil {
				t.Fatalf("%s: %v", test.subsystem, err)
			}
			if got := read(t, cl.Root(), test.path); got != "ok 3f2a9c1d0b7e.1\n" {
				t.Errorf("%s %s: %q", test.subsystem, test.path, got)
			}
			cl.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("ssh -s HOST %s: %v", test.subsystem, err)
			}
		}
	}
}

// A pipe is a process's standard input and output.
type pipe struct {
	io.Reader
	io.WriteCloser
}

func startPipe(t testing.TB, cmd *exec.Cmd) *pipe {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &pipe{out, in}
}

// Stock ssh exports: by -R to a port or a socket, and on its standard input.
func TestOpenSSHExport(t *testing.T) {
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	srv := &ninep.Server{User: fs.User{Name: "local", UID: -1}, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
	serve := func(t *testing.T, network, addr string) string {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.ServeListener(ctx, l)
		}()
		t.Cleanup(func() { cancel(); <-done })
		return l.Addr().String()
	}
	for _, test := range []struct {
		name, executor string
		args           func(t *testing.T) []string
	}{
		{"port", "laptop", func(t *testing.T) []string { return []string{"-N", "-R", "564:" + serve(t, "tcp", "127.0.0.1:0")} }},
		{"name and port", "box.1", func(t *testing.T) []string {
			return []string{"-N", "-R", "box.1:564:" + serve(t, "tcp", "127.0.0.1:0")}
		}},
		{"socket", "laptop", func(t *testing.T) []string {
			return []string{"-N", "-R", "/9p:" + serve(t, "unix", filepath.Join(t.TempDir(), "9ci"))}
		}},
		{"name and socket", "box", func(t *testing.T) []string {
			return []string{"-N", "-R", "/9p/" + hello + "/n/box:" + serve(t, "unix", filepath.Join(t.TempDir(), "9ci"))}
		}},
		{"standard input", "laptop", func(t *testing.T) []string { return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := startMux(t)
			k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
			root := m.tree(m.dial(k), hello)
			ev := watchEvents(t, root)
			ctx, cancel := context.WithCancel(t.Context())
			args := test.args(t)
			if args == nil {
				cmd := m.openssh(ctx, file, "-s", "127.0.0.1", "9p-export")
				p := startPipe(t, cmd)
				done := make(chan struct{})
				go func() { defer close(done); srv.Serve(ctx, p) }()
				t.Cleanup(func() { cancel(); <-done; cmd.Wait() })
			} else {
				cmd := m.openssh(ctx, file, append(append([]string{"-o", "ExitOnForwardFailure=yes"}, args...), "127.0.0.1")...)
				cmd.Stderr = t.Output()
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { cancel(); cmd.Wait() })
			}
			ev.await("/n/"+test.executor+"/ci/3f2a9c1d0b7e.1", "passed")
			for _, path := range []string{"n/" + test.executor + "/ci/3f2a9c1d0b7e.1/stdout", "ci/last/stdout"} {
				if got := read(t, root, path); got != "ok 3f2a9c1d0b7e.1\n" {
					t.Errorf("%s: %q", path, got)
				}
			}
			cancel()
			ev.await("/n/"+test.executor, "leave")
		})
	}

	m := startMux(t)
	_, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	other, _ := m.key("", "other")
	m.exportTo(other, "taken", hello)
	for forward, why := range map[string]string{
		"8080:127.0.0.1:80":                  "forwarding of port 8080: only 564, to export",
		"/tmp/x:/tmp/y":                      "only 9p[/NAMESPACE[/n/NAME]], to export",
		"/9p/github.com/other/repo:/tmp/y":   "this key may not publish github.com/other/repo",
		"/9p/" + hello + "/n/taken:/tmp/y":   "the name taken in " + hello + " belongs to another key",
		"/9p/" + hello + "/n/taken+2:/tmp/y": `executor name "taken+2": want letters`,
	} {
		cmd := m.openssh(t.Context(), file, "-N", "-o", "ExitOnForwardFailure=yes", "-R", forward, "127.0.0.1")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err == nil {
			t.Errorf("ssh -R %s: no error, want a refusal", forward)
		}
		said := strings.ReplaceAll(strings.ReplaceAll(errs.String(), "\r", ""), "\nWARNING: Server requests forwarding for unknown path", "")
		if !strings.Contains(said, why) {
			t.Errorf("ssh -R %s: stderr %q, want %q", forward, &errs, why)
		}
	}
}

// A 9P server that knows no namespaces, as one of any directory, is exported by its
// root. One that knows them and lacks the one asked for is not: its root would
// show others.
func TestOpenSSHExportRoot(t *testing.T) {
	plain := fs.NewDir("/", fs.NewDir("dir", fs.TextFile("file", func(context.Context) ([]byte, error) { return []byte("text\n"), nil })))
	srv := func(root fs.Dir) *ninep.Server {
		return &ninep.Server{User: fs.User{Name: "local", UID: -1}, Attach: func(_ context.Context, _, aname string) (fs.Dir, error) {
			if aname != "" {
				return nil, iofs.ErrNotExist
			}
			return root, nil
		}}
	}
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice@laptop")
	root := m.tree(m.dial(k), hello)
	ev := watchEvents(t, root)

	sock := filepath.Join(t.TempDir(), "9p")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { srv(plain).ServeListener(ctx, l) })
	forward := m.openssh(ctx, file, "-N", "-R", "/9p/"+hello+"/n/forward:"+sock, "127.0.0.1")
	stdio := m.openssh(ctx, file, "-s", "127.0.0.1", "9p-export/"+hello+"/n/stdio")
	p := startPipe(t, stdio)
	wg.Go(func() { srv(plain).Serve(ctx, p); stdio.Wait() })
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { forward.Wait() })
	for _, name := range []string{"forward", "stdio"} {
		ev.await("/n/"+name, "join")
		if got := read(t, root, "n/"+name+"/dir/file"); got != "text\n" {
			t.Errorf("%s: %q", name, got)
		}
	}

	knows := fs.NewDir("/", fs.TextFile("event", func(context.Context) ([]byte, error) { return nil, nil }))
	cmd := m.openssh(ctx, file, "-s", "127.0.0.1", "9p-export/"+hello+"/n/other")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	srv(knows).Serve(ctx, &pipe{out, in})
	if err := cmd.Wait(); err == nil || !strings.Contains(errs.String(), "9p-export: the 9P server does not have the namespace "+hello) {
		t.Errorf("a server of other namespaces: %v, %q", err, &errs)
	}
	if _, err := fs.Walk(t.Context(), root, "n/other"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("n/other = %v, want %v", err, iofs.ErrNotExist)
	}
}

// ssh-keyscan gets the key that known_hosts is to have.
func TestOpenSSHKeyscan(t *testing.T) {
	m := startMux(t)
	_, port, _ := net.SplitHostPort(m.addr)
	out, err := exec.CommandContext(t.Context(), "ssh-keyscan", "-t", "ed25519", "-p", port, "127.0.0.1").Output()
	if err != nil {
		t.Fatal(err)
	}
	if key := string(bytes.Fields(ssh.MarshalAuthorizedKey(m.s.HostKey()))[1]); !strings.Contains(string(out), key) {
		t.Errorf("ssh-keyscan: %q", out)
	}
}

// Sftp, scp and sshfs read the tree.
func TestOpenSSHFiles(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.files["ci/3f2a9c1d0b7e.1/artifacts/big"] = strings.Repeat("0123456789abcdef", 50000)
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	ev.await("passed")

	dir := t.TempDir()
	args := m.opensshArgs(file)
	scp := exec.CommandContext(t.Context(), "scp", append(args, "-r", "127.0.0.1:n/a/ci/3f2a9c1d0b7e.1/artifacts", dir)...)
	if out, err := scp.CombinedOutput(); err != nil {
		t.Errorf("scp -r: %v: %s", err, out)
	}
	check := func(name, path string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(path, "big")); err != nil || string(b) != tree.files["ci/3f2a9c1d0b7e.1/artifacts/big"] {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	check("scp", filepath.Join(dir, "artifacts"))
	scp = exec.CommandContext(t.Context(), "scp", append(args, "127.0.0.1:artifacts/last/big", filepath.Join(dir, "last"))...)
	if out, err := scp.CombinedOutput(); err != nil {
		t.Errorf("scp of an alias: %v: %s", err, out)
	}
	put := exec.CommandContext(t.Context(), "scp", append(args, filepath.Join(dir, "last"), "127.0.0.1:x")...)
	if out, err := put.CombinedOutput(); err == nil {
		t.Errorf("scp writes: %s", out)
	}
	batch := exec.CommandContext(t.Context(), "sftp", append(args, "-b", "-", "127.0.0.1")...)
	batch.Stdin = strings.NewReader("ls -1\ncd " + hello + "/n\nls -1\n")
	if out, err := batch.CombinedOutput(); err != nil || !strings.Contains(string(out), "github.com") || !strings.Contains(string(out), "\na") {
		t.Errorf("sftp: %v: %s", err, out)
	}

	mnt := filepath.Join(dir, "mnt")
	os.Mkdir(mnt, 0o700)
	fuse := exec.CommandContext(t.Context(), "sshfs", append(args, "127.0.0.1:/"+hello, mnt)...)
	if out, err := fuse.CombinedOutput(); err != nil {
		t.Fatalf("sshfs: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("fusermount3", "-u", mnt).CombinedOutput(); err != nil {
			t.Errorf("fusermount3: %v: %s", err, out)
		}
	}()
	check("sshfs", filepath.Join(mnt, "n/a/ci/3f2a9c1d0b7e.1/artifacts"))
	check("sshfs of an alias", filepath.Join(mnt, "ci/last/artifacts"))
	for _, alias := range []string{hello + "/ci/last", hello + "/ci/last/"} {
		mnt := t.TempDir()
		fuse := exec.CommandContext(t.Context(), "sshfs", append(args, "127.0.0.1:"+alias, mnt)...)
		if out, err := fuse.CombinedOutput(); err != nil {
			t.Fatalf("sshfs of %s: %v: %s", alias, err, out)
		}
		check("sshfs of "+alias, filepath.Join(mnt, "artifacts"))
		if out, err := exec.Command("fusermount3", "-u", mnt).CombinedOutput(); err != nil {
			t.Errorf("fusermount3: %v: %s", err, out)
		}
	}
	if b, err := exec.CommandContext(t.Context(), "grep", "-r", "ok 3f2", mnt+"/n").Output(); err != nil || !strings.Contains(string(b), "stdout:ok 3f2a9c1d0b7e.1\n") {
		t.Errorf("grep -r: %q %v", b, err)
	}
}

// Scp -O, which older clients are by default, reads the tree and cannot write.
func TestOpenSSHOldScp(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	const artifacts = "ci/3f2a9c1d0b7e.1/artifacts/"
	tree.files[artifacts+"big"] = strings.Repeat("0123456789abcdef", 50000)
	tree.files[artifacts+"empty"] = ""
	tree.files[artifacts+"sub/a b"] = "in a directory\n"
	tree.links[artifacts+"link"] = "size"
	tree.links[artifacts+"sub/up"] = "../sub"
	tree.links[artifacts+"away"] = "/etc/passwd"
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	ev.await("passed")
	dir := t.TempDir()
	scp := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "scp", slices.Concat(m.opensshArgs(file), []string{"-O"}, args)...).CombinedOutput()
		return string(out), err
	}
	check := func(name, want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(b), err, len(want))
		}
	}

	if out, err := scp("-p", "127.0.0.1:ci/last/stdout", dir); err != nil {
		t.Errorf("scp -O -p: %v: %s", err, out)
	}
	check("stdout", "ok 3f2a9c1d0b7e.1\n")
	if fi, err := os.Stat(filepath.Join(dir, "stdout")); err != nil || fi.Mode() != 0o444 || fi.ModTime().Unix() != 1 {
		t.Errorf("stdout is %v, %v", fi, err)
	}
	out, err := scp("-r", "127.0.0.1:n/a/"+strings.TrimSuffix(artifacts, "/"), "127.0.0.1:ci/last/stdout", dir)
	if err == nil {
		t.Errorf("scp -O -r of links that lead nowhere: %q, want an error", out)
	}
	for _, want := range []string{"/away: file not found", "/sub/up: is a link to a directory, which is not followed"} {
		if !strings.Contains(out, want) {
			t.Errorf("scp -O -r says %q, want %q", out, want)
		}
	}
	check("artifacts/big", tree.files[artifacts+"big"])
	check("artifacts/empty", "")
	check("artifacts/sub/a b", "in a directory\n")
	check("artifacts/link", "42\n")
	if _, err := os.Lstat(filepath.Join(dir, "artifacts/away")); err == nil {
		t.Error("a link out of the tree was followed")
	}
	for _, test := range []struct{ from, to, want string }{
		{"127.0.0.1:ci/last", dir, "is a directory: scp -r copies it"},
		{"127.0.0.1:ci/0000000/stdout", dir, "scp: ci/0000000/stdout: file not found"},
		{"127.0.0.1:/", dir, "say which file or directory"},
		{filepath.Join(dir, "stdout"), "127.0.0.1:x", "scp: x: the tree is read-only"},
	} {
		if out, err := scp(test.from, test.to); err == nil || !strings.Contains(out, test.want) {
			t.Errorf("scp -O %s %s: %v, %q, want %q", test.from, test.to, err, out, test.want)
		}
	}
}

// A Unix socket does as well as a port.
func TestOpenSSHUnix(t *testing.T) {
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	sock := filepath.Join(m.home, "sock")
	l, err := ninep.Listen("unix!" + sock)
	if err != nil {
		t.Fatal(err)
	}
	m.start(l, Options{})
	_, file := m.key("", "alice")
	m.addr = "mux:22"
	os.WriteFile(m.hosts, []byte("mux "+string(ssh.MarshalAuthorizedKey(m.s.HostKey()))), 0o600)
	args := append(m.opensshArgs(file), "-o", "ProxyCommand=socat - UNIX-CONNECT:"+sock, "mux", "whoami")
	if out, err := exec.CommandContext(t.Context(), "ssh", args...).CombinedOutput(); err != nil || !strings.Contains(string(out), "name=alice\n") {
		t.Errorf("ssh by a socket: %q, %v", out, err)
	}
}

// OpenSSH, whose order of ciphers decides, comes to AES; a client may demand the
// key exchange that a quantum computer does not break.
func TestCiphers(t *testing.T) {
	m := startMux(t)
	k, file := m.key("", "alice")
	out, err := m.openssh(t.Context(), file, "-vv", "-o", "LogLevel=DEBUG2", "127.0.0.1", "whoami").CombinedOutput()
	if err != nil {
		t.Fatalf("ssh -vv: %v: %s", err, out)
	}
	ciphers := regexp.MustCompile(`kex: (?:server->client|client->server) cipher: (\S+)`).FindAllSubmatch(out, -1)
	if len(ciphers) != 2 {
		t.Errorf("ssh -vv tells of %d ciphers, want 2: %s", len(ciphers), out)
	}
	for _, c := range ciphers {
		if !strings.HasPrefix(string(c[1]), "aes") {
			t.Errorf("OpenSSH comes to %s, want AES", c[1])
		}
	}
	c, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519}},
		Auth:   []ssh.AuthMethod{ssh.PublicKeys(k)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
	})
	if err != nil {
		t.Fatalf("a client of mlkem768x25519-sha256 alone: %v", err)
	}
	c.Close()
}

// Curl reads the tree. Debian's is built with libssh2, which has no GCM.
func TestCurl(t *testing.T) {
	m := startMux(t)
	k, file := m.key(`namespace="`+hello+`"`, "alice")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.files["ci/3f2a9c1d0b7e.1/artifacts/big"] = strings.Repeat("0123456789abcdef", 50000)
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	m.export(m.dial(k), dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	ev.await("passed")
	os.Mkdir(filepath.Join(m.home, ".ssh"), 0o700)
	if err := os.Rename(m.hosts, filepath.Join(m.home, ".ssh", "known_hosts")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"ci/last/stdout":        "ok 3f2a9c1d0b7e.1\n",
		"ci/last/artifacts/big": tree.files["ci/3f2a9c1d0b7e.1/artifacts/big"],
		hello + "/n/a/ci/":      "3f2a9c1d0b7e.1\n",
	} {
		cmd := exec.CommandContext(t.Context(), "curl", "-sS", "-l", "--key", file, "--pubkey", file+".pub", "sftp://alice@"+m.addr+"/"+path)
		cmd.Env = append(os.Environ(), "HOME="+m.home)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("curl of %s: %v, %s: %d bytes %.100q, want %d %.100q", path, err, &errs, len(out), out, len(want), want)
		}
	}
}
