package fs

import (
	"context"
	iofs "io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"9ci/fs/internal/wake"
)

// Namespaces are several trees under one root, each at its namespace
// host/owner/repo: the root of a daemon, and what an aname enters. The zero
// Namespaces are empty. Trees may be added and removed while they are served.
// The methods may be called from several goroutines.
type Namespaces struct {
	added wake.Signal

	mu    sync.Mutex // guards what follows
	trees map[string]Dir
	names []string // sorted
	time  time.Time
}

// Add serves tree at a namespace, in place of the tree that is there.
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

// Remove ends the serving of a namespace. Files that are open stay open.
func (s *Namespaces) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.trees, name)
	s.names = slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return n == name })
	s.time = time.Now()
}

// Names returns the namespaces, sorted. The caller does not change the slice.
func (s *Namespaces) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names
}

// Enter returns the tree of a namespace, as a root of its own. It reports
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
// and of the namespaces, as directories below one another. The files that
// hidden names can be walked to and are not listed. An Anonymous User finds no
// ctl.
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
