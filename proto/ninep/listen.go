package ninep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Listen announces addr: unix!PATH, tcp!HOST!PORT, or a bare path. A socket
// file whose server is gone is replaced; a live one is left alone, and the
// error is syscall.EADDRINUSE. Closing the listener removes the file.
func Listen(addr string) (net.Listener, error) {
	network, address, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	if network != "unix" {
		return net.Listen(network, address)
	}
	unlock, err := lockSocket(address)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if fi, err := os.Lstat(address); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("9p: listen %s: %w", addr, os.ErrExist)
		}
		c, err := net.Dial("unix", address)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("9p: listen %s: %w", addr, syscall.EADDRINUSE)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("9p: listen %s: %w", addr, err)
		}
		if err := os.Remove(address); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", address)
}

// lockSocket keeps two servers that start together from removing each
// other's socket. It locks the directory, which needs no file of its own.
func lockSocket(path string) (unlock func(), err error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		d.Close()
		return nil, err
	}
	return func() { d.Close() }, nil
}

// Dial connects to addr, in the forms that Listen takes.
func Dial(ctx context.Context, addr string) (net.Conn, error) {
	network, address, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// parseAddr takes dial(3)'s forms, as far as they are ours.
func parseAddr(addr string) (network, address string, err error) {
	network, rest, ok := strings.Cut(addr, "!")
	switch {
	case addr == "":
	case !ok:
		return "unix", addr, nil
	case network == "unix" && rest != "":
		return "unix", rest, nil
	case network == "tcp" || network == "net":
		host, port, ok := strings.Cut(rest, "!")
		if !ok {
			host, port = rest, "564" // 9p's port: services(5) has no 9pfs here
		}
		if host == "*" {
			host = ""
		}
		if port == "9fs" || port == "9pfs" {
			port = "564"
		}
		return "tcp", net.JoinHostPort(host, port), nil
	}
	return "", "", fmt.Errorf("9p: bad address %q: want unix!PATH, tcp!HOST!PORT or the path of a socket", addr)
}

// Namespace returns the directory in which servers post their sockets, and
// makes it where it is missing: $NAMESPACE, else /tmp/ns.$USER.$DISPLAY as
// plan9port has it, with :0 for a display where there is none. The directory
// must be the user's own and closed to others.
func Namespace() (string, error) {
	if ns := os.Getenv("NAMESPACE"); ns != "" {
		return ns, os.MkdirAll(ns, 0o700)
	}
	display := os.Getenv("DISPLAY")
	if display == "" {
		display = ":0"
	}
	// X11 spells one display in many ways: :0 and :0.0, and macOS's path.
	display = strings.TrimSuffix(display, ".0")
	display = strings.ReplaceAll(display, "/", "_")
	ns := fmt.Sprintf("/tmp/ns.%s.%s", userName(uint32(os.Getuid())), display)
	if err := os.Mkdir(ns, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	fi, err := os.Lstat(ns)
	if err != nil {
		return "", err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 || !ok || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("9p: %s is not a directory of this user's alone: remove it, or set NAMESPACE", ns)
	}
	return ns, nil
}
