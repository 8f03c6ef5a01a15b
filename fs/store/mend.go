package store

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

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
	shows, err := os.ReadDir(s.path("show"))
	if err != nil {
		return err
	}
	for _, v := range shows {
		if owner, _, _ := strings.Cut(v.Name(), "+"); !s.alive(owner) {
			removeAll(s.path("show", v.Name())) // or the next time
		}
	}
	if err := s.mendIndex(alive); err != nil {
		return err
	}
	return eachName(s.path("instead"), func(name string) error {
		if s.index.byName(s.instead(name)) == nil {
			os.Remove(s.path("instead", name))
		}
		return nil
	})
}

// mendIndex makes the index say what is on disk. alive has the owners that live.
// The caller holds the lock; where the store cannot be changed, only what this
// process knows is mended, and there is no lock.
func (s *Store) mendIndex(alive map[string]bool) error {
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
	var lost []*record
	given := make(map[uint64]bool) // seqs of runs that the index has lost
	err := eachName(s.RunDir(), func(name string) error {
		for _, prefix := range []string{inPrefix, outPrefix} {
			rest, ok := strings.CutPrefix(name, prefix)
			if owner, _, _ := strings.Cut(rest, "+"); ok && s.fixed == nil && !s.alive(owner) {
				removeAll(filepath.Join(s.RunDir(), name)) // or the next time
			}
		}
		if _, _, ok := ci.SplitID(name); !ok {
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
		lost = append(lost, r)
		lines = r.append(lines)
		return nil
	})
	if err != nil {
		return err
	}
	if s.fixed != nil {
		for _, r := range slices.Clone(s.index.bySeq) {
			if !r.seen {
				s.index.remove(r)
			}
		}
		for _, r := range lost {
			s.index.add(r)
		}
		return nil
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

// readRecord makes a record of a sealed run that the index has lost, with its
// owner. given holds the places that others of them got.
func (s *Store) readRecord(id string, given map[uint64]bool) (*record, error) {
	dir := s.runPath(id)
	r, err := recordOf(dir)
	if err != nil {
		return nil, err
	}
	prefix, num, _ := ci.SplitID(id)
	if r.commit.String()[:12] != prefix {
		return nil, fmt.Errorf("%s is of commit %s", id, r.commit)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	r.came = r.end
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		r.came = changed(st) // when it got its name, as it never changed since
	}
	r.num, r.seq = num, num
	for s.index.hasSeq(r.seq) || given[r.seq] { // an adopted run's number may be one of ours
		if s.fixed != nil {
			r.seq++
		} else if r.seq, err = s.nextNumber(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// recordOf reads what the index holds of the sealed run in dir, without its id,
// its place and its owner.
func recordOf(dir string) (*record, error) {
	var r record
	text := func(name string) []byte {
		b, err := disk.ReadFile(filepath.Join(dir, name), ci.MaxText)
		if err != nil {
			return nil
		}
		return b
	}
	st, err := ci.ParseStatus(string(text("status")))
	if err != nil {
		return nil, err
	}
	if !st.Finished() {
		return nil, fmt.Errorf("%s: state %s", dir, st.State)
	}
	info, err := ci.ParseAttrs(text("info"))
	if err != nil {
		return nil, err
	}
	if r.commit, err = parseOID(info.Get("commit")); err != nil {
		return nil, err
	}
	if r.tree, err = parseOptionalOID(info.Get("tree")); err != nil {
		return nil, err
	}
	if start, err := ci.ParseTime(info.Get("start")); err == nil && !start.IsZero() {
		r.start = start.Unix()
	}
	key := text("key")
	attrs, err := ci.ParseAttrs(key)
	if err != nil {
		return nil, err
	}
	manifest := text("manifest")
	if manifest == nil {
		return nil, fmt.Errorf("%s: no manifest", dir)
	}
	r.state, r.code, r.took, r.end = st.State, st.Code, st.Took, st.Time.Unix()
	r.key, r.score = sha256.Sum256(key), sha256.Sum256(manifest)
	r.deflt = ci.DefaultTargets(attrs)
	if sig := text("manifest.sig"); sig != nil {
		r.signer = sigSigner(sig)
	}
	if r.size, err = diskSize(dir); err != nil {
		return nil, err
	}
	return &r, nil
}

// maxSeq bounds the place of a run in a listing, which is a cookie.
const maxSeq = 1 << 62

// appendIndex adds lines to the index file. The caller holds the lock.
func (s *Store) appendIndex(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	f, err := os.OpenFile(s.path("index"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
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

// rewriteIndex writes the index file without the lines that say nothing any
// more. The caller holds the lock and s.mu.
func (s *Store) rewriteIndex() error {
	f, err := os.OpenFile(s.path("index")+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
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
	if err := os.Rename(f.Name(), s.path("index")); err != nil {
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
