package fs

import (
	iofs "io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A lease keeps a sealed run from being evicted while somebody reads it: its
// directory is open and locked shared, which other processes see. Who opened
// a file of it has the lease until the file is closed. It lasts leaseTime
// longer, so that who copies a run file by file does not lose it between two.
type lease struct {
	root  *os.Root
	dir   *os.File
	users int // guarded by Store.mu
	last  *time.Timer

	tarOnce sync.Once // guards what follows
	tar     *layout
	tarErr  error

	liveOnce sync.Once
	live     int64
	liveErr  error
}

const leaseTime = time.Second

// acquire returns the lease of a sealed run. Who got it calls release. It
// reports iofs.ErrNotExist where the run is gone.
func (s *Store) acquire(id string) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		var err error
		if l, err = openLease(s.runPath(id)); err != nil {
			return nil, err
		}
		s.leases[id] = l
	}
	l.users++
	if l.last != nil {
		l.last.Stop()
		l.last = nil
	}
	return l, nil
}

func openLease(dir string) (*lease, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	d, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	err = flock(d, unix.LOCK_SH|unix.LOCK_NB)
	if err == errLocked { // it is just being evicted
		err = &iofs.PathError{Op: "open", Path: dir, Err: iofs.ErrNotExist}
	}
	if err == nil {
		// The lock may have come after the run was renamed away.
		var now, then os.FileInfo
		if then, err = d.Stat(); err == nil {
			if now, err = os.Lstat(dir); err == nil && !os.SameFile(now, then) {
				err = &iofs.PathError{Op: "open", Path: dir, Err: iofs.ErrNotExist}
			}
		}
	}
	if err != nil {
		root.Close()
		d.Close()
		return nil, err
	}
	return &lease{root: root, dir: d}, nil
}

func (s *Store) release(id string, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.users--
	if l.users > 0 {
		return
	}
	if s.closed {
		s.drop(id, l)
		return
	}
	l.last = time.AfterFunc(leaseTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users == 0 {
			s.drop(id, l)
		}
	})
}

// drop ends a lease that nobody uses. s.mu is held.
func (s *Store) drop(id string, l *lease) {
	if l.last != nil {
		l.last.Stop()
	}
	if s.leases[id] == l {
		delete(s.leases, id)
	}
	l.root.Close()
	l.dir.Close()
}

// dropLeases ends the leases that nobody uses, at once.
func (s *Store) dropLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.leases {
		if l.users == 0 {
			s.drop(id, l)
		}
	}
}

// leasedLocked reports whether somebody reads the run through this Store.
// s.mu is held.
func (s *Store) leasedLocked(id string) bool { return s.leases[id] != nil }
