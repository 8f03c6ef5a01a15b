//go:build linux

package main

import (
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"9ci/vm/guest"
)

// loopback makes the network namespace guest.Loopback as ip-netns(8) does: a thread
// makes it, and a mount holds it when the thread has ended.
func loopback(guest.Prepare) error {
	if err := os.MkdirAll(filepath.Dir(guest.Loopback), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(guest.Loopback, nil, 0); err != nil {
		return err
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		made <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := raiseLink("lo"); err != nil {
				return err
			}
			return os.NewSyscallError("mount", unix.Mount("/proc/thread-self/ns/net", guest.Loopback, "", unix.MS_BIND, ""))
		}()
	}()
	return <-made
}
