package ninep

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"sync"
	"time"

	"9ci/fs"
)

// A memNode is a file or directory of a test's tree.
type memNode struct {
	st      fs.Stat
	data    []byte
	dir     *memDir // of an alias
	onOpen  func(context.Context, fs.OpenMode) (fs.File, error)
	onStat  func(context.Context) error
	closed  func()
	refuses fs.OpenMode
}

type memDir struct {
	memNode
	names   []string
	entries map[string]fs.Node
	onWalk  func(ctx context.Context, name string) error
}

var mtime = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)

func newMem(name string, path uint64, mode iofs.FileMode, data string) *memNode {
	return &memNode{data: []byte(data), st: fs.Stat{
		Name: name, Mode: mode, Size: int64(len(data)), ModTime: mtime, Path: path, Version: 1,
	}}
}

func newMemDir(name string, path uint64) *memDir {
	return &memDir{memNode: *newMem(name, path, iofs.ModeDir|0o555, ""), entries: make(map[string]fs.Node)}
}

func (d *memDir) add(n fs.Node) {
	st, _ := n.Stat(context.Background())
	d.names = append(d.names, st.Name)
	d.entries[st.Name] = n
}

func (n *memNode) Stat(ctx context.Context) (fs.Stat, error) {
	if n.onStat != nil {
		if err := n.onStat(ctx); err != nil {
			return fs.Stat{}, err
		}
	}
	return n.st, nil
}

func (n *memNode) Open(ctx context.Context, m fs.OpenMode) (fs.File, error) {
	if n.onOpen != nil {
		return n.onOpen(ctx, m)
	}
	if m&(fs.OpenWrite|fs.OpenTrunc) != 0 {
		return nil, fs.ErrReadOnly
	}
	return memFile{n}, nil
}

func (d *memDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (d *memDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	if d.onWalk != nil {
		if err := d.onWalk(ctx, name); err != nil {
			return nil, err
		}
	}
	n, ok := d.entries[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, iofs.ErrNotExist)
	}
	return n, nil
}

func (d *memDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	var sts []fs.Stat
	for i := int(after); i < len(d.names) && len(sts) < n; i++ {
		st, err := d.entries[d.names[i]].Stat(ctx)
		if err != nil {
			return nil, err
		}
		st.Cookie = uint64(i) + 1
		sts = append(sts, st)
	}
	return sts, nil
}

type memFile struct{ n *memNode }

func (f memFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	return copy(p, f.n.data[off:]), nil
}

func (f memFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }

func (f memFile) Close() error {
	if f.n.closed != nil {
		f.n.closed()
	}
	return nil
}

// An alias is another directory by a name of its own.
type memAlias struct {
	*memDir
	st fs.Stat
}

func (a *memAlias) Stat(context.Context) (fs.Stat, error) { return a.st, nil }

func newAlias(name string, path uint64, target string, d *memDir) *memAlias {
	return &memAlias{d, fs.Stat{Name: name, Path: path, Version: 0, ModTime: mtime,
		Mode: iofs.ModeSymlink | iofs.ModeDir | 0o777, Target: target}}
}

// A memLog is a live file: a reader at its end waits.
type memLog struct {
	memNode
	mu      sync.Mutex
	more    chan struct{} // closed when there is more
	ended   bool
	readers int
	arrived chan struct{} // one for each reader that starts to wait, if set
}

func newLog(name string, path uint64) *memLog {
	l := &memLog{memNode: *newMem(name, path, 0o444, ""), more: make(chan struct{})}
	l.st.Version = 0
	l.onOpen = func(context.Context, fs.OpenMode) (fs.File, error) { return l, nil }
	return l
}

func (l *memLog) Stat(context.Context) (fs.Stat, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.st
	st.Size = int64(len(l.data))
	return st, nil
}

func (l *memLog) append(s string, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, s...)
	l.ended = end
	close(l.more)
	l.more = make(chan struct{})
}

func (l *memLog) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		l.mu.Lock()
		more, ended := l.more, l.ended
		n := 0
		if off < int64(len(l.data)) {
			n = copy(p, l.data[off:])
		}
		l.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if ended {
			return 0, io.EOF
		}
		if l.arrived != nil && ctx.Err() == nil {
			l.arrived <- struct{}{}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (l *memLog) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (l *memLog) Close() error {
	if l.closed != nil {
		l.closed()
	}
	return nil
}

// newCtl is a file that answers what is written to it, and says "manual" to
// whoever only reads.
func newCtl(name string, path uint64) *memNode {
	n := newMem(name, path, 0o666, "")
	n.st.Version = 0
	n.onOpen = func(context.Context, fs.OpenMode) (fs.File, error) { return &ctlFile{reply: "manual\n"}, nil }
	return n
}

type ctlFile struct {
	mu    sync.Mutex
	reply string
}

func (f *ctlFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.reply)) {
		return 0, io.EOF
	}
	return copy(p, f.reply[off:]), nil
}

func (f *ctlFile) WriteAt(_ context.Context, p []byte, _ int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if string(p) == "bad\n" {
		return 0, fmt.Errorf("bad command: %w", iofs.ErrInvalid)
	}
	f.reply = "did " + string(p)
	return len(p), nil
}

func (f *ctlFile) Close() error { return nil }

// testTree has one of everything.
func testTree() (root *memDir, log *memLog) {
	root = newMemDir("/", 1)
	ci := newMemDir("ci", 2)
	run := newMemDir("3f2a9c1d0b7e.1", 3)
	run.add(newMem("status", 4, 0o444, "passed 0 1.500 -\n"))
	run.add(newMem("secret", 5, 0o400, "mine\n"))
	run.entries["secret"].(*memNode).st.UID = 12345
	log = newLog("live", 6)
	run.add(log)
	ci.add(run)
	ci.add(newAlias("last", 7, "3f2a9c1d0b7e.1", run))
	link := newMem("link", 8, iofs.ModeSymlink|0o777, "")
	link.st.Target = "ci/last/status"
	root.add(ci)
	root.add(link)
	root.add(newCtl("ctl", 9))
	empty := newMem("empty", 10, 0o444, "")
	root.add(empty)
	return root, log
}
