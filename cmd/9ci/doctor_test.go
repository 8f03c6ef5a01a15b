package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A user that may not open /dev/kvm is told which group may. For all else the probe's
// reason stands alone.
func TestKVMAdvice(t *testing.T) {
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	denied := &iofs.PathError{Op: "open", Path: device, Err: syscall.EACCES}
	if got, want := kvmAdvice(device, denied.Error(), denied), "permission denied: as root, chgrp kvm "+device+" && chmod 660 "+device+", and usermod -aG kvm "; !strings.Contains(got, want) {
		t.Errorf("for a device that no group may open: %q, want %q in it", got, want)
	}
	if err := os.Chmod(device, 0o660); err != nil {
		t.Fatal(err)
	}
	gid := os.Getgid()
	if gid == 0 {
		gid = 12 // Debian's man, or a number without a name
		if err := os.Chown(device, 0, gid); err != nil {
			t.Fatal(err)
		}
	}
	group := fmt.Sprint(gid)
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	if got, want := kvmAdvice(device, denied.Error(), denied), "permission denied: as root, usermod -aG "+group+" "+userName()+"; then log in again"; !strings.HasSuffix(got, want) {
		t.Errorf("for the device of a group: %q, want %q", got, want)
	}
	for _, err := range []error{nil, denied, &iofs.PathError{Op: "open", Path: device, Err: syscall.ENOENT}} {
		if got := kvmAdvice(device, "the CPU has neither", err); got != "the CPU has neither" {
			t.Errorf("with %v: %q", err, got)
		}
	}
}

func TestRoom(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(dir, "a", "b")
	for _, tt := range []struct {
		room
		want string // in what it has, or in the error after "!"
	}{
		{room{dir: dir}, dir + ", "},
		{room{dir: nowhere, made: true}, nowhere + ", "},
		{room{dir: nowhere, shut: "mend"}, "!" + nowhere + " cannot be written: no such file or directory: mend"},
		{room{dir: file, shut: "mend"}, "!" + file + " cannot be written: "},
		{room{dir: filepath.Join(file, "below"), made: true, shut: "mend"}, "!not a directory: mend"},
		{room{dir: nowhere, made: true, bytes: 1 << 60}, "! MB free, 1099511627776 MB are needed: make room"},
	} {
		has, err := tt.look()
		got := has
		if err != nil {
			got = "!" + err.Error()
		}
		want, bad := strings.CutPrefix(tt.want, "!")
		if bad != (err != nil) || !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", tt.room, got, tt.want)
		}
	}
}

// A host for which there is no core OS is not told to build one.
func TestCoreAdvice(t *testing.T) {
	for _, tt := range []struct {
		err   error
		want  string
		build bool
	}{
		{nil, "<nil>", false},
		{fmt.Errorf("no core OS for riscv64: %w", errors.ErrUnsupported), "no core OS for riscv64: unsupported operation", false},
		{fmt.Errorf("core OS: %w", iofs.ErrNotExist), "9ci image build", true},
		{errors.New("damaged"), "damaged: 9ci image build", true},
	} {
		if got, build := coreAdvice(tt.err); fmt.Sprint(got) != tt.want || build != tt.build {
			t.Errorf("coreAdvice(%v) = %v, %v, want %v, %v", tt.err, got, build, tt.want, tt.build)
		}
	}
}
