package fs

import (
	"context"
	iofs "io/fs"
	"iter"
	"strings"
)

// pageSize is how many entries Entries asks for at a time.
const pageSize = 256

// Entries yields the entries of a directory, a page at a time. An error comes
// last, with no entry.
func Entries(ctx context.Context, d Dir) iter.Seq2[Stat, error] { return entries(ctx, d.ReadDir) }

// Names yields what Entries does, but Name, Cookie and the type in Mode alone need
// to be right. Where d has a method ReadNames, which need not ask a server about
// each entry, it is called.
func Names(ctx context.Context, d Dir) iter.Seq2[Stat, error] {
	if n, ok := d.(interface {
		ReadNames(ctx context.Context, after uint64, n int) ([]Stat, error)
	}); ok {
		return entries(ctx, n.ReadNames)
	}
	return Entries(ctx, d)
}

func entries(ctx context.Context, read func(ctx context.Context, after uint64, n int) ([]Stat, error)) iter.Seq2[Stat, error] {
	return func(yield func(Stat, error) bool) {
		for after := uint64(0); ; {
			list, err := read(ctx, after, pageSize)
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

// Child returns the entry of d that one of its listings described by st. Where
// d has a method Child(st), which need not ask a server, it is called.
func Child(ctx context.Context, d Dir, st Stat) (Node, error) {
	if c, ok := d.(interface{ Child(Stat) Node }); ok {
		return c.Child(st), nil
	}
	return d.Walk(ctx, st.Name)
}

// WalkStat returns the entry of d of that name, and its Stat. Where d has a
// method WalkStat(ctx, name), which need not look twice, it is called.
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
// itself, and empty names and "." are left out. It follows an alias that the
// path goes on through. It reports ErrNotDir where the path goes on through a
// file, and iofs.ErrNotExist where a name is not there, or is "..".
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

// FileAt returns the file at a slash-separated path, which the caller takes to be
// there, and no directory. Where the directories on the way have a method Child,
// as Child says, no server is asked, and an error of the path is one of the file's
// first use; else FileAt is Walk.
func FileAt(ctx context.Context, d Dir, path string) (Node, error) {
	dir, name, err := d, "", error(nil)
	for next := range strings.SplitSeq(path, "/") {
		if next == "" || next == "." {
			continue
		}
		if CheckName(next) != nil {
			return nil, iofs.ErrNotExist
		}
		if name != "" {
			if dir, err = childDir(ctx, dir, name); err != nil {
				return nil, err
			}
		}
		name = next
	}
	if name == "" {
		return d, nil
	}
	return Child(ctx, dir, Stat{Name: name})
}

func childDir(ctx context.Context, d Dir, name string) (Dir, error) {
	n, err := Child(ctx, d, Stat{Name: name, Mode: iofs.ModeDir})
	if err != nil {
		return nil, err
	}
	dir, ok := n.(Dir)
	if !ok {
		return nil, ErrNotDir
	}
	return dir, nil
}

// WalkDir is Walk to a directory. It reports ErrNotDir where the path leads to
// another file.
func WalkDir(ctx context.Context, d Dir, path string) (Dir, error) {
	n, err := Walk(ctx, d, path)
	if err != nil {
		return nil, err
	}
	dir, ok := n.(Dir)
	if !ok {
		return nil, ErrNotDir
	}
	return dir, nil
}

// Follow is Walk that follows the symbolic links on the way and at the end, and
// takes ".." for the directory above. Nothing leads above d: that is
// iofs.ErrNotExist, as is an absolute link. The 41st link is syscall.ELOOP.
func Follow(ctx context.Context, d Dir, path string) (Node, error) {
	dirs := []Dir{d} // the way down: a link may go up again
	var n Node = d
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		at, ok := n.(Dir)
		switch {
		case name == "":
			continue
		case !ok:
			return nil, ErrNotDir
		case name == ".":
			continue
		case name == "..":
			if len(dirs) == 1 {
				return nil, iofs.ErrNotExist
			}
			dirs = dirs[:len(dirs)-1]
			n = dirs[len(dirs)-1]
			continue
		}
		next, st, err := WalkStat(ctx, at, name)
		if err != nil {
			return nil, err
		}
		if sub, ok := next.(Dir); ok {
			dirs = append(dirs, sub)
		} else if st.Mode&iofs.ModeSymlink != 0 {
			if links++; links > maxLinks {
				return nil, errLoop
			}
			if strings.HasPrefix(st.Target, "/") {
				return nil, iofs.ErrNotExist
			}
			todo = append(strings.Split(st.Target, "/"), todo...)
			continue // from the directory that holds the link
		}
		n = next
	}
	return n, nil
}
