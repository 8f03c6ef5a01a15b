package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/dial"
)

// A client comes by a proxy command: a real ssh through the real sshd of a bastion.
// What that writes to standard error is told once, and it ends with the connection.
func TestProxyCommand(t *testing.T) {
	m := startMux(t)
	k, file := m.key("", "alice")
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	var mu sync.Mutex
	var said []string
	open := func(proxy string) *dial.Conn {
		t.Helper()
		t.Setenv("SHELL", "/bin/sh")
		c, err := dial.Open("ssh://"+m.addr, dial.Options{
			Signers: []ssh.Signer{k}, KnownHosts: m.hosts, Proxy: proxy,
			ProxySaid: func(line string) { mu.Lock(); defer mu.Unlock(); said = append(said, line) },
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	bastion := startBastion(t, dir, k)
	jump := fmt.Sprintf("sh -c 'echo one >&2; echo one >&2; echo $$ > %s; exec ssh -F none -p %s -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes -i %s -W %%h:%%p 127.0.0.1'", pid, bastion, file)
	c := open(jump)
	if got := read(t, m.tree(c, ""), "status"); !strings.Contains(got, "mode=orchestrator") {
		t.Errorf("status by a proxy = %q", got)
	}
	c.Close() // waits for the command
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err == nil {
		t.Errorf("the command lives on as %s", b)
	}
	if got := fmt.Sprint(said); got != "[one]" {
		t.Errorf("said %s, want one once", got)
	}
	for proxy, want := range map[string]string{
		"false":               "the proxy command failed: exit status 1",
		"/nonexistent %h":     "the proxy command failed: exit status 127",
		"true":                "it hung up",
		"x %q":                `"x %q" has %q: want %h`,
		"sleep 100 # is mute": "too long",
	} {
		c := open(proxy)
		ctx, cancel := context.WithCancel(t.Context())
		if want == "too long" {
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		}
		if _, err := c.Import(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("proxy %s: %v, want %q", proxy, err, want)
		}
		cancel()
		c.Close()
	}
}

// A host is known by either file, by a hashed name, and by a certificate of an
// authority, unless its key or the authority is revoked in one of them.
func TestKnownHostsFiles(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	dir := t.TempDir()
	keygen := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %q: %v: %s", args, err, out)
		}
	}
	ca := filepath.Join(dir, "ca")
	keygen("-q", "-t", "ecdsa", "-N", "", "-f", ca)
	port := startBastion(t, dir, k, "-o", "HostCertificate="+filepath.Join(dir, "host-cert.pub"))
	keygen("-q", "-s", ca, "-I", "x", "-h", "-n", "127.0.0.1", filepath.Join(dir, "host.pub"))
	public := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	at := "[127.0.0.1]:" + port
	hashed := filepath.Join(dir, "hashed")
	os.WriteFile(hashed, []byte(at+" "+public("host")), 0o600)
	keygen("-q", "-H", "-f", hashed)
	secret, err := os.ReadFile(hashed)
	if err != nil || !strings.HasPrefix(string(secret), "|1|") {
		t.Fatalf("ssh-keygen -H: %q, %v", secret, err)
	}
	own, system := filepath.Join(dir, "own"), filepath.Join(dir, "system")
	for _, test := range []struct {
		what, own, system string
		want              error // nil: the host is known
		says              string
	}{
		{"neither", "", "", dial.ErrUnknownHost, ">> " + own},
		{"own", at + " " + public("host"), "", nil, ""},
		{"system", "", at + " " + public("host"), nil, ""},
		{"system, of another in own", at + " " + public("ca"), at + " " + public("host"), nil, ""},
		{"hashed", "", string(secret), nil, ""},
		{"another", "", "# first\n" + at + " " + public("ca"), dial.ErrHostKeyChanged, system + ":2 has "},
		{"behind a bad line", "bad\n", "bad too\n" + at + " " + public("ca"), dial.ErrHostKeyChanged, system + ":2 has "},
		{"authority", "", "@cert-authority " + at + " " + public("ca"), nil, ""},
		{"authority beside a bad line", "bad\n", "@cert-authority * " + public("ca"), nil, ""},
		{"revoked authority", "@revoked * " + public("ca"), "@cert-authority * " + public("ca"), errAny, "revoked"},
		{"revoked key", "@revoked * " + public("host"), at + " " + public("host"), errAny, "revoked"},
	} {
		os.WriteFile(own, []byte(test.own), 0o600)
		os.WriteFile(system, []byte(test.system), 0o600)
		c, err := dial.Dial(t.Context(), "ssh://127.0.0.1:"+port, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: own, MoreHosts: []string{system, system + ".none"}})
		if err == nil {
			c.Close()
		}
		if test.want == nil && errors.Is(err, dial.ErrKey) {
			continue // sshd has no user of the name 9ci, but is known
		}
		if test.want == nil && err != nil || test.want != nil && (err == nil || test.want != errAny && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: Dial = %v, want %v, %q", test.what, err, test.want, test.says)
		}
	}
}

var errAny = errors.New("an error")

// startBastion runs sshd, which lets in the key, and returns its port.
func startBastion(t *testing.T, dir string, key ssh.Signer, options ...string) string {
	t.Helper()
	os.Mkdir("/run/sshd", 0o755) // which sshd wants of root, and Debian's init makes
	host := filepath.Join(dir, "host")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	keys := filepath.Join(dir, "authorized_keys")
	if err := os.WriteFile(keys, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			f, err := nc.(*net.TCPConn).File()
			nc.Close()
			if err != nil {
				continue
			}
			// As inetd does: there is no port to guess, and none to wait for.
			cmd := exec.CommandContext(ctx, "/usr/sbin/sshd", append([]string{"-i", "-e", "-f", "/dev/null", "-o", "HostKey=" + host, "-o", "AuthorizedKeysFile=" + keys,
				"-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "LogLevel=ERROR"}, options...)...)
			cmd.Stdin, cmd.Stdout = f, f
			wg.Go(func() { cmd.Run(); f.Close() })
		}
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
