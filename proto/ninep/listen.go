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

// Listen announces addr: unix!PATH, tcp!HOST!PORT, or a bare path, which is that
// of a Unix socket. It replaces a socket file whose server is gone. For a socket
// that is served the error is syscall.EADDRINUSE, and for a file that is no socket
// os.ErrExist. Closing the listener removes the file. Listen may block while
// another process listens in the same directory.
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

// Dial connects to addr, in the forms that Listen takes. It blocks until there is
// a connection or ctx is done. Its errors are those of net.Dialer.
func Dial(ctx context.Context, addr string) (net.Conn, error) {
	network, address, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// ErrForeign is the error of DialOwn where another user serves the socket.
var ErrForeign = errors.New("another user serves it")

// DialOwn is Dial to a Unix socket that this user or root serves: the kernel says
// whose it is (SO_PEERCRED of unix(7)). The error for a socket of another user is
// ErrForeign.
func DialOwn(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := checkOwn(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("9p: dial %s: %w", addr, err)
	}
	return conn, nil
}

func checkOwn(conn net.Conn) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a Unix socket, so its server is not known")
	}
	peer, err := PeerUser(u)
	if err == nil && peer.UID != 0 && peer.UID != int64(os.Getuid()) {
		err = fmt.Errorf("%w: %s", ErrForeign, peer.Name)
	}
	return err
}

// parseAddr takes those forms of dial(3) that Listen names.
func parseAddr(addr string) (network, address string, err error) {
	network, rest, ok := strings.Cut(addr, "!")
	switch {
	case addr == "":
	case !ok:
		return "unix", addr, checkSocketPath(addr)
	case network == "unix" && rest != "":
		return "unix", rest, checkSocketPath(rest)
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

// maxSocketPath is how long the path of a socket may be, in bytes: sun_path of
// unix(7), less the NUL at its end.
const maxSocketPath = 107

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("9p: the path of the socket %s has %d bytes, and the system takes %d: give another, or set NAMESPACE to a directory with a shorter path", path, len(path), maxSocketPath)
	}
	return nil
}

// Namespace returns the directory in which servers post their sockets, and makes
// it if it is missing. It is $NAMESPACE, else /tmp/ns.$USER.$DISPLAY, as getns of
// plan9port has it, with the display :0 where there is none. A directory that is
// not the user's own, that is a symbolic link, or that others may write in is an
// error, which says what to do; so is one in /tmp that others may enter.
func Namespace() (string, error) {
	if ns := os.Getenv("NAMESPACE"); ns != "" {
		ns = filepath.Clean(ns) // a slash at the end would follow a link
		if err := os.MkdirAll(filepath.Dir(ns), 0o700); err != nil {
			return "", err
		}
		if err := ownDir(ns, 0o022); err != nil {
			return "", err
		}
		return ns, nil
	}
	display := os.Getenv("DISPLAY")
	if display == "" {
		display = ":0"
	}
	// X11 spells one display in many ways: :0 and :0.0, and macOS's path.
	display = strings.TrimSuffix(display, ".0")
	display = strings.ReplaceAll(display, "/", "_")
	ns := fmt.Sprintf("/tmp/ns.%s.%s", userName(uint32(os.Getuid())), display)
	if err := ownDir(ns, 0o077); err != nil {
		return "", err
	}
	return ns, nil
}

// ownDir makes a directory if there is none. It refuses one that is not the
// user's own, or that has any of the mode bits others.
func ownDir(name string, others os.FileMode) error {
	if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	fi, err := os.Lstat(name)
	if err != nil {
		return err
	}
	const or = "or set NAMESPACE to a directory of your own"
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case fi.Mode().Type() == os.ModeSymlink:
		return fmt.Errorf("9p: the namespace %s is a symbolic link: remove it, %s", name, or)
	case !fi.IsDir():
		return fmt.Errorf("9p: the namespace %s is not a directory: remove it, %s", name, or)
	case !ok || int(st.Uid) != os.Getuid():
		return fmt.Errorf("9p: the namespace %s is the directory of %s, not of %s: remove it, %s", name, userName(st.Uid), userName(uint32(os.Getuid())), or)
	case fi.Mode().Perm()&others != 0:
		return fmt.Errorf("9p: the namespace %s is open to other users: chmod 700 it, %s", name, or)
	}
	return nil
}
