package fs

import (
	"context"
	"io"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// IOFS returns a tree as an io/fs.FS, which is a ReadDirFS, a StatFS and a
// ReadLinkFS too. Aliases and symbolic links are links there; opening a name
// follows them within the tree. ctx goes with every call: a read that blocks
// ends with it.
func IOFS(ctx context.Context, root Dir) iofs.FS {
	return ioFS{ctx, root}
}

type ioFS struct {
	ctx  context.Context // io/fs has none
	root Dir
}

// maxLinks is how many links a name may lead through, as in path_resolution(7).
const maxLinks = 40

var errLoop error = syscall.ELOOP

// find walks to name. It follows links before the last element, and the last
// one too where follow says so.
func (f ioFS) find(op, name string, follow bool) (Node, error) {
	n, err := f.walk(name, follow)
	if err != nil {
		return nil, &iofs.PathError{Op: op, Path: name, Err: err}
	}
	return n, nil
}

func (f ioFS) walk(name string, follow bool) (Node, error) {
	if !iofs.ValidPath(name) {
		return nil, iofs.ErrInvalid
	}
	var at Node = f.root
	if name == "." {
		return at, nil
	}
	done, rest := "", name
	for links := 0; rest != ""; {
		elem, more, _ := strings.Cut(rest, "/")
		dir, ok := at.(Dir)
		if !ok {
			return nil, ErrNotDir
		}
		n, err := dir.Walk(f.ctx, elem)
		if err != nil {
			return nil, err
		}
		st, err := n.Stat(f.ctx)
		if err != nil {
			return nil, err
		}
		if st.Mode&iofs.ModeSymlink == 0 || more == "" && !follow {
			at, done, rest = n, path.Join(done, elem), more
			continue
		}
		if links++; links > maxLinks {
			return nil, errLoop
		}
		// The target stands for what was walked: from the root again.
		to := path.Join(done, st.Target, more)
		if path.IsAbs(st.Target) || !iofs.ValidPath(to) {
			return nil, iofs.ErrNotExist // out of the tree
		}
		at, done, rest = f.root, "", to
		if to == "." {
			rest = ""
		}
	}
	return at, nil
}

func (f ioFS) Open(name string) (iofs.File, error) {
	n, err := f.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if d, ok := n.(Dir); ok {
		return &ioDir{fs: f, dir: d, name: name}, nil
	}
	file, err := n.Open(f.ctx, OpenRead)
	if err != nil {
		return nil, &iofs.PathError{Op: "open", Path: name, Err: err}
	}
	return &ioFile{ctx: f.ctx, node: n, file: file, name: name}, nil
}

func (f ioFS) Stat(name string) (iofs.FileInfo, error)  { return f.info("stat", name, true) }
func (f ioFS) Lstat(name string) (iofs.FileInfo, error) { return f.info("lstat", name, false) }

func (f ioFS) info(op, name string, follow bool) (iofs.FileInfo, error) {
	n, err := f.find(op, name, follow)
	if err != nil {
		return nil, err
	}
	st, err := n.Stat(f.ctx)
	if err != nil {
		return nil, &iofs.PathError{Op: op, Path: name, Err: err}
	}
	return info{base(st, name)}, nil
}

func (f ioFS) ReadLink(name string) (string, error) {
	n, err := f.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	st, err := n.Stat(f.ctx)
	if err == nil && st.Mode&iofs.ModeSymlink == 0 {
		err = iofs.ErrInvalid
	}
	if err != nil {
		return "", &iofs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return st.Target, nil
}

func (f ioFS) ReadDir(name string) ([]iofs.DirEntry, error) {
	n, err := f.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	d, ok := n.(Dir)
	if !ok {
		return nil, &iofs.PathError{Op: "readdir", Path: name, Err: ErrNotDir}
	}
	var list []iofs.DirEntry
	for st, err := range Entries(f.ctx, d) {
		if err != nil {
			return list, &iofs.PathError{Op: "readdir", Path: name, Err: err}
		}
		list = append(list, iofs.FileInfoToDirEntry(info{st}))
	}
	slices.SortFunc(list, func(a, b iofs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// base gives a file the name that it was asked for by.
func base(st Stat, name string) Stat {
	st.Name = path.Base(name)
	return st
}

// info is a Stat as io/fs has it. An alias is a link there.
type info struct{ st Stat }

func (i info) Name() string { return i.st.Name }
func (i info) Size() int64  { return i.st.Size }
func (i info) Mode() iofs.FileMode {
	if i.st.Mode&iofs.ModeSymlink != 0 {
		return iofs.ModeSymlink | 0o777
	}
	return i.st.Mode
}
func (i info) ModTime() time.Time { return i.st.ModTime }
func (i info) IsDir() bool        { return i.Mode().IsDir() }
func (i info) Sys() any           { return i.st }

type ioFile struct {
	ctx  context.Context // io/fs has none
	node Node
	file File
	name string
	off  int64
}

func (f *ioFile) Stat() (iofs.FileInfo, error) {
	st, err := f.node.Stat(f.ctx)
	return info{base(st, f.name)}, err
}

func (f *ioFile) Read(p []byte) (int, error) {
	n, err := f.file.ReadAt(f.ctx, p, f.off)
	f.off += int64(n)
	return n, f.error("read", err)
}

// ReadAt is io.ReaderAt's, which must fill p.
func (f *ioFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, f.error("readat", iofs.ErrInvalid)
	}
	for n < len(p) && err == nil {
		var m int
		m, err = f.file.ReadAt(f.ctx, p[n:], off+int64(n))
		n += m
	}
	return n, f.error("readat", err)
}

func (f *ioFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		st, err := f.node.Stat(f.ctx)
		if err != nil {
			return 0, f.error("seek", err)
		}
		off += st.Size
	}
	if off < 0 {
		return 0, f.error("seek", iofs.ErrInvalid)
	}
	f.off = off
	return off, nil
}

func (f *ioFile) error(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &iofs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *ioFile) Close() error { return f.error("close", f.file.Close()) }

type ioDir struct {
	fs   ioFS
	dir  Dir
	name string
	list []iofs.DirEntry // what is still to be read
	read bool
}

func (d *ioDir) Stat() (iofs.FileInfo, error) {
	st, err := d.dir.Stat(d.fs.ctx)
	if st.Mode&iofs.ModeSymlink != 0 { // it was followed
		st.Mode, st.Target = iofs.ModeDir|st.Mode.Perm(), ""
	}
	return info{base(st, d.name)}, err
}

func (d *ioDir) Read([]byte) (int, error) {
	return 0, &iofs.PathError{Op: "read", Path: d.name, Err: ErrIsDir}
}

func (d *ioDir) ReadDir(n int) ([]iofs.DirEntry, error) {
	if !d.read {
		list, err := d.fs.ReadDir(d.name)
		if err != nil {
			return nil, err
		}
		d.list, d.read = list, true
	}
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	list := d.list[:n:n]
	d.list = d.list[n:]
	return list, nil
}

func (d *ioDir) Close() error { return nil }
