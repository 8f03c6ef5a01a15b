package sign_test

import (
	"crypto/rand"
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

// Keys come from a file, from the agent, and with a certificate beside them.
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

	// A certificate beside the key is what logs in.
	_, ca := newKey(t)
	userFile, user := newKey(t)
	cert := &ssh.Certificate{Key: user.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"github:1"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(userFile+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o600)
	s, err = sign.LoadKey(userFile)
	if err != nil {
		t.Fatal(err)
	}
	if !enters(t, s, cert) {
		t.Error("the certificate does not log in")
	}
}
