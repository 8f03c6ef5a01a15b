package vm

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// probe is ProbeKVM.
var probe = ProbeKVM

// canBuild is nil: mmdebstrap makes the core OS here.
func canBuild() error { return nil }

// child is what makes the first process of a group of its own, so that a terminal's ^C
// is for us. It gets sig when the thread that started it dies.
func child(sig syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: sig}
}

// memoryFile returns a file without a name, in memory.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func socketpair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// bootID returns what differs from one start of the host to the next (random(4)).
func bootID() ([]byte, error) { return os.ReadFile("/proc/sys/kernel/random/boot_id") }
