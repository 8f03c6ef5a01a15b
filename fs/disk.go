package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"9ci/fs/internal/disk"
)

// DiskDir returns the directory at root as a read-only tree named name. Nothing
// leads out of it: symbolic links are served as links and never followed.
// Devices, fifos and sockets, and names that 9P cannot carry, are not served. A
// listing is in the order of the disk, and is read a page at a time. The files may
// change while they are served, and so have a qid.vers of 0. root stays open as long
// as the tree is used.
func DiskDir(root *os.Root, name string) Dir {
	return diskDir{diskNode{from: &plainDisk{root: root}, name: name, rel: ".", q: RootQid}}
}

// A Source is a directory on disk that may move, grow, or be removed while a
// tree serves what is in it, as a run of a store. Only packages below fs can
// make one.
type Source interface {
	// Acquire returns the directory, which stays open and where it is until
	// release is called, and the qid.vers of all its files: 0 where they may
	// still change.
	Acquire() (dir disk.Place, vers uint32, release func(), err error)
}

// SourceDir returns the directory rel of a Source, at the place q of a tree. The
// directory itself is served as this process's own, of mode 0555; what is in it
// has the modes that it has on disk, and is Public.
func SourceDir(from Source, rel string, q Qid) Dir {
	return sourceDir{diskDir{diskNode{from: from, name: path.Base(rel), rel: rel, q: q}}}
}

type sourceDir struct{ diskDir }

func (d sourceDir) Stat(ctx context.Context) (Stat, error) {
	d.ours = true
	return d.diskDir.Stat(ctx)
}

// SourceFile returns the file rel of a Source, at the place q of a tree, as this
// process's own, of mode 0444.
func SourceFile(from Source, rel string, q Qid) Node {
	return diskNode{from: from, name: path.Base(rel), rel: rel, q: q, ours: true}
}

type plainDisk struct {
	root *os.Root
	once sync.Once // guards what follows
	p    disk.Place
	err  error
}

// Acquire implements Source. Any of the files may change, so their qid.vers is 0.
func (d *plainDisk) Acquire() (disk.Place, uint32, func(), error) {
	d.once.Do(func() { d.p, d.err = disk.NewPlace(d.root) })
	return d.p, 0, func() {}, d.err
}

// A diskNode is a file on disk. Each method looks it up anew, but for a sealed
// file: that does not change.
type diskNode struct {
	from Source
	name string
	rel  string // slash-separated, in the disk's root
	q    Qid
	ours bool // served as 0444 or 0555, whatever its mode is on disk
	st   Stat // what a sealed file was when it was walked to
}

func (n diskNode) Stat(context.Context) (Stat, error) {
	if n.st.Version != 0 {
		return n.st, nil
	}
	p, vers, release, err := n.from.Acquire()
	if err != nil {
		return Stat{}, err
	}
	defer release()
	return n.lstat(p, vers)
}

func (n diskNode) lstat(p disk.Place, vers uint32) (Stat, error) {
	st, err := p.Lstat(n.rel)
	if err != nil {
		return Stat{}, err
	}
	return n.stat(st, vers), nil
}

// stat makes the Stat that is served of what is on disk.
func (n diskNode) stat(d disk.Stat, vers uint32) Stat {
	switch {
	case d.Mode.IsDir():
		d.Size = 0
	case d.Mode&iofs.ModeSymlink != 0:
		d.Mode, d.Size = iofs.ModeSymlink|0o777, int64(len(d.Target))
	}
	if n.ours {
		if d.Mode = d.Mode.Type() | 0o444; d.Mode.IsDir() {
			d.Mode |= 0o555
		}
		d.UID, d.GID = uid, gid
	}
	_, plain := n.from.(*plainDisk)
	return Stat{Name: n.name, Mode: d.Mode, Size: d.Size, ModTime: d.Time, UID: d.UID, GID: d.GID,
		Path: n.q.Path(), Version: vers, Target: d.Target,
		Public: !plain} // what a run left, and not any directory
}

// Open opens a regular file. A symbolic link opens as a file that holds its
// target, which is what it is where there are no links.
func (n diskNode) Open(ctx context.Context, mode OpenMode) (File, error) {
	if mode != OpenRead {
		return nil, iofs.ErrPermission
	}
	p, _, release, err := n.from.Acquire()
	if err != nil {
		return nil, err
	}
	f, err := p.Open(n.rel)
	if err == nil {
		return &diskFile{f: f, release: release}, nil
	}
	defer release()
	if errors.Is(err, disk.ErrNotRegular) {
		if st, err := p.Lstat(n.rel); err == nil && st.Target != "" {
			return ByteFile(st.Target), nil
		}
	}
	return nil, disk.Bare(err)
}

// A diskFile is an open file on disk.
type diskFile struct {
	f       *os.File
	release func()
}

func (f *diskFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if n > 0 {
		err = nil // the end is told when nothing is left
	}
	return n, err
}

func (f *diskFile) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, iofs.ErrPermission
}

func (f *diskFile) Close() error {
	err := f.f.Close()
	if err == nil { // and not closed before
		f.release()
	}
	return err
}

// Extent implements Extenter.
func (f *diskFile) Extent(off int64, n int) (*os.File, int64, func()) {
	if fi, err := f.f.Stat(); err != nil || off < 0 || fi.Size()-off < int64(n) {
		return nil, 0, nil
	}
	return f.f, off, func() {}
}

// A diskDir is a diskNode that is a directory.
type diskDir struct{ diskNode }

func (d diskDir) Open(context.Context, OpenMode) (File, error) { return nil, ErrIsDir }

func (d diskDir) Walk(ctx context.Context, name string) (Node, error) {
	n, _, err := d.WalkStat(ctx, name)
	return n, err
}

// WalkStat is Walk and the node's Stat, with one look at the disk in place of
// two.
func (d diskDir) WalkStat(_ context.Context, name string) (Node, Stat, error) {
	if CheckName(name) != nil {
		return nil, Stat{}, iofs.ErrNotExist
	}
	p, vers, release, err := d.from.Acquire()
	if err != nil {
		return nil, Stat{}, err
	}
	defer release()
	n := d.entry(name)
	st, err := n.lstat(p, vers)
	if err != nil {
		return nil, Stat{}, err
	}
	n.st = st
	switch m := st.Mode; {
	case m.IsDir():
		return diskDir{n}, st, nil
	case m.IsRegular(), m&iofs.ModeSymlink != 0:
		return n, st, nil
	}
	return nil, Stat{}, iofs.ErrNotExist
}

func (d diskDir) entry(name string) diskNode {
	return diskNode{from: d.from, name: name, rel: path.Join(d.rel, name), q: d.q.Child(name), ours: d.ours}
}

func (d diskDir) ReadDir(_ context.Context, after uint64, n int) ([]Stat, error) {
	if n <= 0 {
		return nil, nil
	}
	p, vers, release, err := d.from.Acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	f, err := p.OpenDir(d.rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	if after != 0 {
		// The cookie is the disk's own, which lasts beyond an open
		// directory (telldir(3) as NFS needs it).
		if _, err := unix.Seek(fd, int64(after), 0); err != nil {
			return nil, iofs.ErrInvalid
		}
	}
	var list []Stat
	off := after
	buf := make([]byte, min(32<<10, max(2048, n*64)))
	for {
		m, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return list, err
		}
		if m == 0 {
			return list, nil
		}
		for b := buf[:m]; len(b) > 0; {
			var name string
			var size int
			name, off, size = parseDirent(b, off)
			b = b[size:]
			if CheckName(name) != nil {
				continue
			}
			st, ok := d.statAt(fd, name, vers)
			if !ok {
				continue
			}
			st.Cookie = off
			if list = append(list, st); len(list) == n {
				return list, nil
			}
		}
	}
}

// statAt describes an entry of the open directory fd.
func (d diskDir) statAt(fd int, name string, vers uint32) (Stat, bool) {
	var s unix.Stat_t
	if unix.Fstatat(fd, name, &s, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return Stat{}, false // it went while we looked
	}
	st, err := disk.NewStat(&s, fd, name)
	if err != nil || st.Mode&iofs.ModeIrregular != 0 {
		return Stat{}, false
	}
	return d.entry(name).stat(st, vers), true
}
