package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"9ci/cmd/internal/service"
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
	sockets, err := service.Sockets()
	if err != nil {
		return p, err
	}
	for _, l := range sockets {
		switch l.Name {
		case "metrics":
			if err := checkLocal(l); err != nil {
				return p, err
			}
			p.metrics = append(p.metrics, l)
		case "web":
			p.web = append(p.web, l)
		case "tls":
			p.tls = append(p.tls, l)
		case "ssh", "":
			p.ssh = append(p.ssh, l)
		default:
			return p, fmt.Errorf("socket %q that systemd passes is for nothing here: say FileDescriptorName=ssh, tls, web or metrics in its unit", l.Name)
		}
	}
	return p, nil
}

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
		service.Tell(service.Alive)
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
