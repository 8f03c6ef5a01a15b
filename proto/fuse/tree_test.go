package fuse

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/treetest"

	"golang.org/x/sys/unix"
)

// The tree of runs keeps its rules through the kernel. Another process serves
// it: a thread of ours that reads it could outlive a failure of ours only as
// long as that one lives.
func TestTree(t *testing.T) {
	if dir := os.Getenv("FUSE_TEST_MOUNT"); dir != "" {
		serveTree(t, dir)
		return
	}
	treetest.TestDoor(t, treetest.Tree(view(mountElsewhere(t))), treetest.Lacks{
		Versions: true, // stat(2) has none
	})
}

// serveTree mounts a tree until standard input ends.
func serveTree(t *testing.T, dir string) {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	_, root := treetest.New(t)
	if err := Mount(ctx, dir, root); err != nil {
		t.Error(err)
	}
}

// mountElsewhere runs this test once more, to serve.
func mountElsewhere(t *testing.T) string {
	t.Helper()
	needFuse(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestTree$")
	cmd.Env = append(os.Environ(), "FUSE_TEST_MOUNT="+dir)
	runtime.LockOSThread() // Pdeathsig is of the thread
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		stdin.Close()
		if err := <-done; err != nil {
			t.Errorf("the server: %v", err)
		}
		runtime.UnlockOSThread()
	})
	awaitMount(t, dir, done)
	return dir
}

// A view is what a program sees of the tree that is mounted on a directory.
type view string

func (v view) Lstat(name string) (fs.Stat, error) {
	fi, err := os.Lstat(v.path(name))
	if err != nil {
		return fs.Stat{}, err
	}
	return v.stat(name, fi)
}

func (v view) Stat(name string) (fs.Stat, error) {
	fi, err := os.Stat(v.path(name))
	if err != nil {
		return fs.Stat{}, err
	}
	return v.stat(name, fi)
}

func (v view) path(name string) string { return filepath.Join(string(v), name) }

func (v view) stat(name string, fi os.FileInfo) (fs.Stat, error) {
	sys := fi.Sys().(*syscall.Stat_t)
	st := fs.Stat{Name: filepath.Base(name), Mode: fi.Mode(), Size: fi.Size(), ModTime: fi.ModTime(),
		UID: sys.Uid, GID: sys.Gid, Path: sys.Ino}
	var err error
	if st.Mode&os.ModeSymlink != 0 {
		st.Target, err = os.Readlink(v.path(name))
	}
	return st, err
}

func (v view) ReadDir(name string) ([]fs.Stat, error) {
	d, err := os.Open(v.path(name))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(0)
	if err != nil {
		return nil, err
	}
	list := make([]fs.Stat, len(names))
	for i, e := range names {
		if list[i], err = v.Lstat(filepath.Join(name, e)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (v view) Open(name string, mode fs.OpenMode) (fs.File, error) {
	fd, err := unix.Open(v.path(name), treetest.Flags(mode)|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// The kernel lets a directory be opened, and then not be read.
	if _, err := unix.Pread(fd, nil, 0); errors.Is(err, fs.ErrIsDir) {
		unix.Close(fd)
		return nil, err
	}
	return openFile(fd), nil
}

type openFile int

// ReadAt reads on a thread of its own, which a signal interrupts as ^C would.
func (f openFile) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	thread, done := make(chan int), make(chan bool)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		for {
			n, err = unix.Pread(int(f), p, off)
			if err != unix.EINTR || ctx.Err() != nil {
				break
			}
		}
		close(done)
	}()
	id := <-thread
	select {
	case <-done:
	case <-ctx.Done():
		again := time.NewTicker(10 * time.Millisecond) // it may not have been reading yet
		defer again.Stop()
		for alive := true; alive; {
			unix.Tgkill(unix.Getpid(), id, unix.SIGURG) // which the runtime takes and ignores
			select {
			case <-done:
				alive = false
			case <-again.C:
			}
		}
	}
	if n = max(n, 0); n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (f openFile) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	n, err := unix.Pwrite(int(f), p, off)
	return max(n, 0), err
}

func (f openFile) Close() error { return unix.Close(int(f)) }
