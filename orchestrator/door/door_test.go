package door

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

func newSigner(t *testing.T) ssh.Signer {
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

// testTree returns the tree of two files, which the sessions of open see.
func testTree(open *sync.WaitGroup) *Tree {
	text := func(s string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(s), nil }
	}
	root := fs.NewDir("/", fs.NewDir("ci", fs.TextFile("stdout", text("ok\n"))), fs.TextFile("status", text("mode=run\n")))
	user := fs.User{Name: "alice", UID: -1}
	srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return root, nil }}
	open.Add(1)
	return &Tree{
		User:    user,
		Whoami:  func(context.Context) ci.Attrs { return ci.Attrs{{Name: "key", Value: "alice"}} },
		Walk:    func(ctx context.Context, ns, path string) (fs.Node, error) { return Walk(ctx, root, ns+"/"+path) },
		Serve9P: srv.Serve,
		Close:   open.Done,
	}
}

// connect logs in to a server that lets in one key, and ends it with the test.
func connect(t *testing.T) *ssh.Client {
	t.Helper()
	return connectTo(t, func(*Tree) {})
}

// connectTo is connect to a server whose trees are changed before they are served.
func connectTo(t *testing.T, change func(*Tree)) *ssh.Client {
	t.Helper()
	host, key := newSigner(t), newSigner(t)
	config := Config(host, func(_ net.Addr, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.PublicKey().Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		var open sync.WaitGroup
		Serve(context.Background(), nc, config, LoginGrace, func(context.Context) *Tree {
			tree := testTree(&open)
			change(tree)
			return tree
		})
		open.Wait()
	}()
	c, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
		Auth: []ssh.AuthMethod{ssh.PublicKeys(newSigner(t), key)}, HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func TestCommands(t *testing.T) {
	c := connectTo(t, func(tree *Tree) {
		tree.Told = func(_ context.Context, namespace, commit string) (string, error) {
			if commit == "none" {
				return "", iofs.ErrNotExist
			}
			return namespace + " " + commit + "\n", nil
		}
	})
	for _, test := range []struct {
		command, stdout, stderr string
		status                  int
	}{
		{"cat status ci/stdout", "mode=run\nok\n", "", 0},
		{"cat namespace=ci stdout", "ok\n", "", 0},
		{"cat ci/none status", "mode=run\n", "cat: ci/none: file not found\n", 1},
		{"cat status/x", "", "cat: status/x: not a directory\n", 1},
		{"cat ci", "", "cat: ci: is a directory\n", 1},
		{"ls", "ci\nstatus\n", "", 0},
		{"whoami", "key=alice\n", "", 0},
		{"told namespace=example.org/a/b 3f2a", "example.org/a/b 3f2a\n", "", 0},
		{"told", "", "usage: told COMMIT\n", 2},
		{"told 3f2a 3f2b", "", "told: it takes one commit; usage: told COMMIT\n", 2},
		{"told none", "", "told: none: file not found\n", 1},
		{"cat", "", "usage: cat PATH...\n", 2},
		{"cat 'x", "", "a quote is not closed\n", 2},
		{"cat $HOME", "", "this is not a shell: $ must be quoted\n", 2},
	} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		s.Stdout, s.Stderr = &out, &errs
		err = s.Run(test.command)
		status := 0
		if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) {
			status = exit.ExitStatus()
		} else if err != nil {
			t.Fatalf("%s: %v", test.command, err)
		}
		if out.String() != test.stdout || errs.String() != test.stderr || status != test.status {
			t.Errorf("%s: %q, %q, %d; want %q, %q, %d", test.command, &out, &errs, status, test.stdout, test.stderr, test.status)
		}
	}
}

// A server that takes no exports says so, and one of sessions takes no other
// channels and no more of them than its limit.
func TestRefusals(t *testing.T) {
	c := connect(t)
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestSubsystem("9p-export"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(errs); err != nil || !strings.Contains(string(b), "no exports are taken here") {
		t.Errorf("9p-export: %q, %v", b, err)
	}
	s.Close()
	if _, err := c.Dial("tcp", "127.0.0.1:22"); err == nil || !strings.Contains(err.Error(), "only sessions") {
		t.Errorf("direct-tcpip: %v", err)
	}
	if ok, _, err := c.SendRequest("tcpip-forward", true, nil); ok || err != nil {
		t.Errorf("tcpip-forward: %t, %v", ok, err)
	}
	n := 0
	for ; err == nil && n <= wire.MaxChannels; n++ {
		_, err = c.NewSession()
	}
	if err == nil || !strings.Contains(err.Error(), wire.ErrBusy.Error()) || n < wire.MaxChannels {
		t.Errorf("session %d: %v, want %v", n, err, wire.ErrBusy)
	}
}

// A client that says nothing is put out when the grace is over.
func TestLoginGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		began := time.Now()
		Serve(t.Context(), near, Config(newSigner(t), nil), LoginGrace, nil)
		if d := time.Since(began); d != LoginGrace {
			t.Errorf("put out after %v, want %v", d, LoginGrace)
		}
	})
}

// A path follows links within the tree and never leads out of it.
func TestWalk(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "a/b"), 0o777)
	os.WriteFile(filepath.Join(dir, "a/b/file"), []byte("x"), 0o666)
	for name, to := range map[string]string{
		"a/up": "..", "a/link": "b/file", "a/away": "../../../../etc/passwd", "a/abs": "/etc/passwd", "loop": "loop", "dir": "a/b",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxLinks + 1 {
		to := fmt.Sprintf("l%d", i-1)
		if i == 0 {
			to = "a"
		}
		os.Symlink(to, filepath.Join(dir, fmt.Sprintf("l%d", i)))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	tree := fs.DiskDir(root, "/")
	for _, test := range []struct {
		path string
		want string // the name of what is there
		err  error
	}{
		{"", "/", nil},
		{"/a//b/./file", "file", nil},
		{"a/b/../../..", "/", nil},
		{"a/link", "file", nil},
		{"a/up/a/b", "b", nil},
		{"dir/file", "file", nil},
		{"dir/../b", "b", nil},
		{"a/link/", "file", nil},
		{"a/link/x", "", fs.ErrNotDir},
		{"a/away", "", iofs.ErrNotExist},
		{"a/abs", "", iofs.ErrNotExist},
		{"loop", "", iofs.ErrNotExist},
		{fmt.Sprintf("l%d", maxLinks-1), "a", nil},
		{fmt.Sprintf("l%d", maxLinks), "", iofs.ErrNotExist},
		{"a/\x00", "", iofs.ErrNotExist},
		{strings.Repeat("x", 256), "", iofs.ErrNotExist},
	} {
		n, err := Walk(t.Context(), tree, test.path)
		if err != nil || test.err != nil {
			if !errors.Is(err, test.err) || test.err == nil {
				t.Errorf("Walk(%q) = %v, want %v", test.path, err, test.err)
			}
			continue
		}
		if st, err := n.Stat(t.Context()); err != nil || st.Name != test.want {
			t.Errorf("Walk(%q) is %q, %v; want %q", test.path, st.Name, err, test.want)
		}
	}
}

// sh has the client's terminal, its sizes, its signals and its input, and the client gets
// the shell's exit status.
func TestShell(t *testing.T) {
	said := make(chan string)
	c := connectTo(t, func(tree *Tree) {
		tree.Shell = func(ctx context.Context, sh Shell) (int, error) {
			said <- fmt.Sprintf("%q %q %v %q", sh.Namespace, sh.Rev, sh.Root, sh.Term)
			b := make([]byte, 2)
			io.ReadFull(sh.Stdin, b)
			said <- string(b)
			for size := range sh.Resize {
				said <- fmt.Sprint(size)
				if size.Rows == 99 {
					break
				}
			}
			said <- (<-sh.Signals).String()
			io.WriteString(sh.Stdout, "bye\n")
			if sh.Root {
				return 0, errors.New("not held")
			}
			return 7, nil
		}
	})
	for _, tt := range []struct {
		command, term, want, stdout, stderr string
		status                              int
	}{
		{"sh", "vt100", `"" "held" false "vt100"`, "bye\n", "", 7},
		{"sh namespace=example.org/a/b ci/0123.4", "", `"example.org/a/b" "0123.4" false ""`, "bye\n", "", 7},
		{"sh -root example.org/a/b/ci/last", "a\nb", `"example.org/a/b" "last" true "dumb"`, "bye\n", "sh: not held\r\n", exitLost},
	} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		s.Stdout, s.Stderr = &out, &errs
		if tt.term != "" {
			err = s.RequestPty(tt.term, 40, 120, nil)
		} else {
			err = s.WindowChange(40, 120)
		}
		in, ierr := s.StdinPipe()
		if err := errors.Join(err, ierr, s.Start(tt.command)); err != nil {
			t.Fatal(err)
		}
		got := []string{<-said}
		io.WriteString(in, "\x03x") // ^C is the terminal's
		got = append(got, <-said, <-said)
		s.WindowChange(99, 100000)
		got = append(got, <-said)
		s.Signal(ssh.SIGTERM)
		got = append(got, <-said)
		err = s.Wait()
		exit, _ := errors.AsType[*ssh.ExitError](err)
		if want := []string{tt.want, "\x03x", "{40 120}", "{99 65535}", "terminated"}; !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", tt.command, got, want)
		}
		if exit == nil || exit.ExitStatus() != tt.status || out.String() != tt.stdout || errs.String() != tt.stderr {
			t.Errorf("%s: %v, %q, %q; want %d, %q, %q", tt.command, err, &out, &errs, tt.status, tt.stdout, tt.stderr)
		}
	}
	for _, command := range []string{"sh a b", "sh n/box/a", "sh -root -root x", "sh /"} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if exit, _ := errors.AsType[*ssh.ExitError](s.Run(command)); exit == nil || exit.ExitStatus() != exitUsage {
			t.Errorf("%s: %v, want status %d", command, exit, exitUsage)
		}
	}
}

// A shell whose client hangs up is told so, and ends a while later if it does not go.
func TestShellHangup(t *testing.T) {
	began, ended := make(chan struct{}), make(chan syscall.Signal)
	c := connectTo(t, func(tree *Tree) {
		tree.Shell = func(ctx context.Context, sh Shell) (int, error) {
			close(began)
			sig := <-sh.Signals
			<-ctx.Done()
			ended <- sig
			return 0, ctx.Err()
		}
	})
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("sh"); err != nil {
		t.Fatal(err)
	}
	<-began
	c.Close()
	if sig := <-ended; sig != syscall.SIGHUP {
		t.Errorf("the shell got %v, want %v", sig, syscall.SIGHUP)
	}
}
