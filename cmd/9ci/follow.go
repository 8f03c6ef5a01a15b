package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"9ci/fs"
)

// A screen is where a run is printed.
type screen struct {
	out, err io.Writer
	progress io.Writer // err as a terminal: one line a step; or nil
	verbose  bool      // -v: every step's output
	quiet    bool      // -q: the test's bytes alone
}

// readStatus reads the status file of a run or a step.
func readStatus(ctx context.Context, dir fs.Dir, path string) (fs.Status, error) {
	text, err := readFile(ctx, dir, path)
	if err != nil {
		return fs.Status{}, fmt.Errorf("%s: %w", path, err)
	}
	return fs.ParseStatus(string(text))
}

// follow prints a run, whose directory is given, from its first byte to its
// end, and returns its status. What the test wrote goes to s.out and s.err
// byte for byte; it is the same for a run in progress and for one that ended
// long ago.
func (s *screen) follow(ctx context.Context, run fs.Dir) (fs.Status, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// live only says that there is more: it has no streams. The first two
	// steps do not write to it, so a ticker looks after them.
	var more <-chan struct{}
	if st, err := readStatus(ctx, run, "status"); err != nil || st.Finished() {
		if err != nil {
			return st, err
		}
	} else if more, err = watch(ctx, run); err != nil {
		return st, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	step := 0
	var log *stepLog
	for {
		st, err := readStatus(ctx, run, "status")
		if err != nil {
			return st, err
		}
		for step < len(fs.Steps) {
			name := fs.Steps[step]
			ss, err := readStatus(ctx, run, "step/"+name+"/status")
			if err != nil {
				return st, err
			}
			if ss.State == "queued" {
				break
			}
			if log == nil {
				if log, err = openStepLog(ctx, run, name); err != nil {
					return st, err
				}
			}
			if err := s.printStep(ctx, name, ss, log); err != nil {
				return st, err
			}
			if ss.State == "running" {
				break
			}
			log.close()
			log, step = nil, step+1
		}
		if st.Finished() {
			return st, nil
		}
		select {
		case _, ok := <-more:
			if !ok {
				more = nil // the run ended, or the connection did: status tells
			}
		case <-tick.C:
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// watch returns a channel that has a value when the run's live file has grown
// and is closed at its end.
func watch(ctx context.Context, run fs.Dir) (<-chan struct{}, error) {
	n, err := fs.Walk(ctx, run, "live")
	if err != nil {
		return nil, err
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	more := make(chan struct{}, 1)
	go func() {
		defer close(more)
		defer f.Close()
		buf := make([]byte, 64<<10)
		for off := int64(0); ; {
			n, err := f.ReadAt(ctx, buf, off)
			off += int64(n)
			if n > 0 {
				select {
				case more <- struct{}{}:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return more, nil
}

// printStep prints what is new of a step.
func (s *screen) printStep(ctx context.Context, name string, st fs.Status, log *stepLog) error {
	test := name == "test"
	progress := s.progress != nil && !s.verbose && !s.quiet
	if progress && !log.named && st.State != "skipped" {
		log.named = true
		if test {
			fmt.Fprintf(s.progress, "%s\n", name)
		} else {
			fmt.Fprintf(s.progress, "%-16s", name)
		}
	}
	switch {
	case test:
		return log.copy(ctx, s.out, s.err)
	case s.quiet:
	case !progress:
		return log.copy(ctx, s.err, s.err)
	case st.State == "running":
	case st.State == "skipped":
		return log.copy(ctx, io.Discard, remarks{s.err})
	default:
		fmt.Fprintf(s.progress, "%s %.1fs\n", st.State, st.Took.Seconds())
		if st.State == "passed" {
			return log.copy(ctx, io.Discard, remarks{s.err})
		}
		return log.copy(ctx, s.err, s.err)
	}
	return nil
}

// remarks lets through the lines that 9ci itself wrote to a step's log, as it
// writes them whole.
type remarks struct{ w io.Writer }

func (r remarks) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if bytes.HasPrefix(line, []byte("9ci: ")) {
			if _, err := r.w.Write(line); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// A stepLog reads the log of a step as it grows.
type stepLog struct {
	f     fs.File
	off   int64
	rest  []byte // the start of a line whose end is not there yet
	named bool
}

func openStepLog(ctx context.Context, run fs.Dir, step string) (*stepLog, error) {
	n, err := fs.Walk(ctx, run, "step/"+step+"/log")
	if err != nil {
		return nil, err
	}
	f, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	return &stepLog{f: f}, nil
}

func (l *stepLog) close() { l.f.Close() }

// copy writes what is new to out and err, each what its stream had, in the
// order of the log.
func (l *stepLog) copy(ctx context.Context, out, err io.Writer) error {
	buf := make([]byte, 64<<10)
	for {
		n, rerr := l.f.ReadAt(ctx, buf, l.off)
		l.off += int64(n)
		l.rest = append(l.rest, buf[:n]...)
		if end := bytes.LastIndexByte(l.rest, '\n') + 1; end > 0 {
			var j joiner
			if err := fs.CopyLog(j.writer(out), j.writer(err), bytes.NewReader(l.rest[:end])); err != nil {
				return err
			}
			if err := j.flush(); err != nil {
				return err
			}
			l.rest = append(l.rest[:0], l.rest[end:]...)
		}
		if rerr == io.EOF || rerr == nil && n == 0 {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

// A joiner makes few writes of many to several writers, in their order.
type joiner struct {
	to   io.Writer // where text goes
	text []byte
}

func (j *joiner) writer(w io.Writer) io.Writer { return joined{j, w} }

func (j *joiner) flush() error {
	if len(j.text) == 0 {
		return nil
	}
	_, err := j.to.Write(j.text)
	j.text = j.text[:0]
	return err
}

type joined struct {
	j *joiner
	w io.Writer
}

func (w joined) Write(p []byte) (int, error) {
	if w.j.to != w.w {
		if err := w.j.flush(); err != nil {
			return 0, err
		}
		w.j.to = w.w
	}
	w.j.text = append(w.j.text, p...)
	return len(p), nil
}

func readFile(ctx context.Context, dir fs.Dir, path string) ([]byte, error) {
	n, err := fs.Walk(ctx, dir, path)
	if err != nil {
		return nil, err
	}
	return fs.ReadAll(ctx, n)
}
