package vm

import (
	"os"
	"slices"
	"strings"
)

// cpuHas reports whether /proc/cpuinfo lists a flag.
func cpuHas(flag string) bool {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			return slices.Contains(strings.Fields(flags), flag)
		}
	}
	return false
}
