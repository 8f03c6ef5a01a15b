package dial

import "os"

// bootID returns what differs from one start of the machine to the next (random(4)).
func bootID() ([]byte, error) { return os.ReadFile("/proc/sys/kernel/random/boot_id") }
