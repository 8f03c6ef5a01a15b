package sign_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"9ci/cmd/internal/sign"
)

// enters reports whether s can log in to a server that takes key.
func enters(t *testing.T, s ssh.Signer, key ssh.PublicKey) bool {
	t.Helper()
	_, host := newKey(t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.Marshal()) {
			return nil, os.ErrPermission
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if nc, err := l.Accept(); err == nil {
			ssh.NewServerConn(nc, config)
			nc.Close()
		}
	})
	c, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
		Auth: []ssh.AuthMethod{ssh.PublicKeys(s)}, HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
	})
	if err != nil {
		t.Logf("login: %v", err)
		return false
	}
	c.Close()
	return true
}

// Keys come from a file and from the agent.
func TestLoadKey(t *testing.T) {
	file, k := newKey(t)
	if s, err := sign.LoadKey(file); err != nil || string(s.PublicKey().Marshal()) != string(k.PublicKey().Marshal()) {
		t.Errorf("LoadKey: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := sign.LoadKey(file + ".pub"); err == nil || !strings.Contains(err.Error(), "SSH_AUTH_SOCK is not set") {
		t.Errorf("LoadKey without an agent: %v", err)
	}
	ring := agent.NewKeyring()
	sock := filepath.Join(filepath.Dir(file), "agent")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { agent.ServeAgent(ring, c); c.Close() })
		}
	})
	defer wg.Wait()
	defer l.Close()
	t.Setenv("SSH_AUTH_SOCK", sock)
	if _, err := sign.LoadKey(file + ".pub"); err == nil || !strings.Contains(err.Error(), "ssh-add it") {
		t.Errorf("LoadKey of a key that the agent lacks: %v", err)
	}
	// A key with a passphrase is the agent's too.
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	b, _ := os.ReadFile(file)
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(b, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: raw}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, file + ".pub"} {
		s, err := sign.LoadKey(name)
		if err != nil {
			t.Fatal(err)
		}
		if !enters(t, s, k.PublicKey()) {
			t.Errorf("the agent's key of %s does not log in", name)
		}
	}
	// An RSA key through the agent signs with SHA-2.
	rsaFile := filepath.Join(filepath.Dir(file), "rsa")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsaFile).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	b, _ = os.ReadFile(rsaFile)
	raw, err = ssh.ParseRawPrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	ring.Add(agent.AddedKey{PrivateKey: raw})
	s, err := sign.LoadKey(rsaFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if s.PublicKey().Type() != ssh.KeyAlgoRSA || !enters(t, s, s.PublicKey()) {
		t.Error("the agent's RSA key does not log in")
	}

}

// A certificate beside the key is what logs in, as it is at the time: it may be
// renewed. One that has ended is told of by its file and its end, and the key is
// tried.
func TestLogins(t *testing.T) {
	t.Chdir(t.TempDir())
	keygen := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %q: %v: %s", args, err, out)
		}
	}
	keygen("-t", "ed25519", "-N", "", "-f", "ca")
	keygen("-t", "ed25519", "-N", "", "-f", "id")
	keygen("-t", "ed25519", "-N", "", "-f", "other")
	key, err := sign.LoadKey("id")
	if err != nil {
		t.Fatal(err)
	}
	logins := func(certs int, problem string) []ssh.Signer {
		t.Helper()
		all, err := sign.Logins(key, "id")
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("Logins: %v, want %q", err, problem)
		}
		if len(all) != certs+1 || string(all[certs].PublicKey().Marshal()) != string(key.PublicKey().Marshal()) {
			t.Fatalf("Logins returns %d signers, want %d certificates and the key", len(all), certs)
		}
		return all
	}
	logins(0, "")
	for _, principal := range []string{"github:1", "github:2"} {
		keygen("-s", "ca", "-I", principal, "-n", principal, "-V", "-1m:+1h", "id.pub")
		s := logins(1, "")[0]
		cert, ok := s.PublicKey().(*ssh.Certificate)
		if !ok || cert.ValidPrincipals[0] != principal {
			t.Errorf("%v logs in, want a certificate of %s", s.PublicKey(), principal)
		}
		if !enters(t, s, s.PublicKey()) {
			t.Error("the certificate does not log in")
		}
	}
	keygen("-s", "ca", "-I", "x", "-n", "x", "-V", "20200101000000Z:20200102000000Z", "id.pub")
	logins(0, "id-cert.pub: the certificate ended at 2020-01-02T00:00:00Z: renew it")
	keygen("-s", "ca", "-I", "x", "-n", "x", "-V", "20990101000000Z:20990102000000Z", "id.pub")
	logins(0, "id-cert.pub: the certificate begins at 2099-01-01T00:00:00Z")
	keygen("-s", "ca", "-I", "x", "-n", "x", "other.pub")
	if err := os.Rename("other-cert.pub", "id-cert.pub"); err != nil {
		t.Fatal(err)
	}
	logins(0, "id-cert.pub: ")
	os.WriteFile("id-cert.pub", []byte("half a li"), 0o600)
	logins(0, "id-cert.pub: not a certificate")
}
