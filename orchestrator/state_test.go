package orchestrator

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"9ci/fs"
	"9ci/orchestrator/dial"
)

// keygen runs ssh-keygen.
func (m *testMux) keygen(args ...string) {
	m.t.Helper()
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		m.t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
	}
}

// replace writes a file of the state directory as a whole.
func (m *testMux) replace(name, text string) {
	m.t.Helper()
	tmp := filepath.Join(m.home, "new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}

// A KRL that ssh-keygen has made counts at once: what stock ssh has open ends,
// though nothing comes, and an executor leaves with its key.
func TestKRL(t *testing.T) {
	m := startMux(t)
	alice, aliceFile := m.key("", "alice")
	bob, bobFile := m.key("", "bob")
	ev := watchEvents(t, m.tree(m.dial(alice), hello))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan error, 1)
	joined := make(chan bool, 1)
	go func() {
		gone <- m.dial(bob).Export(ctx, dial.Announce{Name: "b", Namespaces: []string{hello}, Joined: func() { joined <- true }},
			func(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User) { rwc.Close() })
	}()
	<-joined
	ev.await("/n/b", "join")
	follow := m.openssh(t.Context(), bobFile, "127.0.0.1", "cat", hello+"/event")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}

	m.keygen("-k", "-q", "-f", filepath.Join(m.dir, "revoked"), bobFile+".pub")
	io.Copy(io.Discard, out)
	if err := follow.Wait(); err == nil {
		t.Error("what a revoked key has open ends well")
	}
	ev.await("/n/b", "leave")
	cancel()
	<-gone
	if out, errs, status := m.run(bobFile, "whoami"); status != 255 || !strings.Contains(errs, "Permission denied") {
		t.Errorf("a revoked key: %q %q %d", out, errs, status)
	}
	if _, errs, status := m.run(aliceFile, "whoami"); status != 0 {
		t.Errorf("another key: %q %d", errs, status)
	}
	// A list that was cut short changes nothing.
	krl, err := os.ReadFile(filepath.Join(m.dir, "revoked"))
	if err != nil {
		t.Fatal(err)
	}
	m.replace("revoked", string(krl[:len(krl)-1]))
	if _, _, status := m.run(bobFile, "whoami"); status != 255 {
		t.Errorf("a revoked key, and the list is cut short: status %d", status)
	}
}
