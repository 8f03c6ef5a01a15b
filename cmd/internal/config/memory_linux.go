package config

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HostMemory returns the memory of the host in bytes.
func HostMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit)), nil
}
