package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"9ci/vm/guest"
	"9ci/vm/network"
)

// A Machine is a qemu process with a guest that answers. Its methods may
// be called by several goroutines at once.
type Machine struct {
	log     *slog.Logger
	accel   string
	monitor *monitor
	guest   *guest.Client
	network *network.Network
	console *console // the guest's
	stderr  *console // qemu's

	outbox   *os.File // closed when qemu has ended; or nil
	device   string   // the guest's name of it
	dir      string   // where its disks are
	incoming net.Conn // to a qemu that waits for a saved state; in is the descriptor of its end there
	in       int

	kills   int // what hostKills was before
	process *os.Process
	exited  chan struct{} // closed when qemu is gone and waited for
	status  error         // of qemu, set before exited is closed

	mu     sync.Mutex // guards what follows
	reason error      // why this process ends the machine; nil if it does not
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
	haltTime = 30 * time.Second // for a guest to power down
)

// idleTime is how long a guest is silent until it is pinged, and again until it is
// given up. Tests have less patience.
var idleTime = 30 * time.Second

// GuestPath is where the guest program is in a machine, for its other commands.
const GuestPath = "/usr/lib/9ci/guest"

// Loopback is a network namespace of each machine, for nsenter(1), in which there is
// nothing but a loopback.
const Loopback = guest.Loopback

// errKilled is the reason of a machine that Kill ended.
var errKilled = errors.New("killed")

// Done returns a channel that is closed when the machine has ended and nothing
// of it is left.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err returns why the machine ended. It is nil until Done, and after Shutdown or
// Kill.
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

// Accel returns what the machine runs under, kvm or tcg.
func (m *Machine) Accel() string { return m.accel }

// Run runs a command in the machine and returns when the command has ended and
// all its output is written; see [Cmd] for the rest. A status other than 0 is
// no error. When ctx is done, the command's process group is killed and
// the error is ctx's cause. A program that is not there is an error for
// which errors.Is(err, fs.ErrNotExist) holds. If the machine ended under the
// command, the error says how.
func (m *Machine) Run(ctx context.Context, cmd Cmd) (Exit, error) {
	exit, err := m.guest.Run(ctx, cmd)
	if err == nil {
		return exit, nil
	}
	select {
	case <-m.guest.Done():
		// The connection has ended, so the machine is about to: its reason
		// says more than that of the connection.
		<-m.done
		if m.err != nil && ctx.Err() == nil {
			err = m.err
		}
	default:
	}
	return exit, fmt.Errorf("vm: run %s: %w", shown(cmd.Args), err)
}

// shown returns the first words of a command for an error. A command may be of
// any length; no word is cut.
func shown(args []string) string {
	n := 0
	for i, a := range args {
		if n += len(a); i > 0 && n > 200 {
			return strings.Join(args[:i], " ") + " ..."
		}
	}
	return strings.Join(args, " ")
}

// OutOfMemory returns the last line in which the guest's kernel said that its memory
// is full: which process it killed for that, or that there was none to kill. The line
// has the time of the guest's kernel. It is "" if there is none among the last 16 KiB
// of the console. The guest's root can say so too.
func (m *Machine) OutOfMemory() string {
	line, _, _ := strings.Cut(m.console.find("] Out of memory: Killed process", "System is deadlocked on memory"), " total-vm:")
	return line
}

// OutboxDevice returns the guest's name of the disk that Outbox reads.
func (m *Machine) OutboxDevice() string { return m.device }

// Outbox returns a reader of the disk of Config.Outbox. Bytes that were never
// written are zero. The guest may write at any time, so a second read may get
// other bytes than the first. When the machine has ended reads get
// os.ErrClosed.
func (m *Machine) Outbox() *io.SectionReader {
	return io.NewSectionReader(m.outbox, 0, math.MaxInt64) // or its end
}

// SetNet says whether the guest reaches the network. The host sees to that, so the
// guest cannot undo it. Connections that are open end with the network. After an
// error the guest may or may not reach it.
func (m *Machine) SetNet(ctx context.Context, up bool) error {
	if err := m.setNet(ctx, up); err != nil {
		return fmt.Errorf("vm: set the network: %w", err)
	}
	return nil
}

// setNet cuts the guest off, or not, and has qemu tell it so by its card's link.
func (m *Machine) setNet(ctx context.Context, up bool) error {
	if err := m.network.SetUp(up); err != nil {
		return err
	}
	return m.monitor.run(ctx, "set_link", map[string]any{"name": "net", "up": up}, nil)
}

var errShutdown = errors.New("shut down")

// Shutdown asks the guest to write its disks out and power off. It kills a machine
// that has not ended after half a minute, or when ctx is done, which is an error.
// Nothing is left of the machine when it returns.
func (m *Machine) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	if m.reason == nil {
		m.reason = errShutdown
	}
	m.mu.Unlock()
	// A guest that stalls may block the write until the machine ends.
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
