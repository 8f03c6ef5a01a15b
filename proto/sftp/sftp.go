// Package sftp serves an fs.Dir by SFTP, read-only, so that sftp, scp and
// sshfs can list, stat and copy it.
//
// Aliases are symbolic links, as they are in 9P2000.L. Behind a slash an alias
// is the directory, so that sshfs mounts one. Links are followed within the
// tree: one that leads out of it leads nowhere. A recent sshfs shows links that
// are absolute or go up, as those in /artifacts do, with -o no_contain_symlinks.
//
// Answers come in the order of the requests: a read that blocked would hold up
// all that follows on its connection, and so a whole mount. So none blocks. A
// live file ends at its current end, which is the length that its Stat says. If
// that is none, the end is where nothing more comes for a second.
package sftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"github.com/pkg/sftp"
)

// Serve answers the requests that arrive on rwc until rwc hangs up or ctx is
// done, neither of which is an error. It closes rwc, and returns only when every
// request has ended. It asks the tree as the User of ctx, and checks the mode bits
// for that user (fs.Access). It refuses all that would change the tree, and to
// open devices and fifos, as permission denied.
//
// Waits are the names of files that have no byte until something has happened,
// such as the end of a run. An empty file would say that it has: as long as one
// of them may change and is empty, its open is refused as unsupported.
func Serve(ctx context.Context, rwc io.ReadWriteCloser, root fs.Dir, waits ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { rwc.Close() })
	defer stop()
	h := &handler{ctx: ctx, root: root, waits: waits}
	s := sftp.NewRequestServer(&hangup{requests{rwc, &frames{r: rwc}}, cancel}, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h})
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

// Requests are a client's requests, where a slash at the end of a path means what
// it means to lstat(2): the file that a link leads to. Pkg/sftp cleans it away.
type requests struct {
	io.ReadWriteCloser
	in *frames
}

func (r requests) Read(p []byte) (int, error) { return r.in.Read(p) }

// Types of requests and the length of the longest that pkg/sftp takes, in bytes
// (draft-ietf-secsh-filexfer-02, sections 3 and 6.8).
const (
	typeLstat = 7
	typeStat  = 17
	maxFrame  = 256 << 10
)

// Frames are the bytes of a client, where SSH_FXP_LSTAT of a path that ends in a
// slash is SSH_FXP_STAT: the two are alike in all else.
type frames struct {
	r    io.Reader
	head []byte // what was read and is to be returned next
	rest int64  // bytes of the frame that follow head
}

func (f *frames) Read(p []byte) (int, error) {
	if len(f.head) == 0 && f.rest == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.rest)])
	f.rest -= int64(n)
	return n, err
}

// next reads the head of a frame: its length and its type; all of it if it is an
// SSH_FXP_LSTAT.
func (f *frames) next() error {
	b := make([]byte, 4, 64)
	if _, err := io.ReadFull(f.r, b); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint32(b))
	f.head, f.rest = b, size
	if size == 0 {
		return nil
	}
	f.head, f.rest = b[:5], size-1
	if _, err := io.ReadFull(f.r, f.head[4:]); err != nil {
		return err
	}
	if f.head[4] != typeLstat || size > maxFrame {
		return nil
	}
	f.head, f.rest = slices.Grow(f.head, int(size-1))[:4+size], 0
	if _, err := io.ReadFull(f.r, f.head[5:]); err != nil {
		return err
	}
	// Behind the type are the request's number, the path's length, and the path.
	const path = 4 + 1 + 4 + 4
	if s := string(f.head[min(path, len(f.head)):]); strings.HasSuffix(s, "/") || strings.HasSuffix(s, "/.") {
		f.head[4] = typeStat
	}
	return nil
}

// A handler adapts a tree to pkg/sftp, which knows no contexts: the handler keeps
// that of the connection.
type handler struct {
	ctx   context.Context
	root  fs.Dir
	waits []string
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

// A file is an open fs.File that never changes again; pkg/sftp closes it.
type file struct {
	ctx context.Context
	f   fs.File
}

func (f file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(f.ctx, p, off)
	if err != nil && err != io.EOF {
		err = plain(err)
	}
	return n, err
}

func (f file) Close() error { return f.f.Close() }

// patience is how long a read waits for a file whose length says nothing: long
// enough for an executor's answer, and as long as package ninep has 9pfuse wait.
const patience = time.Second

// A liveFile is an open file that may change, and whose reads may block.
type liveFile struct {
	file
	node fs.Node

	mu    sync.Mutex // guards what follows, and is held while a read waits
	size  int64      // that the file had when it was last asked
	ended bool       // a read waited in vain: there is no second
}

// ReadAt ends at the current end of the file.
func (f *liveFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= f.size {
		st, err := f.node.Stat(f.ctx)
		if err != nil {
			return 0, plain(err)
		}
		f.size = st.Size
		if st.Version != 0 {
			f.size = math.MaxInt64 // it changes no more, and its reads do not block
		}
	}
	switch {
	case off < f.size:
		return f.file.ReadAt(p, off)
	case f.size > 0, f.ended:
		return 0, io.EOF
	}
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	n, err := file{ctx, f.f}.ReadAt(p, off)
	if n == 0 && ctx.Err() != nil && f.ctx.Err() == nil {
		f.ended = true
		return 0, io.EOF
	}
	return n, err
}

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
	if st.Version == 0 && st.Size == 0 && slices.Contains(h.waits, st.Name) {
		return nil, fmt.Errorf("%s has nothing yet, and SFTP cannot wait: ssh HOST %s does: %w", st.Name, st.Name, sftp.ErrSSHFxOpUnsupported)
	}
	f, err := n.Open(h.ctx, fs.OpenRead)
	if err != nil {
		return nil, plain(err)
	}
	if st.Version == 0 {
		return &liveFile{file: file{h.ctx, f}, node: n, size: st.Size}, nil
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
	case errors.Is(err, fs.ErrBusy):
		return errors.New(wire.Ename(err)) // SSH_FX_FAILURE, and the text tells that it may be tried again
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

func (i info) Name() string { return i.st.Name }

// ModTime is never before 1970: the protocol has unsigned seconds, in which such
// a time would be one of this century.
func (i info) ModTime() time.Time {
	if i.st.ModTime.Unix() < 0 {
		return time.Unix(0, 0)
	}
	return i.st.ModTime
}
func (i info) Uid() uint32 { return i.st.UID }
func (i info) Gid() uint32 { return i.st.GID }
func (i info) IsDir() bool { return i.Mode().IsDir() }
func (i info) Sys() any    { return nil }

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
