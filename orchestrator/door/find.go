package door

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	pathpkg "path"
	"strconv"
	"strings"

	"9ci/fs"
)

// A finder is what find looks for.
type finder struct {
	name  string // a pattern; "" matches all
	kind  string // f, d, l, or "" for all
	depth int    // below the paths
}

// find prints the paths of what lies below directories. It follows no links.
func (s *session) find(out io.Writer, args []string) int {
	var paths []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		paths, args = append(paths, args[0]), args[1:]
	}
	if paths == nil {
		paths = []string{"."}
	}
	o := finder{depth: maxScpDepth}
	for len(args) > 0 {
		if args[0] == "-print" {
			args = args[1:]
			continue
		}
		if len(args) < 2 {
			return s.misused("find", fmt.Errorf("%.80q wants a value, or is not known", args[0]))
		}
		value, err := args[1], error(nil)
		switch args[0] {
		case "-name":
			o.name = strings.ReplaceAll(value, "[!", "[^")
			_, err = pathpkg.Match(o.name, "")
		case "-type":
			if o.kind = value; value != "f" && value != "d" && value != "l" {
				err = errors.New("-type wants f, d or l")
			}
		case "-maxdepth":
			n, aerr := strconv.ParseUint(value, 10, 16)
			if o.depth = min(int(n), maxScpDepth); aerr != nil {
				err = errors.New("-maxdepth wants a number")
			}
		default:
			err = fmt.Errorf("%.80q is not known", args[0])
		}
		if err != nil {
			return s.misused("find", err)
		}
		args = args[2:]
	}
	status := exitOK
	for _, p := range paths {
		n, err := s.tree.Walk(s.ctx, s.namespace, p)
		var st fs.Stat
		if err == nil {
			st, err = n.Stat(s.ctx)
		}
		if err == nil {
			if d, ok := n.(fs.Dir); ok {
				st.Mode = st.Mode&^iofs.ModeSymlink | iofs.ModeDir // an alias that was named
				st.Name = pathpkg.Base(p)
				o.print(out, p, st)
				status = s.below(out, d, p, o, 1, status)
				continue
			}
			st.Name = pathpkg.Base(p)
			o.print(out, p, st)
		}
		if err != nil {
			status = s.complain("find", p, err, status)
		}
	}
	return status
}

// below prints what lies below d, which stands at the path p.
func (s *session) below(out io.Writer, d fs.Dir, p string, o finder, depth, status int) int {
	if depth > o.depth {
		return status
	}
	for st, err := range fs.Entries(s.ctx, d) {
		if err != nil {
			return s.complain("find", p, err, status)
		}
		if fs.CheckPlain(st.Name) != nil {
			continue
		}
		sub := strings.TrimSuffix(p, "/") + "/" + st.Name
		o.print(out, sub, st)
		if st.Mode&iofs.ModeSymlink != 0 || !st.Mode.IsDir() {
			continue
		}
		n, err := fs.Child(s.ctx, d, st)
		if dir, ok := n.(fs.Dir); ok && err == nil {
			status = s.below(out, dir, sub, o, depth+1, status)
		} else if err != nil {
			status = s.complain("find", sub, err, status)
		}
	}
	return status
}

// print prints a path, if o looks for it.
func (o finder) print(out io.Writer, path string, st fs.Stat) {
	kind := "f"
	switch {
	case st.Mode&iofs.ModeSymlink != 0:
		kind = "l"
	case st.Mode.IsDir():
		kind = "d"
	}
	if o.kind != "" && o.kind != kind {
		return
	}
	if ok, _ := pathpkg.Match(o.name, st.Name); ok || o.name == "" {
		fmt.Fprintln(out, path)
	}
}
