package fs

import (
	"context"
	"io"
	iofs "io/fs"
	"slices"
	"time"
)

// A Qid stands for a file's place in a tree: a hash (FNV-1a) of the names from
// the root to the file, so that the file has the same qid.path in every process
// and at every time.
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

// A SynthDir is a directory whose entries are nodes that are made when they are
// asked for. A cookie of its listings is an entry's place in List.
type SynthDir struct {
	// Describe returns the directory's Stat.
	Describe func() (Stat, error)

	// List returns the entries that a ReadDir lists, in their order.
	List func(ctx context.Context) ([]Node, error)

	// Find returns the entry of a name, or iofs.ErrNotExist. A nil Find finds
	// what List returns.
	Find func(ctx context.Context, name string) (Node, error)
}

// Stat implements Node.
func (d SynthDir) Stat(context.Context) (Stat, error) { return d.Describe() }

// Open implements Node. It answers ErrIsDir.
func (d SynthDir) Open(context.Context, OpenMode) (File, error) { return nil, ErrIsDir }

// Walk implements Dir.
func (d SynthDir) Walk(ctx context.Context, name string) (Node, error) {
	if d.Find != nil {
		return d.Find(ctx, name)
	}
	nodes, err := d.List(ctx)
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

// ReadDir implements Dir. It leaves out an entry whose Stat answers an error.
func (d SynthDir) ReadDir(ctx context.Context, after uint64, n int) ([]Stat, error) {
	nodes, err := d.List(ctx)
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

// NewDir returns a read-only directory of fixed entries, in the order of their
// names. It renumbers their qid.paths by their names: what is unique in each is
// unique in all. It panics where the Stat of one answers an error.
func NewDir(name string, nodes ...Node) Dir {
	entries := make(map[string]Node, len(nodes))
	var names []string
	for _, n := range nodes {
		st, err := n.Stat(context.Background())
		if err != nil {
			panic("fs: NewDir: " + err.Error())
		}
		entries[st.Name] = renumber(n, RootQid.Child(st.Name))
		names = append(names, st.Name)
	}
	slices.Sort(names)
	made := time.Now()
	return SynthDir{
		Describe: func() (Stat, error) { return DirStat(name, RootQid, made), nil },
		List: func(context.Context) ([]Node, error) {
			list := make([]Node, len(names))
			for i, n := range names {
				list[i] = entries[n]
			}
			return list, nil
		},
		Find: func(_ context.Context, name string) (Node, error) {
			if n, ok := entries[name]; ok {
				return n, nil
			}
			return nil, iofs.ErrNotExist
		},
	}
}

// DirStat describes a directory of this process's own: mode 0555, its user's.
func DirStat(name string, q Qid, t time.Time) Stat {
	return Stat{Name: name, Mode: iofs.ModeDir | 0o555, ModTime: t, UID: uid, GID: gid, Path: q.Path()}
}

// FileStat describes a read-only file of this process's own: mode 0444, its
// user's.
func FileStat(name string, q Qid, size int64, t time.Time) Stat {
	return Stat{Name: name, Mode: 0o444, Size: size, ModTime: t, UID: uid, GID: gid, Path: q.Path()}
}

// TextFile returns a read-only file at the root of a tree, whose text is made
// for each Stat and each Open. A reader that has the file open goes on reading
// the text of its Open.
func TextFile(name string, text func(ctx context.Context) ([]byte, error)) Node {
	return Text{Name: name, Qid: RootQid.Child(name), Make: text, ModTime: time.Now}
}

// A Text is what TextFile returns, at any place and of any time.
type Text struct {
	Name    string
	Qid     Qid
	Make    func(ctx context.Context) ([]byte, error)
	ModTime func() time.Time
}

// Stat implements Node. It makes the text, for its length.
func (f Text) Stat(ctx context.Context) (Stat, error) {
	b, err := f.Make(ctx)
	return FileStat(f.Name, f.Qid, int64(len(b)), f.ModTime()), err
}

// Open implements Node.
func (f Text) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode != OpenRead {
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

// ReadAt implements File. It never blocks.
func (f ByteFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(f)) {
		return 0, io.EOF
	}
	return copy(p, f[off:]), nil
}

// WriteAt implements File. It answers iofs.ErrPermission.
func (f ByteFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

// Close implements File.
func (f ByteFile) Close() error { return nil }

// renumber returns n with its qid.path, and those below it, changed by q: one
// to one.
func renumber(n Node, q Qid) Node {
	if d, ok := n.(Dir); ok {
		return numberedDir{numbered{d, q}, d}
	}
	return numbered{n, q}
}

type numbered struct {
	Node
	q Qid
}

// renumbered maps the numbers below 2^56 one to one.
func (q Qid) renumbered(path uint64) uint64 {
	const odd = 0x9e3779b97f4a7c15
	return (path*(uint64(q)|1) ^ q.Path()) * odd & (1<<56 - 1)
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

// Named returns n under another name, with its qid.paths renumbered by that
// name.
func Named(n Node, name string) Node { return named(n, name, RootQid.Child(name)) }

func named(n Node, name string, q Qid) Node {
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
