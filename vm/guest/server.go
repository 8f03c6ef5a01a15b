//go:build linux

package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// A Server is the guest's side. It serves one connection.
type Server struct {
	// Env is the environment of every command, NAME=VALUE. What the host
	// adds wins.
	Env []string
	// Prepare puts the system together. It is called once, before Boot, and
	// blocks the connection. The host gets its error. Nil does nothing.
	Prepare func(Prepare) error
	// Boot makes the system the machine that the host asks for; as Prepare.
	Boot func(Boot) error
	// Halt powers the machine off, and need not return. Nil ends Serve.
	Halt func()

	start func(c Command, env []string) (*command, error) // nil: start
	conn  *conn
	state byte           // of rHello, rPrep, rBoot: what was done last
	wg    sync.WaitGroup // of the goroutines of commands

	mu      sync.Mutex // guards the rest
	cmds    map[uint32]*command
	streams map[*os.File]bool // reading ends that are open: after their command too while processes that it left behind have the other end
}

// Serve says hello and then does what the host asks, until the host hangs up,
// halts the guest, or breaks the protocol, which is the error. It then closes rwc,
// kills every command, and returns when they are gone.
func (s *Server) Serve(rwc io.ReadWriteCloser) error {
	s.conn = newConn(rwc)
	s.cmds = make(map[uint32]*command)
	s.streams = make(map[*os.File]bool)
	defer s.wg.Wait()
	defer s.stop()
	defer rwc.Close()
	s.state = rHello
	if err := s.conn.write(rHello, 0, []byte(Version)...); err != nil {
		return err
	}
	for {
		m, err := s.conn.read()
		if err == nil {
			err = s.handle(m)
		}
		if err == io.EOF || err == errHalt || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("guest: %w", err)
		}
	}
}

var errHalt = errors.New("halt")

func (s *Server) handle(m message) error {
	switch m.kind {
	case tPing:
		return s.conn.write(rPing, m.id)
	case tHalt:
		if s.Halt != nil {
			s.Halt()
		}
		return errHalt
	case tPrep:
		return become(s, m, rHello, rPrep, s.Prepare)
	case tBoot:
		return become(s, m, rPrep, rBoot, s.boot)
	case tRun:
		return s.run(m)
	}
	s.mu.Lock()
	c := s.cmds[m.id]
	s.mu.Unlock()
	switch m.kind {
	case tInput:
		// A command that has just ended is no error: its Rexit may be under way.
		if c == nil {
			return nil
		}
		if len(m.data) == 0 {
			if !c.input.end() {
				return m.errorf("a second end of input")
			}
			return nil
		}
		if !c.input.put(tInput, m.data) {
			return m.errorf("%d bytes beyond the window", len(m.data))
		}
	case tTaken:
		w, err := m.words(1)
		if err != nil {
			return err
		}
		if c != nil && !c.window.give(w[0]) {
			return m.errorf("%d bytes that were not sent", w[0])
		}
	case tSignal:
		w, err := m.words(1)
		if err != nil {
			return err
		}
		if w[0] == 0 || w[0] > 64 {
			return m.errorf("no signal %d", w[0])
		}
		if c != nil {
			c.signal(syscall.Signal(w[0]))
		}
	case tResize:
		if len(m.data) != 4 {
			return m.errorf("%d bytes of data, want 4", len(m.data))
		}
		if c != nil && c.tty != nil {
			le := binary.LittleEndian
			setSize(c.tty, le.Uint16(m.data), le.Uint16(m.data[2:]))
		}
	default:
		return m.errorf("not for a guest")
	}
	return nil
}

// become does what a Tprep or a Tboot asks. Each comes once, in that order.
func become[T any](s *Server, m message, before, after byte, do func(T) error) error {
	if s.state != before {
		return m.errorf("out of order")
	}
	var v T
	if err := json.Unmarshal(m.data, &v); err != nil {
		return m.errorf("%v", err)
	}
	if do != nil {
		if err := do(v); err != nil {
			return s.fail(0, err)
		}
	}
	s.state = after
	return s.conn.write(after, 0)
}

func (s *Server) boot(b Boot) error {
	s.Env = append(s.Env, b.Env...)
	if s.Boot == nil {
		return nil
	}
	return s.Boot(b)
}

// fail answers with err and its errno.
func (s *Server) fail(id uint32, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = syscall.EIO
	}
	text := err.Error()
	if len(text) > maxText {
		text = text[:maxText]
	}
	return s.conn.write(rError, id, append(appendWords(uint32(errno)), text...)...)
}

func (s *Server) run(m message) error {
	var c Command
	if err := json.Unmarshal(m.data, &c); err != nil {
		return m.errorf("%v", err)
	}
	s.mu.Lock()
	n := len(s.cmds)
	_, dup := s.cmds[m.id]
	s.mu.Unlock()
	if dup {
		return m.errorf("id in use")
	}
	if n >= MaxCommands {
		return s.fail(m.id, fmt.Errorf("%d commands run already: %w", n, syscall.EAGAIN))
	}
	if s.state != rBoot {
		return m.errorf("not booted")
	}
	begin := s.start
	if begin == nil {
		begin = start
	}
	p, err := begin(c, s.Env)
	if err != nil {
		return s.fail(m.id, err)
	}
	p.id, p.server = m.id, s
	s.mu.Lock()
	s.cmds[m.id] = p
	for _, o := range p.out {
		s.streams[o.file] = true
	}
	s.mu.Unlock()
	if err := s.conn.write(rRun, m.id, appendWords(uint32(p.pid))...); err != nil {
		p.signal(syscall.SIGKILL)
	}
	s.wg.Go(p.serve)
	return nil
}

// stop kills every command and takes its streams away.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cmds {
		c.window.shutdown()
		c.input.shutdown()
		c.signal(syscall.SIGKILL)
	}
	for f := range s.streams {
		f.Close()
	}
}
