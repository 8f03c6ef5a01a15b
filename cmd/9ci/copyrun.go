package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"9ci/fs"
	"9ci/fs/ci"
	"9ci/proto/ninep"
)

// A runTar is a sealed run's tar, of which a directory is copied: one stream, where
// a tree takes a walk for each file.
type runTar struct {
	io.ReadCloser
	sub string // the directory that is copied, by its name in the run; "." is all of it
}

func (t *runTar) close() { t.Close() }

// perFile is how many bytes of a tar may be read in vain for each file that is
// needed: about what a file costs by the tree, in messages and in the time of both
// ends, at 1 Gbit/s.
const perFile = 16 << 10

// findTar opens the tar of the run that the directory at p.name is of, or is. It
// returns nil if the tree is to be copied: the directory is of no run, the run is not
// sealed, the server has no tar of it, or too little of that is needed.
func findTar(ctx context.Context, p place) (*runTar, error) {
	run, sub, ok := splitRun(p.name)
	if !ok || sub != "." && sub != "artifacts" && !strings.HasPrefix(sub, "artifacts/") {
		return nil, nil
	}
	run, err := followRun(ctx, p.root, run)
	if err != nil {
		return nil, unlessAbsent(err)
	}
	n, err := fs.FileAt(ctx, p.root, run+".tar")
	if err != nil {
		return nil, unlessAbsent(err)
	}
	var f io.ReadCloser
	var st fs.Stat
	var most int64
	var all errgroup.Group // one round trip
	all.Go(func() (err error) {
		f, err = ninep.Stream(ctx, n)
		return err
	})
	all.Go(func() (err error) {
		st, err = n.Stat(ctx)
		return err
	})
	if sub != "." {
		all.Go(func() error {
			most = mostFor(ctx, p.root, run, sub)
			return nil
		})
	}
	err = all.Wait()
	if err == nil && st.Version != 0 && (sub == "." || st.Size <= most) {
		return &runTar{f, sub}, nil
	}
	if f != nil {
		f.Close()
	}
	return nil, unlessAbsent(err)
}

func unlessAbsent(err error) error {
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, fs.ErrNotDir) || errors.Is(err, fs.ErrIsDir) {
		return nil
	}
	return err
}

// splitRun cuts the path of a directory of a run, in whatever tree, into that of the
// run and its own there.
func splitRun(name string) (run, sub string, ok bool) {
	elems := strings.Split(name, "/")
	for i, rev := range elems[1:] {
		_, _, isID := ci.SplitID(rev)
		if !isID && !ci.IsPrefix(rev) && !slices.Contains([]string{"last", "head", "green"}, rev) {
			continue
		}
		run = path.Join(path.Join(elems[:i]...), "ci", rev)
		switch rest := elems[i+2:]; elems[i] {
		case "ci":
			return run, path.Join(".", path.Join(rest...)), true
		case "artifacts":
			return run, path.Join("artifacts", path.Join(rest...)), true
		}
	}
	return "", "", false
}

// followRun returns the path of the run that an alias leads to: what was found is
// copied, though a newer run come meanwhile. Any other path it returns as it is.
func followRun(ctx context.Context, root fs.Dir, run string) (string, error) {
	if _, _, ok := ci.SplitID(path.Base(run)); ok {
		return run, nil
	}
	n, err := fs.FileAt(ctx, root, run)
	if err != nil {
		return "", err
	}
	st, err := n.Stat(ctx)
	if err != nil {
		return "", err
	}
	if to := path.Join(path.Dir(run), st.Target); st.Target != "" && iofs.ValidPath(to) {
		return to, nil
	}
	return run, nil
}

// mostFor returns the greatest size of a tar of which sub, which is of artifacts, is
// to be taken. It is 0 if sub is no directory there.
func mostFor(ctx context.Context, root fs.Dir, run, sub string) (size int64) {
	n, err := fs.FileAt(ctx, root, run+"/artifacts.mtree")
	if err != nil {
		return 0
	}
	text, err := fs.ReadAll(ctx, n)
	if err != nil {
		return 0
	}
	tree, err := ci.ParseMtree(text)
	if err != nil {
		return 0
	}
	isDir := sub == "artifacts"
	for _, a := range tree {
		switch name := "artifacts/" + a.Name; {
		case name == sub:
			isDir = a.Mode.IsDir()
		case strings.HasPrefix(name, sub+"/"):
			size += a.Size + perFile
		}
	}
	if !isDir {
		return 0
	}
	return size
}

// run makes the copy c.name of the directory d, whose Stat is st, of what tar has of it.
func (c *copier) run(ctx context.Context, d fs.Dir, st fs.Stat, from *runTar) error {
	if err := c.dir(c.name); err != nil {
		return c.writing(c.name, err)
	}
	c.dirs = append(c.dirs, copied{c.name, st})
	c.small.SetLimit(2 * runtime.GOMAXPROCS(0)) // they wait for no peer
	if from.sub == "." {                        // of what the tree lists the tar lacks ctl
		c.small.Go(func() error {
			name := path.Join(c.name, "ctl")
			ctl, st, err := fs.WalkStat(ctx, d, "ctl")
			switch {
			case errors.Is(err, iofs.ErrNotExist):
				return nil
			case err != nil:
				return c.reading(name, err)
			}
			return c.node(ctx, ctl, st, name)
		})
	}
	u := unpacker{c: c, tar: tar.NewReader(from), sub: from.sub, seen: map[string]bool{from.sub: true}}
	for {
		h, err := u.tar.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return c.reading(c.name, fmt.Errorf("its run's tar: %w", err))
		}
		if err := u.entry(ctx, h); err != nil {
			return err
		}
	}
}

// An unpacker copies what is in a run's tar.
type unpacker struct {
	c    *copier
	tar  *tar.Reader
	sub  string
	id   string          // the run's, which all names begin with
	seen map[string]bool // names in the run that came; true: a directory
}

func (u *unpacker) entry(ctx context.Context, h *tar.Header) error {
	id, name, _ := strings.Cut(strings.TrimSuffix(h.Name, "/"), "/")
	if u.id == "" {
		u.id = id
	}
	bad := func(format string, args ...any) error {
		return u.c.reading(u.c.name, fmt.Errorf("its run's tar: "+format, args...))
	}
	if id != u.id || name != "" && ci.CheckPath(name) != nil {
		return bad("%.300q is no name of a run", h.Name)
	}
	rel := name
	if u.sub != "." {
		var ok bool
		if rel, ok = strings.CutPrefix(name, u.sub+"/"); !ok {
			return nil
		}
	}
	if rel == "" {
		return nil // the run itself
	}
	if _, twice := u.seen[name]; twice {
		return bad("%.300q is there twice", h.Name)
	}
	if !u.seen[path.Dir(name)] { // or it would be below a link
		return bad("%.300q is in no directory of it", h.Name)
	}
	st := fs.Stat{Name: path.Base(name), Mode: iofs.FileMode(h.Mode).Perm(), Size: h.Size, ModTime: h.ModTime, Target: h.Linkname}
	u.seen[name] = h.Typeflag == tar.TypeDir
	c, to := u.c, path.Join(u.c.name, rel)
	switch h.Typeflag {
	case tar.TypeDir:
		if err := c.dir(to); err != nil {
			return c.writing(to, err)
		}
		c.dirs = append(c.dirs, copied{to, st})
		return nil
	case tar.TypeSymlink:
		return c.link(to, st)
	case tar.TypeReg:
	default:
		return bad("%.300q is a file of type %q", h.Name, h.Typeflag)
	}
	if h.Size > smallFile {
		return c.file(st, to, func(w io.Writer) error { return copyStream(w, u.tar) })
	}
	var b bytes.Buffer
	b.Grow(int(h.Size))
	if _, err := io.Copy(&b, u.tar); err != nil {
		return c.reading(to, err)
	}
	if err := ctx.Err(); err != nil {
		return err // of a file that could not be written
	}
	c.small.Go(func() error {
		return c.file(st, to, func(w io.Writer) error {
			_, err := w.Write(b.Bytes())
			return err
		})
	})
	return nil
}
