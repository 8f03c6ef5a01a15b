package door

import (
	"context"
	iofs "io/fs"
	"strings"

	"9ci/fs"
)

// maxLinks is how many symbolic links a walk follows, as Linux does.
const maxLinks = 40

// Walk returns what stands at path below d, where path is written as on a command
// line: it may hold "." and "..", and Walk follows the symbolic links on the way
// and at its end. It reports iofs.ErrNotExist for an absolute link and for the
// 41st link, and fs.ErrNotDir for a path that goes on through a file.
func Walk(ctx context.Context, d fs.Dir, path string) (fs.Node, error) {
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
		case fs.CheckPlain(name) != nil:
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

// AsDir returns what a walk returned if it is a directory, or fs.ErrNotDir.
func AsDir(n fs.Node, err error) (fs.Dir, error) {
	if err != nil {
		return nil, err
	}
	d, ok := n.(fs.Dir)
	if !ok {
		return nil, fs.ErrNotDir
	}
	return d, nil
}
