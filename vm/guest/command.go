//go:build linux

package guest

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// drainTime is how long a command that has ended waits for output of processes
// that it left in the background with its pipes. What they write later is read
// and dropped, so that they can live on.
const drainTime = time.Second

// A command is a running Command.
type command struct {
	server *Server
	id     uint32
	pid    int
	tty    *os.File // its terminal's other side, or nil
	in     *os.File // the writing end of its input: a pipe, the terminal, or nil
	out    []stream
	input  *queue
	window *window
	exited <-chan syscall.WaitStatus

	mu   sync.Mutex // guards dead
	dead bool       // pid has been waited for, and may be another process's

	sending sync.Mutex // guards over, and is held while a message of the command is written
	over    bool       // Rexit was sent
}

// A stream is a reading end of the command's output.
type stream struct {
	kind byte
	file *os.File
}

// serve carries the command's input and output until the command has ended, and
// then says how it ended. All output that it wrote itself is sent before that.
func (c *command) serve() {
	s := c.server
	s.wg.Go(c.feed)
	drained := make(chan bool, len(c.out))
	for _, o := range c.out {
		s.wg.Go(func() {
			c.copy(o)
			drained <- true
			io.Copy(io.Discard, o.file)
			s.mu.Lock()
			delete(s.streams, o.file)
			s.mu.Unlock()
			o.file.Close()
		})
	}
	status := <-c.exited
	c.mu.Lock()
	c.dead = true
	c.mu.Unlock()
	c.input.shutdown()
	if c.in != nil && c.tty == nil {
		c.in.Close()
	}
	for _, o := range c.out {
		o.file.SetReadDeadline(time.Now().Add(drainTime))
	}
	for range c.out {
		<-drained
	}
	s.mu.Lock()
	delete(s.cmds, c.id)
	s.mu.Unlock()
	code, sig := uint32(status.ExitStatus()), uint32(0)
	if status.Signaled() {
		sig = uint32(status.Signal())
		code = 128 + sig
	}
	c.send(rExit, appendWords(code, sig)...)
}

// send sends a message of the command. No message of a command follows its
// Rexit: a later one is dropped, for example the Rtaken of input that was being
// written when the command ended. Errors are the connection's.
func (c *command) send(kind byte, data ...byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.over {
		return nil
	}
	c.over = kind == rExit
	return c.server.conn.write(kind, c.id, data...)
}

// copy sends what o brings until its end, or its deadline, after which it sends
// only what is in the pipe already.
func (c *command) copy(o stream) {
	buf := make([]byte, MaxData)
	read := o.file.Read
	for {
		n, err := read(buf)
		if n > 0 && (!c.window.take(n) || c.send(o.kind, buf[:n]...) != nil) {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.file.SetReadDeadline(time.Time{})
			read = func(p []byte) (int, error) { return readNow(o.file, p) }
			continue
		}
		if err != nil { // EOF, EIO of a terminal that was left, or nothing more now
			return
		}
	}
}

// readNow reads what is there and never blocks.
func readNow(f *os.File, p []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), p)
		return true
	})
	if err == nil {
		err = e
	}
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// feed writes what the host sends to the command's input.
func (c *command) feed() {
	for {
		k, ok := c.input.get()
		if !ok {
			break
		}
		if c.in != nil {
			// After an error the command has closed its input: what
			// comes is taken and dropped, as by a shell's pipe.
			c.in.Write(k.data)
		}
		c.input.taken(k)
		if c.send(rTaken, appendWords(uint32(k.cost))...) != nil {
			break
		}
	}
	if c.in != nil && c.tty == nil {
		c.in.Close()
	}
}

// signal sends sig to the command's process group.
func (c *command) signal(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead {
		syscall.Kill(-c.pid, sig)
	}
}
