package config

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HostMemory returns the memory of the host in bytes.
func HostMemory() (int64, error) {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, fmt.Errorf("sysctl hw.memsize: %w", err)
	}
	return int64(n), nil
}
