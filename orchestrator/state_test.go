package orchestrator

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

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

// Host keys are changed without a client that has to be told: stock ssh learns the
// next one while the old one is still shown, and checks that the server has it. Then
// the next one takes its place.
func TestHostKeysRotate(t *testing.T) {
	dir, home := filepath.Join(t.TempDir(), "[state"), t.TempDir()
	m := &testMux{t: t, dir: dir, home: home}
	serve := func() (stop func()) {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m.s, m.addr = s, l.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, l) }()
		return sync.OnceFunc(func() { cancel(); <-done })
	}
	serve()()
	_, alice := m.key("", "alice")
	m.hosts = filepath.Join(home, "known_hosts")
	old := m.s.HostKey()
	if err := os.WriteFile(m.hosts, []byte("mux "+string(ssh.MarshalAuthorizedKey(old))), 0o600); err != nil {
		t.Fatal(err)
	}
	m.keygen("-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "ssh_host_ed25519_next_key"))
	m.keygen("-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", filepath.Join(dir, "ssh_host_rsa_key"))
	m.keygen("-q", "-t", "ecdsa", "-N", "", "-f", filepath.Join(dir, "ssh_host_ecdsa_key"))
	known := func() string {
		b, err := os.ReadFile(m.hosts)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	has := func(name string) bool {
		b, err := os.ReadFile(filepath.Join(dir, name+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(known(), strings.Fields(string(b))[1])
	}
	whoami := func(options ...string) {
		t.Helper()
		args := append(options, "-o", "HostKeyAlias=mux", "-o", "UpdateHostKeys=yes") // the first of an option counts
		cmd := exec.Command("ssh", append(append(args, m.opensshArgs(alice)...), "127.0.0.1", "whoami")...)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "rights=") {
			t.Errorf("ssh %v: %q, %v", options, out, err)
		}
	}
	stop := serve()
	defer func() { stop() }()
	for n := 0; n < 20 && !has("ssh_host_ecdsa_key"); n++ { // a command may end before the proofs have come
		whoami()
	}
	for _, name := range []string{"ssh_host_ed25519_key", "ssh_host_ed25519_next_key", "ssh_host_rsa_key", "ssh_host_ecdsa_key"} {
		if !has(name) {
			t.Errorf("ssh has not learned %s:\n%s", name, known())
		}
	}
	whoami("-o", "HostKeyAlgorithms=rsa-sha2-256", "-o", "UpdateHostKeys=no")
	whoami("-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256", "-o", "UpdateHostKeys=no")
	// An executor that was shown another key than the first proves its own.
	rsa, err := os.ReadFile(filepath.Join(dir, "ssh_host_rsa_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	all := m.hosts
	m.hosts = filepath.Join(home, "known_hosts_rsa")
	if err := os.WriteFile(m.hosts, append([]byte("["+strings.Replace(m.addr, ":", "]:", 1)+" "), rsa...), 0o600); err != nil {
		t.Fatal(err)
	}
	k, _ := m.key("", "executor")
	c := m.dial(k)
	ctx, cancel := context.WithCancel(t.Context())
	joined, ended := make(chan bool, 1), make(chan error, 1)
	go func() {
		ended <- c.Export(ctx, dial.Announce{Name: "a", Namespaces: []string{hello}, Joined: func() { joined <- true }},
			func(_ context.Context, rwc io.ReadWriteCloser, _ string, _ fs.User) { rwc.Close() })
	}()
	select {
	case <-joined:
		cancel()
		<-ended
	case err := <-ended:
		cancel()
		t.Errorf("Export: %v", err)
	}
	m.hosts = all
	stop()

	for _, ext := range []string{"", ".pub"} {
		if err := os.Rename(filepath.Join(dir, "ssh_host_ed25519_next_key"+ext), filepath.Join(dir, "ssh_host_ed25519_key"+ext)); err != nil {
			t.Fatal(err)
		}
	}
	stop = serve()
	if bytes.Equal(m.s.HostKey().Marshal(), old.Marshal()) {
		t.Fatal("the old key is shown")
	}
	whoami("-o", "HostKeyAlgorithms=ssh-ed25519", "-o", "UpdateHostKeys=no")
	knowsOld := func() bool {
		return strings.Contains(known(), strings.Fields(string(ssh.MarshalAuthorizedKey(old)))[1])
	}
	for n := 0; n < 20 && knowsOld(); n++ {
		whoami()
	}
	if knowsOld() {
		t.Errorf("ssh still knows the old key:\n%s", known())
	}
}

// A client gets proofs of the server's own keys alone, and not without end.
func TestHostKeysProve(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		own := hostKeys{m.s.hosts[0]}.payload()
		for _, payload := range [][]byte{nil, {0, 0, 0, 9}, own[:len(own)-1], append(own[:len(own):len(own)], own...), hostKeys{k}.payload()} {
			if sig, err := m.s.hosts.prove(payload, []byte("session"), ssh.KeyAlgoRSASHA512); err == nil {
				t.Errorf("prove(%x) = %x", payload, sig)
			}
		}
		for i := range 2 * maxProofs {
			ok, reply, err := l.ssh.SendRequest(requestHostKeysProve, true, own)
			if err != nil || ok != (i < maxProofs) {
				t.Errorf("proof %d: %t %q %v", i, ok, reply, err)
			}
		}
	})
}

func FuzzHostKeysProve(f *testing.F) {
	k, err := ssh.NewSignerFromSigner(newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	h := hostKeys{k}
	f.Add(h.payload())
	f.Fuzz(func(t *testing.T, payload []byte) {
		if _, err := h.prove(payload, nil, ""); err == nil && !bytes.Equal(payload, h.payload()) {
			t.Errorf("prove(%x) signs", payload)
		}
	})
}
