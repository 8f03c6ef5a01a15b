package vm

import (
	"sync"
	"time"
)

// rdtsc reads the CPU's time stamp counter.
func rdtsc() uint64

// tscTime is how long tscKHz measures: an error of the clock's reading,
// of some 100 ns, is then one of 10 parts in a million.
const tscTime = 10 * time.Millisecond

// tscKHz returns the rate of this host's time stamp counter, or 0 if that is not
// constant. It measures, since /proc/cpuinfo may have the CPU's rate of the moment.
var tscKHz = sync.OnceValue(func() int {
	if !cpuHas("constant_tsc") || !cpuHas("nonstop_tsc") {
		return 0
	}
	start := time.Now()
	t0, c0 := readTSC(start)
	time.Sleep(tscTime)
	t1, c1 := readTSC(start)
	return int(float64(c1-c0) / float64((t1 - t0).Nanoseconds()) * 1e6)
})

// readTSC reads both clocks at once: the best of some tries, since this
// thread may be interrupted between the one and the other.
func readTSC(start time.Time) (at time.Duration, count uint64) {
	best := time.Hour
	for range 10 {
		before := time.Since(start)
		c := rdtsc()
		after := time.Since(start)
		if d := after - before; d < best {
			best, at, count = d, before+d/2, c
		}
	}
	return at, count
}
