package store

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sync"

	"9ci/fs/ci"
)

// A Service is the log of a service of a run's test.
type Service struct {
	r *Run

	mu    sync.Mutex // guards what follows
	file  *os.File   // nil when it is closed
	lines logLines
}

// AddService makes the log of a service, which is to be closed before Seal. Name is
// one that ci.IsService takes, and no other service of the run has it.
func (r *Run) AddService(name string) (*Service, error) {
	if !ci.IsService(name) {
		return nil, fmt.Errorf("store: %q is no name of a service", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return nil, r.ended()
	}
	services := filepath.Join(r.dir, "service")
	if err := os.Mkdir(services, 0o700); err != nil && !errors.Is(err, iofs.ErrExist) {
		return nil, r.keep(err)
	}
	if len(servicesIn(r.dir)) >= ci.MaxServices {
		return nil, fmt.Errorf("store: a run has %d services at most", ci.MaxServices)
	}
	if err := os.Mkdir(filepath.Join(services, name), 0o700); err != nil {
		return nil, r.keep(err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, ci.ServiceLog(name)), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		os.Remove(filepath.Join(services, name)) // one without a log cannot be sealed
		return nil, r.keep(err)
	}
	s := &Service{r: r, file: f}
	s.lines = newLogLines(&s.mu, s.append)
	return s, nil
}

// Stdout returns the writer of the service's standard output. A Write reports an
// error where the log is closed or cannot be kept, or where the run's output is over
// the Store's MaxOutput.
func (s *Service) Stdout() io.Writer { return serviceWriter{s, 0} }

// Stderr is as Stdout, for standard error.
func (s *Service) Stderr() io.Writer { return serviceWriter{s, 1} }

type serviceWriter struct {
	s      *Service
	stream int
}

func (w serviceWriter) Write(p []byte) (int, error) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return 0, os.ErrClosed
	}
	if err := s.lines.write(w.stream, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// append adds lines to the log. s.mu is held.
func (s *Service) append(lines []byte, _ int) error {
	if s.file == nil {
		return nil
	}
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != runOpen {
		return r.ended()
	}
	if err := r.roomFor(len(lines)); err != nil {
		return err
	}
	if _, err := appendAll(s.file, lines); err != nil {
		return r.keep(err)
	}
	r.written += int64(len(lines))
	return nil
}

// Close ends the log.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return os.ErrClosed
	}
	err := errors.Join(s.lines.flush(), s.file.Close())
	s.file = nil
	return err
}

// servicesIn returns the services of the run in dir; none where dir cannot be read.
func servicesIn(dir string) []string {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil
	}
	defer root.Close()
	names, _ := ci.ReadServices(root)
	return names
}
