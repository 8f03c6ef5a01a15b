package vm

// A board is what the machines of an architecture are made of. All their devices are on
// virtio-mmio, so they have the same names.
type board struct {
	program, pkg string // qemu, and where Debian has it
	model        string // qemu's -M
	tcg          string // qemu's -cpu where there is no accelerator
	console      string // the kernel's name of the serial line
	bus          string // what its buses for virtio are called, if qemu would fill them from the last to the first
	args         []string
	cpus         int // how many processors a machine can have
	kernel       func(packed []byte) ([]byte, error)
}

// boards are those of the architectures that there is a core OS for.
var boards = map[string]board{
	"amd64": {
		program: "qemu-system-x86_64", pkg: "qemu-system-x86",
		model: "microvm,acpi=on", tcg: "max", console: "ttyS0",
		cpus: 255, kernel: vmlinux,
	},
	"arm64": {
		program: "qemu-system-aarch64", pkg: "qemu-system-arm",
		// Pointer authentication as the architecture has it takes half of TCG's time.
		model: "virt,gic-version=3", tcg: "max,pauth-impdef=on", console: "ttyAMA0",
		bus:  "virtio-mmio-bus",
		args: []string{"-global", "virtio-mmio.force-legacy=false"},
		cpus: 255, kernel: image,
	},
}

// emulator is qemu.
func (b board) emulator() Need { return Need{b.program, b.pkg} }

// board is that of a complete Config.
func (c *Config) board() board { return boards[c.Image.Arch] }

// machine returns qemu's -M and -cpu.
func (b board) machine(accel string) (model, cpu string) {
	if accel == "tcg" {
		cpu = b.tcg
	} else {
		cpu = "host"
	}
	return b.model + ",accel=" + accel, cpu
}
