package orchestrator

import (
	"context"
	iofs "io/fs"
	"strings"
	"sync"
	"time"

	"9ci/fs"
)

// started is the time of files that have no other.
var started = time.Now()

// qidOf returns the place of a path in the mux's tree.
func qidOf(path string) fs.Qid {
	q := fs.RootQid
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			q = q.Child(name)
		}
	}
	return q
}

// textFile returns a file of the mux's own at a path of its tree.
func textFile(path string, text func(ctx context.Context) []byte) fs.Node {
	return fs.Text{
		Name:    base(path),
		Qid:     qidOf(path),
		Make:    func(ctx context.Context) ([]byte, error) { return text(ctx), nil },
		ModTime: func() time.Time { return started },
	}
}

// An ownFile is a file of the mux's own whose every open file is another.
type ownFile struct {
	stat fs.Stat
	open func() fs.File
}

func (f ownFile) Stat(context.Context) (fs.Stat, error) { return f.stat, nil }

func (f ownFile) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode&^fs.OpenRead != 0 && f.stat.Mode&0o222 == 0 {
		return nil, iofs.ErrPermission
	}
	return f.open(), nil
}

// A stableDir is a directory whose entries come and go. A listing has those that
// were there when its reading began.
type stableDir struct {
	fs.SynthDir

	mu      sync.Mutex // guards entries, and is held while they are listed
	entries []fs.Stat
}

// newDir returns a directory of the mux's own at a path of its tree.
func newDir(path string, list func(ctx context.Context) ([]fs.Node, error), find func(ctx context.Context, name string) (fs.Node, error)) fs.Dir {
	stat := fs.DirStat(base(path), qidOf(path), started)
	return &stableDir{SynthDir: fs.SynthDir{
		Describe: func() (fs.Stat, error) { return stat, nil },
		List:     list,
		Find:     find,
	}}
}

// ReadDir implements fs.Dir.
func (d *stableDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if after == 0 || d.entries == nil {
		entries, err := d.SynthDir.ReadDir(ctx, 0, maxEntries)
		if err != nil {
			return nil, err
		}
		d.entries = entries
	}
	// An entry that went while the listing was made has left no gap in entries,
	// but one in the cookies.
	rest := d.entries
	for len(rest) > 0 && rest[0].Cookie <= after {
		rest = rest[1:]
	}
	return rest[:min(n, len(rest))], nil
}

// join appends a name to a path of the mux's tree.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// base returns the last name of a path, or "/".
func base(path string) string {
	if path == "" {
		return "/"
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}
