package treetest

import (
	"context"
	iofs "io/fs"
	"os"
	"path"

	"9ci/fs"
)

// A View is a tree as a client of a door sees it that knows files by path.
// Names are slash-separated, and "." is the root. What the door does not tell
// of a file is zero in its Stat.
type View interface {
	// Lstat describes the file itself, a link with its Target.
	Lstat(name string) (fs.Stat, error)

	// Stat describes what name leads to.
	Stat(name string) (fs.Stat, error)

	// ReadDir lists a directory in the door's order, without cookies.
	ReadDir(name string) ([]fs.Stat, error)

	Open(name string, mode fs.OpenMode) (fs.File, error)
}

// Flags are those of open(2) for mode, for a View that has them.
func Flags(mode fs.OpenMode) int {
	flags := os.O_RDONLY
	switch mode &^ fs.OpenTrunc {
	case fs.OpenWrite:
		flags = os.O_WRONLY
	case fs.OpenRead | fs.OpenWrite:
		flags = os.O_RDWR
	}
	if mode&fs.OpenTrunc != 0 {
		flags |= os.O_TRUNC
	}
	return flags
}

// Tree is the tree that v shows, for Test. A link that leads to a directory
// can be walked through.
func Tree(v View) fs.Dir { return viewDir{viewNode{v, "."}} }

type viewNode struct {
	v    View
	name string
}

func (n viewNode) Stat(context.Context) (fs.Stat, error) { return n.v.Lstat(n.name) }

func (n viewNode) Open(_ context.Context, mode fs.OpenMode) (fs.File, error) {
	return n.v.Open(n.name, mode)
}

type viewDir struct{ viewNode }

func (d viewDir) Walk(_ context.Context, name string) (fs.Node, error) {
	n := viewNode{d.v, path.Join(d.name, name)}
	st, err := d.v.Lstat(n.name)
	if err != nil {
		return nil, err
	}
	if st.Mode&iofs.ModeSymlink != 0 {
		if st, err = d.v.Stat(n.name); err != nil {
			return n, nil // it leads nowhere
		}
	}
	if st.IsDir() {
		return viewDir{n}, nil
	}
	return n, nil
}

// ReadDir counts the entries for cookies.
func (d viewDir) ReadDir(_ context.Context, after uint64, n int) ([]fs.Stat, error) {
	list, err := d.v.ReadDir(d.name)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Cookie = uint64(i + 1)
	}
	list = list[min(after, uint64(len(list))):]
	return list[:min(n, len(list))], nil
}
