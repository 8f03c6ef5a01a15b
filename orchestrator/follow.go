package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/internal/wire"
)

const (
	readTimeout   = 10 * time.Second // for a file of an executor that does not block
	maxEventLine  = 4096             // bytes
	idleEvents    = 256              // bytes of events that are read at once, until as many have come
	keysAtJoin    = 64               // when an executor joins: newest runs whose keys are read and that event files tell of
	keysAtOnce    = 16               // reads of keys in flight, of one executor
	followRetry   = time.Second      // before an executor's tree is attached again,
	followRetries = time.Minute      // doubled up to this
)

// follow keeps the share's runs as the executor's index and event files tell of
// them, until the share ends.
func (sh *share) follow() {
	for delay := followRetry; delay > 0; {
		began := time.Now()
		delay = sh.retry(sh.watch(), began, delay)
	}
}

// retry waits before the share is watched again, which ended with err, and returns
// the next delay. It is 0 when the share has ended.
func (sh *share) retry(err error, began time.Time, delay time.Duration) time.Duration {
	if sh.ctx.Err() != nil {
		return 0
	}
	if errors.Is(err, iofs.ErrNotExist) {
		// A tree without an index is no ci(4), but it can be read.
		sh.unread(slog.LevelInfo, err)
		sh.replace(nil)
		<-sh.ctx.Done()
		return 0
	}
	sh.unread(slog.LevelWarn, err)
	if time.Since(began) > followRetries {
		delay = followRetry
	}
	select {
	case <-time.After(delay/2 + rand.N(delay/2)):
	case <-sh.ctx.Done():
		return 0
	}
	return min(2*delay, followRetries)
}

// watch reads the share's index, and then its events until they end. It is what the
// goroutine of an idle share stands in, and leaves all else to others: the stack is to
// fit 4 KiB.
func (sh *share) watch() error {
	r := sh.m.hold(nil)
	defer r.letGo()
	e, err := sh.attach(r)
	if err != nil {
		return err
	}
	defer e.close()
	for err == nil {
		n, end := e.file.ReadAt(sh.ctx, e.buf, e.off)
		err = e.take(n, end)
	}
	return err
}

// A followed is the event file of a share while it is read.
type followed struct {
	sh   *share
	link *link
	file fs.File
	buf  []byte
	off  int64
	text lineBuffer
}

// attach attaches the share's tree, opens its event file and reads its index.
func (sh *share) attach(r *reader) (e *followed, err error) {
	apart(func() {
		var l *link
		if l, err = r.attach(sh.ctx, sh); err != nil {
			err = fmt.Errorf("attach: %w", err)
			return
		}
		e = &followed{sh: sh, link: l, buf: make([]byte, idleEvents)}
		sh.setRoot(l.root)
		if e.file, err = sh.begin(l.root); err != nil {
			sh.setRoot(nil)
			l.hangup()
		}
	})
	return e, err
}

func (e *followed) close() {
	e.file.Close()
	e.sh.setRoot(nil)
	e.link.hangup()
}

// take takes the n bytes of events that were read, and the error of that.
func (e *followed) take(n int, end error) (err error) {
	e.off += int64(n)
	apart(func() {
		for line := range e.text.lines(e.buf[:n]) {
			if err = e.sh.event(e.link.root, line); err != nil {
				return
			}
		}
		switch {
		case len(e.text) > maxEventLine:
			err = errors.New("event: a line without an end")
		case end == io.EOF:
			err = errors.New("event: ended")
		case end != nil:
			err = fmt.Errorf("event: %w", end)
		}
	})
	if n == idleEvents && len(e.buf) == n {
		e.buf = make([]byte, maxEventLine)
	}
	return err
}

// begin opens the share's event file and reads its index.
func (sh *share) begin(root fs.Dir) (events fs.File, err error) {
	// The event file is opened first, so that no event is lost between the two.
	if events, err = openFile(sh.ctx, root, "event"); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	runs, err := readIndex(sh.ctx, root, "")
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("index: %w", err)
	}
	sh.replace(runs)
	sh.readKeys(sh.ctx, sh.keyless(keysAtJoin))
	return events, nil
}

// event takes one line of the executor's event file. For a run that is new or has
// ended it reads the index, which says what a status does not.
func (sh *share) event(root fs.Dir, line string) error {
	id, st, err := ci.ParseEvent(line)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if !sh.update(id, st) {
		return nil
	}
	if err := sh.reread(root, id); err != nil {
		return err
	}
	sh.readKeys(sh.ctx, sh.keyless(keysAtOnce))
	return nil
}

// reread takes what the index says of a run.
func (sh *share) reread(root fs.Dir, id string) error {
	runs, err := readIndex(sh.ctx, root, id)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if n := len(runs); n > 0 && runs[n-1].id == id {
		if r := runs[n-1]; sh.describe(r) {
			sh.adopted(&r)
		}
	} else {
		sh.forget(id)
	}
	return nil
}

// settle finds out what has become of a run whose intent was taken back. Of an
// executor that does not tell, the run is forgotten; of one whose connection is
// lost, it stays while the executor may come back.
func (sh *share) settle(root fs.Dir, id string) {
	// The connection may have ended before the share: leave is still to come.
	if err := sh.reread(root, id); err != nil && sh.m.conn.ask() && sh.ctx.Err() == nil {
		sh.forget(id)
	}
}

// readIndex reads the lines of the index file, newest first: all of them, or up
// to that of the run until. It skips a line that it cannot parse.
func readIndex(ctx context.Context, root fs.Dir, until string) ([]run, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*readTimeout)
	defer cancel()
	f, err := openFile(ctx, root, "index")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := 64 << 10
	if until != "" {
		size = 4 << 10 // the run is likely to be the first
	}
	var runs []run
	var text lineBuffer
	buf := make([]byte, size)
	for off := int64(0); off < maxIndex && len(runs) < maxRuns; {
		n, err := f.ReadAt(ctx, buf, off)
		off += int64(n)
		for line := range text.lines(buf[:n]) {
			r, err := parseRun(line)
			if err != nil {
				continue
			}
			runs = append(runs, r)
			if r.id == until {
				return runs, nil
			}
		}
		if err == io.EOF {
			return runs, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// A lineBuffer is the beginning of a line whose end has not come.
type lineBuffer []byte

// lines adds p, and yields the lines that are whole, without their newlines.
func (b *lineBuffer) lines(p []byte) iter.Seq[string] {
	*b = append(*b, p...)
	return func(yield func(string) bool) {
		for {
			line, rest, ok := bytes.Cut(*b, []byte("\n"))
			if !ok {
				return
			}
			*b = rest
			if !yield(string(line)) {
				return
			}
		}
	}
}

// readKeys reads the keys of runs of the share. It reports whether the executor
// answered at all before ctx was done.
func (sh *share) readKeys(ctx context.Context, ids []string) (answered bool) {
	root := sh.getRoot()
	if root == nil {
		return false
	}
	var wg sync.WaitGroup
	var answers atomic.Int64
	turn := wire.NewSlots(keysAtOnce)
	for _, id := range ids {
		turn.Wait()
		wg.Go(func() {
			defer turn.Give()
			end, ok := sh.beginKey(ctx, id)
			if !ok {
				return // many that ask for one revision read each key once
			}
			defer end()
			key, err := readKey(ctx, root, id)
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				answers.Add(1)
			}
			if errors.Is(err, iofs.ErrNotExist) {
				sh.forget(id)
			} else if err == nil {
				sh.learnKey(id, key)
			}
		})
	}
	wg.Wait()
	return answers.Load() > 0
}

func readKey(ctx context.Context, root fs.Dir, id string) (ci.Attrs, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	f, err := openFile(ctx, root, "ci/"+id+"/key")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, maxKey)
	n := 0
	for n < len(b) {
		m, err := f.ReadAt(ctx, b[n:], int64(n))
		n += m
		if err == io.EOF {
			return ci.ParseAttrs(b[:n])
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("key: over %d bytes", maxKey)
}

// openFile opens a file of a tree for reading.
func openFile(ctx context.Context, root fs.Dir, path string) (fs.File, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	n, err := fs.FileAt(ctx, root, path)
	if err != nil {
		return nil, err
	}
	return n.Open(ctx, fs.OpenRead)
}
