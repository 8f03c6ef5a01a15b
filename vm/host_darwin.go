package vm

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// probe reports whether machines of c run under Hypervisor.framework on this host, and
// if not, why.
func probe(ctx context.Context, c Config) (ok bool, why string) {
	if err := sameArch(ctx, c); err != nil {
		return false, err.Error()
	}
	if n, err := unix.SysctlUint32("kern.hv_support"); err != nil || n == 0 {
		return false, "the system has no Hypervisor.framework (sysctl kern.hv_support)"
	}
	return true, ""
}

// canBuild says why no core OS can be built here.
func canBuild() error {
	return errors.New("it is built on Linux: run 9ci image build on a Linux of this architecture, and copy the directory coreos of its ~/.cache/9ci to this user's")
}

// child is what makes the first process of a group of its own, so that a terminal's ^C
// is for us. No signal tells it here of the end of its parent.
func child(syscall.Signal) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// memoryFile returns a file without a name.
func memoryFile(name string) (*os.File, error) {
	f, err := os.CreateTemp("", "9ci-"+name)
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// socketpair holds syscall.ForkLock, so that no other program gets the ends before they
// close on exec.
func socketpair() ([2]int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	return fds, err
}

// bootID returns what differs from one start of the host to the next.
func bootID() ([]byte, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	return []byte(id), err
}
