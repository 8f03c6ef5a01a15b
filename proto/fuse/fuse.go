// Package fuse mounts an fs.Dir on a directory of the host.
//
// A live file is read past the page cache, so that what is there arrives at
// once, and an interrupt of its reader (^C, kill -9) cancels the tree's read.
// The pages of a sealed file may stay in the cache.
package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"syscall"
	"time"

	"9ci/fs"
	"9ci/proto/internal/linux"
	"9ci/proto/internal/wire"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// sealedFor is how long the kernel may keep what it knows of a file that
// never changes. It is not for ever, since the file's directory may be evicted.
const sealedFor = time.Minute

// Mount mounts root on dir, and blocks until the tree has been unmounted: by
// another program, or because ctx is done, which is no error. Requests that are
// under way then end. Without root's privileges it needs fusermount3. The tree is
// asked as the User of ctx for every program that reads the mount; files can be written only
// where the tree lets that user, and no directory can be changed. The error is
// that of mounting or of unmounting. A mount that is in use when ctx is done is
// detached: it goes when its last user has left it.
func Mount(ctx context.Context, dir string, root fs.Dir) error {
	opCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	zero := time.Duration(0)
	n := &node{ctx: opCtx, node: root}
	server, err := gofs.Mount(dir, n, &gofs.Options{
		MountOptions: fuse.MountOptions{
			FsName: "9ci", Name: "9ci",
			DirectMount:  directMount, // falls back to fusermount3
			MaxWrite:     128 << 10,
			MaxReadAhead: 1 << 20,
		},
		EntryTimeout: &zero, AttrTimeout: &zero, NegativeTimeout: &zero,
		RootStableAttr: &gofs.StableAttr{Mode: syscall.S_IFDIR, Ino: 1},
	})
	if err != nil {
		return fmt.Errorf("fuse: mount %s: %w", dir, err)
	}
	gone := make(chan struct{})
	go func() { server.Wait(); close(gone) }()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	cancel()
	if err := server.Unmount(); err == nil {
		<-gone
		return nil
	}
	// It is in use: detach it, so that it goes when its last user has left.
	if err := detach(dir); err != nil {
		return fmt.Errorf("fuse: unmount %s: %w", dir, err)
	}
	return nil
}

// A node adapts an fs.Node. go-fuse makes contexts of its own for requests;
// ctx has the values that the tree looks for, and ends with the mount.
type node struct {
	gofs.Inode
	ctx  context.Context
	node fs.Node
}

var (
	_ gofs.NodeLookuper       = (*node)(nil)
	_ gofs.NodeGetattrer      = (*node)(nil)
	_ gofs.NodeSetattrer      = (*node)(nil)
	_ gofs.NodeUnlinker       = (*node)(nil)
	_ gofs.NodeRmdirer        = (*node)(nil)
	_ gofs.NodeRenamer        = (*node)(nil)
	_ gofs.NodeMkdirer        = (*node)(nil)
	_ gofs.NodeMknoder        = (*node)(nil)
	_ gofs.NodeLinker         = (*node)(nil)
	_ gofs.NodeSymlinker      = (*node)(nil)
	_ gofs.NodeReadlinker     = (*node)(nil)
	_ gofs.NodeOpener         = (*node)(nil)
	_ gofs.NodeOpendirHandler = (*node)(nil)
	_ gofs.FileReader         = (*file)(nil)
	_ gofs.FileWriter         = (*file)(nil)
	_ gofs.FileReleaser       = (*file)(nil)
	_ gofs.FileReaddirenter   = (*dir)(nil)
	_ gofs.FileSeekdirer      = (*dir)(nil)
)

// request is the context of one request: it ends when the kernel interrupts
// the request or the mount ends.
func request(mount, op context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(mount)
	stop := context.AfterFunc(op, cancel)
	return ctx, func() { stop(); cancel() }
}

func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return hostErrno(wire.Errno(err))
}

// timeout returns how long the kernel may believe st.
func timeout(st *fs.Stat) time.Duration {
	if st.Version == 0 {
		return 0
	}
	return sealedFor
}

func fill(a *fuse.Attr, st *fs.Stat) {
	a.Ino, a.Mode, a.Size = st.Path, linux.Mode(st.Mode), uint64(max(0, st.Size))
	if st.Mode&iofs.ModeSymlink != 0 {
		a.Size = uint64(len(st.Target))
	}
	a.Blocks = (a.Size + 511) / 512
	a.Nlink = 1
	a.Uid, a.Gid = st.UID, st.GID
	if !st.ModTime.IsZero() {
		a.SetTimes(&st.ModTime, &st.ModTime, &st.ModTime)
	}
}

func (n *node) Lookup(op context.Context, name string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	ctx, cancel := request(n.ctx, op)
	defer cancel()
	d, ok := n.node.(fs.Dir)
	if !ok {
		return nil, syscall.ENOTDIR
	}
	st, err := n.node.Stat(ctx)
	if err != nil {
		return nil, errno(err)
	}
	if err := fs.Access(ctx, &st, 1); err != nil {
		return nil, errno(err)
	}
	c, st, err := fs.WalkStat(ctx, d, name)
	if err != nil {
		return nil, errno(err)
	}
	fill(&out.Attr, &st)
	out.SetEntryTimeout(timeout(&st))
	out.SetAttrTimeout(timeout(&st))
	attr := gofs.StableAttr{Mode: linux.Mode(st.Mode) & linux.TypeMask, Ino: st.Path}
	return n.NewInode(op, &node{ctx: n.ctx, node: c}, attr), 0
}

func (n *node) Getattr(op context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	ctx, cancel := request(n.ctx, op)
	defer cancel()
	st, err := n.node.Stat(ctx)
	if err != nil {
		return errno(err)
	}
	if n.IsRoot() {
		st.Mode = st.Mode&^iofs.ModeSymlink | iofs.ModeDir
	}
	fill(&out.Attr, &st)
	out.SetTimeout(timeout(&st))
	return 0
}

// Setattr allows only the truncation that a shell's > asks for, and that only
// where a write is allowed. It has no effect.
func (n *node) Setattr(op context.Context, h gofs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	ctx, cancel := request(n.ctx, op)
	defer cancel()
	const harmless = fuse.FATTR_SIZE | fuse.FATTR_FH | fuse.FATTR_LOCKOWNER |
		fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_CTIME | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW
	if in.Valid&^uint32(harmless) != 0 || in.Valid&fuse.FATTR_SIZE == 0 || in.Size != 0 {
		return syscall.EROFS
	}
	f, _, err := n.open(ctx, fs.OpenWrite|fs.OpenTrunc)
	if err != nil {
		return errno(err)
	}
	f.Close()
	return n.Getattr(op, h, out)
}

// What would change a directory is refused: by itself go-fuse lets a removal
// succeed that it does not make.

func (n *node) Unlink(context.Context, string) syscall.Errno { return syscall.EROFS }
func (n *node) Rmdir(context.Context, string) syscall.Errno  { return syscall.EROFS }

func (n *node) Rename(context.Context, string, gofs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EROFS
}

func (n *node) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

func (n *node) Link(context.Context, gofs.InodeEmbedder, string, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

func (n *node) Symlink(context.Context, string, string, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EROFS
}

func (n *node) Readlink(op context.Context) ([]byte, syscall.Errno) {
	ctx, cancel := request(n.ctx, op)
	defer cancel()
	st, err := n.node.Stat(ctx)
	return []byte(st.Target), errno(err)
}

func (n *node) Open(op context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	ctx, cancel := request(n.ctx, op)
	defer cancel()
	f, st, err := n.open(ctx, linux.OpenMode(flags))
	if err != nil {
		return nil, 0, errno(err)
	}
	kernel := uint32(fuse.FOPEN_KEEP_CACHE)
	if st.Version == 0 {
		kernel = fuse.FOPEN_DIRECT_IO
	}
	return &file{ctx: n.ctx, f: f}, kernel, 0
}

func (n *node) open(ctx context.Context, m fs.OpenMode) (fs.File, fs.Stat, error) {
	st, err := n.node.Stat(ctx)
	if err != nil {
		return nil, st, err
	}
	var rwx iofs.FileMode
	if m&fs.OpenRead != 0 {
		rwx |= 4
	}
	if m&(fs.OpenWrite|fs.OpenTrunc) != 0 {
		rwx |= 2
	}
	if err := fs.Access(ctx, &st, rwx); err != nil {
		return nil, st, err
	}
	f, err := n.node.Open(ctx, m)
	return f, st, err
}

type file struct {
	ctx context.Context
	f   fs.File
}

func (f *file) Read(op context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	ctx, cancel := request(f.ctx, op)
	defer cancel()
	n, err := f.f.ReadAt(ctx, p, off)
	if err != nil && !errors.Is(err, io.EOF) && n == 0 {
		return nil, errno(err)
	}
	return fuse.ReadResultData(p[:n]), 0
}

func (f *file) Write(op context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	ctx, cancel := request(f.ctx, op)
	defer cancel()
	n, err := f.f.WriteAt(ctx, p, off)
	if n > 0 {
		err = nil
	}
	return uint32(n), errno(err)
}

func (f *file) Release(context.Context) syscall.Errno {
	f.f.Close()
	return 0
}

func (n *node) OpendirHandle(op context.Context, _ uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	ctx, cancel := request(n.ctx, op)
	defer cancel()
	d, ok := n.node.(fs.Dir)
	if !ok {
		return nil, 0, syscall.ENOTDIR
	}
	st, err := n.node.Stat(ctx)
	if err == nil {
		err = fs.Access(ctx, &st, 4)
	}
	if err != nil {
		return nil, 0, errno(err)
	}
	return &dir{ctx: n.ctx, d: d}, 0, 0
}

// A dir is an open directory. An offset in it is a cookie.
type dir struct {
	ctx   context.Context
	d     fs.Dir
	after uint64
	sts   []fs.Stat // read ahead
}

const dirBatch = 128

func (d *dir) Readdirent(op context.Context) (*fuse.DirEntry, syscall.Errno) {
	if len(d.sts) == 0 {
		ctx, cancel := request(d.ctx, op)
		defer cancel()
		sts, err := d.d.ReadDir(ctx, d.after, dirBatch)
		if err != nil {
			return nil, errno(err)
		}
		if len(sts) == 0 {
			return nil, 0
		}
		d.sts = sts
	}
	st := d.sts[0]
	d.sts = d.sts[1:]
	d.after = st.Cookie
	return &fuse.DirEntry{Name: st.Name, Mode: linux.Mode(st.Mode), Ino: st.Path, Off: st.Cookie}, 0
}

func (d *dir) Seekdir(_ context.Context, off uint64) syscall.Errno {
	d.after, d.sts = off, nil
	return 0
}
