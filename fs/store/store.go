// Package store keeps runs on disk and serves them as the tree ci(4), which
// package ci describes.
//
// A Store keeps the runs of one namespace. A Run is one that goes on in this
// process: Seal ends it, and from then on it never changes. Adopt takes a run
// that another store has sealed. NewTree is the tree of a Store, whose files are
// read while runs go on, are sealed and are evicted: a lease keeps a sealed run
// on disk while a reader has it open.
package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"9ci/fs"
	"9ci/fs/ci"
)

// A Store keeps the runs of one namespace in a directory:
//
//	ci/<id>/          a sealed run, with exactly the names that the tree serves
//	ci/.<id>/         a run that has not ended
//	ci/last           a symbolic link to the newest sealed run
//	.store/lock       locked while the store is changed
//	.store/index      what the sealed runs are, so that they need not be read
//	.store/next       the number that the next id gets: none is given twice
//	.store/owner/*    one for each open Store, locked while its process lives
//	.store/work/*     one for each run that has not ended, locked by its process
//	.store/keep/<id>  the run is never evicted
//	.store/instead/*  names, for the id of a run that was replaced, the run that stands for it
//	.store/show/*     what machines are shown, each owned by an open Store
//
// Several processes may use a store. A Store's methods may be called from
// several goroutines.
type Store struct {
	// MaxOutput is how many bytes stdout, stderr and the logs of a run may
	// have together before its writers answer an error, and before an
	// adoption is refused. Zero means 24 GiB.
	MaxOutput int64

	dir    string
	fixed  error    // why nothing can be changed in dir; nil if it can
	token  string   // names our file in .store/owner
	owner  *os.File // that file, locked
	events *fs.Feed // the lines of the file event

	tx    sync.Mutex // held with the lock on flock, which excludes processes, not goroutines
	flock *os.File

	mu     sync.Mutex // guards what follows
	index  index
	runs   []*Run // ours that have not ended, by seq
	leases map[string]*lease
	policy Keep
	retry  *time.Timer // evicts again what was in use
	closed bool

	unwatch func() // ends watchIndex; nil before
}

// defaultMaxOutput bounds, in bytes, what a guest that floods its output can
// write: 4 GiB to each stream, of which most takes three bytes for each, as it is
// and in two logs.
const defaultMaxOutput = 24 << 30

// Open opens the store in dir, which it makes where there is none. It removes
// what dead processes left half-adopted or half-evicted; their unfinished runs
// stay for [Store.Recover] and [Store.Resume].
//
// A store that this process cannot write in, such as one on a read-only file
// system, is opened as it is: its sealed runs can be read, and what would change
// it reports an error that wraps iofs.ErrPermission or fs.ErrReadOnly.
func Open(dir string) (*Store, error) {
	s, err := openStore(dir)
	if err != nil {
		return nil, fmt.Errorf("store: open store: %w", err)
	}
	return s, nil
}

// Look opens the store in dir as it is, to look at what it has, and changes nothing. A
// store that is not there is an empty one.
func Look(dir string) (*Store, error) {
	s, err := storeIn(dir)
	if err == nil {
		err = s.fix(fmt.Errorf("the store is only looked at: %w", fs.ErrReadOnly))
	}
	if err != nil {
		return nil, fmt.Errorf("store: open store: %w", err)
	}
	return s, nil
}

func storeIn(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir:    dir,
		token:  fmt.Sprintf("%d.%s", os.Getpid(), rand.Text()),
		events: new(fs.Feed),
		leases: make(map[string]*lease),
	}
	s.index.path = s.path("index")
	return s, nil
}

// fix makes the store one that is not changed, for the reason why.
func (s *Store) fix(why error) error {
	s.fixed = why
	if err := s.mendIndex(nil); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	s.index.told = s.sealedElsewhere
	return nil
}

func openStore(dir string) (*Store, error) {
	s, err := storeIn(dir)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(); errors.Is(err, iofs.ErrPermission) || errors.Is(err, fs.ErrReadOnly) {
		if _, serr := os.ReadDir(s.RunDir()); serr != nil {
			return nil, err
		}
		if err := s.fix(fmt.Errorf("the store cannot be changed: %w", err)); err != nil {
			return nil, err
		}
		return s, nil
	} else if err != nil {
		return nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		s.flock.Close()
		return nil, err
	}
	defer unlock()
	if s.owner, err = lockFile(s.path("owner", s.token), false); err == nil {
		if err = s.mend(); err == nil {
			s.index.told = s.sealedElsewhere
			openStores.Store(s, true)
			return s, nil
		}
		s.owner.Close()
		os.Remove(s.owner.Name())
	}
	s.flock.Close()
	return nil, err
}

// prepare makes the directories of the store, and opens the file of its lock.
func (s *Store) prepare() (err error) {
	for _, d := range []string{s.RunDir(), s.path("owner"), s.path("work"), s.path("keep"), s.path("instead"), s.path("show")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	s.flock, err = os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	return err
}

// openStores holds the Stores that were not closed. The garbage collector
// closes files, and with them undoes our locks, of a Store that nothing refers
// to any more while its process lives on.
var openStores sync.Map

// Close ends the use of the store, and first evicts what the policy does not keep and a
// reader had. Runs that have not ended stay on disk for Recover.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	late := s.retry != nil && s.retry.Stop()
	runs, unwatch := s.runs, s.unwatch
	s.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	s.dropLeases()
	if late {
		s.enforce()
	}
	for _, r := range runs {
		r.Abandon()
	}
	s.events.Close()
	if s.fixed != nil {
		return nil
	}
	unlock, err := s.lock()
	if err == nil {
		os.Remove(s.owner.Name())
		unlock()
	}
	s.owner.Close()
	s.flock.Close()
	openStores.Delete(s)
	return err
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// RunDir returns the directory of the store's runs.
func (s *Store) RunDir() string { return filepath.Join(s.dir, "ci") }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir, ".store"}, elem...)...)
}

func (s *Store) runPath(id string) string { return filepath.Join(s.RunDir(), id) }

func (s *Store) workPath(id string) string { return filepath.Join(s.RunDir(), "."+id) }

// lock excludes all other goroutines and processes from changing the store. It
// is held for short times only, never while something is copied. Lock order:
// tx, mu.
func (s *Store) lock() (unlock func(), err error) {
	if s.fixed != nil {
		return nil, s.fixed
	}
	s.tx.Lock()
	if err := flock(s.flock, unix.LOCK_EX); err != nil {
		s.tx.Unlock()
		return nil, err
	}
	return func() {
		flock(s.flock, unix.LOCK_UN)
		s.tx.Unlock()
	}, nil
}

// alive reports whether the Store that an owner token names is still open.
func (s *Store) alive(owner string) bool {
	return owner != "" && (owner == s.token || locked(s.path("owner", filepath.Base(owner))))
}

// nextNumber returns a number that the store has not given before. The caller
// holds the lock.
func (s *Store) nextNumber() (uint64, error) {
	name := s.path("next")
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return 0, err
	}
	n, perr := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 62)
	if perr != nil || n == 0 {
		// The number was lost, or the store is new: take the one behind
		// all there are, but those that only a peer can have given.
		n = 1
		err := eachName(s.RunDir(), func(name string) error {
			if _, num, ok := ci.SplitID(strings.TrimPrefix(name, ".")); ok && num < ci.MaxNumber/2 {
				n = max(n, num+1)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	if err := writeSynced(name+".new", fmt.Appendf(nil, "%d\n", n+1)); err != nil {
		return 0, err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return 0, err
	}
	return n, syncDir(s.path())
}

// published waits until a run that is being published is known as sealed: what
// /status and the listings say of it must not come after what its files say.
func (s *Store) published() {
	s.tx.Lock()
	defer s.tx.Unlock()
}

// tell writes a run's status to the file event.
func (s *Store) tell(id string, st ci.Status) { s.events.Write(ci.FormatEvent(id, st) + "\n") }

// sealedElsewhere tells the file event of a run that the index got, if another
// process sealed or adopted it: Seal and Adopt tell of ours.
func (s *Store) sealedElsewhere(r *record) {
	if r.owner != s.token {
		s.tell(r.id(), r.status())
	}
}

// publish renames the sealed run in work to its id, and makes it known in place
// of the unfinished run, where there was one. The caller holds the lock; the
// directory is complete and on disk.
func (s *Store) publish(work string, r *record, run *Run) error {
	r.came = time.Now().Unix()
	if err := os.Rename(work, s.runPath(r.id())); err != nil {
		return err
	}
	if err := syncDir(s.RunDir()); err != nil {
		return err
	}
	// From here on the run is sealed. If the index cannot be written, this
	// process knows the run all the same, and others do when they open the
	// store.
	aerr := s.appendIndex(r.append(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	if aerr != nil && s.index.byName(r.id()) == nil {
		s.index.add(r)
	}
	s.runs = slices.DeleteFunc(slices.Clone(s.runs), func(x *Run) bool { return x == run })
	s.linkLast()
	return nil
}
