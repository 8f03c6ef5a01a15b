package vm

import (
	"testing"
	"time"
)

var (
	OpensKVM = opensKVM
	LoopsKVM = loopsKVM
	Bounded  = bounded
	Remember = remember
)

// SetIdleTime changes idleTime until the end of a test.
func SetIdleTime(t testing.TB, d time.Duration) {
	old := idleTime
	idleTime = d
	t.Cleanup(func() { idleTime = old })
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
