package vm

var (
	OpensKVM = opensKVM
	LoopsKVM = loopsKVM
	Bounded  = bounded
	Remember = remember
)

// Process is the qemu of m.
func (m *Machine) Process() int { return m.process.Pid }

var BzImage = bzImage
