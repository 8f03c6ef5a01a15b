package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lastTime is how long a qemu whose sockets are closed has to end. Mostly they
// are closed because it ends, and then its status says more.
const lastTime = time.Second

// watch ends the machine when any part of it has ended, and closes done. Only the
// end of qemu is the machine's; that of another part brings it on.
func (m *Machine) watch() {
	var lost func() error
	select {
	case <-m.exited:
	case <-m.guest.Done():
		lost = m.guest.Err
	case <-m.monitor.done:
		lost = func() error { return errMonitor }
	case <-m.monitor.full:
		m.end(fmt.Errorf("no room for its disks in %s: %w", m.dir, syscall.ENOSPC))
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
	m.network.Close()
	if m.outbox != nil {
		m.outbox.Close()
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = m.explain(m.reason)
	close(m.done)
}

// explain returns why the machine ended: the reason for which this process ended
// it, or the one that the console or qemu's status shows, with the last lines of
// both.
func (m *Machine) explain(reason error) error {
	if reason == errKilled || reason == errShutdown {
		return reason
	}
	if reason == nil {
		if line := m.console.find("Kernel panic"); line != "" {
			reason = fmt.Errorf("guest panicked: %s", line)
		} else if m.status == nil {
			reason = errors.New("the guest powered off or reset itself")
		} else if m.stderr.find("Cannot allocate memory") != "" || killed(m.status) && hostKills() > m.kills {
			reason = fmt.Errorf("qemu: %w: %w", m.status, syscall.ENOMEM)
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

// hostKills returns how many processes of this host its kernel has killed because
// memory was full, or 0 if that cannot be known.
func hostKills() int {
	b, _ := os.ReadFile("/proc/vmstat")
	_, rest, _ := strings.Cut("\n"+string(b), "\noom_kill ")
	text, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.Atoi(text)
	return n
}

// killed reports whether SIGKILL ended a process, from the error of its Wait.
func killed(status error) bool {
	e, ok := errors.AsType[*exec.ExitError](status)
	return ok && e.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// end kills qemu for a reason. Only the first reason counts.
func (m *Machine) end(reason error) {
	m.mu.Lock()
	if m.reason == nil {
		m.reason = reason
	}
	m.mu.Unlock()
	m.process.Kill()
}
