package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"syscall"
	"time"

	"9ci/fs"
	"9ci/proto/internal/linux"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// do performs the operation of r and builds its reply.
func (r *request) do() error {
	d := &wire.Decoder{B: r.frame}
	if r.frame != nil {
		d.Take(wire.HeaderSize + 4) // admit has looked at the fid
	}
	switch r.typ {
	case plan9.Tattach:
		return r.attach(d)
	case plan9.Twalk:
		return r.walk(d)
	case plan9.Topen:
		return r.topen(d.U8())
	case wire.Tlopen:
		return r.tlopen(d.U32())
	case plan9.Tread:
		return r.read(d)
	case plan9.Twrite:
		return r.write(d.U64(), d.Bytes())
	case plan9.Tclunk:
		r.clunk()
		r.reply(plan9.Rclunk)
		return nil
	case plan9.Tremove:
		r.clunk() // even if the remove fails: remove(5)
		return fs.ErrReadOnly
	case plan9.Tstat:
		return r.stat()
	case plan9.Twstat:
		return r.wstat(d.Take(int(d.U16())))
	case wire.Tgetattr:
		return r.getattr(d.U64())
	case wire.Tsetattr:
		return r.setattr(d)
	case wire.Treaddir:
		return r.readdir(d.U64(), d.U32())
	case wire.Treadlink:
		return r.readlink()
	case wire.Tstatfs:
		r.statfs()
		return nil
	case wire.Tfsync:
		r.reply(wire.Tfsync + 1)
		return nil
	case wire.Tgetlock:
		r.getlock(d)
		return nil
	case plan9.Tcreate, wire.Tlcreate, wire.Tsymlink, wire.Tmknod, wire.Trename, wire.Tlink, wire.Tmkdir, wire.Trenameat, wire.Tunlinkat:
		return fs.ErrReadOnly
	}
	return wire.ErrUnsupported
}

// version answers Tversion: everything of the session before it ends.
func (c *conn) version(rd *reader, r *request) error {
	d := wire.Decoder{B: r.frame[wire.HeaderSize:]}
	msize, version := d.U32(), d.Str()
	r.dialect = None
	if strings.HasPrefix(version, "9P2000.L") {
		r.dialect = DotL
	} else if version == "9P2000" || strings.HasPrefix(version, "9P2000.") {
		r.dialect = Plan9
	}
	r.out, r.start = rd.out, len(rd.out)
	defer func() { rd.out = r.out }()
	if !d.OK() {
		r.fail(wire.ErrMalformed)
		return nil
	}
	if msize < wire.MinMsize {
		r.fail(fmt.Errorf("msize %d is less than %d: %w", msize, wire.MinMsize, iofs.ErrInvalid))
		return nil
	}
	c.reset(false)
	c.mu.Lock()
	c.dialect = r.dialect
	c.msize = min(msize, wire.MaxMsize)
	if c.dialect == None {
		c.msize = 0
	}
	c.marks = marks{program: c.marks.program, msize8k: msize == 8192}
	c.mu.Unlock()
	r.reply(plan9.Rversion)
	r.out = le.AppendUint32(r.out, min(msize, wire.MaxMsize))
	r.out = wire.AppendString(r.out, r.dialect.String())
	wire.End(r.out, r.start)
	c.traceFrame("->", r.dialect, r.out[r.start:])
	return nil
}

func (r *request) attach(d *wire.Decoder) error {
	afid, uname, aname := d.U32(), d.Str(), d.Str()
	if afid != plan9.NOFID {
		return wire.ErrNoAuth
	}
	user := r.c.user
	if user.Anonymous && user.Name == "" {
		user.Name = uname
	}
	if user.Name != "" {
		uname = user.Name // a user that is known cannot choose another name
	}
	r.ctx = fs.WithUser(r.c.ctx, user)
	if r.dialect == Plan9 {
		r.ctx = fs.WithoutLinks(r.ctx)
	}
	root, err := r.c.srv.attach(r, uname, aname)
	if err != nil {
		return err
	}
	e, err := newElem(r, nil, root)
	if err != nil {
		return err
	}
	e.st.Mode = e.st.Mode&^iofs.ModeSymlink | iofs.ModeDir
	r.reply(plan9.Rattach)
	r.out = wire.AppendQid(r.out, qid(r.dialect, &e.st))
	r.bind(e)
	return nil
}

// walk does what walk(5) says: newfid is bound only if every name was there. But
// where a limit was reached behind the first name, it answers an error rather than
// the qids so far, by which a client would take the name for one that is not there.
func (r *request) walk(d *wire.Decoder) error {
	d.U32() // newfid
	n := int(d.U16())
	if n > plan9.MAXWELEM {
		return wire.ErrTooManyNames
	}
	r.c.mu.Lock()
	open := r.fid.open
	r.c.mu.Unlock()
	if open && r.dialect != DotL { // where clients do walk from open fids
		return wire.ErrOpen
	}
	r.reply(plan9.Rwalk)
	count := len(r.out)
	r.out = le.AppendUint16(r.out, 0)
	e := r.elem
	for i := range n {
		next, err := r.walk1(e, d.Str())
		if err != nil {
			if i == 0 || errors.Is(err, fs.ErrBusy) {
				return err
			}
			return nil
		}
		e = next
		r.out = wire.AppendQid(r.out, qid(r.dialect, &e.st))
		le.PutUint16(r.out[count:], uint16(i+1))
	}
	r.bind(e)
	return nil
}

func (r *request) walk1(e *elem, name string) (*elem, error) {
	dir, ok := e.node.(fs.Dir)
	if !ok || !e.st.IsDir() {
		return nil, fs.ErrNotDir
	}
	if name == ".." {
		if e.parent == nil {
			return e, nil
		}
		return e.parent, nil
	}
	if name == "." && r.dialect == DotL { // listed there, so walked to
		return e, nil
	}
	if fs.CheckName(name) != nil {
		return nil, iofs.ErrNotExist
	}
	if err := fs.Access(r, &e.st, 1); err != nil {
		return nil, err
	}
	n, st, err := fs.WalkStat(r, dir, name)
	if err != nil {
		return nil, err
	}
	return &elem{n, e, st}, nil
}

// bind gives e to newfid, or to the fid itself where they are the same.
func (r *request) bind(e *elem) {
	if e.st.Name != "" || e.st.Target != "" { // which no fid needs; e may be another's too
		e = &elem{e.node, e.parent, e.st}
		e.st.Name, e.st.Target = "", ""
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !r.commit() {
		return
	}
	switch {
	case !r.makes:
		r.fid.elem = e
	case r.place != nil:
		r.place.ctx, r.place.elem = r.ctx, e
	default:
		c.fids[r.newfid] = &fid{n: r.newfid, ctx: r.ctx, elem: e}
	}
}

// clunk takes the fid away; unpin closes it. Requests that are queued behind a
// slow operation may use the number anew, so their queue stays at the number.
func (r *request) clunk() {
	c, f := r.c, r.fid
	c.mu.Lock()
	defer c.mu.Unlock()
	if !r.commit() || f.gone {
		return
	}
	f.gone = true
	delete(c.fids, f.n)
	if f.busy {
		f.next = &fid{n: f.n, busy: true, queue: f.queue}
		f.queue = nil
		c.fids[f.n] = f.next
	}
}

// topen takes the mode of open(5).
func (r *request) topen(mode uint8) error {
	var m fs.OpenMode
	switch mode & 3 {
	case plan9.OREAD, plan9.OEXEC:
		m = fs.OpenRead
	case plan9.OWRITE:
		m = fs.OpenWrite
	case plan9.ORDWR:
		m = fs.OpenRead | fs.OpenWrite
	}
	if mode&plan9.OTRUNC != 0 {
		m |= fs.OpenTrunc
	}
	if mode&plan9.ORCLOSE != 0 {
		return iofs.ErrPermission
	}
	return r.open(m, plan9.Ropen)
}

// tlopen takes the flags of Linux's open(2).
func (r *request) tlopen(flags uint32) error {
	if flags&linux.Directory != 0 && !r.elem.st.IsDir() {
		return fs.ErrNotDir
	}
	return r.open(linux.OpenMode(flags), wire.Tlopen+1)
}

func (r *request) open(m fs.OpenMode, typ uint8) error {
	r.c.mu.Lock()
	open := r.fid.open
	r.c.mu.Unlock()
	if open {
		return wire.ErrOpen
	}
	st := r.elem.st
	if st.Version == 0 || st.Mode&iofs.ModeSymlink != 0 {
		now, err := r.elem.node.Stat(r)
		if err != nil {
			return err
		}
		st = now
	}
	file, live, err := r.openFile(&st, m)
	if err != nil {
		return err
	}
	c, f := r.c, r.fid
	c.mu.Lock()
	ok := r.commit() && !f.gone
	if ok {
		f.open, f.mode, f.file, f.live = true, m, file, live
	}
	c.mu.Unlock()
	if !ok && file != nil {
		file.Close()
	}
	r.reply(typ)
	r.out = wire.AppendQid(r.out, qid(r.dialect, &st))
	r.out = le.AppendUint32(r.out, 0) // iounit: as much as msize allows
	return nil
}

// openFile checks what the mode bits say and opens the file. A directory, and
// in 9P2000 a link, needs no fs.File.
func (r *request) openFile(st *fs.Stat, m fs.OpenMode) (f fs.File, live bool, err error) {
	var rwx iofs.FileMode
	if m&fs.OpenRead != 0 {
		rwx |= 4
	}
	if m&(fs.OpenWrite|fs.OpenTrunc) != 0 {
		rwx |= 2
	}
	switch typ := st.Mode.Type(); {
	case st.Mode&iofs.ModeDir != 0:
		if rwx&2 != 0 {
			return nil, false, fs.ErrIsDir
		}
		return nil, false, fs.Access(r, st, rwx)
	case typ == iofs.ModeSymlink && r.dialect == Plan9:
		if rwx&2 != 0 {
			return nil, false, fs.ErrReadOnly
		}
		return linkFile(st.Target), false, nil
	case typ == iofs.ModeSymlink:
		return nil, false, syscall.ELOOP
	case typ != 0:
		return nil, false, iofs.ErrPermission // opening a device or a fifo has effects
	}
	if err := fs.Access(r, st, rwx); err != nil {
		return nil, false, err
	}
	f, err = r.elem.node.Open(r, m)
	if err != nil {
		return nil, false, err
	}
	_, disk := f.(fs.Extenter) // never waits
	return f, st.Version == 0 && !disk, nil
}

// linkFile is a link's target as a file, for 9P2000.
type linkFile string

func (l linkFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return strings.NewReader(string(l)).ReadAt(p, off)
}
func (linkFile) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrReadOnly }
func (linkFile) Close() error                                        { return nil }

// A live read costs little until there is something to read: it waits with a
// small buffer, and then takes what else is there.
const (
	liveProbe = 512
	liveMost  = 64 << 10
)

// parseRead takes what a read that waits needs from its frame, so that the
// frame can go.
func (r *request) parseRead() {
	d := wire.Decoder{B: r.frame[wire.HeaderSize+4:]}
	r.offset, r.count = d.U64(), d.U32()
}

func (r *request) read(d *wire.Decoder) error {
	if r.frame != nil {
		r.offset, r.count = d.U64(), d.U32()
	}
	r.c.mu.Lock()
	f := r.fid
	open, mode, live := f.open, f.mode, f.live
	r.c.mu.Unlock()
	if !open || mode&fs.OpenRead == 0 {
		return wire.ErrNotOpen
	}
	if r.offset >= 1<<63 {
		return iofs.ErrInvalid
	}
	count := int(min(r.count, r.msize-wire.IOHeader))
	switch {
	case r.file == nil && r.dialect == DotL:
		return fs.ErrIsDir
	case r.file == nil:
		return r.readdir9(count)
	case live:
		return r.readLive(count)
	}
	// The buffer grows by what is there, not by what was asked for.
	size := r.elem.st.Size - int64(r.offset)
	n := int(max(min(int64(count), size), min(int64(count), liveProbe)))
	if r.elem.st.Size == 0 {
		n = min(count, liveMost)
	}
	if n >= sendFrom && r.sendFile(n) {
		return nil
	}
	return r.readInto(r, n)
}

// sendFrom is the number of bytes from which on a copy costs more than a system
// call.
const sendFrom = 16 << 10

// sendFile replies with n bytes that the kernel takes from a file on disk. It
// reports false where that is not possible.
func (r *request) sendFile(n int) bool {
	x, ok := r.file.(fs.Extenter)
	if !ok || !r.c.out.Socket() || r.c.srv.Trace != nil {
		return false
	}
	f, off, done := x.Extent(int64(r.offset), n)
	if f == nil {
		return false
	}
	r.reply(plan9.Rread)
	r.out = le.AppendUint32(r.out, uint32(n))
	r.c.mu.Lock()
	pinned := r.fid // until the data is sent
	r.fid = nil
	r.c.mu.Unlock()
	r.data = wire.Data{File: f, Off: off, N: n, Done: func() {
		done()
		r.c.release(pinned)
	}}
	return true
}

// readInto puts up to n bytes of the file straight into the reply.
func (r *request) readInto(ctx context.Context, n int) error {
	r.reply(plan9.Rread)
	at := len(r.out)
	r.out = wire.Grow(r.out, 4+n)
	m, err := r.file.ReadAt(ctx, r.out[at+4:at+4+n], int64(r.offset))
	if m < 0 || m > n {
		return fs.ErrIO
	}
	if m == 0 && err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	le.PutUint32(r.out[at:], uint32(m))
	r.out = r.out[:at+4+m]
	return nil
}

func (r *request) readLive(count int) error {
	r.c.mu.Lock()
	pfuse := r.dialect == Plan9 && r.c.marks.pfuse()
	r.c.mu.Unlock()
	if pfuse {
		// 9pfuse leaves a reader in D state until its read is answered.
		t := time.AfterFunc(time.Second, r.cancel)
		defer t.Stop()
	}
	first := min(count, liveProbe)
	r.out = wire.NewBuffer(wire.HeaderSize + 4 + first)
	if err := r.readInto(r, first); err != nil {
		return err
	}
	if len(r.out) < wire.HeaderSize+4+first || first == count {
		return nil
	}
	// More may be there; what is not must not be waited for.
	more := min(count, liveMost) - first
	r.out = append(wire.GetBuffer(), r.out...)
	r.out = wire.Grow(r.out, more)
	n, err := r.file.ReadAt(noWait{r}, r.out[wire.HeaderSize+4+first:], int64(r.offset)+int64(first))
	if err != nil || n < 0 || n > more {
		n = 0
	}
	r.out = r.out[:wire.HeaderSize+4+first+n]
	le.PutUint32(r.out[wire.HeaderSize:], uint32(first+n))
	return nil
}

// noWait is the context of a read that must not block: it is done from the start.
type noWait struct{ context.Context }

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (noWait) Done() <-chan struct{} { return closed }
func (noWait) Err() error            { return context.Canceled }

func (r *request) write(off uint64, p []byte) error {
	r.c.mu.Lock()
	open, mode := r.fid.open, r.fid.mode
	r.c.mu.Unlock()
	if !open || mode&fs.OpenWrite == 0 || r.file == nil {
		return wire.ErrNotOpen
	}
	if off >= 1<<63 {
		return iofs.ErrInvalid
	}
	n, err := r.file.WriteAt(r, p, int64(off))
	if n < 0 || n > len(p) {
		return fs.ErrIO
	}
	if err != nil && n == 0 {
		return err
	}
	r.reply(plan9.Rwrite)
	r.out = le.AppendUint32(r.out, uint32(n))
	return nil
}

// truncate answers the truncation that a shell's > asks for. A ctl has nothing to
// truncate: truncate returns whether a write would be allowed.
func (r *request) truncate() error {
	st, err := r.elem.node.Stat(r)
	if err != nil {
		return err
	}
	f, _, err := r.openFile(&st, fs.OpenWrite|fs.OpenTrunc)
	if err != nil {
		return err
	}
	return f.Close()
}
