package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Probe returns the accelerator of machines of c on this host: the system's, or tcg and
// why it is not that.
func Probe(ctx context.Context, c Config) (accel, why string) {
	if ok, why := probe(ctx, c); !ok {
		return "tcg", why
	}
	return here.accel, ""
}

// Accelerator is what people call the accelerator of this system.
func Accelerator() string { return strings.ToUpper(here.accel) }

// ProbeKVM reports whether machines of c run under KVM on this host, and if not,
// why. It uses the Image, Guest and Cache of c. A /dev/kvm may be missing or
// forbidden; or it opens, and guests hang or run thousands of times too
// slowly. The probe blocks for two or three seconds at most, and the first time
// only: Cache remembers a success for this boot, qemu and kernel, and a failure
// for ten minutes, since a busy host may be its reason.
func ProbeKVM(ctx context.Context, c Config) (ok bool, why string) {
	if err := firstError(ctx, c, sameArch, hasExtensions, opensKVM); err != nil {
		return false, err.Error()
	}
	memo := kvmMemo(c)
	if b, err := os.ReadFile(memo); err == nil {
		why, bad := strings.CutPrefix(string(b), "bad ")
		if !bad {
			return true, ""
		}
		if fi, err := os.Stat(memo); err == nil && time.Since(fi.ModTime()) < badTime {
			return false, why
		}
	}
	err := firstError(ctx, c, loopsKVM, bootsKVM)
	if ctx.Err() != nil {
		return false, context.Cause(ctx).Error()
	}
	text := "ok"
	if err != nil {
		text = "bad " + err.Error()
	}
	remember(memo, text)
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

// badTime is how long a KVM, or a saved machine, that did not work is left alone.
const badTime = 10 * time.Minute

func firstError(ctx context.Context, c Config, checks ...func(context.Context, Config) error) error {
	for _, check := range checks {
		if err := check(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// kvmMemo is the file that holds what the slow checks found, or "" where there
// is no cache.
func kvmMemo(c Config) string {
	if c.Cache == "" {
		return ""
	}
	h := sha256.New()
	boot, _ := bootID()
	fmt.Fprintf(h, "%s", boot)
	qemu, _ := exec.LookPath(c.board().program)
	for _, name := range []string{qemu, c.Image.Kernel} {
		if fi, err := os.Stat(name); err == nil {
			fmt.Fprintf(h, "%s %d %d\n", name, fi.Size(), fi.ModTime().UnixNano())
		}
	}
	return filepath.Join(c.Cache, "kvm", fmt.Sprintf("%x", h.Sum(nil)))
}

// remember writes a memo, and removes those of other boots. If that fails the
// checks are made again.
func remember(memo, text string) {
	if memo == "" {
		return
	}
	dir := filepath.Dir(memo)
	old, _ := glob(dir, "*")
	for _, name := range old {
		os.Remove(name)
	}
	if os.MkdirAll(dir, 0o755) == nil {
		os.WriteFile(memo, []byte(text), 0o644)
	}
}

func sameArch(_ context.Context, c Config) error {
	if c.Image.Arch != runtime.GOARCH {
		return fmt.Errorf("the machine is of %s and this host of %s", c.Image.Arch, runtime.GOARCH)
	}
	return nil
}

// hasExtensions asks the CPU. A /dev/kvm without them is some emulation. A CPU of arm64
// does not say.
func hasExtensions(context.Context, Config) error {
	if runtime.GOARCH == "amd64" && !cpuHas("svm") && !cpuHas("vmx") {
		return errors.New("the CPU has neither svm nor vmx")
	}
	return nil
}

func opensKVM(context.Context, Config) error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err
}

// Tests have more patience.
var (
	// loopTime is how long a loop may take that takes a millisecond on
	// hardware, with the start of its process.
	loopTime = 100 * time.Millisecond
	// rootTime is how long a kernel may take to start and find that it
	// has no root: half a second on hardware.
	rootTime = 2 * time.Second
)

func loopsKVM(ctx context.Context, c Config) error {
	return bounded(ctx, loopTime, "a loop under KVM", c.Guest, "kvmloop")
}

func bootsKVM(ctx context.Context, c Config) error {
	qemu, err := exec.LookPath(c.board().program)
	if err != nil {
		return err
	}
	machine, cpu := c.board().machine("kvm")
	return bounded(ctx, rootTime, "a kernel under KVM", qemu,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", machine, "-cpu", cpu, "-m", "128", "-kernel", c.Image.Kernel,
		"-append", "quiet cryptomgr.notests panic=-1")
}

// bounded runs a program that must end in time, with status 0. One that cannot be
// killed is left behind: it hangs in a kernel whose KVM does not work.
func bounded(ctx context.Context, limit time.Duration, what, name string, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s did not end in %v", what, limit))
	defer cancel()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s: %w: %s", what, err, bytes.TrimSpace(out.Bytes()))
		}
		return nil
	case <-ctx.Done():
	}
	cmd.Process.Kill()
	select {
	case <-ended:
	case <-time.After(loopTime):
	}
	return context.Cause(ctx)
}
