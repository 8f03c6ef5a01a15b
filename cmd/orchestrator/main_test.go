package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
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
	f := flags(new(options))
	n := 0
	f.VisitAll(func(f *flag.Flag) {
		n++
		arg, _ := flag.UnquoteUsage(f)
		usage := strings.TrimSpace("-" + f.Name + " " + arg)
		if !strings.Contains(string(synopsis), "["+usage+"]") || !lines["-"+f.Name] {
			t.Errorf("the manual does not have %s", usage)
		}
	})
	if n != len(lines) {
		t.Errorf("the manual has the flags %v, and there are %d", lines, n)
	}
}

func TestMisused(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	for _, test := range []struct {
		args   string
		status int
		stderr string
	}{
		{"-x", 2, "usage: orchestrator"},
		{"word", 2, "usage: orchestrator"},
		{"-a nonsense!x!y", 1, "bad address"},
		{"-a tcp!127.0.0.1!0 -ca /nonexistent", 1, "-ca: "},
		{"-a tcp!127.0.0.1!0 -state /dev/null/x", 1, "state: "},
	} {
		var stderr bytes.Buffer
		status := run(t.Context(), strings.Fields(test.args), &stderr)
		if status != test.status || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("orchestrator %s: status %d, %q; want %d, %q", test.args, status, &stderr, test.status, test.stderr)
		}
	}
}

// A first start makes the state, a second one keeps it, and SIGTERM ends it.
func TestState(t *testing.T) {
	if dir := os.Getenv("ORCHESTRATOR_TEST_STATE"); dir != "" {
		os.Args = []string{"orchestrator", "-state", dir, "-a", "unix!" + dir + "/sock", "-a", "tcp!127.0.0.1!0"}
		main()
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	var keys [][]byte
	for range 2 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestState$")
		cmd.Env = append(os.Environ(), "ORCHESTRATOR_TEST_STATE="+dir)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var log []byte
		buf := make([]byte, 4096)
		for bytes.Count(log, []byte("msg=listen")) < 2 {
			n, err := stderr.Read(buf)
			log = append(log, buf[:n]...)
			if err != nil {
				t.Fatalf("the orchestrator ended: %v: %s", err, log)
			}
		}
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
