package store

import (
	"fmt"
	iofs "io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// A lease keeps a sealed run from being evicted while it has a reader: the
// run's directory is open and locked shared, which other processes see. A
// reader that opens a file of the run has the lease until it closes the file.
// The lease lasts leaseTime longer, so that a client that copies a run file by
// file does not lose it between two files to a policy; Forget ends it at once.
type lease struct {
	disk.Place // the run

	// Guarded by Store.mu:
	users int
	used  time.Time   // when the last user went
	end   *time.Timer // runs while there are no users, and perhaps longer
	gone  bool

	tarOnce sync.Once // guards what follows
	tar     *ci.Layout
	tarErr  error

	liveOnce sync.Once // guards what follows
	live     int64
	liveErr  error
}

const leaseTime = time.Second

// maxLeases is how many leases are held before those without users end early:
// each has two descriptors, and a client may walk through many runs a second.
const maxLeases = 128

// acquire returns the lease of a sealed run; the caller calls release. It
// reports iofs.ErrNotExist where the run is gone.
func (s *Store) acquire(id string) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		if len(s.leases) >= maxLeases {
			s.dropIdle()
		}
		var err error
		if l, err = openLease(s.runPath(id)); err != nil {
			return nil, err
		}
		s.leases[id] = l
	}
	l.users++
	return l, nil
}

// Use keeps a sealed run from being removed until release is called, which must not
// be called twice. It reports iofs.ErrNotExist where the run is gone.
func (s *Store) Use(id string) (release func(), err error) {
	l, err := s.acquire(id)
	if err != nil {
		return nil, fmt.Errorf("store: use %s: %w", id, err)
	}
	return func() { s.release(id, l) }, nil
}

func (s *Store) release(id string, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	l.used = time.Now()
	switch {
	case s.closed:
		s.drop(id, l)
	case l.end == nil:
		l.end = time.AfterFunc(leaseTime, func() { s.expire(id, l) })
	}
}

// expire ends a lease that had no users for leaseTime.
func (s *Store) expire(id string, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone {
		return
	}
	l.end = nil
	if l.users > 0 {
		return // release starts it again
	}
	if rest := leaseTime - time.Since(l.used); rest > 0 {
		l.end = time.AfterFunc(rest, func() { s.expire(id, l) })
		return
	}
	s.drop(id, l)
}

// drop ends a lease without users. s.mu is held.
func (s *Store) drop(id string, l *lease) {
	if l.end != nil {
		l.end.Stop()
	}
	delete(s.leases, id)
	l.gone = true
	l.Close()
}

// dropIdle ends all leases without users. s.mu is held.
func (s *Store) dropIdle() {
	for id, l := range s.leases {
		if l.users == 0 {
			s.drop(id, l)
		}
	}
}

// dropLeases ends all leases without users.
func (s *Store) dropLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropIdle()
}

// dropLease ends the lease of a run if it has no users: a user that asks for a run to
// go does not mean to wait for a reader that may come back.
func (s *Store) dropLease(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[id]; l != nil && l.users == 0 {
		s.drop(id, l)
	}
}

// leased reports whether the run has a lease of this Store. s.mu is held.
func (s *Store) leased(id string) bool { return s.leases[id] != nil }

func openLease(dir string) (*lease, error) {
	p, err := disk.OpenPlace(dir)
	if err != nil {
		return nil, err
	}
	err = flock(p.Dir, unix.LOCK_SH|unix.LOCK_NB)
	if err == errLocked { // it is just being evicted
		err = &iofs.PathError{Op: "open", Path: dir, Err: iofs.ErrNotExist}
	}
	if err == nil {
		// The lock may have come after the run was renamed away.
		var now, then os.FileInfo
		if then, err = p.Dir.Stat(); err == nil {
			if now, err = os.Lstat(dir); err == nil && !os.SameFile(now, then) {
				err = &iofs.PathError{Op: "open", Path: dir, Err: iofs.ErrNotExist}
			}
		}
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return &lease{Place: p}, nil
}
