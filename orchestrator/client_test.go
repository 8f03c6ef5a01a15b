package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// A host key that is not known, or not the one that is, ends the dial with an
// error that says what to type; what it says works.
func TestDialHostKey(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	t.Setenv("HOME", m.home)
	hosts := filepath.Join(m.home, ".ssh", "known_hosts")
	os.Mkdir(filepath.Dir(hosts), 0o700)
	connect := func() error {
		c, err := dial.Dial(t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: hosts})
		if err == nil {
			c.Close()
		}
		return err
	}
	host, port, _ := net.SplitHostPort(m.addr)
	fingerprint := ssh.FingerprintSHA256(m.s.HostKey())
	command := fmt.Sprintf("ssh-keyscan -t ed25519 -p %s %s >> ~/.ssh/known_hosts", port, host)

	err := connect()
	if !errors.Is(err, dial.ErrUnknownHost) || !strings.HasSuffix(err.Error(), ": "+command) || !strings.Contains(err.Error(), fingerprint) {
		t.Fatalf("Dial without known_hosts: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	if err := connect(); err != nil {
		t.Errorf("after %s: %v", command, err)
	}
	other := newSigner(t).PublicKey()
	os.WriteFile(hosts, []byte(knownhosts.Line([]string{m.addr}, other)+"\n"), 0o600)
	err = connect()
	if !errors.Is(err, dial.ErrHostKeyChanged) || !strings.Contains(err.Error(), hosts+":1 has") || !strings.Contains(err.Error(), ssh.FingerprintSHA256(other)) {
		t.Errorf("Dial with a changed key: %v", err)
	}
	_, mend, _ := strings.Cut(err.Error(), "if that is right: ")
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(mend, ", then ", " && ", 1)).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mend, err, out)
	}
	if err := connect(); err != nil {
		t.Errorf("after %s: %v", mend, err)
	}
	os.WriteFile(hosts, []byte(knownhosts.Line([]string{"elsewhere"}, other)+"\n"), 0o600)
	if err := connect(); !errors.Is(err, dial.ErrUnknownHost) {
		t.Errorf("Dial with others' keys: %v", err)
	}
	os.WriteFile(hosts, []byte("nonsense\n"), 0o600)
	if err := connect(); err == nil || !strings.Contains(err.Error(), "known_hosts:1") {
		t.Errorf("Dial with a bad known_hosts: %v", err)
	}
	// A host with keys of several kinds is known by the one it has.
	os.WriteFile(hosts, []byte(knownhosts.Line([]string{"[127.0.0.1]:*", m.addr}, m.s.HostKey())+"\n"), 0o600)
	if err := connect(); err != nil {
		t.Errorf("Dial: %v", err)
	}
}

func TestDialErrors(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("", "alice")
	stranger, _ := m.stranger()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for _, test := range []struct {
		url  string
		keys []ssh.Signer
		is   error
		text string
	}{
		{"http://" + m.addr, []ssh.Signer{k}, nil, "want ssh://HOST"},
		{"ssh://", []ssh.Signer{k}, nil, "want ssh://HOST"},
		{m.addr, []ssh.Signer{k}, nil, "want ssh://HOST"},
		{"ssh://" + m.addr + "/x", []ssh.Signer{k}, nil, "want host/owner/repo"},
		{"ssh://" + closed, []ssh.Signer{k}, nil, "connection refused"},
		{"ssh://" + m.addr, nil, dial.ErrKey, "none was given"},
		{"ssh://" + m.addr, []ssh.Signer{stranger}, dial.ErrKey, ssh.FingerprintSHA256(stranger.PublicKey())},
	} {
		_, err := dial.Dial(t.Context(), test.url, dial.Options{Signers: test.keys, KnownHosts: m.hosts})
		if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("dial.Dial(%q) = %v, want %q", test.url, err, test.text)
		}
	}
	c, err := dial.Dial(t.Context(), "ssh://alice@"+m.addr+"/"+hello+"/", dial.Options{Signers: []ssh.Signer{stranger, k}, KnownHosts: m.hosts})
	if err != nil || c.Namespace() != hello {
		t.Fatalf("Dial with the second key: %v", err)
	}
	c.Close()
	if _, err := c.Import(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Import after Close: %v", err)
	}
	// A server that says nothing is given up, and holds up no other user of the
	// Conn, nor its Close.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dial.Dial(ctx, "ssh://"+l.Addr().String(), dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial to a silent server: %v", err)
	}
	c, err = dial.Open("ssh://"+l.Addr().String(), dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts})
	if err != nil {
		t.Fatal(err)
	}
	exported := make(chan error)
	go func() {
		exported <- c.Export(t.Context(), dial.Announce{Name: "a", Namespaces: []string{hello}}, nil)
	}()
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Import(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Import while another connects: %v", err)
	}
	c.Close()
	if err := <-exported; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Export after Close: %v", err)
	}
}

// An executor whose connection is cut comes back by itself, and keeps its name.
func TestExportReconnects(t *testing.T) {
	m := startMux(t)
	k, _ := m.key(`namespace="`+hello+`"`, "alice")
	p := newProxy(t, m.addr)
	os.WriteFile(m.hosts, []byte(knownhosts.Line([]string{p.addr, m.addr}, m.s.HostKey())+"\n"), 0o600)
	ev := watchEvents(t, m.tree(m.dial(k), hello))
	c, err := dial.Dial(t.Context(), "ssh://"+p.addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tree := newTestTree()
	lost := make(chan error, 100)
	stop := m.export(c, dial.Announce{Name: "a", Namespaces: []string{hello}, Lost: func(err error) { lost <- err }}, tree.root())
	ev.await("/n/a join")
	for range 2 {
		ev.text = ""
		p.cut()
		ev.await("/n/a leave")
		ev.await("/n/a join")
		if err := <-lost; !errors.Is(err, client.ErrLost) {
			t.Errorf("Lost(%v), want %v", err, client.ErrLost)
		}
	}
	root := m.tree(m.dial(k), hello)
	if got := read(t, root, "n/a/status"); got != "mode=run\n" {
		t.Errorf("status = %q", got)
	}
	ev.text = ""
	stop()
	ev.await("/n/a leave")
	// The Conn is whole: it imports, and exports again.
	m.tree(c, hello)
	m.export(c, dial.Announce{Name: "a", Namespaces: []string{hello}}, tree.root())
	ev.await("/n/a join")
}

// What is refused is said, also where the orchestrator was not there at first.
func TestExportRefusedLater(t *testing.T) {
	m := startMux(t)
	k, _ := m.key("read", "alice")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	os.WriteFile(m.hosts, []byte(knownhosts.Line([]string{addr}, m.s.HostKey())+"\n"), 0o600)
	c, err := dial.Open("ssh://"+addr, dial.Options{Signers: []ssh.Signer{k}, KnownHosts: m.hosts})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	const tries = 4
	wg.Go(func() { // hangs up as often as one connection is tried, and once more, and carries the next
		for i := range tries + 2 {
			a, err := l.Accept()
			if err != nil {
				return
			}
			if i <= tries {
				a.Close()
				continue
			}
			b, err := net.Dial("tcp", m.addr)
			if err != nil {
				a.Close()
				return
			}
			wg.Go(func() { io.Copy(a, b); a.Close() })
			wg.Go(func() { io.Copy(b, a); b.Close() })
		}
	})
	defer l.Close()
	var lost []error
	err = c.Export(t.Context(), dial.Announce{Name: "a", Namespaces: []string{hello}, Lost: func(err error) { lost = append(lost, err) }}, nil)
	var refused *dial.RefusedError
	if !errors.As(err, &refused) || len(lost) != 1 || !strings.Contains(lost[0].Error(), "it hung up") && !strings.Contains(lost[0].Error(), "handshake failed") {
		t.Errorf("Export: %v, after %v", err, lost)
	}
	c.Close()
}

// A proxy carries connections until it is told to cut them.
type proxy struct {
	addr string
	mu   sync.Mutex
	open []net.Conn
}

func newProxy(t testing.TB, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			p.mu.Lock()
			p.open = append(p.open, a, b)
			p.mu.Unlock()
			wg.Go(func() { io.Copy(a, b); a.Close() })
			wg.Go(func() { io.Copy(b, a); b.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); p.cut(); wg.Wait() })
	return p
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

// An edit of authorized_keys ends what a key may do at its next channel.
func TestRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		m.treeOn(l, hello)
		os.WriteFile(filepath.Join(m.dir, "authorized_keys"), nil, 0o600)
		if rwc, err := l.Import(t.Context()); err == nil {
			rwc.Close()
			t.Error("a revoked key opens a channel")
		}
		<-l.Done()
	})
}

// A key whose line is narrowed loses what it had open at once, and comes back with what is left to it.
func TestNarrowed(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		root := m.treeOn(l, hello)
		if err := m.exportOn(l, wire.Announce{Name: "a", Namespaces: []string{hello}}, newTestTree().root()); err != nil {
			t.Fatal(err)
		}
		read(t, root, "n/a/status")
		line := `namespace="local/x" ` + string(ssh.MarshalAuthorizedKey(k.PublicKey()))
		os.WriteFile(filepath.Join(m.dir, "authorized_keys"), []byte(line), 0o600)
		began := time.Now()
		<-l.Done()
		if d := time.Since(began); d > watchEvery {
			t.Errorf("it has what it had for %v", d)
		}
		l, _ = m.login(k)
		m.treeOn(l, "local/x")
	})
}

// The first client in a namespace finds it empty, not absent; other namespaces are
// absent.
func TestFirstInNamespace(t *testing.T) {
	m := startMux(t)
	all, _ := m.key("", "operator")
	one, _ := m.key(`namespace="local/x"`, "x")
	root := m.tree(m.dial(all), hello)
	if got := read(t, root, "status"); !strings.Contains(got, "executors=0\n") {
		t.Errorf("status = %q", got)
	}
	if answer, _ := find(t, root, "commit="+testCommit); answer != "" {
		t.Errorf("find = %q", answer)
	}
	ev := watchEvents(t, root)
	m.export(m.dial(all), dial.Announce{Name: "a", Namespaces: []string{hello}}, newTestTree().root())
	ev.await("/n/a join")
	rwc, err := m.dial(one).Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ninep.Import(t.Context(), rwc, ninep.ImportOptions{Aname: hello}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("attach to what is forbidden: %v", err)
	}
	if _, err := fs.Walk(t.Context(), m.tree(m.dial(all), ""), "local/x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("walk to what is absent: %v", err)
	}
}
