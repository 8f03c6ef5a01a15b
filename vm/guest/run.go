package guest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// Cmd is a command to run in a guest.
type Cmd struct {
	Args []string // Args[0] is looked up in the guest's PATH
	Dir  string   // empty: /
	Env  []string // NAME=VALUE, added to the guest's own

	// Stdin is read until its end, or until the command has ended. Run
	// does not wait for a Read of it that blocks: what that Read gets is
	// lost. Nil is an empty input.
	Stdin io.Reader

	// Stdout and Stderr get what the command writes, in the order in
	// which it came, from one goroutine. An error of theirs kills the
	// command and is Run's; a Write that blocks holds up the command and
	// Run, but no other. Nil discards.
	Stdout, Stderr io.Writer

	// TTY runs the command on a terminal of its own, whose output is all
	// Stdout's. Resize gives its sizes, the first before the start where
	// one is waiting.
	TTY    bool
	Resize <-chan Size

	// Signals are sent to the command's process group.
	Signals <-chan syscall.Signal

	// Grace is how long the process group has, from the SIGTERM that it
	// gets when Run's ctx is done, until it gets SIGKILL. Zero kills at
	// once.
	Grace time.Duration
}

// A Size is a terminal's, in characters.
type Size struct{ Rows, Cols uint16 }

// An Exit is how a command ended: its status, 128 more than the signal
// where one killed it.
type Exit struct {
	Code   int
	Signal syscall.Signal // 0: none
}

// killTime is how long a guest has to report the end of a command that it
// was told to kill. One that does not is of no more use.
const killTime = time.Minute

// A remote is a command of a Client. Its Client's mu guards it until gone.
type remote struct {
	running bool
	ended   bool  // exit is set
	exit    Exit  // how
	err     error // or why it never ran
	output  *queue
	window  *window
	started chan struct{} // closed by the Client's reader
	gone    chan struct{} // closed by the Client's reader: no more will come
}

// Run runs a command and returns when it has ended and its output is
// written. A status other than 0 is no error. Errors are a *RunError of
// the guest's, one of cmd's writers', ctx's cause (the process group is
// killed first, and its Exit returned where the guest told it in time),
// or the connection's.
func (c *Client) Run(ctx context.Context, cmd Cmd) (Exit, error) {
	if err := context.Cause(ctx); err != nil {
		return Exit{}, err
	}
	r := &remote{
		output:  newQueue(),
		window:  newWindow(),
		started: make(chan struct{}),
		gone:    make(chan struct{}),
	}
	ask := Command{Args: cmd.Args, Dir: cmd.Dir, Env: cmd.Env, TTY: cmd.TTY, Input: cmd.Stdin != nil}
	select {
	case s := <-cmd.Resize:
		ask.Rows, ask.Cols = s.Rows, s.Cols
	default:
	}
	b, err := json.Marshal(ask)
	if err != nil {
		return Exit{}, err
	}
	if len(b) > MaxSize-headerSize {
		return Exit{}, fmt.Errorf("guest: arguments and environment of %d bytes: %w", len(b), syscall.E2BIG)
	}
	id, err := c.add(r)
	if err != nil {
		return Exit{}, err
	}
	if err := c.conn.write(tRun, id, b...); err != nil {
		return Exit{}, c.lost(err)
	}

	// Whatever ends the command's run here, stop's cause is it.
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	wg.Go(func() { c.print(run, stop, r, id, cmd) })
	wg.Go(func() { c.steer(run, r, id, cmd) })
	if cmd.Stdin != nil {
		go c.feed(run, r, id, cmd.Stdin)
	}
	wg.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.err != nil:
		return Exit{}, r.err
	case run.Err() != nil:
		return r.exit, context.Cause(run)
	case !r.ended:
		return Exit{}, c.err
	}
	return r.exit, nil
}

// add gives r an id.
func (c *Client) add(r *remote) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if len(c.commands) >= MaxCommands {
		return 0, fmt.Errorf("guest: %d commands run already", MaxCommands)
	}
	for c.next++; c.next == 0 || c.commands[c.next] != nil; c.next++ {
	}
	c.commands[c.next] = r
	return c.next, nil
}

// print writes the output where it belongs until its end. After run is
// done it is dropped, but still taken, so that the guest can end it.
func (c *Client) print(run context.Context, stop context.CancelCauseFunc, r *remote, id uint32, cmd Cmd) {
	for {
		k, ok := r.output.get()
		if !ok {
			return
		}
		w := cmd.Stdout
		if k.kind == rStderr {
			w = cmd.Stderr
		}
		if w != nil && run.Err() == nil {
			if _, err := w.Write(k.data); err != nil {
				stop(err)
			}
		}
		r.output.taken(k)
		c.conn.write(tTaken, id, appendWords(uint32(k.cost))...)
	}
}

// steer passes signals and sizes on, and kills the command when run is
// done. It returns when the command is gone.
func (c *Client) steer(run context.Context, r *remote, id uint32, cmd Cmd) {
	var kill, giveUp <-chan time.Time
	done := run.Done()
	send := func(s syscall.Signal) { c.conn.write(tSignal, id, appendWords(uint32(s))...) }
	for {
		select {
		case <-r.gone:
			return
		case <-done:
			done = nil
			if cmd.Grace > 0 {
				send(syscall.SIGTERM)
			}
			kill = time.After(cmd.Grace)
		case <-kill:
			send(syscall.SIGKILL)
			giveUp = time.After(killTime)
		case <-giveUp:
			c.fail(fmt.Errorf("%w: a command that was killed %v ago goes on", ErrStalled, killTime))
			giveUp = nil
		case s, ok := <-cmd.Signals:
			if !ok {
				cmd.Signals = nil
				break
			}
			send(s)
		case s, ok := <-cmd.Resize:
			if !ok {
				cmd.Resize = nil
				break
			}
			var b [4]byte
			binary.LittleEndian.PutUint16(b[:], s.Rows)
			binary.LittleEndian.PutUint16(b[2:], s.Cols)
			c.conn.write(tResize, id, b[:]...)
		}
	}
}

// feed sends the command's input until either ends.
func (c *Client) feed(run context.Context, r *remote, id uint32, in io.Reader) {
	select {
	case <-r.started:
	case <-r.gone:
		return
	}
	buf := make([]byte, MaxData)
	for {
		n, err := in.Read(buf)
		if n > 0 && (run.Err() != nil || !r.window.take(n) || c.conn.write(tInput, id, buf[:n]...) != nil) {
			return
		}
		if err != nil {
			c.conn.write(tInput, id)
			return
		}
	}
}
