package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"

	"github.com/pkg/sftp"
)

// TestMain lets this binary be the server that sftp -D and scp -D start.
func TestMain(m *testing.M) {
	if os.Getenv("SFTP_TEST_SERVER") != "" {
		root, _ := testtree.New()
		rwc := struct {
			io.Reader
			io.WriteCloser
		}{os.Stdin, os.Stdout}
		ctx := fs.WithUser(context.Background(), fs.User{UID: -1})
		if err := Serve(ctx, rwc, root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SFTP_TEST_SERVER=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// OpenSSH's sftp lists, stats and copies the tree, with modes and times.
func TestSFTPCommand(t *testing.T) {
	dir := t.TempDir()
	batch := filepath.Join(dir, "batch")
	os.WriteFile(batch, []byte(strings.Join([]string{
		"ls -l /",
		"ls -l /ci",
		"get -rp /ci " + dir,
		"get -p /ci/last/status " + filepath.Join(dir, "status"),
		"get /link " + filepath.Join(dir, "linked"),
	}, "\n")+"\n"), 0o600)
	// A file that others must not read fails, and only that.
	os.WriteFile(batch, []byte(strings.ReplaceAll(read(t, batch), "get -rp", "-get -rp")), 0o600)
	self, _ := os.Executable()
	out := run(t, "sftp", "-D", self, "-b", batch)
	for _, want := range []string{"ci", "3f2a9c1d0b7e.1", "last"} {
		if !strings.Contains(out, want) {
			t.Errorf("ls shows no %s:\n%s", want, out)
		}
	}
	for _, name := range []string{"ci/3f2a9c1d0b7e.1/status", "status", "linked"} {
		if got := read(t, filepath.Join(dir, name)); got != "passed 0 1.500 -\n" {
			t.Errorf("%s = %q", name, got)
		}
	}
	fi, err := os.Stat(filepath.Join(dir, "status"))
	if err != nil || fi.Mode().Perm() != 0o444 || fi.ModTime().Unix() != testtree.ModTime.Unix() {
		t.Errorf("status is %v, %v", fi, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ci/3f2a9c1d0b7e.1/secret")); err == nil {
		t.Error("secret was copied")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestSCP(t *testing.T) {
	dir := t.TempDir()
	self, _ := os.Executable()
	run(t, "scp", "-s", "-D", self, "-p", "localhost:/ci/last/status", dir)
	fi, err := os.Stat(filepath.Join(dir, "status"))
	if err != nil || fi.Mode().Perm() != 0o444 || fi.ModTime().Unix() != testtree.ModTime.Unix() {
		t.Errorf("status is %v, %v", fi, err)
	}
}

func client(t *testing.T) (*sftp.Client, *testtree.Log) {
	t.Helper()
	root, log := testtree.New()
	return clientOf(t, root), log
}

func clientOf(t *testing.T, root fs.Dir) *sftp.Client {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), far, root, "wait") }()
	c, err := sftp.NewClientPipe(near, near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return c
}

func TestLinks(t *testing.T) {
	c, _ := client(t)
	if got, err := c.ReadLink("/ci/last"); err != nil || got != "3f2a9c1d0b7e.1" {
		t.Errorf("ReadLink(ci/last) = %q, %v", got, err)
	}
	if fi, err := c.Lstat("/ci/last"); err != nil || fi.Mode().Type() != iofs.ModeSymlink {
		t.Errorf("Lstat(ci/last) = %v, %v", fi, err)
	}
	for _, name := range []string{"/ci/last/", "/ci/last//", "ci/last/", "/ci/last/."} {
		if fi, err := c.Lstat(name); err != nil || !fi.IsDir() {
			t.Errorf("Lstat(%q) = %v, %v, want a directory", name, fi, err)
		}
	}
	if _, err := c.Lstat("/nothing/"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Lstat(nothing/) = %v", err)
	}
	if fi, err := c.Stat("/ci/last"); err != nil || !fi.IsDir() {
		t.Errorf("Stat(ci/last) = %v, %v", fi, err)
	}
	if fi, err := c.Stat("/link"); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("Stat(link) = %v, %v", fi, err)
	}
	if _, err := c.Stat("/nothing"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Stat(nothing) = %v", err)
	}
	if fi, err := c.Stat("/ci/../../ci"); err != nil || !fi.IsDir() {
		t.Errorf("Stat(/ci/../../ci) = %v, %v", fi, err)
	}
	for name, op := range map[string]func() error{
		"Create": func() error { _, err := c.Create("/ci/new"); return err },
		"ctl":    func() error { _, err := c.OpenFile("/ctl", os.O_WRONLY); return err },
		"Mkdir":  func() error { return c.Mkdir("/new") },
		"Remove": func() error { return c.Remove("/empty") },
		"Chmod":  func() error { return c.Chmod("/empty", 0o777) },
		"Rename": func() error { return c.Rename("/empty", "/full") },
	} {
		if err := op(); !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("%s = %v, want %v", name, err, iofs.ErrPermission)
		}
	}
}

// A live file ends at its current end, and goes on when there is more. One that
// is empty ends when nothing has come for a second, once for each open file.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := client(t)
		f, err := c.Open("/ci/last/live")
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		began := time.Now()
		for range 2 {
			if n, err := f.Read(b); n != 0 || err != io.EOF {
				t.Errorf("Read of an empty live file = %d, %v, want %v", n, err, io.EOF)
			}
		}
		if took := time.Since(began); took != patience {
			t.Errorf("two reads took %v, want %v", took, patience)
		}
		for _, text := range []string{"hello\n", "again\n"} {
			log.Append(text, false)
			if b, err := io.ReadAll(f); string(b) != text || err != nil {
				t.Errorf("ReadAll = %q, %v, want %q", b, err, text)
			}
		}
		if took := time.Since(began); took != patience {
			t.Errorf("the reads behind them took %v more, want none", took-patience)
		}
		log.Append("end\n", true)
		if b, err := io.ReadAll(f); string(b) != "end\n" || err != nil {
			t.Errorf("ReadAll = %q, %v", b, err)
		}
	})
}

// A file that waits and tells no length has what comes within a second.
func TestLiveWithoutLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, log := testtree.New()
		root.Add(&testtree.Node{St: fs.Stat{Name: "event", Mode: 0o444}, OnOpen: log.OnOpen})
		c := clientOf(t, root)
		time.AfterFunc(patience/2, func() { log.Append("joined\n", false) })
		f, err := c.Open("/event")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(f); string(b) != "joined\n" || err != nil {
			t.Errorf("ReadAll = %q, %v", b, err)
		}
	})
}

// A hangup ends a read that waits: the cleanup of client waits for Serve.
func TestLiveHangup(t *testing.T) {
	c, log := client(t)
	arrived, _ := log.Watch()
	f, err := c.Open("/ci/last/live")
	if err != nil {
		t.Fatal(err)
	}
	go f.Read(make([]byte, 1))
	<-arrived
}

// A file that waits for something is refused before it, and never empty.
func TestWait(t *testing.T) {
	root, _ := testtree.New()
	n := testtree.NewNode("wait", 20, 0o444, "")
	n.St.Version = 0
	root.Add(n)
	c := clientOf(t, root)
	_, err := c.Open("/wait")
	if se, ok := err.(*sftp.StatusError); !ok || se.FxCode() != sftp.ErrSSHFxOpUnsupported || !strings.Contains(err.Error(), "ssh HOST wait does") {
		t.Errorf("Open(wait) = %v, want that it is unsupported", err)
	}
	n.Data, n.St.Size, n.St.Version = []byte("passed\n"), 7, 1
	f, err := c.Open("/wait")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); string(b) != "passed\n" || err != nil {
		t.Errorf("ReadAll = %q, %v", b, err)
	}
}

// mount mounts a path of the tree with sshfs until the test ends.
func mount(t *testing.T, root fs.Dir, path string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(fs.WithUser(context.Background(), fs.User{UID: -1}))
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = Serve(ctx, c, root, "wait")
		}
		done <- err
	}()
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	// In the background it returns when it has mounted.
	cmd := exec.Command("sshfs", "-o", "directport="+port, "127.0.0.1:"+path, dir)
	cmd.Stderr = t.Output()
	if err := cmd.Run(); err != nil {
		t.Errorf("sshfs of %s: %v", path, err)
	}
	t.Cleanup(func() {
		exec.Command("fusermount3", "-u", "-z", dir).Run()
		cancel()
		l.Close()
		<-done
	})
	return dir
}

// sshfs mounts the tree; a link is a link there.
func TestSSHFS(t *testing.T) {
	root, _ := testtree.New()
	dir := mount(t, root, "/")
	if got := read(t, filepath.Join(dir, "ci/last/status")); got != "passed 0 1.500 -\n" {
		t.Errorf("status = %q", got)
	}
	if got, err := os.Readlink(filepath.Join(dir, "ci/last")); err != nil || got != "3f2a9c1d0b7e.1" {
		t.Errorf("Readlink(ci/last) = %q, %v", got, err)
	}
	fi, err := os.Stat(filepath.Join(dir, "ci/last/status"))
	if err != nil || fi.Mode().Perm() != 0o444 || fi.ModTime().Unix() != testtree.ModTime.Unix() {
		t.Errorf("status is %v, %v", fi, err)
	}
}

// sshfs mounts a run by its alias and a slash.
func TestSSHFSAlias(t *testing.T) {
	for _, path := range []string{"ci/last/", "/ci/last/"} {
		root, _ := testtree.New()
		dir := mount(t, root, path)
		if got := read(t, filepath.Join(dir, "status")); got != "passed 0 1.500 -\n" {
			t.Errorf("%s: status = %q", path, got)
		}
	}
}

// The readers of a live file do not freeze a mount: it has an end.
func TestSSHFSLive(t *testing.T) {
	root, log := testtree.New()
	log.Append("building\n", false)
	wait := testtree.NewNode("wait", 20, 0o444, "")
	wait.St.Version = 0
	root.Add(wait)
	dir := mount(t, root, "/")
	if got := read(t, filepath.Join(dir, "ci/last/live")); got != "building\n" {
		t.Errorf("live = %q", got)
	}
	if out, err := exec.Command("cat", filepath.Join(dir, "wait")).CombinedOutput(); err == nil || !strings.Contains(string(out), "not supported") {
		t.Errorf("cat wait = %q, %v; want a refusal", out, err)
	}
	if got := read(t, filepath.Join(dir, "ci/last/status")); got != "passed 0 1.500 -\n" {
		t.Errorf("status = %q", got)
	}
}

// Frames changes the type of a request alone, and however it is cut.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0b\x07\x00\x00\x00\x01\x00\x00\x00\x02a/\x00\x00\x00\x00\x00\x00\x00\x01\x07"))
	f.Add([]byte("\x00\x00\x00\x0b\x07\x00\x00\x00\x01\x00\x00\x00\x02ab\x00\x00\x00\x03\x01\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := io.ReadAll(iotest.OneByteReader(&frames{r: bytes.NewReader(in)}))
		if err != nil && err != io.ErrUnexpectedEOF || len(out) > len(in) {
			t.Fatalf("%d bytes of %d, %v", len(out), len(in), err)
		}
		for i, b := range out {
			if b != in[i] && (in[i] != typeLstat || b != typeStat) {
				t.Errorf("byte %d is %d, want %d", i, b, in[i])
			}
		}
	})
}
