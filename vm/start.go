package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"9ci/vm/guest"
	"9ci/vm/network"
)

// Start starts a machine and blocks until its guest is ready for commands: for
// seconds, and for five minutes at most. ctx bounds the start only. An error carries
// the last lines of the guest's console, or qemu's own words; nothing of the
// machine is left then. If ctx is done the error wraps its cause.
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
	hello, stop := watchStart(ctx, m.process.Pid, startIdle, startCPU+time.Duration(c.CPUs-1)*moreCPU)
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
		device:  outboxDevice(c),
		console: &console{to: c.Console},
		stderr:  &console{},
		kills:   hostKills(),
		exited:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	if err := m.exec(q); err != nil {
		return nil, err
	}
	q.lent()
	m.outbox, q.outbox = q.outbox, nil
	// From here on qemu runs: an error ends it.
	if m.monitor, err = newMonitor(q.monitor.take()); err != nil {
		m.process.Kill()
		<-m.exited
		m.outbox.Close()
		return nil, err
	}
	m.network = network.New(q.network.take(), network.Config{Forwards: c.Forwards})
	m.incoming, m.in = q.incoming.take(), q.in
	if m.incoming == nil {
		m.guest = guest.NewClient(q.agent.take(), idleTime)
	} else {
		m.guest = guest.ResumeClient(q.agent.take(), idleTime)
	}
	go m.watch()
	return m, nil
}

// must returns nil if err is. Else it ends the machine, and returns why that ended,
// which is err or says more.
func (m *Machine) must(err error) error {
	if err == nil {
		return nil
	}
	if !errors.Is(err, guest.ErrHungUp) && !errors.Is(err, guest.ErrClosed) && !errors.Is(err, errMonitor) {
		m.end(err)
	} // else watch knows more, now or soon
	<-m.done
	return m.err
}

// prepare makes a guest that has started put its system together.
func (m *Machine) prepare(ctx context.Context, c Config) error {
	if err := m.setNet(ctx, c.Net); err != nil {
		return err
	}
	return m.guest.Prepare(ctx, guest.Prepare{Disk: c.Disk > 0})
}

// boot makes a machine that is prepared the one that c describes.
func (m *Machine) boot(ctx context.Context, c Config) error {
	b := guest.Boot{
		Time:     time.Now(),
		Seed:     make([]byte, 64),
		Hostname: "9ci",
		Files:    c.Files,
		Env:      c.Env,
	}
	rand.Read(b.Seed)
	for _, s := range c.Shares {
		if s.Target == "" {
			continue
		}
		b.Mounts = append(b.Mounts, guest.Mount{Tag: s.Tag, Target: s.Target})
	}
	return m.guest.Boot(ctx, b)
}

// environment is what qemu gets of ours. A guest that breaks out of it finds
// none of the tokens that the rest may hold.
func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// exec starts qemu, and a goroutine that waits for it.
func (m *Machine) exec(q *qemu) error {
	cmd := exec.Command(q.path, q.args...)
	cmd.Env = environment()
	cmd.ExtraFiles = q.files
	cmd.Stdout, cmd.Stderr = m.console, m.stderr
	cmd.WaitDelay = lastTime // for a Console that blocks
	cmd.SysProcAttr = child(syscall.SIGKILL)
	started := make(chan error)
	go func() {
		// The signal comes when the thread that forked dies, so this
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
