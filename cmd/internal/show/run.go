package show

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/fs"
	"9ci/fs/ci"
)

// A Run says where a run is printed, and what of it.
type Run struct {
	Out, Err io.Writer
	Progress io.Writer // Err as a terminal: one line a step; or nil
	Verbose  bool      // -v: every step's output
	Quiet    bool      // -q: the test's bytes alone
}

// Follow prints a run, whose directory is given, from its first byte to its end,
// for which it waits, and returns its status. What the test wrote goes to p.Out
// and p.Err byte for byte: a run that goes on and one that ended long ago are
// printed alike. The error is the tree's, a writer's or ctx's.
func (p *Run) Follow(ctx context.Context, run fs.Dir) (ci.Status, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The file live has no streams: it only says that there is more. The first
	// two steps do not write to it, so a ticker looks after them.
	var more <-chan struct{}
	if st, err := ask.Status(ctx, run, "status"); err != nil || st.Finished() {
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
		st, err := ask.Status(ctx, run, "status")
		if err != nil {
			return st, err
		}
		for step < len(ci.Steps) {
			name := ci.Steps[step]
			ss, err := ask.Status(ctx, run, "step/"+name+"/status")
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
			if err := p.printStep(ctx, name, ss, log); err != nil {
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
				more = nil // the run has ended or the connection has: the status says which
			}
		case <-tick.C:
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// watch returns a channel that has a value when the run's file live has grown.
// The channel is closed when that file has ended or ctx is done.
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

// printStep prints what is new of a step whose status is st.
func (p *Run) printStep(ctx context.Context, name string, st ci.Status, log *stepLog) error {
	test := name == "test"
	progress := p.Progress != nil && !p.Verbose && !p.Quiet
	if progress && !log.named && st.State != "skipped" {
		log.named = true
		if test {
			fmt.Fprintf(p.Progress, "%s\n", name)
		} else {
			fmt.Fprintf(p.Progress, "%-16s", name)
		}
	}
	switch {
	case test:
		return log.copy(ctx, p.Out, p.Err)
	case p.Quiet:
	case !progress:
		return log.copy(ctx, p.Err, p.Err)
	case st.State == "running":
	case st.State == "skipped":
		return log.copy(ctx, io.Discard, remarks{p.Err})
	default:
		fmt.Fprintf(p.Progress, "%s %.1fs\n", st.State, st.Took.Seconds())
		if st.State == "passed" {
			return log.copy(ctx, io.Discard, remarks{p.Err})
		}
		return log.copy(ctx, p.Err, p.Err)
	}
	return nil
}

// A remarks passes on the lines that 9ci itself wrote to a step's log. 9ci writes
// each of them in one Write.
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
	named bool   // the step's name is printed
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

// copy writes what is new to out and err: to each the bytes of its stream, in
// the order of the log.
func (l *stepLog) copy(ctx context.Context, out, err io.Writer) error {
	buf := make([]byte, 64<<10)
	for {
		n, rerr := l.f.ReadAt(ctx, buf, l.off)
		l.off += int64(n)
		l.rest = append(l.rest, buf[:n]...)
		if end := bytes.LastIndexByte(l.rest, '\n') + 1; end > 0 {
			var j joiner
			if err := ci.CopyLog(j.writer(out), j.writer(err), bytes.NewReader(l.rest[:end])); err != nil {
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

// A joiner gathers successive Writes to one writer into a single Write. Writes to
// several writers keep their order.
type joiner struct {
	to   io.Writer // the writer that text is for
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
