package vm

import (
	"context"
	"testing"
	"time"
)

var (
	OpensKVM = opensKVM
	LoopsKVM = loopsKVM
	Bounded  = bounded
	Remember = remember
	CPUTime  = cpuTime
)

// SetIdleTime changes idleTime until the end of a test.
func SetIdleTime(t testing.TB, d time.Duration) {
	old := idleTime
	idleTime = d
	t.Cleanup(func() { idleTime = old })
}

// SetProbeTime changes how long the parts of KVM's probe may take until the end of a
// test.
func SetProbeTime(t testing.TB, d time.Duration) {
	oldLoop, oldRoot := loopTime, rootTime
	loopTime, rootTime = d, d
	t.Cleanup(func() { loopTime, rootTime = oldLoop, oldRoot })
}

// Process is the qemu of m.
func (m *Machine) Process() int { return m.process.Pid }

var BzImage = bzImage

func (img *Image) Stamp() string {
	s, err := img.stamp()
	if err != nil {
		panic(err)
	}
	return s
}

// Arguments returns what qemu would be called with for a complete c on another system.
func Arguments(t testing.TB, goos string, c Config) []string {
	old := here
	here = systems[goos]
	t.Cleanup(func() { here = old })
	q, err := prepare(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.close()
	return q.args
}
