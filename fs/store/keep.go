package store

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Keep says which sealed runs are kept, as CI_KEEP does. A run that is over
// any limit goes; a limit of zero is none. The newest runs are those that were
// made or adopted last, whenever they ended. Runs that are adopted do not make the
// last run that was made here go, nor the last that passed.
type Keep struct {
	Once  bool          // the newest and the newest that passed
	Count int           // so many, the newest; negative keeps none
	Age   time.Duration // those that came no longer ago
	Size  int64         // so many bytes together
}

// ParseKeep reads the words of CI_KEEP: once, a count, an age (90m, 12h, 7d,
// 2w), a size (500M, 1G, 1T), or several of them, of which all hold.
func ParseKeep(s string) (Keep, error) {
	var k Keep
	for _, w := range strings.Fields(s) {
		if w == "once" {
			k.Once = true
			continue
		}
		i := strings.IndexFunc(w, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		unit := ""
		if i >= 0 {
			unit = w[i:]
		} else {
			i = len(w)
		}
		n, err := strconv.ParseFloat(w[:i], 64)
		if err != nil || n <= 0 || n > 1e15 {
			return k, fmt.Errorf("%q is not once, a count, an age as 7d or a size as 1G", w)
		}
		if unit == "" {
			if n != float64(int(n)) {
				return k, fmt.Errorf("%q is not a count", w)
			}
			k.Count = int(n)
			continue
		}
		scale, ok := keepUnits[unit]
		if d, err := time.ParseDuration(w); !ok && err == nil {
			k.Age = d
			continue
		}
		if !ok {
			return k, fmt.Errorf("%q is not once, a count, an age as 7d or a size as 1G", w)
		}
		if scale.age > 0 {
			k.Age = time.Duration(n * float64(scale.age))
		} else {
			k.Size = int64(n * float64(scale.size))
		}
	}
	return k, nil
}

var keepUnits = map[string]struct {
	age  time.Duration
	size int64
}{
	"d": {age: 24 * time.Hour},
	"w": {age: 7 * 24 * time.Hour},
	"K": {size: 1 << 10}, "M": {size: 1 << 20}, "G": {size: 1 << 30}, "T": {size: 1 << 40},
	"KB": {size: 1 << 10}, "MB": {size: 1 << 20}, "GB": {size: 1 << 30}, "TB": {size: 1 << 40},
	"KiB": {size: 1 << 10}, "MiB": {size: 1 << 20}, "GiB": {size: 1 << 30}, "TiB": {size: 1 << 40},
}

// ErrInUse is the error of removing a run that has a reader, has not ended, or
// belongs to another live process.
var ErrInUse error = syscall.EBUSY

// outPrefix begins the name of a run that is being removed, inPrefix that of
// one that is being adopted; the owner's token follows, and a plus sign.
const (
	outPrefix = ".out+"
	inPrefix  = ".in+"
)

// SetKeep makes k the store's policy. It is enforced now, whenever a run is
// sealed or adopted, and again after a while where a run had a reader.
func (s *Store) SetKeep(k Keep) {
	s.mu.Lock()
	s.policy = k
	s.mu.Unlock()
	s.enforce()
}

// enforce evicts what the policy does not keep.
func (s *Store) enforce() {
	s.mu.Lock()
	k := s.policy
	s.mu.Unlock()
	if k == (Keep{}) {
		return
	}
	busy, _ := s.evict(k)
	if !busy {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.retry != nil {
		s.retry.Stop()
	}
	s.retry = time.AfterFunc(2*leaseTime, s.enforce)
}

// Evict removes the runs that k does not keep. It spares those of other live
// processes, those that are kept by name, and those that have a reader. It
// reports the first error that was not of a run in use.
func (s *Store) Evict(k Keep) error {
	_, err := s.evict(k)
	return err
}

// GC evicts what the policy does not keep, and returns how many runs went.
func (s *Store) GC() (int, error) {
	s.mu.Lock()
	k, before := s.policy, len(s.index.bySeq)
	s.mu.Unlock()
	if k == (Keep{}) {
		return 0, nil
	}
	_, err := s.evict(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return before - len(s.index.bySeq), err
}

// evict is Evict. It reports whether a run that should have gone is in use.
func (s *Store) evict(k Keep) (busy bool, err error) {
	surplus, err := s.surplus(k, nil)
	if err != nil {
		return false, fmt.Errorf("store: evict: %w", err)
	}
	for _, r := range surplus {
		switch e := s.remove(r); {
		case errors.Is(e, ErrInUse):
			busy = true
		case e != nil && err == nil:
			err = fmt.Errorf("store: evict %s: %w", r.id(), e)
		}
	}
	return busy, err
}

// surplus returns the runs that evict is to remove, newest first. If come is not
// nil, it returns those that would be if that run had just been adopted.
//
// The last run that was made here, and the last of those that passed, are judged
// as if nothing had been adopted: adoption evicts neither.
func (s *Store) surplus(k Keep, come *record) ([]*record, error) {
	sealed, _ := s.listed()
	alive := make(map[string]bool)
	kept, err := s.kept()
	if err != nil {
		return nil, err
	}
	var all, own tally
	seen := make(map[kind]bool)
	if come != nil {
		all.add(come)
		first(seen, come)
	}
	var surplus []*record
	for _, r := range slices.Backward(sealed) {
		if r.owner != "" && r.owner != s.token {
			if _, ok := alive[r.owner]; !ok {
				alive[r.owner] = s.alive(r.owner)
			}
			if alive[r.owner] {
				continue
			}
		}
		if len(kept) > 0 && kept[r.id()] {
			continue
		}
		all.add(r)
		t := all
		newest, newestMade := first(seen, r)
		if !r.adopted {
			own.add(r)
			if newestMade {
				t = own
			}
		}
		if k.Once && !newest || !k.keeps(r, t) {
			surplus = append(surplus, r)
		}
	}
	return surplus, nil
}

// A kind of runs is one of which the newest is kept longer than others.
type kind struct {
	made   bool // here: those that are adopted do not count
	passed bool
}

// first reports whether r, which comes behind those in seen, is the first of a kind,
// and whether it is so of one that was made here. It puts r's kinds into seen.
func first(seen map[kind]bool, r *record) (any, made bool) {
	for _, k := range []kind{{false, false}, {false, true}, {true, false}, {true, true}} {
		if k.made && r.adopted || k.passed && r.state != "passed" || seen[k] {
			continue
		}
		seen[k] = true
		any, made = true, made || k.made
	}
	return any, made
}

// A tally is how many runs there are, and how many bytes they have.
type tally struct {
	count int
	size  int64
}

func (t *tally) add(r *record) {
	t.count++
	t.size += r.size
}

// keeps reports whether k keeps r, which is the last of the runs in t.
func (k Keep) keeps(r *record, t tally) bool {
	return (k.Count == 0 || t.count <= k.Count) &&
		(k.Age == 0 || time.Since(time.Unix(r.came, 0)) <= k.Age || t.count == 1) &&
		(k.Size == 0 || t.size <= k.Size || t.count == 1)
}

// kept returns the ids that are kept by name.
func (s *Store) kept() (map[string]bool, error) {
	names, err := os.ReadDir(s.path("keep"))
	if err != nil {
		return nil, err
	}
	kept := make(map[string]bool, len(names))
	for _, n := range names {
		kept[n.Name()] = true
	}
	return kept, nil
}

// Keep keeps a run until Forget, whatever the policy. It reports
// iofs.ErrNotExist where there is none.
func (s *Store) Keep(id string) error {
	if _, err := s.Get(id); err != nil {
		return fmt.Errorf("store: keep: %w", err)
	}
	f, err := os.OpenFile(s.path("keep", id), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("store: keep: %w", err)
	}
	return f.Close()
}

// Forget removes a sealed run, kept or not. It reports ErrInUse where the run
// has a reader or its owner is another live process, and iofs.ErrNotExist where
// there is none.
func (s *Store) Forget(id string) error {
	r, run := s.find(id)
	switch {
	case run != nil:
		return fmt.Errorf("store: forget %s: it has not ended: %w", id, ErrInUse)
	case r == nil:
		return fmt.Errorf("store: forget: %w", &iofs.PathError{Op: "find", Path: id, Err: iofs.ErrNotExist})
	case r.owner != s.token && s.alive(r.owner):
		return fmt.Errorf("store: forget %s: it belongs to a process that runs: %w", id, ErrInUse)
	}
	s.dropLease(id)
	if err := s.remove(r); err != nil {
		return fmt.Errorf("store: forget %s: %w", id, err)
	}
	return nil
}

// remove makes a sealed run vanish from the store, and then removes its files.
func (s *Store) remove(r *record) error {
	id := r.id()
	out := filepath.Join(s.RunDir(), outPrefix+s.token+"+"+id)
	if err := s.hide(r, out); err != nil {
		return err
	}
	return removeAll(out)
}

// hide renames a run to out, and tells the index.
func (s *Store) hide(r *record, out string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	id := r.id()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leased(id) {
		return ErrInUse
	}
	d, err := os.Open(s.runPath(id))
	if errors.Is(err, iofs.ErrNotExist) {
		err = s.appendIndex(fmt.Appendf(nil, "gone %s\n", id)) // removed by hand
		s.index.refresh()
		return err
	}
	if err != nil {
		return err
	}
	defer d.Close()
	// Readers hold the directory shared.
	if err := flock(d, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == errLocked {
			err = ErrInUse
		}
		return err
	}
	if err := os.Rename(s.runPath(id), out); err != nil {
		return err
	}
	if err := s.appendIndex(fmt.Appendf(nil, "gone %s\n", id)); err != nil {
		// A full disk must not keep us from making room on it. The next
		// process that opens the store mends the index.
		s.index.remove(r)
	}
	s.index.refresh()
	os.Remove(s.path("keep", id))
	s.linkLast()
	return nil
}
