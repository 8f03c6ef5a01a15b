package vm

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where the kernel says what it knows of the counter's rate, as it does on
// a machine whose hypervisor told it, we measure the same.
func TestTSC(t *testing.T) {
	if !cpuHas("tsc_known_freq") {
		t.Skip("the kernel measures the rate of this CPU's counter too")
	}
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	mhz := regexp.MustCompile(`cpu MHz\s*:\s*([0-9.]+)`).FindSubmatch(b)
	if mhz == nil {
		t.Fatal("no cpu MHz in /proc/cpuinfo")
	}
	want, err := strconv.ParseFloat(string(mhz[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	want *= 1000
	if got := float64(tscKHz()); got < want*0.995 || got > want*1.005 {
		t.Errorf("tscKHz() = %v, want %v", got, want)
	}
}

// A process that shares its CPU with others waits for it.
func TestQueueTime(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &old)
	var one unix.CPUSet
	for cpu := range 1024 {
		if old.IsSet(cpu) {
			one.Zero()
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil { // a child's too
		t.Fatal(err)
	}
	var both [2]*exec.Cmd
	for i := range both {
		both[i] = exec.Command("sh", "-c", "while :; do :; done")
		if err := both[i].Start(); err != nil {
			t.Fatal(err)
		}
		defer both[i].Wait()
		defer both[i].Process.Kill()
	}
	for queueTime(both[0].Process.Pid) < 50*time.Millisecond {
		runtime.Gosched()
	}
	if queueTime(-1) != 0 {
		t.Error("nobody waits")
	}
}

// A process's CPU time grows while it works.
func TestCPUTime(t *testing.T) {
	used, err := cpuTime(os.Getpid())
	for start := used; err == nil && used < start+50*time.Millisecond; {
		used, err = cpuTime(os.Getpid())
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := cpuTime(-1); err == nil {
		t.Error("CPU time of nobody: no error")
	}
}
