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
	Progress *Writer // Err as a terminal: one line a step; or nil
	Piped    bool    // Out is a pipe, and may end on the same terminal
	Verbose  bool    // -v: every step's output
	Quiet    bool    // -q: the test's bytes alone
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
	f := follower{Run: *p, progress: p.Progress != nil && !p.Verbose && !p.Quiet}
	if f.progress {
		defer p.Progress.Status("")
	} else if !p.Quiet {
		f.lines = &apart{w: p.Err}
		f.Err = f.lines
	}
	step := 0
	var log *stepLog
	for {
		st, err := ask.Status(ctx, run, "status")
		if err != nil {
			return st, err
		}
		if st.State == "queued" {
			f.status(st.State, st.Time)
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
			if err := f.printStep(ctx, name, ss, log); err != nil {
				return st, err
			}
			if ss.State == "running" {
				break
			}
			log.close()
			log, step = nil, step+1
			f.lines.end()
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

// A follower prints one run.
type follower struct {
	Run
	progress bool
	lines    *apart // Err, where one step's output follows another's; or nil
}

// status shows what goes on, and since when, on the last line of the terminal.
func (f *follower) status(what string, since time.Time) {
	if f.progress {
		f.Progress.Status(fmt.Sprintf("%-16s%ds", what, max(0, int(time.Since(since).Seconds()))))
	}
}

// printStep prints what is new of a step whose status is st.
func (f *follower) printStep(ctx context.Context, name string, st ci.Status, log *stepLog) error {
	test := name == "test"
	if test {
		if err := log.copy(ctx, f.Out, f.Err); err != nil {
			return err
		}
	}
	switch {
	case test && !f.progress, !test && f.Quiet:
		return nil
	case !f.progress:
		return log.copy(ctx, f.Err, f.Err)
	case st.State == "running":
		if !test || !f.Piped {
			f.status(name, st.Time)
		}
		return nil
	case st.State != "skipped":
		f.Progress.Printf("%-16s%s %.1fs\n", name, st.State, st.Took.Seconds())
	}
	switch {
	case test:
		return nil
	case st.State == "passed" || st.State == "skipped":
		return log.copy(ctx, io.Discard, remarks{f.Err})
	}
	return log.copy(ctx, f.Err, f.Err)
}

// An apart has what is written after end begin a line.
type apart struct {
	w           io.Writer
	half, ended bool // within a line; end was called there
}

func (a *apart) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if a.ended {
		if _, err := io.WriteString(a.w, "\n"); err != nil {
			return 0, err
		}
	}
	a.half, a.ended = p[len(p)-1] != '\n', false
	return a.w.Write(p)
}

// end may be called on nil.
func (a *apart) end() {
	if a != nil {
		a.ended = a.half
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
	f    fs.File
	off  int64
	rest []byte // the start of a line whose end is not there yet
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
