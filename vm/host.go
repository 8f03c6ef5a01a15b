package vm

import "runtime"

// A system is what machines have to know of the one that runs this program.
type system struct {
	accel    string            // qemu's accelerator for machines of the host's own architecture
	files    string            // the directory in which a process finds its open files by number
	sandbox  []string          // of qemu
	sbin     string            // the directories of programs that are not in a user's PATH
	install  string            // the command that installs a package
	packages map[string]string // its names for Debian's packages, where they differ
}

// systems are those that machines can run on, by GOOS.
var systems = map[string]system{
	"linux": {
		accel: "kvm",
		files: "/proc/self/fd",
		// A guest that breaks out of qemu finds no exec and no setuid.
		sandbox: []string{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"},
		sbin:    "/usr/local/sbin:/usr/sbin:/sbin",
		install: "apt-get install",
	},
	"darwin": {
		accel: "hvf",
		files: "/dev/fd",
		// Homebrew links nothing to a package that could be taken for the system's.
		sbin:    "/opt/homebrew/bin:/opt/homebrew/opt/e2fsprogs/sbin:/usr/local/bin",
		install: "brew install",
		packages: map[string]string{
			"qemu-system-arm": "qemu",
			"qemu-system-x86": "qemu",
			"fuse3":           "--cask macfuse",
		},
	},
}

// here is the one that this program runs on. It is a variable for tests only.
var here = systems[runtime.GOOS]

// Install returns the command that installs what is needed on this system.
func (n Need) Install() string {
	name := n.Package
	if other := here.packages[name]; other != "" {
		name = other
	}
	return here.install + " " + name
}
