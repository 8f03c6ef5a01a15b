package fs

import (
	"context"
	"io"
	iofs "io/fs"
	"slices"
	"time"
)

// A qpath makes qid.paths: it hashes the names from the root to a file
// (FNV-1a), so that a file has the same path in every process and at every
// time.
type qpath uint64

const rootPath qpath = 14695981039346656037

// child returns the qpath of an entry of the directory q.
func (q qpath) child(name string) qpath {
	const prime = 1099511628211
	q = (q ^ '/') * prime
	for i := range len(name) {
		q = (q ^ qpath(name[i])) * prime
	}
	return q
}

// path returns the qid.path: below 2^56, as 9pfuse needs it, and not 0.
func (q qpath) path() uint64 {
	q ^= q >> 29
	q *= 0xbf58476d1ce4e5b9
	q ^= q >> 32
	return max(1, uint64(q)&(1<<56-1))
}

// A synthDir is a directory whose entries are nodes made as they are asked
// for.
type synthDir struct {
	stat func() (Stat, error)
	list func(ctx context.Context) ([]Node, error)            // what is listed
	walk func(ctx context.Context, name string) (Node, error) // nil: what is listed
}

func (d synthDir) Stat(context.Context) (Stat, error) { return d.stat() }

func (d synthDir) Open(context.Context, OpenMode) (File, error) { return nil, ErrIsDir }

func (d synthDir) Walk(ctx context.Context, name string) (Node, error) {
	if d.walk != nil {
		return d.walk(ctx, name)
	}
	nodes, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if st, err := n.Stat(ctx); err == nil && st.Name == name {
			return n, nil
		}
	}
	return nil, iofs.ErrNotExist
}

func (d synthDir) ReadDir(ctx context.Context, after uint64, n int) ([]Stat, error) {
	nodes, err := d.list(ctx)
	if err != nil || after >= uint64(len(nodes)) {
		return nil, err
	}
	var list []Stat
	for i, node := range nodes[after:] {
		if len(list) >= n {
			break
		}
		st, err := node.Stat(ctx)
		if err != nil {
			continue // it went while we looked
		}
		st.Cookie = after + uint64(i) + 1
		list = append(list, st)
	}
	return list, nil
}

// NewDir returns a read-only directory of fixed entries, in the order of
// their names. Their qid.paths are renumbered by their names, so that what is
// unique in each is unique in all.
func NewDir(name string, nodes ...Node) Dir {
	entries := make(map[string]Node, len(nodes))
	var names []string
	for _, n := range nodes {
		st, err := n.Stat(context.Background())
		if err != nil {
			panic("fs: NewDir: " + err.Error())
		}
		entries[st.Name] = renumber(n, rootPath.child(st.Name))
		names = append(names, st.Name)
	}
	slices.Sort(names)
	made := time.Now()
	return synthDir{
		stat: func() (Stat, error) { return dirStat(name, rootPath, made), nil },
		list: func(context.Context) ([]Node, error) {
			list := make([]Node, len(names))
			for i, n := range names {
				list[i] = entries[n]
			}
			return list, nil
		},
		walk: func(_ context.Context, name string) (Node, error) {
			if n, ok := entries[name]; ok {
				return n, nil
			}
			return nil, iofs.ErrNotExist
		},
	}
}

func dirStat(name string, q qpath, t time.Time) Stat {
	return Stat{Name: name, Mode: iofs.ModeDir | 0o555, ModTime: t, UID: uid, GID: gid, Path: q.path()}
}

// TextFile returns a read-only file whose text is made whenever it is opened:
// who has it open goes on reading what he began.
func TextFile(name string, text func(ctx context.Context) ([]byte, error)) Node {
	return textFile{name: name, q: rootPath.child(name), text: text, time: time.Now}
}

type textFile struct {
	name string
	q    qpath
	text func(ctx context.Context) ([]byte, error)
	time func() time.Time
}

func (f textFile) Stat(ctx context.Context) (Stat, error) {
	b, err := f.text(ctx)
	st := Stat{Name: f.name, Mode: 0o444, Size: int64(len(b)), ModTime: f.time(), UID: uid, GID: gid, Path: f.q.path()}
	return st, err
}

func (f textFile) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode != OpenRead {
		return nil, iofs.ErrPermission
	}
	b, err := f.text(ctx)
	if err != nil {
		return nil, err
	}
	return byteFile(b), nil
}

// A byteFile is an open file of fixed bytes.
type byteFile []byte

func (f byteFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(f)) {
		return 0, io.EOF
	}
	return copy(p, f[off:]), nil
}

func (f byteFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f byteFile) Close() error { return nil }

// renumber returns n with its qid.path, and those below it, changed by what
// q is, each to another.
func renumber(n Node, q qpath) Node {
	if d, ok := n.(Dir); ok {
		return numberedDir{numbered{d, q}, d}
	}
	return numbered{n, q}
}

type numbered struct {
	Node
	q qpath
}

// renumbered maps the numbers below 2^56 to one another.
func (q qpath) renumbered(path uint64) uint64 {
	const odd = 0x9e3779b97f4a7c15
	return (path*(uint64(q)|1) ^ q.path()) * odd & (1<<56 - 1)
}

func (n numbered) Stat(ctx context.Context) (Stat, error) {
	st, err := n.Node.Stat(ctx)
	st.Path = n.q.renumbered(st.Path)
	return st, err
}

type numberedDir struct {
	numbered
	dir Dir
}

func (d numberedDir) Walk(ctx context.Context, name string) (Node, error) {
	n, err := d.dir.Walk(ctx, name)
	if err != nil {
		return nil, err
	}
	return renumber(n, d.q), nil
}

func (d numberedDir) ReadDir(ctx context.Context, after uint64, n int) ([]Stat, error) {
	list, err := d.dir.ReadDir(ctx, after, n)
	for i := range list {
		list[i].Path = d.q.renumbered(list[i].Path)
	}
	return list, err
}

// Named returns n under another name, and its qid.paths renumbered by it.
func Named(n Node, name string) Node { return named(n, name, rootPath.child(name)) }

func named(n Node, name string, q qpath) Node {
	r := renamed{renumber(n, q), name}
	if d, ok := r.Node.(Dir); ok {
		return renamedDir{d, name}
	}
	return r
}

type renamed struct {
	Node
	name string
}

func (n renamed) Stat(ctx context.Context) (Stat, error) {
	st, err := n.Node.Stat(ctx)
	st.Name = n.name
	return st, err
}

type renamedDir struct {
	Dir
	name string
}

func (n renamedDir) Stat(ctx context.Context) (Stat, error) {
	st, err := n.Dir.Stat(ctx)
	st.Name = n.name
	return st, err
}
