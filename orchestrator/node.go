package orchestrator

import (
	"context"
	"hash/fnv"
	iofs "io/fs"
	"sync"
	"time"

	"9ci/fs"
)

// A fileNode is a file of the orchestrator's own.
type fileNode struct {
	name string
	path string // from the root: the qid is made of it
	mode iofs.FileMode
	text func() []byte // what it reads as, until open's File is written to; nil: nobody knows
	open func(ctx context.Context, mode fs.OpenMode) (fs.File, error)
}

func (f *fileNode) Stat(context.Context) (fs.Stat, error) {
	st := fs.Stat{Name: f.name, Mode: f.mode, ModTime: started, Path: qidPath(f.path)}
	if f.text != nil {
		st.Size = int64(len(f.text()))
	}
	return st, nil
}

func (f *fileNode) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode&^fs.OpenRead != 0 && f.mode&0o222 == 0 {
		return nil, fs.ErrReadOnly
	}
	if f.open == nil {
		return snapshot(f.text()), nil
	}
	return f.open(ctx, mode)
}

// started is the time of what has no other.
var started = time.Now()

// dirStat describes a directory of the orchestrator's own.
func dirStat(name, path string) fs.Stat {
	return fs.Stat{Name: name, Mode: iofs.ModeDir | 0o555, ModTime: started, Path: qidPath(path)}
}

// qidPath returns the number of what stands at a path of the mux.
func qidPath(path string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(path))
	return fold(h.Sum64())
}

// fold makes a hash a qid.path, which 9pfuse needs below 2^56.
func fold(h uint64) uint64 { return (h ^ h>>56) & (1<<56 - 1) }

// A listing is the entries of a directory as they were when its reading began,
// so that they stay while it goes on.
type listing struct {
	mu      sync.Mutex
	entries []fs.Stat
}

// read answers ReadDir from what list returns. A cookie is an entry's place.
func (l *listing) read(after uint64, n int, list func() ([]fs.Stat, error)) ([]fs.Stat, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after == 0 || l.entries == nil {
		entries, err := list()
		if err != nil {
			return nil, err
		}
		for i := range entries {
			entries[i].Cookie = uint64(i + 1)
		}
		l.entries = entries
	}
	if after >= uint64(len(l.entries)) {
		return nil, nil
	}
	rest := l.entries[after:]
	return rest[:min(n, len(rest))], nil
}
