package orchestrator

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// sshConfig writes an ssh_config in which HOST is reached by way of the mux.
func (m *testMux) sshConfig(keyFile, innerKey string, hosts map[string]ssh.PublicKey) string {
	m.t.Helper()
	known := filepath.Join(m.t.TempDir(), "known_hosts")
	lines := knownhosts.Line([]string{m.addr}, m.s.HostKey()) + "\n"
	for name, key := range hosts {
		lines += knownhosts.Line([]string{name}, key) + "\n"
	}
	os.WriteFile(known, []byte(lines), 0o600)
	host, port, _ := net.SplitHostPort(m.addr)
	config := filepath.Join(m.t.TempDir(), "config")
	text := fmt.Sprintf("Host mux\n\tHostName %s\n\tPort %s\n\tIdentityFile %s\nHost *\n\tIdentityFile %s\n\tUserKnownHostsFile %s\n"+
		"\tGlobalKnownHostsFile /dev/null\n\tIdentitiesOnly yes\n\tIdentityAgent none\n\tBatchMode yes\n\tLogLevel ERROR\n\tStrictHostKeyChecking yes\n",
		host, port, keyFile, innerKey, known)
	os.WriteFile(config, []byte(text), 0o600)
	return config
}

// ssh -J reaches an executor's own SSH server: its host key is the executor's,
// the key that may enter is the one that entered the mux, and what is there is
// the executor's tree.
func TestOpenSSHJump(t *testing.T) {
	m := startMux(t)
	ke, _ := m.key("", "executor")
	_, file := m.key(`namespace="`+hello+`"`, "alice")
	_, other := m.key(`namespace="local/x"`, "bob")
	_, another := m.key(`namespace="`+hello+`"`, "carol")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	tree.links["ci/3f2a9c1d0b7e"] = "3f2a9c1d0b7e.1"
	m.export(m.dial(ke), dial.Announce{Name: "box.7", Namespaces: []string{hello}}, tree.root())
	config := m.sshConfig(file, file, map[string]ssh.PublicKey{"box.7": ke.PublicKey()})
	run := func(config string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "ssh", append([]string{"-F", config, "-J", "mux", "box.7"}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for command, want := range map[string]string{
		"cat ci/3f2a9c1d0b7e.1/stdout":               "ok 3f2a9c1d0b7e.1\n",
		"cat " + hello + "/ci/3f2a9c1d0b7e.1/stdout": "ok 3f2a9c1d0b7e.1\n",
		"wait 3f2a9c1d0b7e":                          "passed 0 41.250 2026-11-24T21:00:00Z\n",
		"wait ci/3f2a9c1d0b7e.1":                     "passed 0 41.250 2026-11-24T21:00:00Z\n",
		"ls ci":                                      "3f2a9c1d0b7e.1\n",
		"whoami":                                     "namespaces=" + hello + "\n",
	} {
		if out, err := run(config, command); err != nil || !strings.Contains(out, want) {
			t.Errorf("ssh -J mux box.7 %s: %q, %v", command, out, err)
		}
	}
	if out, err := run(config, "cat ci/0000000/stdout"); err == nil || !strings.Contains(out, "file not found") {
		t.Errorf("a file that is not there: %q, %v", out, err)
	}
	// The executor's own files tell of the first run to come.
	wait := exec.CommandContext(t.Context(), "ssh", "-F", config, "-J", "mux", "box.7", "wait 0123456")
	p := startPipe(t, wait)
	tree.add("0123456789ab.1", "0123456789abcdef0123456789abcdef01234567", "boot")
	if out, err := io.ReadAll(p); string(out) != "boot - 41.250 2026-11-24T21:00:00Z\n" {
		t.Errorf("wait for the first run = %q, %v", out, err)
	}
	wait.Wait()
	// 9P end to end.
	cmd := exec.CommandContext(t.Context(), "ssh", "-F", config, "-J", "mux", "-s", "box.7", "9p")
	cl, err := ninep.Import(t.Context(), startPipe(t, cmd), ninep.ImportOptions{Aname: hello})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, cl.Root(), "ci/3f2a9c1d0b7e.1/stdout"); got != "ok 3f2a9c1d0b7e.1\n" {
		t.Errorf("9p: %q", got)
	}
	cl.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("9p: %v", err)
	}

	// Another host key than the executor's, another key than at the mux, and
	// an executor of another namespace.
	if out, err := run(m.sshConfig(file, file, map[string]ssh.PublicKey{"box.7": m.s.HostKey()}), "whoami"); err == nil || !strings.Contains(out, "Host key verification failed") {
		t.Errorf("another host key: %q, %v", out, err)
	}
	if out, err := run(m.sshConfig(file, another, map[string]ssh.PublicKey{"box.7": ke.PublicKey()}), "whoami"); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("another key than at the mux: %q, %v", out, err)
	}
	if out, err := run(m.sshConfig(other, other, map[string]ssh.PublicKey{"box.7": ke.PublicKey()}), "whoami"); err == nil || !strings.Contains(out, "stdio forwarding failed") {
		t.Errorf("an executor of another namespace: %q, %v", out, err)
	}
}
