package dial

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

const (
	maxSaid  = 64   // lines of a proxy that are told
	maxLine  = 1024 // bytes of one
	proxyEnd = time.Second
)

// said is what a proxy has written to standard error.
type said struct {
	mu    sync.Mutex // guards lines
	lines map[string]bool
}

// first reports whether a line is said for the first time.
func (s *said) first(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines[line] || len(s.lines) >= maxSaid {
		return false
	}
	if s.lines == nil {
		s.lines = map[string]bool{}
	}
	s.lines[line] = true
	return true
}

// proxy starts the command of Options.Proxy, by the user's shell as ssh does. Its
// standard input and output are the connection, whose Close ends it.
func (c *Conn) proxy(_ context.Context, _, addr string) (net.Conn, error) {
	command, err := expandProxy(c.opts.Proxy, addr, c.user)
	if err != nil {
		return nil, fmt.Errorf("proxy command: %w", err)
	}
	fds, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("proxy command: socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	nc, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("proxy command: %w", err)
	}
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	cmd := exec.Command(shell, "-c", "exec "+command)
	cmd.Stdin, cmd.Stdout = theirs, theirs
	cmd.WaitDelay = proxyEnd // for what it leaves behind with its standard error
	errs, w := io.Pipe()
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		nc.Close()
		return nil, fmt.Errorf("proxy command: %w", err)
	}
	p := &proxied{Conn: nc, addr: addr, ended: make(chan struct{}), cmd: cmd}
	c.wg.Go(func() { c.tell(errs) })
	c.wg.Go(func() {
		defer close(p.ended)
		cmd.Wait()
		w.Close()
	})
	return p, nil
}

// tell tells what a proxy writes to standard error, each line once.
func (c *Conn) tell(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		b, cut, err := lines.ReadLine()
		for cut && err == nil {
			_, cut, err = lines.ReadLine() // the rest of a long one
		}
		if err != nil {
			return
		}
		line := strings.TrimRight(string(b), "\r")
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != '\t' }) {
			line = fmt.Sprintf("%q", line)
		}
		if c.opts.ProxySaid != nil && line != "" && c.said.first(line) {
			c.opts.ProxySaid(line)
		}
	}
}

// expandProxy returns command with %h, %p and %r replaced by the host, port and user,
// %n by the host too, and %% by % (ssh_config(5), TOKENS). A shell reads them, and
// the program that they are given to: a host or user that could be anything else
// than a name is refused, as ssh does.
func expandProxy(command, addr, user string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	for _, name := range []string{host, user} {
		odd := func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:@+", r))
		}
		if name == "" || name[0] == '-' || strings.ContainsFunc(name, odd) {
			return "", fmt.Errorf("the host or user %.80q is not a name that a shell may be given", name)
		}
	}
	if strings.Trim(port, "0123456789") != "" {
		return "", fmt.Errorf("port %.80q is no number", port)
	}
	var b strings.Builder
	for i := 0; i < len(command); i++ {
		if command[i] != '%' {
			b.WriteByte(command[i])
			continue
		}
		i++
		switch {
		case i == len(command):
			return "", fmt.Errorf("%q ends in %%: want %%%% for one", command)
		case command[i] == '%':
			b.WriteByte('%')
		case command[i] == 'h', command[i] == 'n':
			b.WriteString(host)
		case command[i] == 'p':
			b.WriteString(port)
		case command[i] == 'r':
			b.WriteString(user)
		default:
			return "", fmt.Errorf("%q has %%%c: want %%h, %%p, %%r, or %%%% for one", command, command[i])
		}
	}
	return b.String(), nil
}

// A proxied is a connection by a command.
type proxied struct {
	net.Conn
	addr  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the command has ended
	once  sync.Once
}

// failed returns why the command has ended, if it failed, or else err.
func (p *proxied) failed(err error) error {
	select {
	case <-p.ended:
		if st := p.cmd.ProcessState; !st.Success() {
			return fmt.Errorf("the proxy command failed: %v", st)
		}
	case <-time.After(proxyEnd):
	}
	return err
}

// RemoteAddr returns what the command was to connect to.
func (p *proxied) RemoteAddr() net.Addr { return proxyAddr(p.addr) }

// Close ends the command: first by hanging up, then by SIGTERM and SIGKILL.
func (p *proxied) Close() error {
	err := p.Conn.Close()
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		go func() {
			select {
			case <-p.ended:
			case <-time.After(proxyEnd):
				p.cmd.Process.Kill()
			}
		}()
	})
	return err
}

type proxyAddr string

func (proxyAddr) Network() string  { return "tcp" }
func (a proxyAddr) String() string { return string(a) }
