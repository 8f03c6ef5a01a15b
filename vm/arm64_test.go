package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"9ci/vm"
)

// A machine of arm64: its core OS is built, its programs run, podman runs a container,
// and a second one goes on from a saved one. KVM's probe works in it, as qemu emulates
// the CPU's own.
func TestARM64(t *testing.T) {
	if os.Getenv("ARM64") == "" {
		t.Skip("takes ten minutes and packages that nothing else needs: mk arm64")
	}
	dir := t.TempDir()
	guest, mk := filepath.Join(dir, "guest"), filepath.Join(dir, "mk")
	t.Setenv("GOARCH", "arm64")
	for to, pkg := range map[string]string{guest: "9ci/cmd/guest", mk: "9ci/cmd/mk"} {
		if err := build(to, pkg); err != nil {
			t.Fatal(err)
		}
	}
	// qemu gives the CPU its virtualization where it is asked to.
	real, err := exec.LookPath("qemu-system-aarch64")
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/bash\nexec " + real + ` "${@/gic-version=3/gic-version=3,virtualization=on}"` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-aarch64"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	img, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: imageCache, Progress: os.Stderr, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	if img.Arch != "arm64" {
		t.Errorf("Arch = %q", img.Arch)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "from host"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := vm.Config{Image: img, Guest: guest, Mk: mk, Memory: 1 << 30, CPUs: 2, Dir: t.TempDir(), Cache: savedCache, Net: true,
		Disk: 4 << 30, Outbox: 1 << 20, Shares: []vm.Share{{Tag: "source", Dir: source, Target: "/n/source"}}}
	for _, accel := range []string{"", "tcg"} { // where there is no KVM for it, both are
		c.Accel = accel
		m := start(t, c)
		if got, _ := sh(t, m, "uname -m; nproc; cat '/n/source/from host'", 0); got != "aarch64\n2\nhello\n" {
			t.Errorf("the machine says %q", got)
		}
		sh(t, m, "cat '/n/source/from host' >"+m.OutboxDevice()+" && sync", 0)
		b := make([]byte, 6)
		if _, err := m.Outbox().Read(b); string(b) != "hello\n" {
			t.Errorf("Outbox = %q, %v", b, err)
		}
		if got, _ := sh(t, m, "printf 'test:VQ:\\n\\techo of mk\\nMKSHELL=rc\\nr:VQ:\\n\\techo of rc\\n' >/tmp/mkfile; mk -f /tmp/mkfile test r", 0); got != "of mk\nof rc\n" {
			t.Errorf("mk says %q", got)
		}
		sh(t, m, `tar -C / -c bin lib usr/bin/sh usr/bin/dash usr/bin/cat usr/lib/aarch64-linux-gnu/libc.so.6 \
			$(cd / && find usr/lib*/ -name 'ld-linux-aarch64.so.1') | podman import -q - localhost/sh`, 0)
		if got, _ := sh(t, m, "podman run --rm --network=none localhost/sh sh -c 'echo in a container'", 0); got != "in a container\n" {
			t.Errorf("podman run: %q", got)
		}
		if got, _ := sh(t, m, "/usr/lib/9ci/guest kvmloop", 0); !strings.HasSuffix(got, "s\n") {
			t.Errorf("guest kvmloop: %q", got)
		}
		if err := m.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
