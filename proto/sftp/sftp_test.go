package sftp

import (
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
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), far, root) }()
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
	return c, log
}

func TestLinks(t *testing.T) {
	c, _ := client(t)
	if got, err := c.ReadLink("/ci/last"); err != nil || got != "3f2a9c1d0b7e.1" {
		t.Errorf("ReadLink(ci/last) = %q, %v", got, err)
	}
	if fi, err := c.Lstat("/ci/last"); err != nil || fi.Mode().Type() != iofs.ModeSymlink {
		t.Errorf("Lstat(ci/last) = %v, %v", fi, err)
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

// A live file arrives as it grows, and a hangup ends its reader: the cleanup
// of client waits for Serve.
func TestLive(t *testing.T) {
	c, log := client(t)
	arrived, _ := log.Watch()
	f, err := c.Open("/ci/last/live")
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-arrived; log.Append("hello\n", false) }()
	b := make([]byte, 6) // the client fills it
	if n, err := f.Read(b); n != 6 {
		t.Errorf("Read = %q, %v", b[:n], err)
	}
	go f.Read(b)
	select {
	case <-arrived:
	case <-time.After(10 * time.Second):
		t.Error("the second read never came")
	}
}

// sshfs mounts the tree; a link is a link there.
func TestSSHFS(t *testing.T) {
	root, _ := testtree.New()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(fs.WithUser(t.Context(), fs.User{UID: -1}))
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = Serve(ctx, c, root)
		}
		done <- err
	}()
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	cmd := exec.Command("sshfs", "-f", "-o", "directport="+port, "127.0.0.1:/", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		exec.Command("fusermount3", "-u", "-z", dir).Run()
		cmd.Wait()
		cancel()
		l.Close()
		<-done
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat(filepath.Join(dir, "ci")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("sshfs did not mount")
		}
	}
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
