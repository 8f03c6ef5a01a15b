package store

import (
	"encoding/hex"
	iofs "io/fs"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// An Entry describes a run as the index does.
type Entry struct {
	ID        string
	ci.Status // of a finished run Time is its end
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

// String returns the id and the status, as in a line of /event.
func (e Entry) String() string { return ci.FormatEvent(e.ID, e.Status) }

// Key reads the run's key. It reports iofs.ErrNotExist where the run is gone.
func (e Entry) Key() (ci.Attrs, error) { return readAttrs(filepath.Join(e.Dir, "key")) }

// Info reads the run's info. It reports iofs.ErrNotExist where the run is gone.
func (e Entry) Info() (ci.Attrs, error) { return readAttrs(filepath.Join(e.Dir, "info")) }

func readAttrs(name string) (ci.Attrs, error) {
	b, err := disk.ReadFile(name, ci.MaxText)
	if err != nil {
		return nil, err
	}
	return ci.ParseAttrs(b)
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

// listed returns the sealed runs and our unfinished ones, each in the order of
// seq. The slices do not change afterwards.
func (s *Store) listed() (sealed []*record, runs []*Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	return s.index.share(), s.runs
}

// refresh reads what is new in the index. From then on a run that it has is a
// sealed one and no other. The caller holds s.mu.
func (s *Store) refresh() {
	s.index.refresh()
	sealed := func(r *Run) bool { return s.index.byName(r.id) != nil }
	if slices.ContainsFunc(s.runs, sealed) {
		s.runs = slices.DeleteFunc(slices.Clone(s.runs), sealed)
	}
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

// Runs yields all runs, newest first: in the reverse of the order in which they
// were made or adopted. Of unfinished runs it has those of this Store.
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
		d, err := ci.ParseDigest(digest)
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

// find returns the run of that id: a sealed one, or an unfinished one of this
// Store. Both are nil where there is none.
func (s *Store) find(id string) (*record, *Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	for _, r := range s.runs {
		if r.id == id {
			return nil, r
		}
	}
	return s.index.byName(id), nil
}
