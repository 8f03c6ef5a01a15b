package vm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"9ci/vm"
)

// bootstrapper puts a mmdebstrap into PATH that is a script: it says what
// the real one says and leaves small files of the right form, after body.
// It returns a cache to build into and a file with a line for each build.
func bootstrapper(t *testing.T, body string) (cache, builds string) {
	t.Helper()
	dir := t.TempDir()
	bin, kernel := filepath.Join(dir, "bin"), filepath.Join(dir, "kernel")
	builds = filepath.Join(dir, "builds")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kernel, vm.BzImage("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
echo x >>` + builds + `
echo 'I: running apt-get update...' >&2
` + body + `
cp ` + kernel + ` vmlinuz
echo erofs >root.erofs; echo podman 4 >packages
mkdir -p m/kernel; echo a kernel/a.ko >m/load; echo module >m/kernel/a.ko
tar -C m -cf modules.tar load kernel
rm -r m
`
	if err := os.WriteFile(filepath.Join(bin, "mmdebstrap"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return filepath.Join(dir, "[cache"), builds // no pattern
}

// built is how often a bootstrapper built.
func built(t *testing.T, builds string) int {
	t.Helper()
	b, err := os.ReadFile(builds)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(b) / len("x\n")
}

// only fails the test unless dir holds just these names.
func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	for _, w := range want {
		if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+w+" ") {
			t.Errorf("%s holds %q, want %q", dir, got, want)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// otherList is a list of the files of img as another build has it: one digest differs.
func otherList(t *testing.T, img *vm.Image) []byte {
	t.Helper()
	list, err := os.ReadFile(filepath.Join(img.Dir, "files"))
	if err != nil {
		t.Fatal(err)
	}
	list[0] ^= 1
	return list
}

func TestEnsureImage(t *testing.T) {
	cache, builds := bootstrapper(t, "")
	dir := filepath.Join(cache, "coreos", vm.CoreOS+"-"+runtime.GOARCH)
	if _, err := vm.LookupImage(cache); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("LookupImage of nothing: %v, want %v", err, iofs.ErrNotExist)
	}

	// Many at once build once.
	var wg sync.WaitGroup
	images := make([]*vm.Image, 8)
	for i := range images {
		wg.Go(func() {
			var err error
			var progress bytes.Buffer
			if images[i], err = vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache, Progress: &progress}); err != nil {
				t.Errorf("EnsureImage: %v\n%s", err, &progress)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	img := images[0]
	for _, other := range images {
		if *other != *img {
			t.Errorf("image %+v, another %+v", img, other)
		}
	}
	if n := built(t, builds); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
	if err := img.Verify(); err != nil {
		t.Error(err)
	}
	only(t, img.Dir, "files", "modules.cpio", "packages", "root.erofs", "vmlinux")
	only(t, dir, "current", "lock", "verified", img.Digest)

	// What was damaged, or half removed, is built anew, and is the same.
	for _, damage := range []func() error{
		func() error { return os.Truncate(img.Root, 1) },
		func() error { return os.WriteFile(img.Root, []byte("Erofs\n"), 0o644) }, // of the same size
		func() error { return os.Rename(img.Modules, img.Kernel) },
		func() error { return os.WriteFile(filepath.Join(img.Dir, "files"), otherList(t, img), 0o644) },
		func() error { return os.Remove(img.Kernel) },
		func() error { return os.Remove(filepath.Join(img.Dir, "files")) },
		func() error { return os.WriteFile(filepath.Join(img.Dir, "files"), []byte("x y z\n"), 0o644) },
		func() error { return os.RemoveAll(img.Dir) },
		func() error { return os.Remove(filepath.Join(dir, "current")) },
		func() error { return os.MkdirAll(filepath.Join(dir, "build", "half"), 0o755) },
	} {
		n := built(t, builds)
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		again, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if *again != *img || again.Verify() != nil {
			t.Errorf("built again: %+v, %v, want %+v", again, again.Verify(), img)
		}
		if _, err := os.Stat(filepath.Join(dir, "build")); err != nil && built(t, builds) != n+1 {
			t.Errorf("built %d times more, want 1", built(t, builds)-n)
		}
	}
}

// An image is verified when its files have changed, in whatever way, and when that is
// asked for: a disk changes bytes and no times.
func TestVerifyImage(t *testing.T) {
	cache, builds := bootstrapper(t, "")
	ensure := func(verify bool) (*vm.Image, string) {
		t.Helper()
		var progress strings.Builder
		img, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache, Progress: &progress, Verify: verify})
		if err != nil {
			t.Fatal(err)
		}
		return img, progress.String()
	}
	img, _ := ensure(false)
	note := filepath.Join(cache, "coreos", vm.CoreOS+"-"+runtime.GOARCH, "verified")
	if err := os.Chmod(img.Root, 0o600); err != nil {
		t.Fatal(err)
	}
	if ensure(false); built(t, builds) != 1 {
		t.Error("an image that was touched was built anew")
	}
	if b, err := os.ReadFile(note); err != nil || string(b) != img.Stamp() {
		t.Errorf("the note of what was verified is %q, %v, want %q", b, err, img.Stamp())
	}

	if err := os.WriteFile(img.Root, []byte("Erofs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := img.Verify(); err == nil || !strings.Contains(err.Error(), "is damaged: root.erofs has 6 bytes of SHA-256 ") {
		t.Errorf("Verify: %v", err)
	}
	// As if the disk had done it.
	if err := os.WriteFile(note, []byte(img.Stamp()), 0o644); err != nil {
		t.Fatal(err)
	}
	if ensure(false); built(t, builds) != 1 {
		t.Error("an image was read that nobody had touched")
	}
	if _, said := ensure(true); built(t, builds) != 2 || !strings.Contains(said, "is damaged: root.erofs has 6 bytes") {
		t.Errorf("built %d times, and said %q, want the damaged image built anew", built(t, builds), said)
	}
}

func TestBuildFails(t *testing.T) {
	t.Run("packages", func(t *testing.T) {
		cache, _ := bootstrapper(t, "echo 'E: Unable to locate package crun' >&2; exit 25")
		var progress bytes.Buffer
		_, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache, Progress: &progress})
		if err == nil || !strings.Contains(err.Error(), "Unable to locate package crun") || !strings.Contains(err.Error(), "exit status 25") {
			t.Errorf("EnsureImage: %v", err)
		}
		if want := "core OS " + vm.CoreOS + ": running apt-get update\n"; !strings.Contains(progress.String(), want) {
			t.Errorf("progress %q, want %q", &progress, want)
		}
		only(t, filepath.Join(cache, "coreos", vm.CoreOS+"-"+runtime.GOARCH), "lock")
	})
	t.Run("disk full", func(t *testing.T) {
		cache, _ := bootstrapper(t, "echo 'E: You do not have enough free space in /var/cache/apt/archives/' >&2; exit 25")
		if _, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("EnsureImage: %v, want %v", err, syscall.ENOSPC)
		}
	})
	t.Run("no room", func(t *testing.T) {
		cache, builds := bootstrapper(t, "")
		if err := os.Mkdir(cache, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", cache, "tmpfs", 0, "size=1m"); err != nil {
			t.Skipf("needs to mount a small disk: %v", err)
		}
		defer syscall.Unmount(cache, syscall.MNT_DETACH)
		_, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache})
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "MB are needed") {
			t.Errorf("EnsureImage: %v, want %v", err, syscall.ENOSPC)
		}
		if n := built(t, builds); n != 0 {
			t.Errorf("built %d times, want never", n)
		}
	})
	t.Run("no kernel", func(t *testing.T) {
		cache, _ := bootstrapper(t, "trap 'echo junk >vmlinuz' EXIT")
		if _, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache}); err == nil || !strings.Contains(err.Error(), "not a bzImage") {
			t.Errorf("EnsureImage: %v", err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		cache, _ := bootstrapper(t, "echo 'I: waiting...' >&2; exec sleep 60")
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		progress := writerFunc(func(p []byte) (int, error) {
			if bytes.Contains(p, []byte("waiting")) {
				cancel(enough)
			}
			return len(p), nil
		})
		if _, err := vm.EnsureImage(ctx, vm.ImageOptions{Cache: cache, Progress: progress}); !errors.Is(err, enough) {
			t.Errorf("EnsureImage: %v, want %v", err, enough)
		}
		only(t, filepath.Join(cache, "coreos", vm.CoreOS+"-"+runtime.GOARCH), "lock")
	})
	t.Run("no mmdebstrap", func(t *testing.T) {
		cache, _ := bootstrapper(t, "")
		t.Setenv("PATH", t.TempDir())
		_, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache})
		if err == nil || !strings.Contains(err.Error(), "apt-get install ") {
			t.Errorf("EnsureImage: %v", err)
		}
	})
}

// Whoever waits for another's build may give up.
func TestWaitForBuild(t *testing.T) {
	cache, _ := bootstrapper(t, "echo 'I: building...' >&2; exec sleep 60")
	first, stop := context.WithCancel(t.Context())
	building := make(chan bool, 8)
	ended := make(chan error)
	go func() {
		_, err := vm.EnsureImage(first, vm.ImageOptions{Cache: cache, Progress: writerFunc(func(p []byte) (int, error) {
			if bytes.Contains(p, []byte("building\n")) {
				building <- true
			}
			return len(p), nil
		})})
		ended <- err
	}()
	<-building
	second, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err := vm.EnsureImage(second, vm.ImageOptions{Cache: cache, Progress: writerFunc(func(p []byte) (int, error) {
		if !bytes.Contains(p, []byte("waiting for another process")) {
			t.Errorf("progress %q", p)
		}
		cancel(enough)
		return len(p), nil
	})})
	if !errors.Is(err, enough) {
		t.Errorf("EnsureImage while another builds: %v, want %v", err, enough)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("EnsureImage: %v, want %v", err, context.Canceled)
	}
}

// A proxy of the host's may have a password in its URL: apt gets it, and the
// arguments of no process do.
func TestEnsureImageProxy(t *testing.T) {
	dir := t.TempDir()
	cache, _ := bootstrapper(t, `
echo "$*" >`+dir+`/args
mkdir -p `+dir+`/etc/apt/apt.conf.d
for a; do
	case $a in
	--setup-hook=*) sh -c "${a#*=}" hook `+dir+` ;;
	esac
done`)
	t.Setenv("http_proxy", "http://bob:hunter2@proxy.example.org:3128")
	if _, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache}); err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile(filepath.Join(dir, "etc/apt/apt.conf.d/99mmdebstrap"))
	if err != nil || !strings.Contains(string(conf), "Acquire::http::Proxy ") { // the environment's, or the host's own
		t.Errorf("apt's configuration is %q, %v", conf, err)
	}
	if args, err := os.ReadFile(filepath.Join(dir, "args")); err != nil || !strings.Contains(string(args), "--setup-hook=") || strings.Contains(string(args), "hunter2") {
		t.Errorf("mmdebstrap's arguments are %q, %v", args, err)
	}
}

func TestCollectImages(t *testing.T) {
	cache, _ := bootstrapper(t, "")
	img, err := vm.EnsureImage(t.Context(), vm.ImageOptions{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	// An older build, another label's, and half a build.
	dir := filepath.Join(cache, "coreos", vm.CoreOS+"-"+runtime.GOARCH)
	other := filepath.Join(cache, "coreos", "debian-11", "7")
	list := otherList(t, img)
	older := fmt.Sprintf("%x", sha256.Sum256(list))
	for _, to := range []string{filepath.Join(dir, older), filepath.Join(other, img.Digest)} {
		if err := os.CopyFS(to, os.DirFS(img.Dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, older, "files"), list, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "build"), 0o755); err != nil {
		t.Fatal(err)
	}
	images, err := vm.Images(cache)
	var got []string
	for _, i := range images {
		got = append(got, i.Label+" "+i.Digest)
	}
	want := []string{"debian-11/7 " + img.Digest, vm.CoreOS + " " + older, vm.CoreOS + " " + img.Digest}
	slices.Sort(want[1:])
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Images = %q, %v, want %q", got, err, want)
	}
	if err := vm.CollectImages(t.Context(), cache); err != nil {
		t.Fatal(err)
	}
	only(t, dir, "current", "lock", "verified", img.Digest)
	only(t, other, "lock")
	if again, err := vm.LookupImage(cache); err != nil || *again != *img {
		t.Errorf("LookupImage = %+v, %v, want %+v", again, err, img)
	}
}
