// Package testtree is for tests only: it is a tree in memory with one of
// everything that a door may meet.
package testtree

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"sync"
	"time"

	"9ci/fs"
)

// A Node is a file. Its functions may be nil.
type Node struct {
	St     fs.Stat                                             // what Stat returns
	Data   []byte                                              // what a read gets
	OnOpen func(context.Context, fs.OpenMode) (fs.File, error) // opens it instead
	OnStat func(context.Context) error                         // is called by Stat first; an error is that of Stat
	Closed func()                                              // is called by Close of an open file
}

// A Dir is a directory.
type Dir struct {
	Node
	names   []string                                     // what is listed
	Entries map[string]fs.Node                           // what can be walked to
	OnWalk  func(ctx context.Context, name string) error // is called by Walk first; an error is that of Walk
}

// ModTime is that of all files. A door that loses the nanoseconds shows it.
var ModTime = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)

// NewNode returns a file that never changes.
func NewNode(name string, path uint64, mode iofs.FileMode, data string) *Node {
	return &Node{Data: []byte(data), St: fs.Stat{
		Name: name, Mode: mode, Size: int64(len(data)), ModTime: ModTime, Path: path, Version: 1,
	}}
}

// NewDir returns an empty directory.
func NewDir(name string, path uint64) *Dir {
	return &Dir{Node: *NewNode(name, path, iofs.ModeDir|0o555, ""), Entries: make(map[string]fs.Node)}
}

// Add adds an entry by the name that its Stat says. It is listed behind those
// that were added before.
func (d *Dir) Add(n fs.Node) {
	st, _ := n.Stat(context.Background())
	d.names = append(d.names, st.Name)
	d.Entries[st.Name] = n
}

// Stat implements fs.Node.
func (n *Node) Stat(ctx context.Context) (fs.Stat, error) {
	if n.OnStat != nil {
		if err := n.OnStat(ctx); err != nil {
			return fs.Stat{}, err
		}
	}
	return n.St, nil
}

// Open implements fs.Node. Without OnOpen the file cannot be written.
func (n *Node) Open(ctx context.Context, m fs.OpenMode) (fs.File, error) {
	if n.OnOpen != nil {
		return n.OnOpen(ctx, m)
	}
	if m&(fs.OpenWrite|fs.OpenTrunc) != 0 {
		return nil, fs.ErrReadOnly
	}
	return memFile{n}, nil
}

// Open implements fs.Node.
func (d *Dir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

// Walk implements fs.Dir.
func (d *Dir) Walk(ctx context.Context, name string) (fs.Node, error) {
	if d.OnWalk != nil {
		if err := d.OnWalk(ctx, name); err != nil {
			return nil, err
		}
	}
	n, ok := d.Entries[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, iofs.ErrNotExist)
	}
	return n, nil
}

// ReadDir implements fs.Dir. A cookie is the number of entries before it.
func (d *Dir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	var sts []fs.Stat
	for i := int(after); i < len(d.names) && len(sts) < n; i++ {
		st, err := d.Entries[d.names[i]].Stat(ctx)
		if err != nil {
			return nil, err
		}
		st.Cookie = uint64(i) + 1
		sts = append(sts, st)
	}
	return sts, nil
}

type memFile struct{ n *Node }

func (f memFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(f.n.Data)) {
		return 0, io.EOF
	}
	return copy(p, f.n.Data[off:]), nil
}

func (f memFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }

func (f memFile) Close() error {
	if f.n.Closed != nil {
		f.n.Closed()
	}
	return nil
}

// An alias is another directory by a name of its own.
type Alias struct {
	*Dir
	St fs.Stat // its own, a link's
}

// Stat implements fs.Node.
func (a *Alias) Stat(context.Context) (fs.Stat, error) { return a.St, nil }

// NewAlias returns an alias of d, with the text target as the link's.
func NewAlias(name string, path uint64, target string, d *Dir) *Alias {
	return &Alias{d, fs.Stat{Name: name, Path: path, Version: 0, ModTime: ModTime,
		Mode: iofs.ModeSymlink | iofs.ModeDir | 0o777, Target: target}}
}

// A Log is a live file: a reader at its end waits.
type Log struct {
	Node
	mu      sync.Mutex
	more    chan struct{} // closed when there is more
	ended   bool
	arrived chan struct{} // one for each reader that starts to wait, if set
	gone    chan struct{} // one for each Close, if set
}

// NewLog returns a live file with nothing in it yet.
func NewLog(name string, path uint64) *Log {
	l := &Log{Node: *NewNode(name, path, 0o444, ""), more: make(chan struct{})}
	l.St.Version = 0
	l.OnOpen = func(context.Context, fs.OpenMode) (fs.File, error) { return l, nil }
	return l
}

// Stat implements fs.Node. The size is the current length.
func (l *Log) Stat(context.Context) (fs.Stat, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.St
	st.Size = int64(len(l.Data))
	return st, nil
}

// Append adds s, and with end makes it the last.
func (l *Log) Append(s string, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Data = append(l.Data, s...)
	l.ended = end
	close(l.more)
	l.more = make(chan struct{})
}

// ReadAt implements fs.File. At the end it blocks until there is more, Append
// was told of the end, or ctx is done.
func (l *Log) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		l.mu.Lock()
		more, ended, arrived := l.more, l.ended, l.arrived
		n := 0
		if off < int64(len(l.Data)) {
			n = copy(p, l.Data[off:])
		}
		l.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if ended {
			return 0, io.EOF
		}
		if arrived != nil && ctx.Err() == nil {
			arrived <- struct{}{}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// WriteAt implements fs.File: a live file cannot be written.
func (l *Log) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }

// Close implements fs.File.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone != nil {
		l.gone <- struct{}{}
	}
	return nil
}

// Watch returns a channel that gets a value for each reader that starts to
// wait, and one that gets a value for each Close.
func (l *Log) Watch() (arrived, closed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrived, l.gone = make(chan struct{}, 20000), make(chan struct{}, 20000)
	return l.arrived, l.gone
}

// NewCtl returns a file that answers what is written to it, and that reads as
// "manual" before.
func NewCtl(name string, path uint64) *Node {
	n := NewNode(name, path, 0o666, "")
	n.St.Version = 0
	n.OnOpen = func(context.Context, fs.OpenMode) (fs.File, error) { return &ctlFile{reply: "manual\n"}, nil }
	return n
}

type ctlFile struct {
	mu      sync.Mutex
	reply   string
	replied bool // reply answers a write: it is read once, at whatever offset
}

func (f *ctlFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.replied {
		off = 0
	}
	if off >= int64(len(f.reply)) {
		return 0, io.EOF
	}
	n := copy(p, f.reply[off:])
	if f.replied {
		f.reply = f.reply[n:]
	}
	return n, nil
}

func (f *ctlFile) WriteAt(_ context.Context, p []byte, _ int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if string(p) == "bad\n" {
		return 0, fmt.Errorf("bad command: %w", iofs.ErrInvalid)
	}
	f.reply, f.replied = "did "+string(p), true
	return len(p), nil
}

func (f *ctlFile) Close() error { return nil }

// New returns a tree with one of everything, and its live file.
func New() (root *Dir, log *Log) {
	root = NewDir("/", 1)
	ci := NewDir("ci", 2)
	run := NewDir("3f2a9c1d0b7e.1", 3)
	run.Add(NewNode("status", 4, 0o444, "passed 0 1.500 -\n"))
	run.Add(NewNode("secret", 5, 0o400, "mine\n"))
	run.Entries["secret"].(*Node).St.UID = 12345
	log = NewLog("live", 6)
	run.Entries["live"] = log // to be walked to, and not listed
	ci.Add(run)
	ci.Add(NewAlias("last", 7, "3f2a9c1d0b7e.1", run))
	link := NewNode("link", 8, iofs.ModeSymlink|0o777, "")
	link.St.Target = "ci/last/status"
	root.Add(ci)
	root.Add(link)
	root.Add(NewCtl("ctl", 9))
	empty := NewNode("empty", 10, 0o444, "")
	root.Add(empty)
	return root, log
}
