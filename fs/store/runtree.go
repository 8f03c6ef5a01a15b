package store

import (
	"context"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/fs/internal/disk"
)

// A runDir is /ci/<id>, or an alias of it with a Qid of its own.
type runDir struct {
	t  *tree
	id string
	q  fs.Qid
}

// find returns the run, sealed or not.
func (d runDir) find() (rec *record, run *Run, err error) {
	rec, run = d.t.s.find(d.id)
	if rec == nil && run == nil {
		return nil, nil, iofs.ErrNotExist
	}
	return rec, run, nil
}

func (d runDir) Stat(context.Context) (fs.Stat, error) {
	rec, run, err := d.find()
	if err != nil {
		return fs.Stat{}, err
	}
	if run != nil {
		return fs.DirStat(d.id, d.q, run.Status().Time), nil
	}
	st := fs.DirStat(d.id, d.q, time.Unix(rec.end, 0))
	st.Version = rec.vers()
	return st, nil
}

func (d runDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (d runDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	_, run, err := d.find()
	if err != nil {
		return nil, err
	}
	switch name {
	case "live":
		return liveFile{d.t, d.id, d.q.Child(name)}, nil
	case "wait":
		return waitFile{d.t, d.id, d.q.Child(name)}, nil
	case "hold":
		return d.hold()
	}
	for _, e := range ci.Entries {
		if e.Name == name && (e.Always || run == nil) {
			n := d.entry(name)
			if isCtl(n) && fs.UserOf(ctx).Anonymous {
				break
			}
			if e.May {
				if _, err := n.Stat(ctx); err != nil {
					return nil, err
				}
			}
			return n, nil
		}
	}
	return nil, iofs.ErrNotExist
}

// hold returns /ci/<id>/hold, which is there as long as the executor holds the run's
// machine, or would if the run failed.
func (d runDir) hold() (fs.Node, error) {
	h, ok := d.t.c.(Holder)
	if !ok || h.Held(d.id) == nil {
		return nil, iofs.ErrNotExist
	}
	read := func(context.Context) ([]byte, error) {
		held := h.Held(d.id)
		if held == nil {
			return nil, iofs.ErrNotExist
		}
		return held.Text(), nil
	}
	return fs.Text{Name: "hold", Qid: d.q.Child("hold"), Make: read, ModTime: d.t.changed}, nil
}

func (d runDir) entry(name string) fs.Node {
	q := d.q.Child(name)
	switch name {
	case "artifacts":
		return d.t.artifacts(d.id, q)
	case "ctl":
		_, canHold := d.t.c.(Holder)
		return fs.Ctl{Name: "ctl", Qid: q, Manual: ci.RunCtlManual(canHold), ReadOnly: d.t.c == nil, ModTime: d.t.opened,
			Do: func(ctx context.Context, line string) (string, error) { return d.t.runCommand(ctx, d.id, line) }}
	case "step":
		return stepDir{d.t, d.id, "step", "step", q, ci.Steps}
	case "service":
		return serviceDir{stepDir{d.t, d.id, "service", "service", q, d.services()}}
	case "status":
		return statusFile{d.t.file(d.id, name, q), d}
	}
	return d.t.file(d.id, name, q)
}

func (d runDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	_, run, err := d.find()
	if err != nil {
		return nil, err
	}
	var list []fs.Stat
	for i := int(min(after, uint64(len(ci.Entries)))); i < len(ci.Entries) && len(list) < n; i++ {
		e := ci.Entries[i]
		if !e.Always && run != nil || e.Name == "ctl" && fs.UserOf(ctx).Anonymous {
			continue
		}
		st, err := d.entry(e.Name).Stat(ctx)
		if err != nil {
			continue // the run has no signature or no services, or was just removed
		}
		st.Cookie = uint64(i + 1)
		list = append(list, st)
	}
	return list, nil
}

// artifacts returns the directory artifacts of a run.
func (t *tree) artifacts(id string, q fs.Qid) fs.Dir {
	return fs.SourceDir(runDisk{t.s, id}, "artifacts", q)
}

// file returns a file of ours of a run.
func (t *tree) file(id, rel string, q fs.Qid) fs.Node {
	return fs.SourceFile(runDisk{t.s, id}, rel, q)
}

// A runDisk is where the files of a run are: in its hidden directory until it
// is sealed, and then in its place.
type runDisk struct {
	s  *Store
	id string
}

// Acquire implements fs.Source.
func (d runDisk) Acquire() (disk.Place, uint32, func(), error) {
	for range 3 { // it may be sealed, discarded or evicted while we look
		rec, run := d.s.find(d.id)
		switch {
		case rec != nil:
			l, err := d.s.acquire(d.id)
			if err != nil {
				return disk.Place{}, 0, nil, disk.Bare(err)
			}
			return l.Place, rec.vers(), func() { d.s.release(d.id, l) }, nil
		case run == nil:
			return disk.Place{}, 0, nil, iofs.ErrNotExist
		}
		if p, err := disk.OpenPlace(run.dir); err == nil {
			return p, 0, p.Close, nil
		}
		d.s.published() // it is being sealed
	}
	return disk.Place{}, 0, nil, iofs.ErrNotExist
}

// services returns the names of the run's services.
func (d runDir) services() []string {
	p, _, release, err := runDisk{d.t.s, d.id}.Acquire()
	if err != nil {
		return nil
	}
	defer release()
	names, _ := ci.ReadServices(p.Root)
	return names
}

// A serviceDir is the directory service of a run that has services.
type serviceDir struct{ stepDir }

func (d serviceDir) Stat(ctx context.Context) (fs.Stat, error) {
	if len(d.entries) == 0 {
		return fs.Stat{}, iofs.ErrNotExist
	}
	return d.stepDir.Stat(ctx)
}

// A stepDir is the directory step or service of a run, or one of a step or service.
type stepDir struct {
	t       *tree
	id      string
	name    string
	rel     string
	q       fs.Qid
	entries []string
}

func (d stepDir) Stat(ctx context.Context) (fs.Stat, error) {
	st, err := runDir{d.t, d.id, d.q}.Stat(ctx)
	st.Name = d.name
	return st, err
}

func (d stepDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

var stepFiles = []string{"log", "status"}

func (d stepDir) entry(name string) fs.Node {
	rel, q := path.Join(d.rel, name), d.q.Child(name)
	switch d.rel {
	case "step":
		return stepDir{d.t, d.id, name, rel, q, stepFiles}
	case "service":
		return stepDir{d.t, d.id, name, rel, q, []string{"log"}}
	}
	return d.t.file(d.id, rel, q)
}

func (d stepDir) Walk(_ context.Context, name string) (fs.Node, error) {
	if !slices.Contains(d.entries, name) {
		return nil, iofs.ErrNotExist
	}
	return d.entry(name), nil
}

func (d stepDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	var list []fs.Stat
	for i := int(min(after, uint64(len(d.entries)))); i < len(d.entries) && len(list) < n; i++ {
		st, err := d.entry(d.entries[i]).Stat(ctx)
		if err != nil {
			return list, err
		}
		st.Cookie = uint64(i + 1)
		list = append(list, st)
	}
	return list, nil
}

// A statusFile is /ci/<id>/status. An unfinished run's is not the one on disk,
// which says how the run ended while it is still being sealed.
type statusFile struct {
	fs.Node // the file on disk
	dir     runDir
}

func (f statusFile) Stat(ctx context.Context) (fs.Stat, error) {
	_, run, err := f.dir.find()
	if run == nil || err != nil {
		return f.Node.Stat(ctx)
	}
	st := run.Status()
	return fs.FileStat("status", f.dir.q.Child("status"), int64(len(st.String())+1), st.Time), nil
}

func (f statusFile) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	_, run, err := f.dir.find()
	if run == nil || err != nil || mode != fs.OpenRead {
		return f.Node.Open(ctx, mode)
	}
	return fs.ByteFile(run.Status().String() + "\n"), nil
}

// A waitFile is /ci/<id>/wait.
type waitFile struct {
	t  *tree
	id string
	q  fs.Qid
}

func (f waitFile) Stat(ctx context.Context) (fs.Stat, error) {
	rec, run, err := runDir(f).find()
	if err != nil {
		return fs.Stat{}, err
	}
	st := fs.FileStat("wait", f.q, 0, time.Time{})
	if run != nil {
		st.ModTime = run.Status().Time
		return st, nil
	}
	st.ModTime, st.Size = time.Unix(rec.end, 0), int64(len(rec.status().String())+1)
	st.Version = rec.vers()
	return st, nil
}

func (f waitFile) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	rec, run, err := runDir(f).find()
	if err != nil {
		return nil, err
	}
	if rec != nil {
		return fs.ByteFile(rec.status().String() + "\n"), nil
	}
	return openWait{run: run}, nil
}

type openWait struct {
	fs.ByteFile
	run *Run
}

func (f openWait) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.run.wait(ctx); err != nil {
		return 0, err
	}
	return fs.ByteFile(f.run.Status().String()+"\n").ReadAt(ctx, p, off)
}

// A liveFile is /ci/<id>/live.
type liveFile struct {
	t  *tree
	id string
	q  fs.Qid
}

func (f liveFile) Stat(ctx context.Context) (fs.Stat, error) {
	rec, run, err := runDir(f).find()
	if err != nil {
		return fs.Stat{}, err
	}
	st := fs.FileStat("live", f.q, 0, time.Time{})
	if run != nil {
		_, st.Size = run.logged()
		st.ModTime = run.Status().Time
		return st, nil
	}
	l, err := f.t.s.acquire(f.id)
	if err != nil {
		return fs.Stat{}, disk.Bare(err)
	}
	defer f.t.s.release(f.id, l)
	st.ModTime, st.Version = time.Unix(rec.end, 0), rec.vers()
	st.Size, err = l.liveSize()
	return st, err
}

// liveSize counts, once, what the log of the leased run holds.
func (l *lease) liveSize() (int64, error) {
	l.liveOnce.Do(func() {
		var log *os.File
		if log, l.liveErr = l.Open("log"); l.liveErr == nil {
			defer log.Close()
			l.live, l.liveErr = ci.LiveSize(log)
		}
	})
	return l.live, l.liveErr
}

func (f liveFile) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	_, run, err := runDir(f).find()
	if err != nil {
		return nil, err
	}
	if run != nil {
		if log := run.shareLog(); log != nil {
			return &openLive{run: run, log: log, release: log.put}, nil
		}
	}
	l, err := f.t.s.acquire(f.id)
	if err != nil {
		return nil, disk.Bare(err)
	}
	file, err := l.Open("log")
	if err != nil {
		f.t.s.release(f.id, l)
		return nil, disk.Bare(err)
	}
	return &openLive{log: file, release: func() {
		file.Close()
		f.t.s.release(f.id, l)
	}}, nil
}

// An openLive reads the bytes that a log holds. One that waits for more holds
// nothing but its place.
type openLive struct {
	fs.ByteFile
	run     *Run // nil where it was sealed
	log     io.ReaderAt
	release func()

	scan   sync.Mutex // held by the read that looks through the log: the next one goes on from its end
	mu     sync.Mutex // guards what follows
	marks  ci.Marks
	closed bool
}

func (f *openLive) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		// What is waited for is asked before what there is.
		size, live, ended := int64(1)<<62, int64(1)<<62, true
		var more <-chan struct{}
		if f.run != nil {
			more = f.run.change.Wait()
			ended = f.run.isDone()
			size, live = f.run.logged()
		} else if fi, err := f.log.(*os.File).Stat(); err == nil {
			size = fi.Size()
		}
		if off < live {
			if n, err := f.look(p, off, size); n > 0 || err != nil {
				return n, err
			}
		}
		if ended {
			return 0, io.EOF
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// look reads what the first size bytes of the log hold at the offset off in live. It
// goes on from where another read stopped.
func (f *openLive) look(p []byte, off, size int64) (int, error) {
	f.scan.Lock()
	defer f.scan.Unlock()
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return 0, os.ErrClosed
	}
	r := ci.LiveReader{Src: f.log, Mark: f.marks.Near(off)}
	f.mu.Unlock()
	n, err := r.ReadAt(p, off, size)
	f.mu.Lock()
	f.marks.Add(r.Mark)
	f.mu.Unlock()
	return n, err
}

func (f *openLive) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	f.closed = true
	f.release()
	return nil
}

// logged returns how long the run's log is, and how many bytes it holds of the
// streams.
func (r *Run) logged() (log, live int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logLen, r.liveLen
}

func (r *Run) isDone() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// A sharedLog is the log of an unfinished run, open once for all its followers:
// ten thousand readers need one descriptor.
type sharedLog struct {
	*os.File
	users int // guarded by Run.mu
	r     *Run
}

// shareLog returns the log; the caller calls put. It returns nil when the run
// has ended.
func (r *Run) shareLog() *sharedLog {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == runEnded {
		return nil
	}
	if r.shared == nil {
		f, err := os.Open(filepath.Join(r.dir, "log"))
		if err != nil {
			return nil
		}
		r.shared = &sharedLog{File: f, r: r}
	}
	r.shared.users++
	return r.shared
}

func (l *sharedLog) put() {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.users--; l.users == 0 {
		l.Close()
		if l.r.shared == l {
			l.r.shared = nil
		}
	}
}

// A tarNode is /ci/<id>.tar.
type tarNode struct {
	t    *tree
	id   string
	name string
	q    fs.Qid
}

func (n tarNode) Stat(context.Context) (fs.Stat, error) {
	rec, _ := n.t.s.find(n.id)
	if rec == nil {
		return fs.Stat{}, iofs.ErrNotExist
	}
	l, err := n.t.s.acquire(n.id)
	if err != nil {
		return fs.Stat{}, disk.Bare(err)
	}
	defer n.t.s.release(n.id, l)
	t, err := l.layout()
	if err != nil {
		return fs.Stat{}, err
	}
	st := fs.FileStat(n.name, n.q, t.Size(), time.Unix(rec.end, 0))
	st.Version = rec.vers()
	return st, nil
}

func (n tarNode) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	f, err := n.t.s.openTar(n.id)
	if err != nil {
		return nil, disk.Bare(err)
	}
	return f, nil
}
