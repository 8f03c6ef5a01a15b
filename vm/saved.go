package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A saved machine is the RAM and the other state of one whose guest was prepared
// and does not know yet what it is for. Any number of machines go on from it,
// each with its own copy of what it writes.
//
// It works only with the qemu, the arguments, the programs and the host that it
// was made with, and until the host restarts: qemu's microvm has no versions, and
// nothing was synced to disk. Its directory's name is a digest of all these.
type saved struct {
	dir string
}

const (
	ramFile   = "ram"   // shared with its qemu while it was made
	stateFile = "state" // a migration stream without RAM
	badFile   = "bad"   // instead: why this one cannot be
)

// resumeTime is how long a machine has to go on from a saved one. It takes
// a fraction of a second, three on a host with ten times more to do than
// it can.
const resumeTime = time.Minute

// savedKept is how many saved machines are kept. Each has some 200 MB.
const savedKept = 3

// errCold is the error of resume for a machine that is to start cold.
var errCold = errors.New("cold")

// resume returns a machine that goes on from a saved one.
func resume(ctx context.Context, c Config) (*Machine, error) {
	if c.Cold || c.Cache == "" || c.Accel != "tcg" {
		return nil, errCold
	}
	s, err := findSaved(ctx, c)
	if err != nil {
		return nil, err
	}
	ram, err := os.OpenFile(filepath.Join(s.dir, ramFile), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ram.Close()
	state, err := os.ReadFile(filepath.Join(s.dir, stateFile))
	if err != nil {
		return nil, err
	}
	soon, cancel := context.WithTimeoutCause(ctx, resumeTime, fmt.Errorf("not ready after %v", resumeTime))
	defer cancel()
	m, err := launch(soon, c, &memory{file: ram})
	if err != nil {
		return nil, err
	}
	err = m.load(soon, c, state)
	if err == nil {
		err = m.boot(soon, c)
	}
	if err := m.must(err); err != nil {
		if ctx.Err() == nil {
			s.spoil(err)
		}
		return nil, fmt.Errorf("resume: %w", err)
	}
	return m, nil
}

// load gives a saved state to a qemu that waits for one, and lets it run.
func (m *Machine) load(ctx context.Context, c Config, state []byte) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer m.incoming.Close() // before Wait: a write that is stuck ends
	if err := m.ignoreShared(ctx); err != nil {
		return err
	}
	err := m.monitor.run(ctx, "migrate-incoming", map[string]any{"uri": fmt.Sprintf("fd:%d", m.in)}, nil)
	if err != nil {
		return err
	}
	wg.Go(func() {
		m.incoming.Write(state) // qemu says what was wrong with it
		m.incoming.Close()
	})
	if err := m.migrated(ctx); err != nil {
		return err
	}
	if err := m.setNet(ctx, c.Net); err != nil {
		return err
	}
	return m.monitor.run(ctx, "cont", nil, nil)
}

// ignoreShared keeps RAM that a file holds out of the stream.
func (m *Machine) ignoreShared(ctx context.Context) error {
	return m.monitor.run(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []map[string]any{{"capability": "x-ignore-shared", "state": true}},
	}, nil)
}

// migrated waits for the end of a migration, in or out. It takes some 10 ms.
func (m *Machine) migrated(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var r struct {
			Status string
			Desc   string `json:"error-desc"`
		}
		if err := m.monitor.run(ctx, "query-migrate", nil, &r); err != nil {
			return err
		}
		switch r.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("migration %s: %s", r.Status, r.Desc)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// findSaved finds or makes the saved machine for c. While another process makes
// it, the error is errCold: a cold start is faster than waiting.
func findSaved(ctx context.Context, c Config) (*saved, error) {
	top := filepath.Join(c.Cache, "saved")
	key, err := savedKey(c)
	if err != nil {
		return nil, err
	}
	s := &saved{filepath.Join(top, key)}
	if fi, err := os.Stat(filepath.Join(s.dir, badFile)); err == nil && time.Since(fi.ModTime()) < badTime {
		return nil, errCold
	}
	if _, err := os.Stat(filepath.Join(s.dir, stateFile)); err == nil {
		now := time.Now()
		os.Chtimes(s.dir, now, now)
		return s, nil
	}
	if err := os.MkdirAll(top, 0o700); err != nil {
		return nil, errCold
	}
	f, err := os.OpenFile(filepath.Join(top, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errCold
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errCold
	}
	if err := s.make(ctx, c, filepath.Join(top, "making")); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errHangs) {
			s.spoil(err)
		}
		return nil, fmt.Errorf("save: %w", err)
	}
	s.collect(top)
	return s, nil
}

// savedKey names all that a saved machine depends on.
func savedKey(c Config) (string, error) {
	qemu, err := exec.LookPath(c.board().program)
	if err != nil {
		return "", errCold // whose error is a better one
	}
	self, err := os.Executable() // whose version gives qemu its arguments
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range []string{qemu, self} {
		fi, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d %d\n", name, fi.Size(), fi.ModTime().UnixNano())
	}
	boot, err := bootID()
	if err != nil {
		return "", err
	}
	h.Write(boot)
	for _, name := range []string{c.Guest, c.Mk} {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	fmt.Fprintf(h, "%s %s %d %d %d %d %d\n", c.Image.Dir, c.Image.Digest, c.Memory, c.CPUs, c.Disk, c.Outbox, tscKHz())
	for _, s := range c.Shares {
		fmt.Fprintf(h, "%q\n", s.Tag)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// make saves a machine like those of c, by way of the directory tmp.
func (s *saved) make(ctx context.Context, c Config, tmp string) error {
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// Here, as the name of a socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "9ci-save")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c.Console, c.Net = nil, true
	c.Shares = slices.Clone(c.Shares)
	for i := range c.Shares {
		c.Shares[i].Dir = dir
	}
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer l.Close()
	ram, err := os.OpenFile(filepath.Join(tmp, ramFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer ram.Close()
	if err := ram.Truncate(c.Memory); err != nil {
		return err
	}
	m, err := first(ctx, c, &memory{file: ram, shared: true})
	if err != nil {
		return err
	}
	defer m.Kill()
	received := make(chan error, 1)
	go func() { received <- receive(l, filepath.Join(tmp, stateFile)) }()
	err = m.save(ctx, socket)
	if err != nil {
		l.Close()
	}
	if err := errors.Join(err, <-received); err != nil {
		return err
	}
	m.Kill()
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	return os.Rename(tmp, s.dir)
}

// save has qemu stop and write its state to a socket.
func (m *Machine) save(ctx context.Context, socket string) error {
	if err := m.ignoreShared(ctx); err != nil {
		return err
	}
	if err := m.monitor.run(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := m.monitor.run(ctx, "migrate", map[string]any{"uri": "unix:" + socket}, nil); err != nil {
		return err
	}
	return m.migrated(ctx)
}

// stateMax bounds a state. It is less than 100 KB without RAM.
const stateMax = 16 << 20

// receive accepts one connection from l, and writes what it brings to a file.
func receive(l net.Listener, name string) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := io.ReadAll(io.LimitReader(c, stateMax+1))
	if err != nil {
		return err
	}
	if len(b) > stateMax {
		return fmt.Errorf("state of more than %d bytes", stateMax)
	}
	return os.WriteFile(name, b, 0o600)
}

// spoil makes machines of this kind start cold for the time badTime, since they
// would likely fail the same way each time.
func (s *saved) spoil(err error) {
	os.RemoveAll(s.dir)
	if os.MkdirAll(s.dir, 0o700) == nil {
		os.WriteFile(filepath.Join(s.dir, badFile), []byte(err.Error()+"\n"), 0o600)
	}
}

// collect removes the saved machines that were not used for longest. A machine
// that went on from one keeps its RAM.
func (s *saved) collect(top string) {
	entries, err := os.ReadDir(top)
	if err != nil {
		return
	}
	type old struct {
		name string
		used time.Time
	}
	var all []old
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && e.IsDir() {
			all = append(all, old{e.Name(), fi.ModTime()})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].used.After(all[j].used) })
	for i, o := range all {
		if i >= savedKept {
			os.RemoveAll(filepath.Join(top, o.name))
		}
	}
}
