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
	// does not wait for a Read of it that blocks; what that Read gets later
	// is lost. Nil is an empty input.
	Stdin io.Reader

	// Stdout and Stderr get what the command writes, in the order in
	// which it came, from one goroutine. An error of a Write kills the
	// command and is the error of Run. A Write that blocks holds up the
	// command and Run, but no other command. Nil discards.
	Stdout, Stderr io.Writer

	// TTY runs the command on a terminal of its own. Stdout gets all output
	// of the terminal.
	TTY bool

	// Resize gives the sizes of the terminal. One that is waiting when Run
	// is called is the size at the start.
	Resize <-chan Size

	// Signals are sent to the command's process group.
	Signals <-chan syscall.Signal

	// Grace is how long the process group has, from the SIGTERM that it
	// gets when Run's ctx is done, until it gets SIGKILL. Zero kills at
	// once.
	Grace time.Duration
}

// A Size is the size of a terminal, in characters.
type Size struct {
	Rows, Cols uint16 // 0: the kernel's default
}

// An Exit says how a command ended.
type Exit struct {
	Code   int            // its status; of one that a signal killed, 128 and the signal
	Signal syscall.Signal // 0: none
}

// killTime is how long a guest has to report the end of a command that it was told
// to kill. After that the connection ends.
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

// Run runs a command and returns when the command has ended and its output is
// written. A status other than 0 is no error. The error is a *RunError if the
// command could not be started; that of a writer of cmd, or the cause of ctx's
// end, after which Run has killed the process group, and returns its Exit if the
// guest told of it; syscall.E2BIG for arguments that do not fit into a message;
// one that says that MaxCommands run already; or that of Err.
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

	// stop's cause is the reason for which this side ends the command.
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

// print writes the output to the command's writers until its end. Once run is done
// it drops the output, but still takes it, so that the guest can end the
// command.
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

// feed sends the command's input until the input or the command ends.
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
