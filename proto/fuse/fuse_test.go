package fuse

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/ninep"
)

// mount mounts the test tree, and unmounts it when the test ends.
func mount(t *testing.T) (dir string, log *testtree.Log) {
	t.Helper()
	root, log := testtree.New()
	return mountTree(t, root), log
}

func mountTree(t *testing.T, root fs.Dir) string {
	t.Helper()
	needFuse(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Mount(ctx, dir, root) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Mount = %v", err)
		}
		if es, err := os.ReadDir(dir); err != nil || len(es) > 0 {
			t.Errorf("after unmounting: %v, %v", es, err)
		}
	})
	awaitMount(t, dir, done)
	return dir
}

func needFuse(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no /dev/fuse")
	}
}

// awaitMount returns when something is mounted on dir. done says that the
// server ended.
func awaitMount(t *testing.T, dir string, done chan error) {
	t.Helper()
	var before, now syscall.Stat_t
	syscall.Stat(filepath.Dir(dir), &before)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := syscall.Stat(dir, &now); err == nil && now.Dev != before.Dev {
			return
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the server ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("not mounted")
		}
	}
}

// sh runs a script in dir. The shell goes there itself: were it cmd.Dir, the
// child of this process would, before exec, while no goroutine here may run,
// and so nobody would serve it.
func sh(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", "cd \"$0\"\n"+script, dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func TestMount(t *testing.T) {
	dir, log := mount(t)
	log.Append("hello\n", true)
	for _, test := range []struct{ script, want string }{
		{"cat ci/last/status", "passed 0 1.500 -\n"},
		{"cat link", "passed 0 1.500 -\n"},
		{"readlink ci/last", "3f2a9c1d0b7e.1\n"},
		{"ls", "ci\nctl\nempty\nlink\n"},
		{"cat ci/last/live", "hello\n"},
		{"grep -rl passed .", "./ci/3f2a9c1d0b7e.1/status\n"},
		{"stat -c '%a %s %Y' ci/last/status", "444 17 1795521600\n"},
		{"cat ctl", "manual\n"},
		{"echo run > ctl", ""},
		{"exec 3<>ctl; echo run >&3; cat <&3", "did run\n"},
		{"tar cf - . | tar tf - | sort | tail -1", "./link\n"},
		{"(echo x > empty) 2>/dev/null || echo refused", "refused\n"},
		{"(touch new) 2>/dev/null || echo refused", "refused\n"},
		{"for c in 'rm -f empty' 'rmdir ci' 'mkdir new' 'mkfifo new' 'ln empty new' 'ln -s empty new' 'mv empty new' 'touch empty' 'chmod 777 empty'; do " +
			"$c 2>&1 | grep -q 'Read-only file system' || echo $c is not refused; done; ls", "ci\nctl\nempty\nlink\n"},
		{"(echo bad > ctl) 2>/dev/null || echo refused", "refused\n"},
	} {
		if got := sh(t, dir, test.script); got != test.want {
			t.Errorf("%s = %q, want %q", test.script, got, test.want)
		}
	}
}

// A live file streams: what is there arrives before there is more.
func TestStream(t *testing.T) {
	dir, log := mount(t)
	cmd := exec.Command("cat", filepath.Join(dir, "ci/last/live"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	for _, line := range []string{"one  \n", "two  \n"} {
		log.Append(line, false)
		if _, err := io.ReadFull(out, b); err != nil || string(b) != line {
			t.Errorf("cat says %q, %v, want %q", b, err, line)
		}
	}
	log.Append("three\n", true)
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil || string(rest) != "three\n" {
		t.Errorf("cat ended with %q, %v", rest, err)
	}
}

// A signal ends a reader that waits, and the tree's read with it.
func TestKill(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, os.Kill} {
		t.Run(sig.String(), func(t *testing.T) {
			dir, log := mount(t)
			arrived, closed := log.Watch()
			cmd := exec.Command("cat", filepath.Join(dir, "ci/last/live"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-arrived
			cmd.Process.Signal(sig)
			cmd.Wait()
			select {
			case <-closed:
			case <-time.After(20 * time.Second):
				t.Error("the reader's file is still open")
			}
		})
	}
}

// Whoever stands in the tree does not keep it mounted.
func TestBusy(t *testing.T) {
	dir, log := mount(t)
	arrived, _ := log.Watch()
	cmd := exec.Command("sh", "-c", "cd \"$0\" && exec cat ci/last/live", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-arrived
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) // runs first
}

// full is a tree that has no room for the moment: not to walk, or not to read.
type full struct{ fs.Dir }

func (f full) Walk(ctx context.Context, name string) (fs.Node, error) {
	n, err := f.Dir.Walk(ctx, name)
	if name == "walk" {
		return nil, fmt.Errorf("too many fids: %w", fs.ErrBusy)
	}
	return fullFile{n}, err
}

type fullFile struct{ fs.Node }

func (f fullFile) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	o, err := f.Node.Open(ctx, mode)
	return fullOpen{o}, err
}

type fullOpen struct{ fs.File }

func (fullOpen) ReadAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrBusy }

// A tree that is busy, here or behind 9P, is not one without the file.
func TestNoRoom(t *testing.T) {
	text := func(name string) fs.Node {
		return fs.TextFile(name, func(context.Context) ([]byte, error) { return []byte("text\n"), nil })
	}
	root := full{fs.NewDir("/", text("walk"), text("read"))}
	near, far := net.Pipe()
	go (&ninep.Server{Root: root}).Serve(t.Context(), far)
	imported, err := ninep.Import(t.Context(), near, ninep.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer imported.Close()
	for _, root := range []fs.Dir{root, imported.Root()} {
		dir := mountTree(t, root)
		for _, name := range []string{"walk", "read"} {
			// Package os would wait for the file, because it can be polled.
			b, err := exec.Command("env", "LC_ALL=C", "cat", filepath.Join(dir, name)).CombinedOutput()
			if err == nil || !strings.HasSuffix(string(b), ": Resource temporarily unavailable\n") {
				t.Errorf("cat %s = %q, %v", name, b, err)
			}
		}
	}
}

// The files of a directory on disk may change at any time, and nothing on the way
// keeps them: a mount of what another process serves, as 9ci mount makes it, shows
// what grows and what is overwritten at once.
func TestChanges(t *testing.T) {
	needFuse(t)
	src := t.TempDir()
	write := func(name, text string, flag int) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(src, name), os.O_WRONLY|os.O_CREATE|flag, 0o644)
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("log", "one  \n", 0)
	write("text", "old\n", 0)
	root, err := os.OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	here, there := net.Pipe()
	served := make(chan error, 1)
	go func() {
		s := &ninep.Server{Root: fs.DiskDir(root, "/"), User: fs.User{Name: "glenda", UID: int64(os.Getuid())}}
		served <- s.Serve(context.Background(), there)
	}()
	c, err := ninep.Import(t.Context(), here, ninep.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	dir := mountTree(t, c.Root())

	for _, text := range []string{"old\n", "new\n", "a longer text\n", "x\n", ""} {
		write("text", text, os.O_TRUNC)
		if got, want := sh(t, dir, "cat text; stat -c %s text"), fmt.Sprintf("%s%d\n", text, len(text)); got != want {
			t.Errorf("the text, its size = %q, want %q", got, want)
		}
	}

	cmd := exec.Command("tail", "-s", ".1", "-n", "+1", "-f", filepath.Join(dir, "log"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	b := make([]byte, 6)
	for _, line := range []string{"one  \n", "two  \n", "three\n"} {
		if line != "one  \n" {
			write("log", line, os.O_APPEND)
		}
		if _, err := io.ReadFull(out, b); err != nil || string(b) != line {
			t.Errorf("tail says %q, %v, want %q", b, err, line)
		}
	}
}

// Each of many entries is listed once.
func TestManyEntries(t *testing.T) {
	root := testtree.NewDir("/", 1)
	for i := range 10000 {
		root.Add(testtree.NewNode(strings.Repeat("f", 1+i%40)+string(iofs.FileMode(i).Perm().String())+time.Duration(i).String(), uint64(i)+2, 0o444, "x"))
	}
	dir := mountTree(t, root)
	if got := strings.TrimSpace(sh(t, dir, "find . -type f | sort -u | wc -l")); got != "10000" {
		t.Errorf("find shows %s files, want 10000", got)
	}
}
