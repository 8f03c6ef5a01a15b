package host

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/executor"
	"9ci/fs"
	"9ci/fs/store"
	"9ci/orchestrator/door"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A shell is for the executor's own key and those in shell_keys, which counts at once; all
// others hear nothing of what is held.
func TestShellKeys(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e := &executor.Executor{Store: s, Queue: new(executor.Queue), Context: t.Context(), Log: slog.New(slog.DiscardHandler)}
	own, friend, stranger := newKey(t).PublicKey(), newKey(t).PublicKey(), newKey(t).PublicKey()
	shell := shellFor(e, own)
	try := func(key ssh.PublicKey, admitted bool) {
		t.Helper()
		_, err := shell(t.Context(), key, door.Shell{Rev: "held"})
		_, in := errors.AsType[*executor.NotHeldError](err) // nothing is
		if in != admitted || !admitted && err != errNoShell {
			t.Errorf("admitted: %v, %v, want %v", in, err, admitted)
		}
	}
	try(own, true)
	try(friend, false)
	dir := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "9ci")
	name := filepath.Join(dir, "shell_keys")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(name, ssh.MarshalAuthorizedKey(friend), 0o600)); err != nil {
		t.Fatal(err)
	}
	try(friend, true)
	try(stranger, false)
	os.Chmod(name, 0o606)
	try(friend, false)
	try(own, true)
}

// On a socket the kernel's word lets in this user and root, whatever key a client offers,
// and nobody else.
func TestLocalSSH(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	serve := LocalSSH(fs.NewDir("/"), func(string) *executor.Executor { return nil })
	for _, tt := range []struct {
		user fs.User
		auth []ssh.AuthMethod
		in   bool
	}{
		{fs.User{Name: "me", UID: int64(os.Getuid())}, nil, true},
		{fs.User{Name: "root", UID: 0}, []ssh.AuthMethod{ssh.PublicKeys(newKey(t))}, true},
		{fs.User{Name: "mallory", UID: 4711}, nil, false},
		{fs.User{Anonymous: true, UID: -1}, nil, false},
	} {
		near, err := net.Dial("tcp", l.Addr().String()) // both sides write first, for which a pipe has no room
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); serve(ctx, far, tt.user) }()
		sc, chans, reqs, err := ssh.NewClientConn(near, "", &ssh.ClientConfig{Auth: tt.auth, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
		if (err == nil) != tt.in {
			t.Errorf("%+v: %v, want in: %v", tt.user, err, tt.in)
		}
		if err == nil {
			c := ssh.NewClient(sc, chans, reqs)
			if s, err := c.NewSession(); err != nil {
				t.Error(err)
			} else if exit, _ := errors.AsType[*ssh.ExitError](s.Run("sh namespace=a/b/c ci/last")); exit == nil || exit.ExitStatus() != 255 {
				t.Errorf("a shell where nothing is held: %v", exit)
			}
			c.Close()
		}
		near.Close()
		cancel()
		<-done
	}
}
