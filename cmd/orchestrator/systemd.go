package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"9ci/orchestrator"
)

// passed are the sockets that systemd has opened for the service, by what their
// FileDescriptorName says they are for (sd_listen_fds_with_names(3)).
type passed struct {
	ssh, tls, web, metrics []net.Listener
}

// passedSockets returns the sockets that were passed to this process.
func passedSockets() (passed, error) {
	var p passed
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		if err != nil {
			return p, fmt.Errorf("socket %s that systemd passes: %w", f.Name(), err)
		}
		f.Close()
		switch name := f.Name(); {
		case name == "metrics":
			if err := checkLocal(l); err != nil {
				return p, err
			}
			p.metrics = append(p.metrics, l)
		case name == "web":
			p.web = append(p.web, l)
		case name == "tls":
			p.tls = append(p.tls, l)
		case name == "ssh", name == "unknown", strings.HasSuffix(name, ".socket"), strings.HasPrefix(name, "LISTEN_FD_"):
			p.ssh = append(p.ssh, l) // the last three are what a unit or systemd-socket-activate says that gives no name
		default:
			return p, fmt.Errorf("socket %q that systemd passes is for nothing here: say FileDescriptorName=ssh, tls, web or metrics in its unit", name)
		}
	}
	return p, nil
}

// tell tells systemd a state of the service (sd_notify(3)), if it asked for that.
func tell(state string) { daemon.SdNotify(false, state) }

// watchdog tells systemd that s is alive, twice as often as the unit's WatchdogSec
// asks for, until ctx is done.
func watchdog(ctx context.Context, s *orchestrator.Server) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	if every == 0 {
		return nil
	}
	t := time.NewTicker(every / 2)
	defer t.Stop()
	for {
		s.Alive()
		tell(daemon.SdNotifyWatchdog)
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
