package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs"
)

// A Server serves a tree in both dialects to any number of connections. Its
// fields must not change while it serves.
type Server struct {
	// Root is what an attach with an empty aname gets.
	Root fs.Dir

	// Attach, if set, returns the tree that uname gets for aname. uname is
	// the name that the kernel or User gives; only an Anonymous client
	// chooses its own. fs.UserOf(ctx) has the rest. Neither text is
	// checked. An error is the client's; one for which it must not know
	// whether the tree is there is iofs.ErrNotExist. Attach may block until
	// ctx is done. Without it an aname is a path to walk from Root.
	Attach func(ctx context.Context, uname, aname string) (fs.Dir, error)

	// User is the client's user on a connection that cannot name it: a
	// channel that was authenticated before. On a Unix socket the kernel
	// names the user. The zero User is Anonymous and may read what others
	// may.
	User fs.User

	// SSH, if set, answers a client on a Unix socket that speaks SSH, of which
	// the kernel says that it is user. It closes nc.
	SSH func(ctx context.Context, nc net.Conn, user fs.User)

	// Trace, if set, gets a line for each message, written whole.
	Trace io.Writer
	trace sync.Mutex // a line is written whole

	// Log, if set, is told of what ServeListener could not accept for now.
	Log *slog.Logger
}

// Serve answers the requests that arrive on rwc until rwc hangs up, its client
// breaks the protocol, or ctx is done. It closes rwc, and returns only when every
// request has ended. A hangup between two frames, and the end of ctx, are no
// errors.
func (s *Server) Serve(ctx context.Context, rwc io.ReadWriteCloser) error {
	return s.serve(ctx, rwc, s.User)
}

// sendBuffer is asked for as SO_SNDBUF of a Unix socket. The kernel gives what
// net.core.wmem_max allows.
const sendBuffer = 256 << 10

// serve is Serve for a client of this user.
func (s *Server) serve(ctx context.Context, rwc io.ReadWriteCloser, user fs.User) error {
	user, err := peer(rwc, user)
	if err != nil {
		rwc.Close()
		return fmt.Errorf("9p: ask the kernel for the client's user: %w", err)
	}
	if u, ok := rwc.(*net.UnixConn); ok {
		// The default is full with three large replies. A writer that waits
		// for room then sleeps until most of it has been read.
		u.SetWriteBuffer(sendBuffer)
		if s.SSH != nil {
			if ssh, err := speaksSSH(ctx, u); ssh || err != nil {
				if err != nil {
					u.Close()
					return nil // it has hung up
				}
				s.SSH(ctx, u, user)
				return nil
			}
		}
	}
	err = newConn(s, rwc, user).serve(ctx)
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

// sshBegin is what each side of SSH says first (RFC 4253 §4.2). As the size of a
// 9P message it would be 760 MB.
const sshBegin = "SSH-"

// speaksSSH waits for the first bytes of a client, which it leaves where they are, and
// reports whether they are those of SSH: what SSH says comes in one write, and a Unix
// socket keeps that together. It reports an error if the client hangs up before.
func speaksSSH(ctx context.Context, c *net.UnixConn) (bool, error) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	b := make([]byte, len(sshBegin))
	var n int
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, _, recvErr = unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return recvErr != unix.EAGAIN && recvErr != unix.EINTR
	})
	switch {
	case err != nil:
		return false, err
	case recvErr != nil:
		return false, os.NewSyscallError("recvfrom", recvErr)
	case n == 0:
		return false, io.EOF
	}
	return string(b[:n]) == sshBegin, nil
}

// peer returns the client's user: the kernel's answer where rwc is a Unix socket,
// else user, or the Anonymous one for the zero User.
func peer(rwc io.ReadWriteCloser, user fs.User) (fs.User, error) {
	if u, ok := rwc.(*net.UnixConn); ok {
		return PeerUser(u)
	}
	if user == (fs.User{}) {
		user = fs.User{UID: -1, Anonymous: true}
	}
	return user, nil
}

// ServeListener serves every connection that l accepts, and closes l. It
// returns nil once ctx is done and the last connection has ended. If l fails
// for good, it ends the connections too and returns the error of Accept, so
// that its caller learns at once that this door is shut. An error that passes,
// as that of too many open files, is told to Log, and Accept is tried again,
// after a pause of 5 ms that doubles up to a second.
//
// The client of a listener that is no Unix socket is Anonymous, whatever User
// says.
func (s *Server) ServeListener(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	conns, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := Accept(ctx, l, s.Log)
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("9p: accept: %w", err)
		}
		// How a connection ends is its client's affair.
		wg.Go(func() { s.serve(conns, c, fs.User{}) })
	}
}

// Accept is l.Accept, tried again, after a pause of 5 ms that doubles up to a
// second, as long as its errors pass and ctx is not done. It tells each of them to
// log, unless that is nil.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger) (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		c, err := l.Accept()
		if err == nil || ctx.Err() != nil || !passes(err) {
			return c, err
		}
		if log != nil {
			log.Warn("no connection accepted for now", "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// passes reports whether an error of Accept says nothing of the listener: the
// process or the host is short of something, which connections that end give
// back, or the new connection failed before it was accepted. The list is that
// of accept(2).
func passes(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EINTR, syscall.EPROTO, syscall.ENETDOWN,
		syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENOPROTOOPT,
	}, func(e error) bool { return errors.Is(err, e) })
}

// attach returns the tree of aname. ctx is a request's.
func (s *Server) attach(ctx context.Context, uname, aname string) (fs.Dir, error) {
	if s.Attach != nil {
		return s.Attach(ctx, uname, aname)
	}
	dir := s.Root
	for name := range strings.SplitSeq(aname, "/") {
		if name == "" {
			continue
		}
		if fs.CheckName(name) != nil {
			return nil, iofs.ErrNotExist
		}
		n, err := dir.Walk(ctx, name)
		if err != nil {
			return nil, err
		}
		d, ok := n.(fs.Dir)
		if !ok {
			return nil, fs.ErrNotDir
		}
		dir = d
	}
	return dir, nil
}
