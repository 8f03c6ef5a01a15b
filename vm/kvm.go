package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// ProbeKVM reports whether machines of c run under KVM here, and if not
// why: /dev/kvm may be missing, forbidden, or open and then run guests
// thousands of times too slowly. It takes a second or two at most.
func ProbeKVM(ctx context.Context, c Config) (ok bool, why string) {
	for _, check := range []func(context.Context, Config) error{
		hasExtensions,
		opensKVM,
		bootsKVM,
	} {
		if err := check(ctx, c); err != nil {
			return false, err.Error()
		}
	}
	return true, ""
}

// hasExtensions asks the CPU. A /dev/kvm without them is some emulation.
func hasExtensions(context.Context, Config) error {
	if !cpuHas("svm") && !cpuHas("vmx") {
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

// kvmBoot is how long a kernel may take to start and find that it has no
// root. On hardware it is half a second.
const kvmBoot = 2 * time.Second

func bootsKVM(ctx context.Context, c Config) error {
	return bootsKernel(ctx, c, "microvm,accel=kvm,acpi=on", "host", kvmBoot)
}

func bootsKernel(ctx context.Context, c Config, machine, cpu string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", machine, "-cpu", cpu, "-m", "128", "-kernel", c.Image.Kernel,
		"-append", "quiet cryptomgr.notests panic=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("a kernel under KVM did not start in %v", limit)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}
