package orchestrator

import (
	"context"
	"hash/fnv"
	iofs "io/fs"
	"strings"
	"sync"
	"time"

	"9ci/fs"
)

// A fileNode is a file of the orchestrator's own.
type fileNode struct {
	name string
	path string // from the root: the qid is made of it
	mode iofs.FileMode
	open func(ctx context.Context, mode fs.OpenMode) (fs.File, error)
}

func (f *fileNode) Stat(context.Context) (fs.Stat, error) {
	return fs.Stat{Name: f.name, Mode: f.mode, ModTime: time.Now(), Path: qidPath(f.path)}, nil
}

func (f *fileNode) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	if mode&^fs.OpenRead != 0 && f.mode&0o222 == 0 {
		return nil, fs.ErrReadOnly
	}
	return f.open(ctx, mode)
}

// dirStat describes a directory of the orchestrator's own.
func dirStat(name, path string) fs.Stat {
	return fs.Stat{Name: name, Mode: iofs.ModeDir | 0o555, ModTime: time.Now(), Path: qidPath(path)}
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

// maxLinks is how many symbolic links a walk follows, as Linux does.
const maxLinks = 40

// walk returns what stands at path below d. Links within the tree are followed.
func walk(ctx context.Context, d fs.Dir, path string) (fs.Node, error) {
	dirs := []fs.Dir{d} // the way down: a link may go up again
	todo := strings.Split(path, "/")
	links := 0
	var n fs.Node = d
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			if len(dirs) > 1 {
				dirs = dirs[:len(dirs)-1]
			}
			n = dirs[len(dirs)-1]
			continue
		case !validName(name):
			return nil, iofs.ErrNotExist
		}
		next, err := dirs[len(dirs)-1].Walk(ctx, name)
		if err != nil {
			return nil, err
		}
		if sub, ok := next.(fs.Dir); ok {
			dirs = append(dirs, sub)
			n = sub
			continue
		}
		st, err := next.Stat(ctx)
		if err != nil {
			return nil, err
		}
		if st.Mode.Type() == iofs.ModeSymlink {
			if links++; links > maxLinks {
				return nil, iofs.ErrNotExist
			}
			if strings.HasPrefix(st.Target, "/") {
				return nil, iofs.ErrNotExist // a path of the machine that ran
			}
			todo = append(strings.Split(st.Target, "/"), todo...)
			n = dirs[len(dirs)-1]
			continue
		}
		for _, rest := range todo {
			if rest != "" && rest != "." {
				return nil, fs.ErrNotDir
			}
		}
		return next, nil
	}
	return n, nil
}
