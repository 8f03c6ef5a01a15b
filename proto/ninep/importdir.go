package ninep

import (
	"context"
	"errors"
	iofs "io/fs"
	"slices"
	"sync"
	"time"

	"9ci/fs"
	"9ci/proto/internal/linux"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// qidPath keeps a peer's path within what a Stat may have.
func qidPath(p uint64) uint64 { return (p ^ p>>56) & (1<<56 - 1) }

// statLinux makes a Stat of an Rgetattr's fields.
func statLinux(b []byte) (fs.Stat, error) {
	d := wire.Decoder{B: b}
	d.U64() // valid
	q := d.Qid()
	mode, uid, gid := d.U32(), d.U32(), d.U32()
	d.Take(16) // nlink rdev
	size := d.U64()
	d.Take(32) // blksize blocks atime
	sec, nsec := d.U64(), d.U64()
	if size >= 1<<63 || nsec >= 1e9 || sec >= 1<<40 {
		return fs.Stat{}, errPeer("an impossible size or time")
	}
	st := fs.Stat{
		Mode: linux.FileMode(mode), Size: int64(size), ModTime: time.Unix(int64(sec), int64(nsec)).UTC(),
		UID: uid, GID: gid, Path: qidPath(q.Path), Version: q.Vers, Public: true,
	}
	if q.Type&plan9.QTSYMLINK != 0 && q.Type&plan9.QTDIR != 0 {
		st.Mode |= iofs.ModeDir // an alias: see qid
	}
	if st.IsDir() {
		st.Size = 0
	}
	return st, nil
}

// stat9 makes a Stat of a 9P2000 stat entry.
func stat9(b []byte) (fs.Stat, error) {
	p, err := plan9Dir(b)
	if err != nil {
		return fs.Stat{}, errPeer("a malformed stat")
	}
	if p.Length >= 1<<63 {
		return fs.Stat{}, errPeer("an impossible size")
	}
	st := fs.Stat{
		Name: p.Name, Mode: iofs.FileMode(p.Mode & 0o777), Size: int64(p.Length),
		ModTime: time.Unix(int64(p.Mtime), 0).UTC(),
		Path:    qidPath(p.Qid.Path), Version: p.Qid.Vers,
		UID: peerNumber(p.Uid), GID: peerNumber(p.Gid), Public: true,
	}
	if p.Mode&plan9.DMDIR != 0 {
		st.Mode |= iofs.ModeDir
		st.Size = 0
	}
	return st, nil
}

// ReadDir lists the peer's directory with what a Stat of each entry says.
func (n *importedDir) ReadDir(ctx context.Context, after uint64, count int) ([]fs.Stat, error) {
	if count <= 0 {
		return nil, nil
	}
	read := n.readDirLinux
	if n.c.link.dialect == Plan9 {
		read = n.readDir9
	}
	sts, err := read(ctx, after, count)
	if err != nil {
		return nil, n.fail("readdir", err)
	}
	return sts, nil
}

// statBurst is how many entries are asked after in one go, and farBurst how
// many when a listing goes on: far away the round trips are what counts.
const (
	statBurst = 256
	farBurst  = 1024
)

func (n *importedDir) readDirLinux(ctx context.Context, after uint64, count int) ([]fs.Stat, error) {
	ahead, goesOn := n.c.list.take(n.path, after, count)
	if len(ahead) > 0 {
		return ahead, nil
	}
	burst := min(count, statBurst)
	if goesOn {
		burst = max(burst, farBurst)
	}
	sts, err := n.readDirBurst(ctx, after, burst, n.stats)
	if err != nil || len(sts) == 0 {
		return nil, err
	}
	now := sts[:min(count, len(sts))]
	n.c.list.put(n.path, now[len(now)-1].Cookie, sts[len(now):])
	return now, nil
}

// ReadNames is ReadDir without a question about each entry. In 9P2000.L a listing
// has the names and types alone; in 9P2000 it has all.
func (n *importedDir) ReadNames(ctx context.Context, after uint64, count int) ([]fs.Stat, error) {
	if count <= 0 || n.c.link.dialect == Plan9 {
		return n.ReadDir(ctx, after, count)
	}
	sts, err := n.readDirBurst(ctx, after, count, func(_ context.Context, sts []fs.Stat) ([]fs.Stat, error) { return sts, nil })
	if err != nil {
		return nil, n.fail("readdir", err)
	}
	return sts, nil
}

// readDirBurst asks for at most count entries behind a cookie. fill completes
// them, and may drop some.
func (n *importedDir) readDirBurst(ctx context.Context, after uint64, count int, fill func(context.Context, []fs.Stat) ([]fs.Stat, error)) ([]fs.Stat, error) {
	// Rounds that bring nothing to show, only "." and "..", or names that
	// vanished, are few where the peer is honest.
	for range 100 {
		_, calls, err := n.visit(ctx, false, func(fid uint32) []*call {
			b := le.AppendUint64(le.AppendUint32(nil, fid), after)
			most := min(n.c.link.msize-wire.IOHeader, uint32(max(512, 64*count)))
			return []*call{
				{typ: wire.Tlopen, body: le.AppendUint32(le.AppendUint32(nil, fid), linux.Directory)},
				{typ: wire.Treaddir, body: le.AppendUint32(b, most)},
			}
		})
		if err != nil {
			return nil, err
		}
		for _, c := range calls {
			if c.err != nil {
				return nil, c.err
			}
		}
		sts, last, err := entries(calls[1].rx, after, count)
		if err != nil || last == after {
			return nil, err
		}
		if sts, err = fill(ctx, sts); len(sts) > 0 || err != nil {
			return sts, err
		}
		after = last
	}
	return nil, errPeer("a listing without entries")
}

// entries takes at most count entries from an Rreaddir. last is the cookie
// behind what it took.
func entries(rx []byte, after uint64, count int) (sts []fs.Stat, last uint64, err error) {
	d := wire.Decoder{B: rx}
	d = wire.Decoder{B: d.Bytes()}
	last = after
	for len(d.B) > 0 && len(sts) < count {
		q := d.Qid()
		cookie, typ, name := d.U64(), d.U8(), d.Str()
		if d.Bad || cookie == 0 || cookie == last {
			return nil, 0, errPeer("a malformed listing")
		}
		last = cookie
		if name == "." || name == ".." {
			continue
		}
		if fs.CheckName(name) != nil {
			return nil, 0, errPeer("a name that no file can have")
		}
		mode := linux.FileMode(uint32(typ) << linux.TypeShift)
		if q.Type&plan9.QTDIR != 0 {
			mode |= iofs.ModeDir
		}
		sts = append(sts, fs.Stat{Name: name, Mode: mode, Path: qidPath(q.Path), Version: q.Vers, Cookie: cookie})
	}
	return sts, last, nil
}

// stats fills in what a listing does not say, in one round trip, and drops
// what has vanished since.
func (n *importedDir) stats(ctx context.Context, sts []fs.Stat) ([]fs.Stat, error) {
	l := n.c.link
	type visit struct {
		node        imported
		fid         uint32
		walks, rest []*call
	}
	var all []*call
	visits := make([]visit, len(sts))
	for i, st := range sts {
		v := visit{node: n.child(st.Name), fid: l.fids.New()}
		v.walks, v.rest = v.node.walkCalls(v.fid), v.node.statCalls(v.fid)
		if st.Mode&iofs.ModeSymlink == 0 {
			v.rest = v.rest[:1]
		}
		visits[i] = v
		all = slices.Concat(all, v.walks, v.rest)
		all = append(all, &call{typ: plan9.Tclunk, body: le.AppendUint32(nil, v.fid)})
	}
	if !l.serial.Load() {
		if err := l.do(ctx, all...); err != nil {
			for _, v := range visits {
				l.discard(v.fid)
			}
			return nil, err
		}
	}
	kept := sts[:0]
	for i, v := range visits {
		cookie := sts[i].Cookie
		lost, err := false, error(nil)
		var st fs.Stat
		if l.serial.Load() {
			st, err = v.node.Stat(ctx)
		} else if lost, err = walked(v.walks, v.rest); lost {
			st, err = v.node.Stat(ctx) // finds out that the peer is serial
		} else if err == nil {
			if len(v.rest) == 1 {
				v.rest = append(v.rest, &call{err: errSkipped})
			}
			st, err = v.node.statOf(v.rest)
		}
		if !lost {
			l.fids.Free(v.fid)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			if errors.Is(err, iofs.ErrNotExist) {
				continue
			}
			st = sts[i] // it is there, and that is all we may know
		}
		st.Cookie = cookie
		kept = append(kept, st)
	}
	return kept, nil
}

// A listing remembers the last directory that was read. In 9P2000, whose
// offsets cannot be resumed, that is all of it, and a cookie is the number of
// entries before it; in 9P2000.L it is what was read ahead.
type listing struct {
	mu    sync.Mutex
	path  []string
	sts   []fs.Stat
	after uint64 // 9P2000.L: the cookie that sts follow
}

// take returns at most n entries that were read ahead behind a cookie. goesOn
// reports that the listing is the one that was read last.
func (l *listing) take(path []string, after uint64, n int) (sts []fs.Stat, goesOn bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after == 0 || l.after != after || !slices.Equal(l.path, path) {
		return nil, false
	}
	sts = l.sts[:min(n, len(l.sts))]
	if len(sts) > 0 {
		l.sts, l.after = l.sts[len(sts):], sts[len(sts)-1].Cookie
	}
	return sts, true
}

// put remembers what follows a cookie.
func (l *listing) put(path []string, after uint64, sts []fs.Stat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path, l.after, l.sts = path, after, sts
}

// maxListing bounds what a peer can make us remember.
const maxListing = 1 << 20

func (n *importedDir) readDir9(ctx context.Context, after uint64, count int) ([]fs.Stat, error) {
	c := n.c
	c.list.mu.Lock()
	sts, ok := c.list.sts, after > 0 && slices.Equal(c.list.path, n.path)
	c.list.mu.Unlock()
	if !ok {
		var err error
		if sts, err = n.readAll9(ctx); err != nil {
			return nil, err
		}
		c.list.mu.Lock()
		c.list.path, c.list.sts = n.path, sts
		c.list.mu.Unlock()
	}
	if after >= uint64(len(sts)) {
		return nil, nil
	}
	sts = sts[after:]
	return slices.Clone(sts[:min(len(sts), count)]), nil
}

func (n *importedDir) readAll9(ctx context.Context) ([]fs.Stat, error) {
	l := n.c.link
	f := &importedFile{link: l, name: n.name()}
	buf := make([]byte, f.chunk())
	fid, calls, err := n.visit(ctx, true, func(fid uint32) []*call {
		f.fid = fid
		return []*call{{typ: plan9.Topen, body: append(le.AppendUint32(nil, fid), plan9.OREAD)}, f.readCall(buf, 0)}
	})
	if err != nil {
		return nil, err
	}
	defer l.discard(fid)
	if err := calls[0].err; err != nil {
		return nil, err
	}
	var sts []fs.Stat
	read := calls[1]
	for off := int64(0); ; {
		if read.err != nil {
			return nil, read.err
		}
		if read.n == 0 {
			return sts, nil
		}
		for b := buf[:read.n]; len(b) > 0; {
			if len(b) < 2 || len(b) < 2+int(le.Uint16(b)) {
				return nil, errPeer("a malformed listing")
			}
			size := 2 + int(le.Uint16(b))
			st, err := stat9(b[:size])
			if err != nil {
				return nil, err
			}
			if fs.CheckName(st.Name) != nil || len(sts) == maxListing {
				return nil, errPeer("a listing that no directory can have")
			}
			st.Cookie = uint64(len(sts)) + 1
			sts = append(sts, st)
			b = b[size:]
		}
		off += int64(read.n)
		read = f.readCall(buf, off)
		if err := l.do(ctx, read); err != nil {
			return nil, err
		}
	}
}
