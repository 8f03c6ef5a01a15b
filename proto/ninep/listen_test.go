package ninep

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The directory of a namespace is the user's own, or it is refused with words.
func TestNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("to give a directory away one must be root")
	}
	own := t.TempDir()
	for _, tt := range []struct {
		name string
		make func(dir string) error
		want string // in the error, or ""
	}{
		{"missing", func(dir string) error { return nil }, ""},
		{"closed", func(dir string) error { return os.Mkdir(dir, 0o700) }, ""},
		{"readable", func(dir string) error { return mkdir(dir, 0o755) }, ""},
		{"group's", func(dir string) error { return mkdir(dir, 0o770) }, "is open to other users: chmod 700 it, or set NAMESPACE"},
		{"all's", func(dir string) error { return mkdir(dir, 0o777|os.ModeSticky) }, "is open to other users"},
		{"another's", func(dir string) error {
			return errors.Join(mkdir(dir, 0o700), os.Chown(dir, 65534, 65534))
		}, "not of root: remove it, or set NAMESPACE"},
		{"link", func(dir string) error { return os.Symlink(own, dir) }, "is a symbolic link"},
		{"dangling", func(dir string) error { return os.Symlink(own+"/none", dir) }, "is a symbolic link"},
		{"file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "is not a directory"},
	} {
		dir := filepath.Join(t.TempDir(), "a", "ns")
		if err := errors.Join(os.Mkdir(filepath.Dir(dir), 0o700), tt.make(dir)); err != nil {
			t.Fatal(err)
		}
		for _, ns := range []string{dir, dir + "/"} {
			t.Setenv("NAMESPACE", ns)
			got, err := Namespace()
			switch {
			case tt.want == "" && (got != dir || err != nil):
				t.Errorf("%s: Namespace() = %q, %v, want %q", tt.name, got, err, dir)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%s: Namespace() = %q, %v, want an error with %q", tt.name, got, err, tt.want)
			}
		}
	}

	// The default one is made, and closed to others as getns has it.
	t.Setenv("NAMESPACE", "")
	t.Setenv("DISPLAY", fmt.Sprintf("9ci-test-%d", os.Getpid()))
	dir, err := Namespace()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if fi, err := os.Lstat(dir); err != nil || fi.Mode() != os.ModeDir|0o700 {
		t.Errorf("%s: %v, %v, want a directory of mode 0700", dir, fi.Mode(), err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Namespace(); err == nil || !strings.Contains(err.Error(), "is open to other users") {
		t.Errorf("Namespace() = %v where %s is open", err, dir)
	}
}

func mkdir(dir string, mode os.FileMode) error {
	return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode))
}

// Only servers of the user and of root are one's own.
func TestDialOwn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("to listen as another user one must be root")
	}
	dir := t.TempDir()
	mine, err := net.Listen("unix", filepath.Join(dir, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	c, err := DialOwn(t.Context(), "unix!"+mine.Addr().String())
	if err != nil {
		t.Fatalf("DialOwn of one's own = %v", err)
	}
	c.Close()

	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o711)); err != nil {
		t.Fatal(err)
	}
	foreign, err := listenAs(65534, filepath.Join(dir, "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if c, err := DialOwn(t.Context(), foreign.Addr().String()); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), userName(65534)) {
		t.Errorf("DialOwn of another's = %v, %v, want %v with the name", c, err, ErrForeign)
	}
	if c, err := Dial(t.Context(), foreign.Addr().String()); err != nil {
		t.Errorf("Dial of another's = %v", err)
	} else {
		c.Close()
	}

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	if _, err := DialOwn(t.Context(), "tcp!127.0.0.1!"+port); err == nil {
		t.Error("DialOwn took a TCP connection")
	}
}

// listenAs listens in a thread that has another user's rights, and ends with it.
func listenAs(uid int, name string) (l net.Listener, err error) {
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and not unlocked: the thread goes
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			err = e
			return
		}
		l, err = net.Listen("unix", name)
	}()
	<-done
	return l, err
}
