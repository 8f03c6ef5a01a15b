// Package service is what a server has to do with the service manager that started it:
// systemd, or one that speaks as it does. Without such a manager it does nothing.
package service

import (
	"fmt"
	"net"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// States of the service, for Tell.
const (
	Ready    = daemon.SdNotifyReady
	Stopping = daemon.SdNotifyStopping
	Alive    = daemon.SdNotifyWatchdog
)

// A Socket is one that the manager has opened for this process.
type Socket struct {
	Name string // FileDescriptorName of its unit, or "" where the unit gives none
	net.Listener
}

// Sockets returns the sockets that were passed to this process
// (sd_listen_fds_with_names(3)), and has programs that it starts get none of them. A
// second call returns nothing. Closing a socket leaves its file where it is: it is the
// manager's.
func Sockets() ([]Socket, error) {
	var all []Socket
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("socket %s that systemd passes: %w", f.Name(), err)
		}
		f.Close()
		s := Socket{f.Name(), l}
		// What a unit or systemd-socket-activate says that gives no name.
		if s.Name == "unknown" || strings.HasSuffix(s.Name, ".socket") || strings.HasPrefix(s.Name, "LISTEN_FD_") {
			s.Name = ""
		}
		all = append(all, s)
	}
	return all, nil
}

// Tell tells the manager a state of the service (sd_notify(3)), if it asked for that.
func Tell(state string) { daemon.SdNotify(false, state) }
