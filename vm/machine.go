package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"9ci/vm/guest"
)

// A Config says what machine to start.
type Config struct {
	Image *Image // from EnsureImage

	// Guest and Mk are static programs of this host: PID 1, and the mk
	// of /usr/lib/plan9/bin. They go into the initramfs, not the Image.
	Guest, Mk string

	Memory int64 // the guest's RAM in bytes, in whole MiB; 0: 2 GiB
	CPUs   int   // 0: all of this host's

	// Accel is kvm or tcg. Empty is kvm where ProbeKVM finds that it works.
	Accel string

	// Net is whether the guest reaches the network, by qemu's user
	// network: what this host reaches, from this host's address, this
	// host's own loopback (at 10.0.2.2) included. SetNet changes it.
	Net bool

	Shares []Share

	// Disk is the size in bytes of a sparse disk for all that the guest
	// writes outside its shares: /src, /tmp, podman's store and what is
	// written over the core OS. 0 is memory: faster, and 80% of Memory at
	// most. It lies in Dir without a name.
	Disk int64

	Log     *slog.Logger // nil: none
	Console io.Writer    // gets the guest's console, and must not block; nil: nobody
	Dir     string       // for Disk; empty: /var/tmp

	// Env is every command's in the guest: NAME=VALUE.
	Env []string

	// Cold has the kernel start anew. Else, under TCG, a machine goes on
	// from where one like it was saved, in a tenth of the time; the first
	// of its kind is saved, in the user's cache.
	Cold bool
}

// A Share is a directory of the host that the guest sees by 9P. What the
// guest writes there is owned by this process's user; where that is root,
// root in the guest makes devices and set-user-ID files there too, so
// that nobody else should be able to walk to Dir.
type Share struct {
	Tag      string // its name on the wire, at most 31 bytes; unique
	Dir      string // here
	Target   string // there; empty: not mounted at boot
	ReadOnly bool   // writes get EROFS, from qemu: root in the guest cannot change that
}

// A Machine is a qemu process with a guest that answers. Its methods may
// be called by several goroutines at once.
type Machine struct {
	log     *slog.Logger
	accel   string
	monitor *monitor
	guest   *guest.Client
	console *console // the guest's
	stderr  *console // qemu's

	dir      string   // where its disk is
	incoming net.Conn // to a qemu that waits for a saved state; in is the descriptor of its end there
	in       int

	process *os.Process
	exited  chan struct{} // closed when qemu is gone and waited for
	status  error         // of qemu, set before exited is closed

	mu     sync.Mutex // guards what follows
	reason error      // why the machine is being ended; nil: by nobody here
	done   chan struct{}
	err    error // set before done is closed
}

// Cmd, Exit and Size are those of package guest.
type (
	Cmd  = guest.Cmd
	Exit = guest.Exit
	Size = guest.Size
)

const (
	bootTime = 5 * time.Minute  // for a guest to answer, on a host with ten times more to do than it can
	idleTime = 30 * time.Second // of silence until a guest is pinged, and again until it is given up
	haltTime = 30 * time.Second // for a guest to power down
)

// GuestPath is where the guest program is in a machine, for its other commands.
const GuestPath = "/usr/lib/9ci/guest"

// errKilled is the reason of a machine that Kill ended.
var errKilled = errors.New("killed")

// Start starts a machine and returns when its guest answers. ctx bounds
// the start only. An error carries the last lines of the guest's console,
// or qemu's own words; nothing of the machine is left then.
func Start(ctx context.Context, c Config) (*Machine, error) {
	m, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("vm: start machine: %w", err)
	}
	return m, nil
}

func start(ctx context.Context, c Config) (m *Machine, err error) {
	begin := time.Now()
	if err := c.complete(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("not ready after %v", bootTime))
	defer cancel()
	from := "saved"
	if m, err = resume(ctx, c); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != errCold {
			c.Log.Warn("no saved machine", "err", err)
		}
		from = "cold"
		m, err = first(ctx, c, nil)
		if errors.Is(err, errHangs) {
			c.Log.Warn("kernel hangs, starting another", "err", err)
			m, err = first(ctx, c, nil)
		}
		if err != nil {
			return nil, err
		}
		if err := m.must(m.boot(ctx, c)); err != nil {
			return nil, err
		}
	}
	m.log.Info("machine", "accel", c.Accel, "start", from, "pid", m.process.Pid, "took", time.Since(begin))
	return m, nil
}

// first starts a machine with a kernel's start and prepares it.
func first(ctx context.Context, c Config, mem *memory) (*Machine, error) {
	m, err := launch(ctx, c, mem)
	if err != nil {
		return nil, err
	}
	hello, stop := watchStart(ctx, m.process.Pid, startIdle, startCPU)
	defer stop()
	if err := m.must(m.guest.Hello(hello)); err != nil {
		return nil, err
	}
	return m, m.must(m.prepare(ctx, c))
}

// launch starts a qemu for a machine.
func launch(ctx context.Context, c Config, mem *memory) (*Machine, error) {
	q, err := prepare(ctx, c, mem)
	if err != nil {
		return nil, err
	}
	defer q.close()
	m := &Machine{
		log:     c.Log,
		accel:   c.Accel,
		dir:     c.Dir,
		console: &console{to: c.Console},
		stderr:  &console{},
		exited:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	if err := m.exec(q); err != nil {
		return nil, err
	}
	q.lent()
	// From here on qemu runs: an error ends it.
	if m.monitor, err = newMonitor(q.monitor.take()); err != nil {
		m.process.Kill()
		<-m.exited
		return nil, err
	}
	m.incoming, m.in = q.incoming.take(), q.in
	if m.incoming == nil {
		m.guest = guest.NewClient(q.agent.take(), idleTime)
	} else {
		m.guest = guest.ResumeClient(q.agent.take(), idleTime)
	}
	go m.watch()
	return m, nil
}

// must ends the machine where err, which is returned with what the
// machine's end tells, is not nil.
func (m *Machine) must(err error) error {
	if err == nil {
		return nil
	}
	if !errors.Is(err, guest.ErrHungUp) && !errors.Is(err, errMonitor) {
		m.end(err)
	} // else watch knows more, now or soon
	<-m.done
	return m.err
}

// prepare has a guest that has started put its system together.
func (m *Machine) prepare(ctx context.Context, c Config) error {
	if !c.Net {
		if err := m.setLink(ctx, false); err != nil {
			return err
		}
	}
	return m.guest.Prepare(ctx, guest.Prepare{Disk: c.Disk > 0})
}

// boot makes a machine that is prepared one of c.
func (m *Machine) boot(ctx context.Context, c Config) error {
	files, err := hostFiles(ctx)
	if err != nil {
		return err
	}
	b := guest.Boot{
		Time:     time.Now(),
		Seed:     make([]byte, 64),
		Hostname: "9ci",
		Files:    files,
		Env:      c.Env,
	}
	rand.Read(b.Seed)
	for _, s := range c.Shares {
		if s.Target == "" {
			continue
		}
		b.Mounts = append(b.Mounts, guest.Mount{Tag: s.Tag, Target: s.Target, ReadOnly: s.ReadOnly})
	}
	return m.guest.Boot(ctx, b)
}

// hostFiles are what a guest is lent of this host, to reach Debian's
// archive as it does.
func hostFiles(ctx context.Context) ([]guest.File, error) {
	a, err := hostAPT(ctx)
	if err != nil {
		return nil, nil // a host without apt has none to lend
	}
	return []guest.File{
		{Name: "/etc/apt/sources.list", Data: []byte(a.list())},
		{Name: "/etc/apt/apt.conf.d/99host", Data: []byte(a.conf())},
	}, nil
}

// exec starts qemu, and a goroutine that waits for it.
func (m *Machine) exec(q *qemu) error {
	cmd := exec.Command(q.path, q.args...)
	cmd.ExtraFiles = q.files
	cmd.Stdout, cmd.Stderr = m.console, m.stderr
	cmd.WaitDelay = lastTime // for a Console that blocks
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // a terminal's ^C is for us
		Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error)
	go func() {
		// Pdeathsig comes when the thread that forked dies, so this
		// goroutine keeps its thread until qemu is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		m.status = cmd.Wait()
		close(m.exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	m.process = cmd.Process
	return nil
}

// lastTime is how long a qemu has to end whose sockets have. Mostly they
// close because it ends, and then its own status says more.
const lastTime = time.Second

// watch ends the machine when any part of it has ended, and closes done.
// That qemu has ended is what counts: the others only hasten it.
func (m *Machine) watch() {
	var lost func() error
	select {
	case <-m.exited:
	case <-m.guest.Done():
		lost = m.guest.Err
	case <-m.monitor.done:
		lost = func() error { return errMonitor }
	case <-m.monitor.full:
		m.end(fmt.Errorf("no room for its disk in %s: %w", m.dir, syscall.ENOSPC))
	}
	if lost != nil {
		t := time.NewTimer(lastTime)
		select {
		case <-m.exited:
		case <-t.C:
			m.end(lost())
		}
		t.Stop()
	}
	<-m.exited
	m.guest.Close()
	m.monitor.close()

	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = m.explain(m.reason)
	close(m.done)
}

// explain says why the machine ended: for a reason that we had, or one
// that the console or qemu's status shows, with what they said last.
func (m *Machine) explain(reason error) error {
	if reason == errKilled || reason == errShutdown {
		return reason
	}
	if reason == nil {
		if line := m.console.find("Kernel panic"); line != "" {
			reason = fmt.Errorf("guest panicked: %s", line)
		} else if m.status == nil {
			reason = errors.New("the guest powered off or reset itself")
		} else {
			reason = fmt.Errorf("qemu: %w", m.status)
		}
	}
	for _, c := range []struct {
		name string
		*console
	}{{"qemu", m.stderr}, {"console", m.console}} {
		if text := c.last(); text != "" {
			reason = fmt.Errorf("%w\n%s: %s", reason, c.name, strings.ReplaceAll(text, "\n", "\n"+c.name+": "))
		}
	}
	return reason
}

// end kills qemu for a reason, the first of which counts.
func (m *Machine) end(reason error) {
	m.mu.Lock()
	if m.reason == nil {
		m.reason = reason
	}
	m.mu.Unlock()
	m.process.Kill()
}

// Done is closed when the machine has ended and nothing of it is left.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err is nil until Done. Then it is nil for a machine that was shut down
// or killed by those methods, and else why it ended.
func (m *Machine) Err() error {
	select {
	case <-m.done:
	default:
		return nil
	}
	if m.err == errKilled || m.err == errShutdown {
		return nil
	}
	return fmt.Errorf("vm: machine ended: %w", m.err)
}

// Accel is kvm or tcg.
func (m *Machine) Accel() string { return m.accel }

// Run runs a command in the machine and returns when it has ended and all
// its output is written; see [Cmd] for the rest. A status other than 0 is
// no error. When ctx is done, the command's process group is killed and
// the error is ctx's cause. A program that is not there is an error for
// which errors.Is(err, fs.ErrNotExist) holds. Where the machine ended
// under the command, the error says how.
func (m *Machine) Run(ctx context.Context, cmd Cmd) (Exit, error) {
	exit, err := m.guest.Run(ctx, cmd)
	if err == nil {
		return exit, nil
	}
	select {
	case <-m.guest.Done():
		// The connection is gone, so the machine is going. What it says
		// is worth more.
		<-m.done
		if m.err != nil && ctx.Err() == nil {
			err = m.err
		}
	default:
	}
	return exit, fmt.Errorf("vm: run %s: %w", strings.Join(cmd.Args, " "), err)
}

// SetNet lets the guest reach the network, or not. It is done by qemu:
// the guest cannot undo it. Connections that are open stall.
func (m *Machine) SetNet(ctx context.Context, up bool) error {
	if err := m.setLink(ctx, up); err != nil {
		return fmt.Errorf("vm: set the network: %w", err)
	}
	return nil
}

func (m *Machine) setLink(ctx context.Context, up bool) error {
	return m.monitor.run(ctx, "set_link", map[string]any{"name": "net", "up": up}, nil)
}

var errShutdown = errors.New("shut down")

// Shutdown has the guest write its disks out and power off, and kills the
// machine when it has not after half a minute, or ctx is done, which is an
// error. Nothing is left of the machine when it returns.
func (m *Machine) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	if m.reason == nil {
		m.reason = errShutdown
	}
	m.mu.Unlock()
	// A guest that stalls may hold up the write; the machine's end ends it.
	go m.guest.Halt()
	ctx, cancel := context.WithTimeoutCause(ctx, haltTime, fmt.Errorf("guest did not power off in %v", haltTime))
	defer cancel()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		m.Kill()
		return fmt.Errorf("vm: shut down: %w", context.Cause(ctx))
	}
}

// Kill ends the machine at once. Nothing is left of it when it returns.
func (m *Machine) Kill() {
	m.end(errKilled)
	<-m.done
}
