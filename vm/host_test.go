package vm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"9ci/vm"
)

// On a Mac qemu runs a machine of arm64 under Hypervisor.framework, and gets nothing that
// is Linux's alone.
func TestDarwinArguments(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("qemu-system-aarch64")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c := vm.Config{
		Image: &vm.Image{Arch: "arm64", Kernel: file("vmlinux"), Root: file("root.erofs"), Modules: file("modules.cpio")},
		Guest: file("guest"), Mk: file("mk"),
		Memory: 1 << 30, CPUs: 4, Disk: 64 << 20, Outbox: 512, Dir: dir,
		Shares: []vm.Share{{Tag: "src", Dir: dir}},
	}
	value := func(args []string, name string) string {
		if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	for _, test := range []struct{ goos, accel, machine, cpu, files string }{
		{"darwin", "hvf", "virt,gic-version=3,accel=hvf", "host", "/dev/fd/"},
		{"darwin", "tcg", "virt,gic-version=3,accel=tcg", "max,pauth-impdef=on", "/dev/fd/"},
		{"linux", "kvm", "virt,gic-version=3,accel=kvm", "host", "/proc/self/fd/"},
	} {
		c.Accel = test.accel
		args := vm.Arguments(t, test.goos, c)
		if m, cpu := value(args, "-M"), value(args, "-cpu"); m != test.machine || cpu != test.cpu {
			t.Errorf("%s, %s: -M %s -cpu %s, want %s and %s", test.goos, test.accel, m, cpu, test.machine, test.cpu)
		}
		if initrd := value(args, "-initrd"); !strings.HasPrefix(initrd, test.files) {
			t.Errorf("%s, %s: -initrd %s, want a descriptor in %s", test.goos, test.accel, initrd, test.files)
		}
		line := strings.Join(args, " ")
		if mac := test.goos == "darwin"; mac == strings.Contains(line, "/proc/") || mac == slices.Contains(args, "-sandbox") {
			t.Errorf("%s, %s: qemu %s", test.goos, test.accel, line)
		}
		if n := strings.Count(line, test.files); n != 3 { // initramfs, disk, outbox
			t.Errorf("%s, %s: %d files in %s, want 3: %s", test.goos, test.accel, n, test.files, line)
		}
	}
}
