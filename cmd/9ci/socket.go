package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"9ci/cmd/internal/service"
	"9ci/cmd/internal/show"
	"9ci/proto/ninep"
)

// post announces $NAMESPACE/9ci, or 9ci.PID where another process holds that, unless taken
// then returns an error; it may be nil. Post removes what killed processes have left of the
// second kind, as ninep.Listen does of the first.
func post(taken func() error) (net.Listener, error) {
	dir, err := ninep.Namespace()
	if err != nil {
		return nil, err
	}
	sweep(dir)
	addr := "unix!" + filepath.Join(dir, "9ci")
	l, err := ninep.Listen(addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if taken != nil {
			if err := taken(); err != nil {
				return nil, err
			}
		}
		l, err = ninep.Listen(fmt.Sprintf("%s.%d", addr, os.Getpid()))
	}
	return l, err
}

// sweep removes the sockets 9ci.PID of processes that have died. A process of another PID
// namespace is not known here, and answers.
func sweep(dir string) {
	names, _ := iofs.Glob(os.DirFS(dir), "9ci.*")
	for _, name := range names {
		pid, err := strconv.Atoi(strings.TrimPrefix(name, "9ci."))
		name = filepath.Join(dir, name)
		if err != nil || pid <= 0 || syscall.Kill(pid, 0) != syscall.ESRCH {
			continue
		}
		if st, err := os.Lstat(name); err != nil || st.Mode().Type() != iofs.ModeSocket {
			continue
		}
		if c, err := net.Dial("unix", name); err == nil {
			c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(name)
		}
	}
}

// posted returns the addresses of the sockets in $NAMESPACE that post names: 9ci
// first.
func posted() ([]string, error) {
	dir, err := ninep.Namespace()
	if err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir) // sorted: 9ci is the first
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, e := range names {
		if e.Name() != "9ci" && !strings.HasPrefix(e.Name(), "9ci.") {
			continue
		}
		n := filepath.Join(dir, e.Name())
		if st, err := os.Stat(n); err == nil && st.Mode()&iofs.ModeSocket != 0 {
			addrs = append(addrs, "unix!"+n)
		}
	}
	return addrs, nil
}

// listen announces the addresses of a daemon, and takes the sockets that systemd has
// opened for it. Without either it posts the socket in $NAMESPACE, unless another
// daemon answers there.
func listen(ctx context.Context, addrs []string) ([]net.Listener, error) {
	listeners, err := passedSockets()
	if err != nil {
		return nil, err
	}
	if len(addrs)+len(listeners) == 0 {
		alone := func() error {
			d, err := findDaemon(ctx)
			if d != nil {
				d.close()
				err = fmt.Errorf("a daemon answers at %s already", d.addr)
			}
			return err
		}
		if err := alone(); err != nil {
			return nil, err
		}
		l, err := post(alone) // another daemon may have been started meanwhile
		return []net.Listener{l}, err
	}
	for _, a := range addrs {
		err := loopback(a)
		var l net.Listener
		if err == nil {
			l, err = ninep.Listen(a)
		}
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// passedSockets returns the sockets that systemd has opened for this process. A tree
// is all that they can be for.
func passedSockets() ([]net.Listener, error) {
	sockets, err := service.Sockets()
	if err != nil {
		return nil, err
	}
	var listeners []net.Listener
	for _, l := range sockets {
		if l.Name != "" && l.Name != "9ci" {
			return nil, fmt.Errorf("socket %q that systemd passes is for nothing here: say FileDescriptorName=9ci in its unit, or leave that out", l.Name)
		}
		if err := loopback(dialString(l.Addr())); err != nil {
			return nil, fmt.Errorf("socket that systemd passes: %w", err)
		}
		listeners = append(listeners, l.Listener)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// loopback refuses addresses that other machines can reach: 9P over TCP has no
// authentication.
func loopback(addr string) error {
	network, rest, _ := strings.Cut(addr, "!")
	if network != "tcp" && network != "net" { // as ninep.Listen has it
		return nil
	}
	host, _, _ := strings.Cut(rest, "!")
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s: 9P over TCP has no authentication, so the address must be on the loopback (tcp!127.0.0.1!PORT): other machines connect over SSH, through an orchestrator", addr)
}

// serveTree answers at listeners until ctx is done or stop is called. If a
// listener fails before that, lost is called with the error.
func serveTree(ctx context.Context, listeners []net.Listener, srv *ninep.Server, trace bool, lost func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	if trace {
		srv.Trace = show.Err.Words()
	}
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := srv.ServeListener(ctx, l); err != nil && ctx.Err() == nil {
				lost(fmt.Errorf("%s: %w", dialString(l.Addr()), err))
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// serveUntil serves until ctx is done, and goes on for those that are connected until drain
// returns; it may be nil. A listener that fails ends all of them: a daemon that lacked one
// of its addresses would look like one that has it.
func serveUntil(ctx context.Context, listeners []net.Listener, srv *ninep.Server, trace bool, drain func()) (int, error) {
	lost := make(chan error, len(listeners))
	defer serveTree(context.WithoutCancel(ctx), listeners, srv, trace, func(err error) { lost <- err })()
	service.Tell(service.Ready)
	defer service.Tell(service.Stopping)
	select {
	case err := <-lost:
		return exitError, err
	case <-ctx.Done():
		if drain != nil {
			drain()
		}
		return 0, nil
	}
}

// dialString is a listener's address as ninep.Dial takes it.
func dialString(a net.Addr) string {
	if host, port, err := net.SplitHostPort(a.String()); err == nil && a.Network() == "tcp" {
		return "tcp!" + host + "!" + port
	}
	return a.Network() + "!" + a.String()
}
