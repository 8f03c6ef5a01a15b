// Package standin holds copies of names that package fs is about to export.
//
// TO BE REPLACED by fs (issue 11, points 1 and 3): every standin.NAME is fs.NAME
// there, and this folder goes.
package standin

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"sync"
	"time"

	"9ci/fs"
)

// A Qid stands for a file's place in a tree.
type Qid uint64

// RootQid is the Qid of a tree's root.
const RootQid Qid = 14695981039346656037

// Child returns the Qid of the entry of that name in the directory q.
func (q Qid) Child(name string) Qid {
	const prime = 1099511628211
	q = (q ^ '/') * prime
	for i := range len(name) {
		q = (q ^ Qid(name[i])) * prime
	}
	return q
}

// Path returns the qid.path: below 2^56, as 9pfuse needs it, and not 0.
func (q Qid) Path() uint64 {
	q ^= q >> 29
	q *= 0xbf58476d1ce4e5b9
	q ^= q >> 32
	return max(1, uint64(q)&(1<<56-1))
}

var uid, gid = uint32(os.Getuid()), uint32(os.Getgid())

// DirStat describes a directory of this process's own.
func DirStat(name string, q Qid, t time.Time) fs.Stat {
	return fs.Stat{Name: name, Mode: iofs.ModeDir | 0o555, ModTime: t, UID: uid, GID: gid, Path: q.Path()}
}

// FileStat describes a read-only file of this process's own.
func FileStat(name string, q Qid, size int64, t time.Time) fs.Stat {
	return fs.Stat{Name: name, Mode: 0o444, Size: size, ModTime: t, UID: uid, GID: gid, Path: q.Path()}
}

// A SynthDir is a directory whose entries are nodes that are made when they are
// asked for.
type SynthDir struct {
	Describe func() (fs.Stat, error)
	List     func(ctx context.Context) ([]fs.Node, error)
	Find     func(ctx context.Context, name string) (fs.Node, error)
}

func (d SynthDir) Stat(context.Context) (fs.Stat, error)              { return d.Describe() }
func (d SynthDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (d SynthDir) Walk(ctx context.Context, name string) (fs.Node, error) { return d.Find(ctx, name) }

func (d SynthDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	nodes, err := d.List(ctx)
	if err != nil || after >= uint64(len(nodes)) {
		return nil, err
	}
	var list []fs.Stat
	for i, node := range nodes[after:] {
		if len(list) >= n {
			break
		}
		st, err := node.Stat(ctx)
		if err != nil {
			continue
		}
		st.Cookie = after + uint64(i) + 1
		list = append(list, st)
	}
	return list, nil
}

// A Text is a read-only file whose text is made for each Stat and each Open.
type Text struct {
	Name    string
	Qid     Qid
	Make    func(ctx context.Context) ([]byte, error)
	ModTime func() time.Time
}

func (f Text) Stat(ctx context.Context) (fs.Stat, error) {
	b, err := f.Make(ctx)
	return FileStat(f.Name, f.Qid, int64(len(b)), f.ModTime()), err
}

func (f Text) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode != fs.OpenRead {
		return nil, iofs.ErrPermission
	}
	b, err := f.Make(ctx)
	if err != nil {
		return nil, err
	}
	return ByteFile(b), nil
}

// A ByteFile is an open file of bytes that do not change.
type ByteFile []byte

func (f ByteFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(f)) {
		return 0, io.EOF
	}
	return copy(p, f[off:]), nil
}

func (f ByteFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f ByteFile) Close() error { return nil }

// A Feed is a text that grows at its end and is forgotten at its start. The zero
// Feed is empty.
type Feed struct {
	mu    sync.Mutex // guards what follows
	start int64      // offset of text in all that was ever written
	text  []byte
	more  chan struct{} // closed when a text comes; nil while nobody waits
}

// maxFeed is how many bytes a reader of a Feed may fall behind.
const maxFeed = 1 << 20

var errBehind = errors.New("the reader fell too far behind")

// Write appends a text and wakes the readers.
func (f *Feed) Write(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.text)+len(text) > maxFeed {
		n := len(f.text) / 2
		f.start += int64(n)
		f.text = append([]byte(nil), f.text[n:]...)
	}
	f.text = append(f.text, text...)
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// End returns the offset behind the last byte that was written.
func (f *Feed) End() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start + int64(len(f.text))
}

// ReadAt reads at off. It blocks until there is something, or ctx is done.
func (f *Feed) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	for {
		f.mu.Lock()
		i := off - f.start
		if i < 0 {
			f.mu.Unlock()
			return 0, errBehind
		}
		if i < int64(len(f.text)) {
			n := copy(p, f.text[i:])
			f.mu.Unlock()
			return n, nil
		}
		if f.more == nil {
			f.more = make(chan struct{})
		}
		more := f.more
		f.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
