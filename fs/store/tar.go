package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"sync"

	"9ci/fs"
	"9ci/fs/ci"
)

// A tarFile reads the tar of a run at any offset. It has no more of the run
// open than the file that was read last.
type tarFile struct {
	s  *Store
	id string
	l  *lease
	t  *ci.Layout

	mu   sync.Mutex // guards what follows
	open *tarMember // the file read last, whole ones at a time being usual
	done bool
}

type tarMember struct {
	*os.File
	i     int
	users int // guarded by tarFile.mu
}

// ReadAt implements File.
func (f *tarFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	n, err := f.t.ReadAt(p, off, f.readMember)
	switch {
	case err == io.EOF && n > 0:
		err = nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%s: %w: %w", f.id, err, fs.ErrIO)
	}
	return n, err
}

func (f *tarFile) readMember(i int, p []byte, off int64) (int, error) {
	m, err := f.use(i)
	if err != nil {
		return 0, err
	}
	defer f.unuse(m)
	return m.ReadAt(p, off)
}

// Extent implements Extenter: the data of a member are in its file.
func (f *tarFile) Extent(off int64, n int) (*os.File, int64, func()) {
	i, at, ok := f.t.Data(off, n)
	if !ok {
		return nil, 0, nil
	}
	m, err := f.use(i)
	if err != nil {
		return nil, 0, nil
	}
	return m.File, at, func() { f.unuse(m) }
}

// use opens member i, unless it was the last one that was used.
func (f *tarFile) use(i int) (*tarMember, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return nil, os.ErrClosed
	}
	m := f.open
	if m == nil || m.i != i {
		file, err := f.l.Open(f.t.Name(i))
		if err != nil {
			return nil, err
		}
		f.put(m)
		m = &tarMember{File: file, i: i, users: 1} // one for f.open
		f.open = m
	}
	m.users++
	return m, nil
}

func (f *tarFile) unuse(m *tarMember) {
	f.mu.Lock()
	f.put(m)
	f.mu.Unlock()
}

// put gives back a use of m, which may be nil. f.mu is held.
func (f *tarFile) put(m *tarMember) {
	if m == nil {
		return
	}
	if m.users--; m.users == 0 {
		m.Close()
	}
}

func (f *tarFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f *tarFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return os.ErrClosed
	}
	f.done = true
	f.put(f.open)
	f.open = nil
	f.s.release(f.id, f.l)
	return nil
}

// layout returns the layout of the leased run's tar.
func (l *lease) layout() (*ci.Layout, error) {
	l.tarOnce.Do(func() { l.tar, l.tarErr = ci.NewLayout(l.Root) })
	return l.tar, l.tarErr
}

// openTar opens the tar of a sealed run.
func (s *Store) openTar(id string) (*tarFile, error) {
	l, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	t, err := l.layout()
	if err != nil {
		s.release(id, l)
		return nil, fmt.Errorf("%s.tar: %w", id, err)
	}
	return &tarFile{s: s, id: id, l: l, t: t}, nil
}

// WriteTar writes the tar of a sealed run, as /ci/<id>.tar has it. It reports
// iofs.ErrNotExist where there is no such run.
func (s *Store) WriteTar(ctx context.Context, w io.Writer, id string) error {
	f, err := s.openTar(id)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	_, err = io.Copy(w, fs.NewReader(ctx, f))
	return err
}
