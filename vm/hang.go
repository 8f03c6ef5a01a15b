package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A kernel that starts under TCG hangs now and then. By the clock it looks
// like one on a host that does much else, so what counts is the time that
// its qemu had of the CPUs: a start needs two or three seconds of that, and one more
// for each further processor, since those that wait for another spin.
const (
	startCPU  = 20 * time.Second // a kernel that used as much spins
	moreCPU   = 5 * time.Second  // what one may use besides for each further processor
	startIdle = 20 * time.Second // one that used less than a 20th of a CPU for so long, and asked for no more, waits for nothing
)

// errHangs is the reason of a machine whose kernel did not start.
var errHangs = errors.New("the kernel hangs")

// watchStart returns a context that ends with errHangs if the kernel in the qemu
// pid hangs before stop is called. It looks once every idle.
func watchStart(ctx context.Context, pid int, idle, most time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		tick := time.NewTicker(idle)
		defer tick.Stop()
		var before, asked time.Duration
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			used, err := cpuTime(pid)
			if err != nil {
				return // it ended
			}
			wanted := used + queueTime(pid)
			if used > most || wanted-asked < idle/20 {
				cancel(fmt.Errorf("%w: it has used %v of CPU time, %v of that in the last %v", errHangs, used, used-before, idle))
				return
			}
			before, asked = used, wanted
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// queueTime is how long the threads of a process could have run and had no CPU: the
// second number of their schedstat, of the kernel's Documentation/scheduler/sched-stats.rst.
func queueTime(pid int) time.Duration {
	var sum time.Duration
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range names {
		b, _ := os.ReadFile(name) // the thread may have ended
		var ran, waited int64
		fmt.Sscan(string(b), &ran, &waited)
		sum += time.Duration(waited)
	}
	return sum
}

// cpuTime is how long a process has run, proc(5)'s utime and stime.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name before it is in parentheses and may hold anything.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const utime, stime, hz = 14 - 3, 15 - 3, 100
	if len(f) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / hz, nil
}
