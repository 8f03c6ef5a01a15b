package dial

import "golang.org/x/sys/unix"

// bootID returns what differs from one start of the machine to the next.
func bootID() ([]byte, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	return []byte(id), err
}
