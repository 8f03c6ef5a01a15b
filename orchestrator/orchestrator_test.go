package orchestrator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/dial"
	"9ci/orchestrator/door"
	"9ci/proto/ninep"
)

const hello = "github.com/alice/hello"

// A testMux is a running server, and a place for keys and known_hosts.
type testMux struct {
	t     testing.TB
	dir   string // of the server's state
	home  string
	addr  string
	s     *Server
	hosts string // known_hosts that has the server
}

func startMux(t testing.TB) *testMux {
	t.Helper()
	m := &testMux{t: t, dir: filepath.Join(t.TempDir(), "state"), home: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.start(l, Options{})
	return m
}

// start serves on l until the test ends.
func (m *testMux) start(l net.Listener, o Options) {
	m.t.Helper()
	if testing.Verbose() && o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(m.dir, o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.s, m.addr = s, l.Addr().String()
	m.hosts = filepath.Join(m.home, "known_hosts")
	line := knownhosts.Line([]string{m.addr}, s.HostKey())
	if err := os.WriteFile(m.hosts, []byte(line+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, l)
	}()
	m.t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			m.t.Error("Serve does not return")
		}
	})
}

// key makes a key that may enter with options, and writes it to a file.
func (m *testMux) key(options, comment string) (ssh.Signer, string) {
	m.t.Helper()
	s, path := m.stranger()
	line := strings.TrimSpace(options + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey()))) + " " + comment)
	f, err := os.OpenFile(filepath.Join(m.dir, "authorized_keys"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	fmt.Fprintln(f, line)
	f.Close()
	return s, path
}

// stranger makes a key that may not enter.
func (m *testMux) stranger() (ssh.Signer, string) {
	m.t.Helper()
	priv := newKey(m.t)
	s, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		m.t.Fatal(err)
	}
	f, err := os.CreateTemp(m.home, "key")
	if err != nil {
		m.t.Fatal(err)
	}
	block, _ := ssh.MarshalPrivateKey(priv, "")
	f.Write(pem.EncodeToMemory(block))
	f.Close()
	os.WriteFile(f.Name()+".pub", ssh.MarshalAuthorizedKey(s.PublicKey()), 0o600)
	return s, f.Name()
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

func (m *testMux) dial(s ssh.Signer) *dial.Conn {
	m.t.Helper()
	c, err := dial.Dial(m.t.Context(), "ssh://"+m.addr, dial.Options{Signers: []ssh.Signer{s}, KnownHosts: m.hosts})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// export serves the tree as an executor would until the test, or the returned
// function, ends it.
func (m *testMux) export(c *dial.Conn, a dial.Announce, tree fs.Dir) (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	joined := make(chan struct{})
	a.Joined = sync.OnceFunc(func() { close(joined) })
	done := make(chan error, 1)
	go func() {
		done <- c.Export(ctx, a, func(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User) {
			srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree, nil }}
			srv.Serve(ctx, rwc)
		})
	}()
	select {
	case <-joined:
	case err := <-done:
		m.t.Fatalf("Export: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
			m.t.Errorf("Export: %v", err)
		}
	})
	m.t.Cleanup(stop)
	return stop
}

// exportTo exports an empty tree as name in ns until the test ends.
func (m *testMux) exportTo(k ssh.Signer, name, ns string) {
	m.t.Helper()
	m.export(m.dial(k), dial.Announce{Name: name, Namespaces: []string{ns}}, newTestTree().root())
}

// testLogin returns the login of a key at m.
func testLogin(t testing.TB, m *testMux, k ssh.Signer) *access.Login {
	t.Helper()
	l, err := access.Enter(m.s.policy, k.PublicKey(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// tree imports the mux's tree, or the namespace aname of it.
func (m *testMux) tree(c *dial.Conn, aname string) fs.Dir {
	m.t.Helper()
	rwc, err := c.Import(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	cl, err := ninep.Import(m.t.Context(), rwc, ninep.ImportOptions{Aname: aname})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cl.Close() })
	return cl.Root()
}

// read returns a file's text.
func read(t testing.TB, root fs.Dir, path string) string {
	t.Helper()
	n, err := door.Walk(t.Context(), root, path)
	if err != nil {
		t.Fatalf("walk %s: %v", path, err)
	}
	b, err := fs.ReadAll(t.Context(), n)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(b)
}

// find asks for a run with a key.
func find(t testing.TB, root fs.Dir, question string) (string, fs.File) {
	t.Helper()
	n, err := door.Walk(t.Context(), root, "find")
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.Open(t.Context(), fs.OpenRead|fs.OpenWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(t.Context(), []byte(question), 0); err != nil {
		t.Fatalf("write find: %v", err)
	}
	return readFind(t, f, int64(len(question))), f
}

func readFind(t testing.TB, f fs.File, off int64) string {
	t.Helper()
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := f.ReadAt(t.Context(), buf, off)
		b.Write(buf[:n])
		off += int64(n)
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatalf("read find: %v", err)
		}
	}
}

// An event file tells when the mux has learned of what a test did.
type events struct {
	t    testing.TB
	f    fs.File
	text string
}

func watchEvents(t testing.TB, root fs.Dir) *events {
	t.Helper()
	n, err := door.Walk(t.Context(), root, "event")
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.Open(t.Context(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &events{t: t, f: f}
}

// await reads until a line has all the words.
func (e *events) await(words ...string) string {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	buf := make([]byte, 4096)
	for {
		for line := range strings.Lines(e.text) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return line
			}
		}
		n, err := e.f.ReadAt(ctx, buf, 0)
		if err != nil {
			e.t.Fatalf("event: %v; so far %q, want %q", err, e.text, words)
		}
		e.text += string(buf[:n])
	}
}

// An executor announces, runs, and another one finds and reads the run.
func TestReplayLine(t *testing.T) {
	m := startMux(t)
	ka, _ := m.key(`namespace="`+hello+`"`, "alice@a")
	kb, _ := m.key(`namespace="`+hello+`"`, "bob@b")
	tree := newTestTree()
	tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
	b := m.dial(kb)
	root := m.tree(b, hello)
	ev := watchEvents(t, root)
	a := m.dial(ka)
	m.export(a, dial.Announce{Name: "a.7", Namespaces: []string{hello}, Address: "10.0.0.1:22", Adopts: true}, tree.root())
	ev.await("/n/a.7/ci/3f2a9c1d0b7e.1", "passed")

	answer, f := find(t, root, string(testKey(testCommit).Text()))
	f.Close()
	if want := "/n/a.7/ci/3f2a9c1d0b7e.1 passed 41.250 " + testScore + " 'alice 1' 10.0.0.1:22\n"; answer != want {
		t.Errorf("find = %q, want %q", answer, want)
	}
	other := strings.Replace(string(testKey(testCommit).Text()), "amd64", "arm64", 1)
	if answer, _ := find(t, root, other); answer != "" {
		t.Errorf("find of another arch = %q, want nothing", answer)
	}
	for _, path := range []string{"n/a.7/ci/3f2a9c1d0b7e.1/stdout", "ci/" + testCommit + "/stdout", "ci/3f2a9c1/stdout", "ci/" + testHash + "/stdout", "ci/" + testScore + "/stdout", "ci/last/stdout"} {
		if got := read(t, root, path); got != "ok 3f2a9c1d0b7e.1\n" {
			t.Errorf("read %s = %q", path, got)
		}
	}
	if got := read(t, root, "artifacts/3f2a9c1d/size"); got != "42\n" {
		t.Errorf("artifacts: %q", got)
	}
	if got := read(t, root, "status"); !strings.Contains(got, "executors=1\n") || !strings.Contains(got, "a.7 10.0.0.1:22 1 0") || !strings.HasSuffix(got, "\nadopts=a.7\n") {
		t.Errorf("status = %q", got)
	}

	// A run that goes on is told of, and a new find has it.
	tree.add("3f2a9c1d0b7e.2", testCommit, "test")
	ev.await("/n/a.7/ci/3f2a9c1d0b7e.2", "test")
	tree.add("3f2a9c1d0b7e.2", testCommit, "failed")
	ev.await("/n/a.7/ci/3f2a9c1d0b7e.2", "failed")
	answer, _ = find(t, root, "commit="+testCommit)
	if lines := strings.Split(answer, "\n"); len(lines) != 3 || !strings.Contains(lines[0], ".1 passed") || !strings.Contains(lines[1], ".2 failed") {
		t.Errorf("find = %q", answer)
	}
	a.Close()
	ev.await("/n/a.7", "leave")
	if _, err := door.Walk(t.Context(), root, "n/a.7"); err == nil {
		t.Error("an executor that has left can be walked to")
	}
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
