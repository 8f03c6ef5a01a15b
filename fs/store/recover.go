package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// Recover seals the runs of dead processes, and returns the ids of those that
// it sealed. A run whose test and artifacts had passed is sealed as passed,
// with the step that was cut short in error; every other run is sealed in state
// error. The log of that step says that the run's executor was killed.
func (s *Store) Recover(ctx context.Context, sign SignFunc) ([]string, error) {
	if s.fixed != nil {
		return nil, nil // they are for a process that can change the store
	}
	work, err := os.ReadDir(s.path("work"))
	if err != nil {
		return nil, fmt.Errorf("store: recover: %w", err)
	}
	var ids []string
	var errs []error
	for _, w := range work {
		if _, _, ok := ci.SplitID(w.Name()); !ok {
			continue
		}
		ok, err := s.recover(ctx, w.Name(), sign)
		if err != nil {
			errs = append(errs, fmt.Errorf("store: recover %s: %w", w.Name(), err))
		}
		if ok {
			ids = append(ids, w.Name())
		}
	}
	return ids, errors.Join(errs...)
}

func (s *Store) recover(ctx context.Context, id string, sign SignFunc) (bool, error) {
	r, err := s.takeOver(id, func(ci.Status) bool { return true })
	if r == nil || err != nil {
		return false, err
	}
	state, code := r.verdict()
	r.mourn(state)
	if err := r.Seal(ctx, state, code, sign); err != nil {
		return r.sealed(), err
	}
	return true, nil
}

// takeOver makes the unfinished run of a dead process ours, if its status is
// wanted. It returns nil where it is not wanted, or where the process lives.
func (s *Store) takeOver(id string, wanted func(ci.Status) bool) (*Run, error) {
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
// begun, oldest first. They are runs of this Store from then on, as if Create
// had just returned them. The others stay for Recover.
func (s *Store) Resume() ([]*Run, error) {
	if s.fixed != nil {
		return nil, nil // they are for a process that can change the store
	}
	work, err := os.ReadDir(s.path("work"))
	if err != nil {
		return nil, fmt.Errorf("store: resume: %w", err)
	}
	var runs []*Run
	var errs []error
	for _, w := range work {
		if _, _, ok := ci.SplitID(w.Name()); !ok {
			continue
		}
		r, err := s.takeOver(w.Name(), func(st ci.Status) bool { return st.State == "queued" && st.Took < 0 })
		if err != nil {
			errs = append(errs, fmt.Errorf("store: resume %s: %w", w.Name(), err))
		} else if r != nil {
			r.info = slices.DeleteFunc(r.info, func(a ci.Attr) bool { return a.Name == "end" })
			r.died = time.Time{}
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

// reopen takes over the run of a dead process. lock is its file in .store/work,
// and locked.
func (s *Store) reopen(id string, lock *os.File) (*Run, error) {
	dir := s.workPath(id)
	if _, err := os.Lstat(dir); err != nil {
		return nil, err
	}
	died := lastChange(dir) // before anything is mended
	info, err := readAttrs(filepath.Join(dir, "info"))
	if err != nil {
		return nil, err
	}
	commit, err := parseOID(info.Get("commit"))
	if err != nil {
		return nil, err
	}
	key, err := readAttrs(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	status, err := readStatus(filepath.Join(dir, "status"))
	if err != nil {
		return nil, err
	}
	soften(dir)
	reserve(lock, room) // as well as may be
	r := s.newRun(commit)
	r.id, r.dir, r.lock, r.key, r.status, r.died = id, dir, lock, key, status, died
	_, r.seq, _ = ci.SplitID(id)
	for _, a := range info {
		if a.Value != "-" {
			r.info = append(r.info, a)
		}
	}
	r.start, _ = ci.ParseTime(info.Get("start"))
	for i, name := range ci.Steps {
		if r.steps[i], err = readStatus(filepath.Join(dir, "step", name, "status")); err != nil {
			return nil, err
		}
		if r.steps[i].State == "running" {
			r.step, r.entered = i, r.steps[i].Time
		}
	}
	if r.step >= 0 {
		name := filepath.Join(dir, "step", ci.Steps[r.step], "log")
		if r.stepLog, err = os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0o600); err != nil {
			return nil, err
		}
	}
	if err := r.openLogs(); err != nil {
		return nil, err
	}
	for _, f := range []*os.File{r.log, r.stepLog} {
		if f != nil {
			if err := cutLog(f); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range servicesIn(dir) {
		f, err := os.OpenFile(filepath.Join(dir, ci.ServiceLog(name)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(cutLog(f), f.Close()); err != nil {
			return nil, err
		}
	}
	if !info.Has("end") || info.Get("end") == "-" {
		r.info = r.info.With(ci.Attr{Name: "end", Value: ci.FormatTime(died)})
	}
	return r, nil
}

// verdict returns how the run of a dead process ended.
func (r *Run) verdict() (state string, code int) {
	if r.status.Finished() { // it was being sealed
		return r.status.State, r.status.Code
	}
	done := func(i int) bool { return r.steps[i].State == "passed" }
	if done(ci.TestStep) && (done(ci.ArtifactsStep) || r.steps[ci.ArtifactsStep].State == "skipped") {
		if s := &r.steps[ci.PostTestStep]; s.State == "queued" {
			*s = ci.Status{State: "error", Code: -1, Took: -1, Time: s.Time}
		}
		return "passed", 0
	}
	return "error", -1
}

// mourn says in the log of the step that was cut short, or that was next, why it ended.
func (r *Run) mourn(state string) {
	if r.status.Finished() {
		return
	}
	if next := slices.IndexFunc(r.steps, func(st ci.Status) bool { return st.State == "queued" }); r.step < 0 && state == "error" && next >= 0 {
		r.Enter(ci.Steps[next]) // Seal reports what cannot be kept
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complain(errKilled)
}

var errKilled = errors.New("its executor was killed")

func readStatus(name string) (ci.Status, error) {
	b, err := disk.ReadFile(name, ci.MaxText)
	if err != nil {
		return ci.Status{}, err
	}
	return ci.ParseStatus(string(b))
}

// cutLog cuts off half a line, which a kill may have left at a log's end.
func cutLog(f *os.File) error {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	start := max(0, fi.Size()-ci.MaxLogLine)
	b := make([]byte, fi.Size()-start)
	if _, err := f.ReadAt(b, start); err != nil {
		return err
	}
	end := start + int64(bytes.LastIndexByte(b, '\n')+1)
	if end == fi.Size() {
		return nil
	}
	return f.Truncate(end)
}

// lastChange returns when a file of the run was last written.
func lastChange(dir string) (last time.Time) {
	names := []string{"status", "info", "log", "stdout", "stderr"}
	for _, step := range ci.Steps {
		names = append(names, "step/"+step+"/log", "step/"+step+"/status")
	}
	for _, name := range names {
		if fi, err := os.Lstat(filepath.Join(dir, name)); err == nil && fi.ModTime().After(last) {
			last = fi.ModTime()
		}
	}
	return last
}
