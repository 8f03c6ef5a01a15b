package orchestrator

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// liveKept is how many of a live file's newest bytes are kept for the readers that
// are not the first to ask for them.
const liveKept = 256 << 10

// liveChunk is how much is read of a live file at a time.
const liveChunk = 64 << 10

// isLive reports whether path, below an executor, is that of a run's live file.
func isLive(path []string) bool {
	return len(path) == 3 && path[0] == "ci" && path[2] == "live" && ci.IsID(path[1])
}

// A live is one follower of a run's live file, for all its readers. At the end of
// what has come so far there is one read of the executor, which all that have come
// to that end wait for. A reader that is further behind than what is kept reads for
// itself, since that read does not block.
type live struct {
	sh   *share
	path string
	refs int // guarded by the share's livesMu

	mu    sync.Mutex // guards what follows
	file  fs.File    // by the orchestrator's own link; nil until it is needed, and after an error
	start int64      // of kept
	kept  []byte     // never changed in place: it grows, or another takes its place
	ended bool       // the file has no more
	next  *liveRead  // what is under way, at the end of kept
}

// A liveRead is a read of the executor.
type liveRead struct {
	done    chan struct{} // closed when it has ended
	err     error         // of the read; nil with bytes
	cancel  context.CancelFunc
	readers int // that wait; guarded by the live's mu
}

// liveOf returns the follower of a run's live file. LetLive must be called.
func (sh *share) liveOf(path string) *live {
	sh.livesMu.Lock()
	defer sh.livesMu.Unlock()
	l := sh.lives[path]
	if l == nil {
		l = &live{sh: sh, path: path}
		if sh.lives == nil {
			sh.lives = map[string]*live{}
		}
		sh.lives[path] = l
	}
	l.refs++
	return l
}

// letLive undoes liveOf.
func (sh *share) letLive(l *live) {
	sh.livesMu.Lock()
	l.refs--
	last := l.refs == 0
	if last {
		delete(sh.lives, l.path)
	}
	sh.livesMu.Unlock()
	if !last {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// errOwn says that a reader is to read for itself.
var errOwn = errors.New("not kept")

// readAt reads as fs.File has it, or returns errOwn. Own is how far the reader has
// come by itself.
func (l *live) readAt(ctx context.Context, p []byte, off, own int64) (int, error) {
	for {
		l.mu.Lock()
		end := l.start + int64(len(l.kept))
		switch {
		case off < l.start:
			l.mu.Unlock()
			return 0, errOwn
		case off < end:
			b := l.kept[off-l.start:]
			l.mu.Unlock()
			return copy(p, b), nil
		case l.ended:
			l.mu.Unlock()
			return 0, io.EOF
		case off > end && off != own:
			l.mu.Unlock()
			return 0, errOwn // whether or not there are so many bytes
		case off > end && l.next == nil:
			l.start, l.kept = off, nil
		}
		r := l.next
		if r == nil {
			r = l.begin()
		}
		r.readers++
		l.mu.Unlock()
		err := error(nil)
		select {
		case <-r.done:
			err = r.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		l.mu.Lock()
		if r.readers--; r.readers == 0 {
			r.cancel()
			if l.next == r { // the next reader begins another
				l.next = nil
			}
		}
		l.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
}

// begin reads on at the end of what is kept. l.mu is held.
func (l *live) begin() *liveRead {
	ctx, cancel := context.WithCancel(l.sh.ctx)
	r := &liveRead{done: make(chan struct{}), cancel: cancel}
	l.next = r
	off := l.start + int64(len(l.kept))
	go func() { // outlives the reader that was first: others wait for it too
		defer cancel()
		defer time.AfterFunc(opTimeout, l.sh.m.conn.suspect).Stop()
		b := make([]byte, liveChunk)
		n, err := l.read(ctx, b, off)
		l.mu.Lock()
		defer l.mu.Unlock()
		if n > 0 {
			err = nil
		}
		switch {
		case l.next != r: // its readers have gone
		case err == io.EOF:
			l.ended = true
		case err == nil:
			l.keep(b[:n])
		}
		if l.next == r {
			l.next = nil
		}
		if err != io.EOF {
			r.err = err
		}
		close(r.done)
	}()
	return r
}

// keep adds b at the end of what is kept. l.mu is held.
func (l *live) keep(b []byte) {
	if n := len(l.kept) + len(b) - liveKept; n > 0 {
		n = min(n+liveChunk, len(l.kept))
		l.start += int64(n)
		l.kept = append(make([]byte, 0, liveKept), l.kept[n:]...)
	}
	l.kept = append(l.kept, b...)
}

// read reads the executor's file, which it opens if it is not open.
func (l *live) read(ctx context.Context, b []byte, off int64) (int, error) {
	l.mu.Lock()
	f := l.file
	l.mu.Unlock()
	if f == nil {
		root := l.sh.getRoot()
		if root == nil {
			return 0, errOwn
		}
		var err error
		if f, err = openFile(ctx, root, l.path); err != nil {
			return 0, err
		}
		l.mu.Lock()
		switch {
		case ctx.Err() != nil: // nobody may be there to close it
			l.mu.Unlock()
			f.Close()
			return 0, ctx.Err()
		case l.file == nil:
			l.file = f
		default: // a read that was given up has opened it
			f.Close()
			f = l.file
		}
		l.mu.Unlock()
	}
	n, err := f.ReadAt(ctx, b, off)
	if err != nil && err != io.EOF && ctx.Err() == nil {
		l.mu.Lock()
		if l.file == f {
			l.file = nil
		}
		l.mu.Unlock()
		f.Close()
	}
	return n, err
}

// A liveNode is a run's live file as the mux shows it.
type liveNode struct {
	remote
	path string
}

func (n liveNode) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	f, err := n.remote.Open(ctx, mode)
	if err != nil {
		return nil, err
	}
	return &liveFile{File: f, sh: n.sh, l: n.sh.liveOf(n.path)}, nil
}

// A liveFile is a reader of a live file. Its own file at the executor has what is
// not kept here.
type liveFile struct {
	fs.File
	sh *share
	l  *live

	own atomic.Int64 // the end of its newest read of its own
}

func (f *liveFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := f.l.readAt(ctx, p, off, f.own.Load())
	if errors.Is(err, errOwn) {
		n, err := f.File.ReadAt(ctx, p, off)
		if n > 0 {
			f.own.Store(off + int64(n))
		}
		return n, err
	}
	if err != nil && err != io.EOF && ctx.Err() == nil {
		err = f.File.(*remoteFile).r.fail(err)
	}
	return n, err
}

func (f *liveFile) Close() error {
	f.sh.letLive(f.l)
	return f.File.Close()
}
