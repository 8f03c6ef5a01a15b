package wire

import "golang.org/x/sys/unix"

// Flags of send(2).
const (
	msgNoSignal = unix.MSG_NOSIGNAL
	msgMore     = unix.MSG_MORE
)

var sendfile = unix.Sendfile
