package mk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a command that mk started.
type process struct {
	procs  *procs
	pid    int
	order  int // among those of procs, in which they were started
	job    *job
	output *collector // nil if its output is not collected
	done   bool       // guarded by procs.mu once it runs
	status string     // empty where it succeeded
	err    error      // its command was too long for the system; not printed yet
	last   string     // to be printed when it is waited for
	input  *os.File   // of a long recipe's rest, nil if there is none
}

// procs starts the commands of one parser or run, and waits for them.
type procs struct {
	cfg     *Config
	out     *output
	w       *streams
	paths   map[string]string
	self    string // our pid
	unwatch func() // returns when no interrupt runs or will

	mu          sync.Mutex // guards what follows, and keeps a process from being reaped while it is signalled
	ended       sync.Cond  // a process of live has
	order       int
	live        []*process
	interrupted bool          // no more are started
	shell       []string      // the built-in one, once it is used
	held        []*descendant // what runs, once that is interrupted
}

// newProcs returns a procs that ends what it has started when ctx ends. Its reap
// must be called.
func newProcs(ctx context.Context, cfg *Config, out *output, w *streams) *procs {
	ps := &procs{cfg: cfg, out: out, w: w, paths: make(map[string]string)}
	ps.ended.L = &ps.mu
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		ps.interrupt(context.Cause(ctx))
	})
	ps.unwatch = func() {
		if !stop() {
			<-over
		}
	}
	return ps
}

// pid returns our process id, $pid.
func (ps *procs) pid() string {
	if ps.self == "" {
		ps.self = strconv.Itoa(os.Getpid())
	}
	return ps.self
}

// start runs a shell. Its standard input is text, or ours if text is nil; its
// standard outputs are ours where they are nil. If the shell cannot be run, start
// prints why, and the process fails as it would in a child.
func (ps *procs) start(sh *shell, args []string, text *string, stdout, stderr *os.File, env []string) *process {
	argv := append(sh.argv[:len(sh.argv):len(sh.argv)], args...)
	if stdout == nil {
		stdout = ps.w.stdout
	}
	if stderr == nil {
		stderr = ps.w.stderr
	}
	var files [3]uintptr
	var pipe [2]int // not os.Pipe, which would set up the poller for it
	if text == nil {
		files[0] = ps.w.stdin.Fd()
	} else {
		if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
			ps.fatal("pipe", err)
		}
		files[0] = uintptr(pipe[0])
	}
	files[1], files[2] = stdout.Fd(), stderr.Fd()
	p := &process{procs: ps}
	path, builtin, err := ps.lookPath(argv[0], env)
	if builtin != nil {
		argv = append(builtin[:len(builtin):len(builtin)], argv[1:]...)
	}
	if err == nil {
		err = ps.fork(p, path, argv, env, files[:])
	}
	if err == syscall.ENOEXEC {
		argv = append([]string{"/bin/sh", path}, argv[1:]...)
		err = ps.fork(p, argv[0], argv, env, files[:])
	}
	if text != nil {
		syscall.Close(pipe[0])
		if err == nil {
			p.feed(pipe[1], *text)
		} else {
			syscall.Close(pipe[1])
		}
	}
	if err == syscall.EAGAIN || err == syscall.ENOMEM {
		ps.fatal("mk fork", err)
	}
	if err == errInterrupted {
		p.done, p.status = true, "exit(1)"
	} else if err == syscall.E2BIG {
		p.done, p.status = true, "exit(1)"
		p.err = whyTooLong(argv, env)
	} else if err != nil {
		p.done, p.status = true, "exit(1)"
		p.last = "/bin/sh: " + errno(err) + "\n"
	}
	return p
}

// feed writes a recipe to its shell, which need not read all of it. The part that
// is sure to fit in a pipe is written at once, the rest as long as the shell
// lives.
func (p *process) feed(fd int, text string) {
	if len(text) <= 4096 {
		syscall.Write(fd, []byte(text))
		syscall.Close(fd)
		return
	}
	syscall.SetNonblock(fd, true) // for the poller, and so for the deadline
	p.input = os.NewFile(uintptr(fd), "|1")
	go func() {
		p.input.WriteString(text)
		p.input.Close()
	}()
}

// errInterrupted is returned by fork when all are to end.
var errInterrupted = errors.New("interrupted")

func (ps *procs) fork(p *process, path string, argv, env []string, files []uintptr) error {
	attr := &syscall.ProcAttr{
		Dir:   ps.cfg.Dir,
		Env:   env,
		Files: files,
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.interrupted {
		return errInterrupted
	}
	if ps.cfg.Orphans {
		children.Lock()
		defer children.Unlock()
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return err
	}
	p.pid = pid
	ps.order++
	p.order = ps.order
	ps.live = append(ps.live, p)
	if !ps.cfg.Orphans {
		go p.await()
		return nil
	}
	if children.started == nil {
		children.started = make(map[int]*process)
	}
	children.started[pid] = p
	if !children.reaping {
		children.reaping = true
		go reapAll()
	}
	return nil
}

func (ps *procs) fatal(what string, err error) {
	ps.out.error(what + ": " + errno(err) + "\n")
	panic(bail{fmt.Errorf("%s: %w", what, err)})
}

// lookPath finds a command as execvp(3) does, in the PATH of env. Where it is
// the built-in shell its command line is returned too.
func (ps *procs) lookPath(name string, env []string) (path string, builtin []string, err error) {
	if name == "builtin" {
		if argv := ps.builtin(); argv != nil {
			return argv[0], argv, nil
		}
	}
	path, ok := ps.paths[name]
	if !ok {
		if path, err = searchPath(ps.cfg, name, env); err != nil {
			if name == "sh" && !isFile("/bin/sh") {
				if argv := ps.builtin(); argv != nil {
					return argv[0], argv, nil
				}
			}
			return "", nil, err
		}
		ps.paths[name] = path
	}
	return path, nil, nil
}

// builtin returns the command line of the built-in shell, nil if there is none.
func (ps *procs) builtin() []string {
	f := ps.cfg.Builtin
	if f == nil {
		return nil
	}
	argv := f()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.shell = argv
	return argv
}

// backquote runs text and appends its output to b, without a last newline.
func (ps *procs) backquote(ctx context.Context, sh *shell, text string, env []string, b []byte) ([]byte, error) {
	r, p, err := ps.capture(ctx, sh, nil, &text, env)
	if err != nil {
		return b, err
	}
	n := len(b)
	b, err = readAll(r, b)
	r.Close()
	if err != nil && ctx.Err() == nil {
		ps.kill() // and the parser bails out
	}
	ps.wait(p)
	settle(ctx, p)
	if len(b) > n && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b, err
}

// capture starts a shell whose output the caller reads, until its end or ctx's. The
// error is that its command is too long for the system.
func (ps *procs) capture(ctx context.Context, sh *shell, args []string, text *string, env []string) (io.ReadCloser, *process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		ps.fatal("pipe", err)
	}
	defer w.Close()
	p := ps.start(sh, args, text, w, nil, env)
	if p.err != nil {
		r.Close()
		return nil, nil, p.err
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	return captured{r, stop}, p, nil
}

// captured is the output of a process.
type captured struct {
	*os.File
	stop func() bool
}

// Close is the end of reading. If an interrupt was that, the processes may write
// on while they end.
func (c captured) Close() error {
	if c.stop() {
		return c.File.Close()
	}
	go func() {
		defer c.File.Close()
		for {
			if _, err := io.Copy(io.Discard, c.File); !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			c.SetReadDeadline(time.Time{})
		}
	}()
	return nil
}

// readAll appends what r has to b, as long as it is no longer than a line may be.
func readAll(r io.Reader, b []byte) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		case len(b) > maxLine:
			return b, fmt.Errorf("output of a command longer than %d bytes", maxLine)
		}
	}
}

// wait waits for one process and returns its status.
func (ps *procs) wait(p *process) string {
	ps.waitAny(p, nil)
	return p.status
}

// reap waits for all that live, and where there was an interrupt for their
// descendants.
func (ps *procs) reap() {
	ps.mu.Lock()
	for len(ps.live) > 0 {
		ps.ended.Wait()
	}
	ps.mu.Unlock()
	ps.unwatch()
	for _, d := range ps.held {
		unix.Close(d.fd)
	}
	ps.held = nil
}

// reaped takes note of how a process has ended. The caller holds ps.mu.
func (ps *procs) reaped(p *process, ws syscall.WaitStatus) {
	p.done = true
	switch {
	case ws.Signaled() && ws.CoreDump():
		p.status = fmt.Sprintf("signal %d, core dumped", ws.Signal())
	case ws.Signaled():
		p.status = fmt.Sprintf("signal %d", ws.Signal())
	case ws.ExitStatus() != 0:
		p.status = fmt.Sprintf("exit(%d)", ws.ExitStatus())
	}
	for i, q := range ps.live {
		if q == p {
			ps.live = append(ps.live[:i], ps.live[i+1:]...)
			break
		}
	}
	if p.input != nil {
		p.input.SetWriteDeadline(time.Now())
	}
}
