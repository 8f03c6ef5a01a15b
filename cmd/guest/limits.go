//go:build linux

package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"9ci/vm/guest"
)

// How many files a process may open: the kernel's own 1024 and 4096 are too few for
// many tests.
const (
	openFiles    = 65536
	maxOpenFiles = 1048576 // fs.nr_open
)

// limits sets those of PID 1, which all processes inherit.
func limits(guest.Prepare) error {
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: openFiles, Max: maxOpenFiles})
}

// containersConf returns a file of containers.conf(5) that gives containers what the
// core OS has. The machine is what confines them, so podman's own limits are lifted.
func containersConf() guest.File {
	shm := int64(65536000) // podman's own
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil {
		shm = int64(st.Blocks) * st.Bsize
	}
	return guest.File{
		Name: "/etc/containers/containers.conf.d/9ci.conf",
		Data: fmt.Appendf(nil, "[containers]\ndefault_ulimits = [\"nofile=%d:%d\"]\npids_limit = 0\nshm_size = \"%d\"\n", openFiles, maxOpenFiles, shm),
	}
}
