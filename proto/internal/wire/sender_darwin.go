package wire

import "golang.org/x/sys/unix"

// Flags of send(2): Go's runtime ignores SIGPIPE, and there is no MSG_MORE.
const msgNoSignal, msgMore = 0, 0

// sendfile answers as a file system that knows none. Darwin's own reports what it has
// sent along with an error.
func sendfile(int, int, *int64, int) (int, error) { return 0, unix.EINVAL }
