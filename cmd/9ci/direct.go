package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/orchestrator/dial"
)

// A directDoor is the SSH server of 9ci serve -direct and its listener.
type directDoor struct {
	*dial.Direct
	listener net.Listener
}

// openDirect listens at addr. The host key is the user's CI_KEY.
func openDirect(ctx context.Context, addr string) (*directDoor, error) {
	host, port, err := splitDirect(addr)
	if err != nil {
		return nil, err
	}
	c, err := config.Load(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	key, err := sign.LoadKey(c.Key)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("-direct: %w", err)
	}
	told, err := directAddress(host, l.Addr())
	if err != nil {
		l.Close()
		return nil, err
	}
	d, err := dial.NewDirect(key, told)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("-direct: CI_KEY: %w", err)
	}
	return &directDoor{d, l}, nil
}

// splitDirect returns the host and the port of tcp!HOST!PORT or HOST:PORT. The host
// * is "".
func splitDirect(addr string) (host, port string, err error) {
	if words := strings.Split(addr, "!"); len(words) == 3 && words[0] == "tcp" {
		host, port = words[1], words[2]
	} else if host, port, err = net.SplitHostPort(addr); err != nil || strings.Contains(addr, "!") {
		port = ""
	}
	if port == "" {
		return "", "", fmt.Errorf("-direct %s: want tcp!HOST!PORT or HOST:PORT", addr)
	}
	if host == "*" {
		host = ""
	}
	return host, port, nil
}

// directAddress returns what others are told to connect to: the host that was
// given, or if that stands for all addresses the name of this machine, and the port
// of l.
func directAddress(host string, l net.Addr) (string, error) {
	_, port, err := net.SplitHostPort(l.String())
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		host, err = os.Hostname()
	}
	return net.JoinHostPort(host, port), err
}

// serve answers until ctx is done. If the listener fails before that, lost is called
// with the error.
func (d *directDoor) serve(ctx context.Context, lost func(error)) {
	if err := d.Serve(ctx, d.listener); ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		lost(fmt.Errorf("-direct: %w", err))
	}
}
