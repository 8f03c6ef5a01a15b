package fs

import (
	"context"
	iofs "io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/fs/internal/wake"
)

// pageSize is how many entries are asked for at a time.
const pageSize = 256

// Entries yields the entries of a directory, a page at a time.
func Entries(ctx context.Context, d Dir) iter.Seq2[Stat, error] {
	return func(yield func(Stat, error) bool) {
		for after := uint64(0); ; {
			list, err := d.ReadDir(ctx, after, pageSize)
			for _, st := range list {
				if !yield(st, nil) {
					return
				}
				after = st.Cookie
			}
			if err != nil {
				yield(Stat{}, err)
				return
			}
			if len(list) == 0 {
				return
			}
		}
	}
}

// Child returns the entry of d that one of its listings described by st. A Dir
// that has a method of that name, because it need not ask anybody, is asked
// to.
func Child(ctx context.Context, d Dir, st Stat) (Node, error) {
	if c, ok := d.(interface{ Child(Stat) Node }); ok {
		return c.Child(st), nil
	}
	return d.Walk(ctx, st.Name)
}

// WalkStat returns the entry of d of that name, and its Stat. A Dir that has a
// method of that name, because it need not look twice, is asked to.
func WalkStat(ctx context.Context, d Dir, name string) (Node, Stat, error) {
	if w, ok := d.(interface {
		WalkStat(context.Context, string) (Node, Stat, error)
	}); ok {
		return w.WalkStat(ctx, name)
	}
	n, err := d.Walk(ctx, name)
	if err != nil {
		return nil, Stat{}, err
	}
	st, err := n.Stat(ctx)
	return n, st, err
}

// Walk walks from d through the names of a slash-separated path; "" is d
// itself. It reports ErrNotDir where it would go on through a file.
func Walk(ctx context.Context, d Dir, path string) (Node, error) {
	var n Node = d
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			return nil, iofs.ErrNotExist
		}
		dir, ok := n.(Dir)
		if !ok {
			return nil, ErrNotDir
		}
		var err error
		if n, err = dir.Walk(ctx, name); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Namespaces are trees by the namespaces host/owner/repo that they are of: the
// root of a daemon, and what an aname enters. They may be added and removed
// while they are served.
type Namespaces struct {
	added wake.Signal

	mu    sync.Mutex // guards what follows
	trees map[string]Dir
	names []string // sorted
	time  time.Time
}

// Add serves tree as a namespace, in the place of one of that name.
func (s *Namespaces) Add(name string, tree Dir) {
	defer s.added.Broadcast()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trees == nil {
		s.trees = make(map[string]Dir)
	}
	if _, ok := s.trees[name]; !ok {
		names := append(slices.Clone(s.names), name)
		slices.Sort(names)
		s.names = names
	}
	s.trees[name] = tree
	s.time = time.Now()
}

// Remove ends the serving of a namespace.
func (s *Namespaces) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.trees, name)
	s.names = slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return n == name })
	s.time = time.Now()
}

// Names returns the namespaces, sorted.
func (s *Namespaces) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names
}

// Enter returns the tree of a namespace, which is its own root. It reports
// iofs.ErrNotExist where there is none.
func (s *Namespaces) Enter(name string) (Dir, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.trees[strings.Trim(name, "/")]; ok {
		return d, nil
	}
	return nil, iofs.ErrNotExist
}

// Root returns a directory of the given files, such as ctl, status and event,
// of which those named as hidden are not listed, and of the namespaces as
// directories below one another.
func (s *Namespaces) Root(files []Node, hidden ...string) Dir {
	r := nsDir{s: s, q: RootQid, files: make(map[string]Node), hidden: hidden}
	for _, f := range files {
		st, err := f.Stat(context.Background())
		if err != nil {
			panic("fs: Root: " + err.Error())
		}
		r.files[st.Name] = renumber(f, RootQid.Child(st.Name))
		r.order = append(r.order, st.Name)
	}
	slices.Sort(r.order)
	return r
}

// An nsDir is the root, or a directory on the way to a namespace.
type nsDir struct {
	s      *Namespaces
	prefix string // "", or what is in front of its entries with a slash behind
	q      Qid
	files  map[string]Node // of the root
	order  []string        // their names, sorted
	hidden []string
}

func (d nsDir) Stat(context.Context) (Stat, error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	name := "/"
	if d.prefix != "" {
		parts := strings.Split(d.prefix, "/")
		name = parts[len(parts)-2]
	}
	return DirStat(name, d.q, d.s.time), nil
}

func (d nsDir) Open(context.Context, OpenMode) (File, error) { return nil, ErrIsDir }

func (d nsDir) Walk(ctx context.Context, name string) (Node, error) {
	if f, ok := d.files[name]; ok {
		if st, err := f.Stat(ctx); err != nil || st.Name != "ctl" || !UserOf(ctx).Anonymous {
			return f, err
		}
		return nil, iofs.ErrNotExist
	}
	full := d.prefix + name
	d.s.mu.Lock()
	tree, ok := d.s.trees[full]
	names := d.s.names
	d.s.mu.Unlock()
	if ok {
		return named(tree, name, d.q.Child(name)), nil
	}
	i, _ := slices.BinarySearch(names, full+"/")
	if i < len(names) && strings.HasPrefix(names[i], full+"/") {
		return nsDir{s: d.s, prefix: full + "/", q: d.q.Child(name)}, nil
	}
	return nil, iofs.ErrNotExist
}

// entries returns the names of d's directories.
func (d nsDir) entries() []string {
	var list []string
	for _, n := range d.s.Names() {
		if rest, ok := strings.CutPrefix(n, d.prefix); ok {
			elem, _, _ := strings.Cut(rest, "/")
			if len(list) == 0 || list[len(list)-1] != elem {
				list = append(list, elem)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (d nsDir) ReadDir(ctx context.Context, after uint64, n int) ([]Stat, error) {
	names := slices.DeleteFunc(slices.Clone(d.order), func(name string) bool {
		return slices.Contains(d.hidden, name) || name == "ctl" && UserOf(ctx).Anonymous
	})
	names = append(names, d.entries()...)
	var list []Stat
	for i := int(min(after, uint64(len(names)))); i < len(names) && len(list) < n; i++ {
		node, err := d.Walk(ctx, names[i])
		if err != nil {
			continue
		}
		st, err := node.Stat(ctx)
		if err != nil {
			continue
		}
		st.Cookie = uint64(i + 1)
		list = append(list, st)
	}
	return list, nil
}
