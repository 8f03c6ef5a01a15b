// Package sftp serves an fs.Dir by SFTP, read-only, so that sftp, scp and
// sshfs can list, stat and copy it.
//
// Aliases are symbolic links, as they are in 9P2000.L. Links are followed
// within the tree: one that leads out of it leads nowhere. A recent sshfs shows
// links that are absolute or go up, as those in /artifacts do, with
// -o no_contain_symlinks.
//
// Answers come in the order of the requests, so a read that blocks until a live
// file has more holds up the requests that follow on its connection. A tree for
// such clients should have its live files end at their current end.
package sftp

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"9ci/fs"

	"github.com/pkg/sftp"
)

// Serve answers the requests that arrive on rwc until rwc hangs up or ctx is
// done, neither of which is an error. It closes rwc, and returns only when every
// request has ended. It asks the tree as the User of ctx, and checks the mode bits
// for that user (fs.Access). It refuses all that would change the tree, and to
// open devices and fifos, as permission denied.
func Serve(ctx context.Context, rwc io.ReadWriteCloser, root fs.Dir) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { rwc.Close() })
	defer stop()
	h := &handler{ctx: ctx, root: root}
	s := sftp.NewRequestServer(&hangup{rwc, cancel}, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h})
	err := s.Serve()
	rwc.Close()
	if err == io.EOF || ctx.Err() != nil {
		return nil
	}
	return err
}

// A hangup cancels what waits for a live file when its client is gone.
type hangup struct {
	io.ReadWriteCloser
	cancel func()
}

func (h *hangup) Read(p []byte) (int, error) {
	n, err := h.ReadWriteCloser.Read(p)
	if err != nil {
		h.cancel()
	}
	return n, err
}

// A handler adapts a tree to pkg/sftp, which knows no contexts: the handler keeps
// that of the connection.
type handler struct {
	ctx  context.Context
	root fs.Dir
}

// maxLinks is how many links one path may lead through, as in path_resolution(7).
const maxLinks = 40

// lookup finds the file at p. Links on the way are followed, and the last one
// if follow is set.
func (h *handler) lookup(p string, follow bool) (fs.Node, fs.Stat, error) {
	type step struct {
		node fs.Node
		st   fs.Stat
	}
	st, err := h.root.Stat(h.ctx)
	if err != nil {
		return nil, st, err
	}
	st.Mode = st.Mode&^iofs.ModeSymlink | iofs.ModeDir
	at := []step{{h.root, st}} // the directories down to here
	rest := split(p)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		here := &at[len(at)-1]
		dir, ok := here.node.(fs.Dir)
		if !ok || !here.st.IsDir() {
			return nil, st, fs.ErrNotDir
		}
		if err := fs.Access(h.ctx, &here.st, 1); err != nil {
			return nil, st, err
		}
		n, st, err := fs.WalkStat(h.ctx, dir, name)
		if err != nil {
			return nil, st, err
		}
		if st.Mode&iofs.ModeSymlink != 0 && (follow || len(rest) > 0) {
			if _, ok := n.(fs.Dir); ok { // an alias: it is the directory too
				st.Mode = st.Mode&^iofs.ModeSymlink&^0o222 | iofs.ModeDir
			} else {
				if links++; links > maxLinks {
					return nil, st, syscall.ELOOP
				}
				if path.IsAbs(st.Target) {
					return nil, st, iofs.ErrNotExist
				}
				rest = append(split(st.Target), rest...)
				continue
			}
		}
		at = append(at, step{n, st})
	}
	last := at[len(at)-1]
	return last.node, last.st, nil
}

// split returns the elements of a path. ".." stays: behind a link it cannot
// be resolved by its text.
func split(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// A file is an open fs.File; pkg/sftp closes it.
type file struct {
	ctx context.Context
	f   fs.File
}

func (f file) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(f.ctx, p, off) }
func (f file) Close() error                            { return f.f.Close() }

func (h *handler) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	n, st, err := h.lookup(r.Filepath, true)
	if err != nil {
		return nil, plain(err)
	}
	switch {
	case st.IsDir():
		return nil, fs.ErrIsDir
	case !st.Mode.IsRegular():
		return nil, sftp.ErrSSHFxPermissionDenied // opening a device or a fifo has effects
	}
	if err := fs.Access(h.ctx, &st, 4); err != nil {
		return nil, plain(err)
	}
	f, err := n.Open(h.ctx, fs.OpenRead)
	if err != nil {
		return nil, plain(err)
	}
	return file{h.ctx, f}, nil
}

func (h *handler) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, sftp.ErrSSHFxPermissionDenied
}
func (h *handler) Filecmd(*sftp.Request) error { return sftp.ErrSSHFxPermissionDenied }

func (h *handler) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	n, st, err := h.lookup(r.Filepath, true)
	if err != nil {
		return nil, plain(err)
	}
	if r.Method != "List" {
		return one{info{st}}, nil
	}
	dir, ok := n.(fs.Dir)
	if !ok || !st.IsDir() {
		return nil, fs.ErrNotDir
	}
	if err := fs.Access(h.ctx, &st, 4); err != nil {
		return nil, plain(err)
	}
	return &lister{h: h, dir: dir}, nil
}

func (h *handler) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	_, st, err := h.lookup(r.Filepath, false)
	if err != nil {
		return nil, plain(err)
	}
	return one{info{st}}, nil
}

func (h *handler) Readlink(p string) (string, error) {
	_, st, err := h.lookup(p, false)
	if err != nil {
		return "", plain(err)
	}
	if st.Mode&iofs.ModeSymlink == 0 {
		return "", os.ErrInvalid
	}
	return st.Target, nil
}

// plain turns errors that SFTP has numbers for into those that pkg/sftp knows. Of a
// PathError it returns the inner error, since the path is the host's.
func plain(err error) error {
	if pe, ok := err.(*iofs.PathError); ok {
		err = pe.Err
	}
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return os.ErrNotExist
	case errors.Is(err, iofs.ErrPermission):
		return sftp.ErrSSHFxPermissionDenied
	}
	return err
}

// A one lists a single file.
type one struct{ i info }

func (o one) ListAt(ls []os.FileInfo, off int64) (int, error) {
	if off > 0 || len(ls) == 0 {
		return 0, io.EOF
	}
	ls[0] = o.i
	return 1, io.EOF
}

// A lister lists a directory from its start to its end, as pkg/sftp asks.
type lister struct {
	h     *handler
	dir   fs.Dir
	after uint64
}

func (l *lister) ListAt(ls []os.FileInfo, _ int64) (int, error) {
	sts, err := l.dir.ReadDir(l.h.ctx, l.after, len(ls))
	if err != nil {
		return 0, plain(err)
	}
	if len(sts) == 0 {
		return 0, io.EOF
	}
	for i, st := range sts {
		ls[i] = info{st}
		l.after = st.Cookie
	}
	return len(sts), nil
}

// An info is a Stat as an os.FileInfo with its owners. An alias is a link.
type info struct{ st fs.Stat }

func (i info) Name() string       { return i.st.Name }
func (i info) ModTime() time.Time { return i.st.ModTime }
func (i info) Uid() uint32        { return i.st.UID }
func (i info) Gid() uint32        { return i.st.GID }
func (i info) IsDir() bool        { return i.Mode().IsDir() }
func (i info) Sys() any           { return nil }

func (i info) Mode() iofs.FileMode {
	if i.st.Mode&iofs.ModeSymlink != 0 {
		return i.st.Mode &^ iofs.ModeDir
	}
	return i.st.Mode
}

func (i info) Size() int64 {
	if i.st.Mode&iofs.ModeSymlink != 0 {
		return int64(len(i.st.Target))
	}
	return i.st.Size
}
