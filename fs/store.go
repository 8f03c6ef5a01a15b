package fs

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
//
// Several processes may use a store. A Store's methods may be called from
// several goroutines.
type Store struct {
	// MaxOutput is how many bytes stdout, stderr and the logs of a run may
	// have together before its writers answer an error, and before an
	// adoption is refused. Zero means 4 GiB.
	MaxOutput int64

	dir    string
	token  string   // names our file in .store/owner
	owner  *os.File // that file, locked
	events *feed    // the lines of the file event

	tx    sync.Mutex // held with the lock on flock, which excludes processes, not goroutines
	flock *os.File

	mu     sync.Mutex // guards what follows
	index  index
	runs   []*Run // ours that have not ended, by seq
	leases map[string]*lease
	policy Keep
	retry  *time.Timer // evicts again what was in use
	closed bool
}

// defaultMaxOutput bounds what a guest that floods its output can write.
const defaultMaxOutput = 4 << 30

// StateDir returns the directory of all stores of this user:
// $XDG_STATE_HOME/9ci, or ~/.local/state/9ci. The store of a namespace is in
// the directory of that name below it.
func StateDir() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) { // the specification: relative ones are ignored
		dir = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	return filepath.Join(dir, "9ci")
}

// OpenStore opens the store in dir, which it makes where there is none. It
// removes what dead processes left half-adopted or half-evicted; their
// unfinished runs are [Store.Recover]'s.
func OpenStore(dir string) (*Store, error) {
	s, err := openStore(dir)
	if err != nil {
		return nil, fmt.Errorf("fs: open store: %w", err)
	}
	return s, nil
}

func openStore(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir:    dir,
		token:  fmt.Sprintf("%d.%s", os.Getpid(), rand.Text()),
		events: newFeed(),
		leases: make(map[string]*lease),
	}
	for _, d := range []string{s.RunDir(), s.path("owner"), s.path("work"), s.path("keep")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	s.index.path = s.path("index")
	if s.flock, err = os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
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
			openStores.Store(s, true)
			return s, nil
		}
		s.owner.Close()
		os.Remove(s.owner.Name())
	}
	s.flock.Close()
	return nil, err
}

// openStores holds the Stores that were not closed. The garbage collector closes
// files, and with them our locks, of a Store that nobody refers to any more
// while its process lives on.
var openStores sync.Map

// Close ends the use of the store: it evicts, where the policy says once, the
// runs of this Store. Runs that have not ended stay for Recover.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if s.retry != nil {
		s.retry.Stop()
	}
	runs, policy := s.runs, s.policy
	s.mu.Unlock()
	s.dropLeases()
	var err error
	if policy.Once {
		_, err = s.evict(Keep{Count: -1}, true)
	}
	for _, r := range runs {
		r.abandon()
	}
	s.events.close()
	unlock, lerr := s.lock()
	if lerr == nil {
		os.Remove(s.owner.Name())
		unlock()
	}
	s.owner.Close()
	s.flock.Close()
	openStores.Delete(s)
	return cmp.Or(err, lerr)
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// RunDir returns the directory of its runs.
func (s *Store) RunDir() string { return filepath.Join(s.dir, "ci") }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir, ".store"}, elem...)...)
}

func (s *Store) runPath(id string) string  { return filepath.Join(s.RunDir(), id) }
func (s *Store) workPath(id string) string { return filepath.Join(s.RunDir(), "."+id) }

// lock excludes all others from changing the store. It is held for short
// times only, never while something is copied. Lock order: tx, mu.
func (s *Store) lock() (unlock func(), err error) {
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

// mend removes what dead processes left, and makes the index say what is on
// disk. The caller holds the lock.
func (s *Store) mend() error {
	owners, err := os.ReadDir(s.path("owner"))
	if err != nil {
		return err
	}
	alive := make(map[string]bool)
	for _, o := range owners {
		if alive[o.Name()] = s.alive(o.Name()); !alive[o.Name()] {
			os.Remove(s.path("owner", o.Name()))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.index.refresh(); err != nil {
		return err
	}
	for _, r := range s.index.bySeq {
		if !alive[r.owner] {
			r.owner = "" // it does not come back
		}
	}
	s.index.words = nil
	var lines []byte
	given := make(map[uint64]bool) // seqs of runs that the index has lost
	err = eachName(s.RunDir(), func(name string) error {
		for _, prefix := range []string{inPrefix, outPrefix} {
			rest, ok := strings.CutPrefix(name, prefix)
			if owner, _, _ := strings.Cut(rest, "+"); ok && !s.alive(owner) {
				removeAll(filepath.Join(s.RunDir(), name)) // or the next time
			}
		}
		if _, _, ok := splitID(name); !ok {
			return nil
		}
		if r := s.index.byName(name); r != nil {
			r.seen = true
			return nil
		}
		r, err := s.readRecord(name, given)
		if err != nil {
			return nil // not a run of ours: it is not served, nor touched
		}
		given[r.seq] = true
		lines = r.append(lines)
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range s.index.bySeq {
		if !r.seen {
			lines = fmt.Appendf(lines, "gone %s\n", r.id())
		}
	}
	if err := s.appendIndex(lines); err != nil {
		return err
	}
	if err := s.index.refresh(); err != nil {
		return err
	}
	if s.index.dead > 1000 && s.index.dead > len(s.index.bySeq) {
		if err := s.rewriteIndex(); err != nil {
			return err
		}
	}
	s.linkLast()
	return nil
}

// eachName calls f with every name in a directory, in no order, without
// holding them all.
func eachName(dir string, f func(name string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := f(name); err != nil {
				return err
			}
		}
	}
}

// readRecord makes a record of a sealed run that the index has lost. Whose it
// was is lost with it. Given are the places that others of them got.
func (s *Store) readRecord(id string, given map[uint64]bool) (*record, error) {
	dir := s.runPath(id)
	r, err := recordOf(dir)
	if err != nil {
		return nil, err
	}
	prefix, num, _ := splitID(id)
	if r.commit.String()[:12] != prefix {
		return nil, fmt.Errorf("%s is of commit %s", id, r.commit)
	}
	r.num, r.seq = num, num
	for s.index.hasSeq(r.seq) || given[r.seq] { // an adopted run's number may be one of ours
		if r.seq, err = s.nextNumber(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// maxSeq bounds the place of a run in a listing, which is a cookie.
const maxSeq = 1 << 62

// recordOf reads what the index holds of the sealed run in dir, but its id,
// its place and its owner.
func recordOf(dir string) (*record, error) {
	var r record
	text := func(name string) []byte {
		b, err := readSmall(filepath.Join(dir, name))
		if err != nil {
			return nil
		}
		return b
	}
	st, err := ParseStatus(string(text("status")))
	if err != nil {
		return nil, err
	}
	if !st.Finished() {
		return nil, fmt.Errorf("%s: state %s", dir, st.State)
	}
	info, err := ParseAttrs(text("info"))
	if err != nil {
		return nil, err
	}
	if r.commit, err = parseOID(info.Get("commit")); err != nil {
		return nil, err
	}
	if r.tree, err = parseOptionalOID(info.Get("tree")); err != nil {
		return nil, err
	}
	if start, err := parseTime(info.Get("start")); err == nil && !start.IsZero() {
		r.start = start.Unix()
	}
	key := text("key")
	attrs, err := ParseAttrs(key)
	if err != nil {
		return nil, err
	}
	manifest := text("manifest")
	if manifest == nil {
		return nil, fmt.Errorf("%s: no manifest", dir)
	}
	r.state, r.code, r.took, r.end = st.State, st.Code, st.Took, st.Time.Unix()
	r.key, r.score = sha256sum(key), sha256sum(manifest)
	r.deflt = isDefault(attrs)
	if sig := text("manifest.sig"); sig != nil {
		r.signer = sigSigner(sig)
	}
	if r.size, err = diskSize(dir); err != nil {
		return nil, err
	}
	return &r, nil
}

// isDefault reports whether a key is of a run of the default targets.
func isDefault(key Attrs) bool {
	t := key.Get("target")
	return t == "" || t == "test"
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
		// Lost, or a new store: behind all that there are, but for
		// numbers that only a peer can have given.
		n = 1
		err := eachName(s.RunDir(), func(name string) error {
			if _, num, ok := splitID(strings.TrimPrefix(name, ".")); ok && num < maxNum/2 {
				n = max(n, num+1)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	tmp, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Fprintf(tmp, "%d\n", n+1)
	err = cmp.Or(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	return n, err
}

// appendIndex adds lines to the index file. The caller holds the lock.
func (s *Store) appendIndex(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	f, err := os.OpenFile(s.index.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end > 0 { // a crash may have left half a line
		var last [1]byte
		if _, err := f.ReadAt(last[:], end-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			lines = append([]byte("\n"), lines...)
		}
	}
	if _, err := f.Write(lines); err != nil {
		f.Truncate(end)
		return err
	}
	return nil
}

// rewriteIndex leaves out of the index file what says nothing any more. The
// caller holds the lock and s.mu.
func (s *Store) rewriteIndex() error {
	f, err := os.OpenFile(s.index.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var lines []byte
	for _, r := range s.index.bySeq {
		if lines = r.append(lines); len(lines) > 64<<10 {
			if _, err := f.Write(lines); err != nil {
				return err
			}
			lines = lines[:0]
		}
	}
	if _, err := f.Write(lines); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.index.path); err != nil {
		return err
	}
	return s.index.refresh()
}

// linkLast makes ci/last point to the newest sealed run. The caller holds the
// lock and s.mu.
func (s *Store) linkLast() {
	last, tmp := filepath.Join(s.RunDir(), "last"), filepath.Join(s.RunDir(), ".last")
	n := len(s.index.bySeq)
	if n == 0 {
		os.Remove(last)
		return
	}
	id := s.index.bySeq[n-1].id()
	if old, err := os.Readlink(last); err == nil && old == id {
		return
	}
	os.Remove(tmp)
	if os.Symlink(id, tmp) == nil {
		os.Rename(tmp, last)
	}
}

// An Entry describes a run as the index does.
type Entry struct {
	ID        string
	Status    // of a finished run Time is its end
	Start     time.Time
	Commit    string // 40 or 64 hexadecimal digits
	Tree      string // the same, or "" where it is not known
	Score     string // SHA-256 of the manifest; "" until the run is sealed
	KeyDigest string // SHA-256 of the file key; "" until the run is sealed
	Signer    string // whose signature the run has, or ""
	Default   bool   // it ran the default targets
	Size      int64  // bytes on disk; 0 until the run is sealed
	Dir       string // where its files are
	Run       *Run   // the run itself while it has not ended, else nil
	seq       uint64
}

// String returns the id and the status, as a line of /event.
func (e Entry) String() string { return e.ID + " " + e.Status.String() }

// Key reads the run's key.
func (e Entry) Key() (Attrs, error) { return readAttrs(filepath.Join(e.Dir, "key")) }

// Info reads the run's info.
func (e Entry) Info() (Attrs, error) { return readAttrs(filepath.Join(e.Dir, "info")) }

func readAttrs(name string) (Attrs, error) {
	b, err := readSmall(name)
	if err != nil {
		return nil, err
	}
	return ParseAttrs(b)
}

// readSmall reads a file of ours that is never large.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return readText(f)
}

// readText reads and closes a file of ours that is never large.
func readText(f *os.File) ([]byte, error) {
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("%s is over %d bytes", f.Name(), maxManifest)
	}
	return b, err
}

func (s *Store) entry(r *record) Entry {
	e := Entry{
		ID:        r.id(),
		Status:    r.status(),
		Commit:    r.commit.String(),
		Tree:      r.tree.String(),
		Score:     hex.EncodeToString(r.score[:]),
		KeyDigest: hex.EncodeToString(r.key[:]),
		Signer:    r.signer,
		Default:   r.deflt,
		Size:      r.size,
		seq:       r.seq,
	}
	if r.start != 0 {
		e.Start = time.Unix(r.start, 0).UTC()
	}
	e.Time = e.Time.UTC()
	e.Dir = s.runPath(e.ID)
	return e
}

// listed returns the sealed runs and our unfinished ones, each by seq. The
// slices are not changed afterwards.
func (s *Store) listed() (sealed []*record, runs []*Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.refresh()
	return s.index.bySeq, s.runs
}

// newestFirst yields the runs, sealed or not, that listed returned.
func newestFirst(sealed []*record, runs []*Run) iter.Seq2[*record, *Run] {
	return func(yield func(*record, *Run) bool) {
		for i, j := len(sealed), len(runs); i > 0 || j > 0; {
			if j == 0 || i > 0 && sealed[i-1].seq > runs[j-1].seq {
				if i--; !yield(sealed[i], nil) {
					return
				}
			} else if j--; !yield(nil, runs[j]) {
				return
			}
		}
	}
}

// Runs yields all runs, newest first: in the order in which they were made or
// adopted. Of unfinished runs it has those of this Store.
func (s *Store) Runs() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for r, run := range newestFirst(s.listed()) {
			var e Entry
			if r != nil {
				e = s.entry(r)
			} else {
				e = run.entry()
			}
			if !yield(e) {
				return
			}
		}
	}
}

// WithKey yields the sealed runs whose key has this SHA-256, in hexadecimal,
// newest first.
func (s *Store) WithKey(digest string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		d, err := parseDigest(digest)
		if err != nil {
			return
		}
		sealed, _ := s.listed()
		for _, r := range slices.Backward(sealed) {
			if r.key == d && !yield(s.entry(r)) {
				return
			}
		}
	}
}

// Get returns the run of that id. It reports iofs.ErrNotExist where there is
// none.
func (s *Store) Get(id string) (Entry, error) {
	if r, run := s.find(id); r != nil {
		return s.entry(r), nil
	} else if run != nil {
		return run.entry(), nil
	}
	return Entry{}, &iofs.PathError{Op: "find", Path: id, Err: iofs.ErrNotExist}
}

// find returns the run of that id as a sealed or as an unfinished one.
func (s *Store) find(id string) (*record, *Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		if r.id == id {
			return nil, r
		}
	}
	s.index.refresh()
	return s.index.byName(id), nil
}

// publish renames the sealed run in work to its id and makes it known, in the
// place of the unfinished run where there was one. The caller holds the lock,
// and the directory is complete and on disk.
func (s *Store) publish(work string, r *record, run *Run) error {
	if err := os.Rename(work, s.runPath(r.id())); err != nil {
		return err
	}
	if err := syncDir(s.RunDir()); err != nil {
		return err
	}
	// From here on the run is sealed. If the index cannot be written, this
	// process knows it all the same, and others when they open the store.
	aerr := s.appendIndex(r.append(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.refresh()
	if aerr != nil && s.index.byName(r.id()) == nil {
		s.index.add(r)
	}
	s.runs = slices.DeleteFunc(slices.Clone(s.runs), func(x *Run) bool { return x == run })
	s.linkLast()
	return nil
}

// Recover seals the runs of dead processes: those whose test and artifacts
// had passed as passed, with the step that was cut short in error, and all
// others in state error. It returns the ids of those it sealed.
func (s *Store) Recover(ctx context.Context, sign SignFunc) ([]string, error) {
	work, err := os.ReadDir(s.path("work"))
	if err != nil {
		return nil, fmt.Errorf("fs: recover: %w", err)
	}
	var ids []string
	var errs []error
	for _, w := range work {
		if _, _, ok := splitID(w.Name()); !ok {
			continue
		}
		ok, err := s.recover(ctx, w.Name(), sign)
		if err != nil {
			errs = append(errs, fmt.Errorf("fs: recover %s: %w", w.Name(), err))
		}
		if ok {
			ids = append(ids, w.Name())
		}
	}
	return ids, errors.Join(errs...)
}

func (s *Store) recover(ctx context.Context, id string, sign SignFunc) (bool, error) {
	r, err := s.takeOver(id, func(Status) bool { return true })
	if r == nil || err != nil {
		return false, err
	}
	state, code := r.verdict()
	if err := r.Seal(ctx, state, code, sign); err != nil {
		return r.sealed(), err
	}
	return true, nil
}

// takeOver makes the unfinished run of a dead process ours, if its status is
// wanted. It returns nil where it is not, or where the process lives.
func (s *Store) takeOver(id string, wanted func(Status) bool) (*Run, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	f, err := lockFile(s.path("work", id), false)
	unlock()
	if err == errLocked {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := s.reopen(id, f)
	if err != nil {
		// Nothing that could be sealed: killed while it was made, or
		// just sealed by its process.
		removeAll(s.workPath(id))
		os.Remove(f.Name())
		f.Close()
		if errors.Is(err, iofs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	if !wanted(r.status) {
		r.closeLogs()
		f.Close()
		return nil, nil
	}
	return r, nil
}

// Resume takes over the runs of dead processes that were queued and had not
// begun, oldest first: they are runs of this Store now, as if Create had just
// returned them. What is left is for Recover.
func (s *Store) Resume() ([]*Run, error) {
	work, err := os.ReadDir(s.path("work"))
	if err != nil {
		return nil, fmt.Errorf("fs: resume: %w", err)
	}
	var runs []*Run
	var errs []error
	for _, w := range work {
		if _, _, ok := splitID(w.Name()); !ok {
			continue
		}
		r, err := s.takeOver(w.Name(), func(st Status) bool { return st.State == "queued" && st.Took < 0 })
		if err != nil {
			errs = append(errs, fmt.Errorf("fs: resume %s: %w", w.Name(), err))
		} else if r != nil {
			r.info = slices.DeleteFunc(r.info, func(a Attr) bool { return a.Name == "end" })
			runs = append(runs, r)
		}
	}
	slices.SortFunc(runs, func(a, b *Run) int { return cmp.Compare(a.seq, b.seq) })
	s.mu.Lock()
	s.runs = slices.Concat(s.runs, runs)
	slices.SortFunc(s.runs, func(a, b *Run) int { return cmp.Compare(a.seq, b.seq) })
	s.mu.Unlock()
	for _, r := range runs {
		r.announce()
	}
	return runs, errors.Join(errs...)
}
