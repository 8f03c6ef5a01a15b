package vm_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"9ci/vm"
)

// Whatever this machine's /dev/kvm is, the probe ends soon and says why;
// and the slow checks agree with the quick ones.
func TestProbeKVM(t *testing.T) {
	c := vm.Config{Image: &vm.Image{Arch: runtime.GOARCH}, Guest: programs.guest, Cache: t.TempDir()}
	start := time.Now()
	ok, why := vm.ProbeKVM(t.Context(), c)
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("ProbeKVM took %v", took)
	}
	if ok == (why != "") {
		t.Errorf("ProbeKVM = %v, %q", ok, why)
	}
	if vm.OpensKVM(t.Context(), c) == nil {
		err := vm.LoopsKVM(t.Context(), c)
		t.Logf("probe: %v %s; loop: %v", ok, why, err)
		if ok && err != nil {
			t.Errorf("a loop under a KVM that works: %v", err)
		}
	}
}

// What hangs is killed, and what fails is heard.
func TestBounded(t *testing.T) {
	start := time.Now()
	err := vm.Bounded(t.Context(), 50*time.Millisecond, "sleep", "sleep", "60")
	if err == nil || !strings.Contains(err.Error(), "sleep did not end in 50ms") {
		t.Errorf("sleep 60: %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("sleep 60 took %v", took)
	}
	if err := vm.Bounded(t.Context(), time.Minute, "false", "sh", "-c", "echo no such thing; exit 1"); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("false: %v", err)
	}
	if err := vm.Bounded(t.Context(), time.Minute, "true", "true"); err != nil {
		t.Errorf("true: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := vm.Bounded(ctx, time.Minute, "sleep", "sleep", "60"); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// A memo lasts, and replaces others.
func TestRemember(t *testing.T) {
	dir := t.TempDir()
	vm.Remember(filepath.Join(dir, "kvm", "old"), "ok")
	vm.Remember(filepath.Join(dir, "kvm", "new"), "bad luck")
	got, err := filepath.Glob(filepath.Join(dir, "kvm", "*"))
	if err != nil || len(got) != 1 || filepath.Base(got[0]) != "new" {
		t.Errorf("memos: %q, %v", got, err)
	}
	if b, err := os.ReadFile(got[0]); string(b) != "bad luck" {
		t.Errorf("memo = %q, %v", b, err)
	}
	// Without a cache nothing is kept, and no file of the working directory is
	// taken for an old memo.
	t.Chdir(filepath.Join(dir, "kvm"))
	vm.Remember("", "ok")
	if _, err := os.Stat("new"); err != nil {
		t.Errorf("a memo without a name: %v", err)
	}
}
