package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever this machine's /dev/kvm is, the probe ends soon and says why;
// and the slow checks agree with the quick ones.
func TestProbeKVM(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	guest := filepath.Join(dir, "guest")
	if out, err := exec.Command("go", "build", "-o", guest, "9ci/cmd/guest").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := Config{Image: &Image{}, Guest: guest}
	start := time.Now()
	ok, why := ProbeKVM(t.Context(), c)
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("ProbeKVM took %v", took)
	}
	if ok == (why != "") {
		t.Errorf("ProbeKVM = %v, %q", ok, why)
	}
	if opensKVM(t.Context(), c) == nil {
		err := loopsKVM(t.Context(), c)
		t.Logf("probe: %v %s; loop: %v", ok, why, err)
		if ok && err != nil {
			t.Errorf("a loop under a KVM that works: %v", err)
		}
	}
}

// What hangs is killed, and what fails is heard.
func TestBounded(t *testing.T) {
	start := time.Now()
	err := bounded(t.Context(), 50*time.Millisecond, "sleep", "sleep", "60")
	if err == nil || !strings.Contains(err.Error(), "sleep did not end in 50ms") {
		t.Errorf("sleep 60: %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("sleep 60 took %v", took)
	}
	if err := bounded(t.Context(), time.Minute, "false", "sh", "-c", "echo no such thing; exit 1"); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("false: %v", err)
	}
	if err := bounded(t.Context(), time.Minute, "true", "true"); err != nil {
		t.Errorf("true: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := bounded(ctx, time.Minute, "sleep", "sleep", "60"); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// A memo lasts, and replaces others.
func TestRemember(t *testing.T) {
	dir := t.TempDir()
	remember(filepath.Join(dir, "kvm", "old"), "ok")
	remember(filepath.Join(dir, "kvm", "new"), "bad luck")
	got, err := filepath.Glob(filepath.Join(dir, "kvm", "*"))
	if err != nil || len(got) != 1 || filepath.Base(got[0]) != "new" {
		t.Errorf("memos: %q, %v", got, err)
	}
	if b, err := os.ReadFile(got[0]); string(b) != "bad luck" {
		t.Errorf("memo = %q, %v", b, err)
	}
}
