package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"9ci/fs"
	"9ci/proto/internal/linux"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// ImportOptions say how to enter a peer's tree. The zero value attaches to its
// root, by the name of the User of Import's ctx.
type ImportOptions struct {
	Uname string // the name to attach by; default: that of fs.UserOf(ctx)
	Aname string // the tree to attach to
	Msize int    // largest message in bytes; default 128 KiB and a header

	// OrRoot has a peer that refuses Aname asked for its root, which the aname ""
	// names. Aname of the Client tells which it is.
	OrRoot bool

	// Dialect, if not None, is the only one to speak. Else Import speaks
	// 9P2000.L where the peer has it, for its links and times, and 9P2000
	// where it has not.
	Dialect Dialect

	// Ours says that the peer is a server of ours, or a mux of them: it speaks
	// Dialect, which must not be None, and takes the attach behind the version,
	// unasked. That saves a round trip.
	Ours bool

	// More, if set, makes a further connection to the same server, which
	// Stream uses on a long link. It may block until ctx is done. Its error
	// means that there is none, and is no error of the stream.
	More func(ctx context.Context) (io.ReadWriteCloser, error)
}

const defaultMsize = 128<<10 + wire.IOHeader

// A Client is an imported tree. Its nodes are paths: each operation is a burst
// of messages that walks, does its work, and clunks, and so takes one round
// trip and leaves nothing at the peer. Operations block until the peer has
// answered or their ctx is done; the peer is then asked to forget them. Several
// goroutines may use a Client.
//
// A Client checks what the peer says: a name that no directory can have, a count
// above what was asked, an answer of the wrong type end the connection or fail
// the operation, with fs.ErrIO. After the connection has ended every operation
// fails with fs.ErrIO.
type Client struct {
	link *link
	root *importedDir
	list listing

	options ImportOptions
	life    context.Context // ends with Close
	end     func()
	others  []elsewhere // by further connections
}

// Import attaches to the tree at the other end of rwc. It blocks until the peer has
// answered or ctx is done, which bounds only this. rwc is the Client's, whose Close
// closes it; if Import fails it has closed rwc. The error is the peer's where it
// refused the attach.
func Import(ctx context.Context, rwc io.ReadWriteCloser, o ImportOptions) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { rwc.Close() })
	c, err := importTree(ctx, rwc, o)
	if !stop() && err == nil {
		c.Close()
		err = ctx.Err()
	}
	if err != nil {
		rwc.Close()
		return nil, fmt.Errorf("9p: import: %w", err)
	}
	return c, nil
}

func importTree(ctx context.Context, rwc io.ReadWriteCloser, o ImportOptions) (*Client, error) {
	l := newLink(rwc)
	go l.read()
	dialects := []Dialect{DotL, Plan9}
	if o.Dialect != None {
		dialects = []Dialect{o.Dialect}
	}
	if o.Uname == "" {
		o.Uname = fs.UserOf(ctx).Name
	}
	var unasked []*call
	if o.Ours {
		l.dialect = o.Dialect // the answer to the attach is in it
		unasked = []*call{l.attachCall(o.Uname, o.Aname)}
	}
	for _, d := range dialects {
		err := l.version(ctx, d, o.Msize, unasked...)
		if err != nil {
			l.close()
			return nil, err
		}
		if l.dialect != None {
			break
		}
	}
	if l.dialect == None {
		l.close()
		return nil, errors.New("peer speaks neither 9P2000.L nor 9P2000")
	}
	refused, err := false, error(nil)
	if o.Ours {
		err = unasked[0].err
		refused = err != nil
	} else {
		refused, err = l.attach(ctx, o.Uname, o.Aname)
	}
	if refused && o.OrRoot && o.Aname != "" {
		if _, again := l.attach(ctx, o.Uname, ""); again == nil {
			o.Aname, err = "", nil
		}
	}
	if err != nil {
		l.close()
		return nil, err
	}
	c := &Client{link: l, options: o}
	c.life, c.end = context.WithCancel(context.Background())
	if o.More != nil {
		c.others = newElsewhere(streamLinks - 1)
	}
	c.root = &importedDir{imported{c: c}}
	return c, nil
}

// attach makes fid 0 the root of a tree, and reports whether the peer refused.
func (l *link) attach(ctx context.Context, uname, aname string) (refused bool, err error) {
	c := l.attachCall(uname, aname)
	if err := l.do(ctx, c); err != nil {
		return false, err
	}
	return c.err != nil, c.err
}

func (l *link) attachCall(uname, aname string) *call {
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, plan9.NOFID)
	b = wire.AppendString(b, uname)
	b = wire.AppendString(b, aname)
	if l.dialect == DotL {
		b = le.AppendUint32(b, plan9.NOUID)
	}
	return &call{typ: plan9.Tattach, body: b}
}

// version negotiates d, or the part of it that the peer has. If the peer does not
// know d, l.dialect stays None. Unasked goes out with it: then the peer must have
// d itself.
func (l *link) version(ctx context.Context, d Dialect, msize int, unasked ...*call) error {
	if msize == 0 {
		msize = defaultMsize
	}
	msize = max(wire.MinMsize, min(msize, wire.MaxMsize))
	b := le.AppendUint32(nil, uint32(msize))
	c := &call{typ: plan9.Tversion, body: wire.AppendString(b, d.String())}
	if err := l.do(ctx, append([]*call{c}, unasked...)...); err != nil {
		return err
	}
	if c.err != nil {
		return c.err
	}
	dec := wire.Decoder{B: c.rx}
	got, version := dec.U32(), dec.Str()
	if len(unasked) > 0 && version != d.String() {
		return fmt.Errorf("peer answered %s with %.40q", d, version)
	}
	switch version {
	case "9P2000.L":
		l.dialect = DotL
	case "9P2000":
		l.dialect = Plan9
	default:
		return nil
	}
	if l.dialect == DotL && d == Plan9 || got > uint32(msize) || got < 256 {
		return fmt.Errorf("peer answered %s with %s and a message size of %d", d, strconv.Quote(version), got)
	}
	l.mu.Lock()
	l.msize = got
	l.mu.Unlock()
	return nil
}

func (l *link) close() {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.rwc.Close()
	<-l.done
	l.wg.Wait()
}

// Root returns the directory that was attached to. It does not ask the peer.
func (c *Client) Root() fs.Dir { return c.root }

// Aname returns the tree that was attached to.
func (c *Client) Aname() string { return c.options.Aname }

// Dialect returns the dialect that is spoken: Plan9 or DotL.
func (c *Client) Dialect() Dialect { return c.link.dialect }

// RTT returns the least time that an answer has taken so far.
func (c *Client) RTT() time.Duration { return time.Duration(c.link.rtt.Load()) }

// Close ends the connection and those of ImportOptions.More, and blocks until
// their goroutines have ended. Operations that are under way fail. It returns
// nil.
func (c *Client) Close() error {
	c.end()
	for _, o := range c.others {
		o.close()
	}
	c.link.close()
	return nil
}

// Done returns a channel that is closed when the connection has ended, by Close or
// otherwise.
func (c *Client) Done() <-chan struct{} { return c.link.done }

// imported is a Node by its path from the root.
type imported struct {
	c    *Client
	path []string
}

// An importedDir is a directory, or an alias of one.
type importedDir struct{ imported }

func (n *imported) child(name string) imported {
	return imported{n.c, append(slices.Clip(n.path), name)}
}

// name returns what errors call n.
func (n *imported) name() string {
	if len(n.path) == 0 {
		return "/"
	}
	return n.path[len(n.path)-1]
}

// walkCalls walks from the root to n at fid.
func (n *imported) walkCalls(fid uint32) []*call {
	var calls []*call
	from, names := uint32(0), n.path
	for {
		k := min(len(names), plan9.MAXWELEM)
		b := le.AppendUint32(nil, from)
		b = le.AppendUint32(b, fid)
		b = le.AppendUint16(b, uint16(k))
		for _, name := range names[:k] {
			b = wire.AppendString(b, name)
		}
		calls = append(calls, &call{typ: plan9.Twalk, body: b})
		from, names = fid, names[k:]
		if len(names) == 0 {
			return calls
		}
	}
}

// walked is the outcome of walkCalls. lost reports that the peer does not keep
// the order of a burst: the walk went well, but then the fid was not known.
func walked(walks, rest []*call) (lost bool, err error) {
	for _, w := range walks {
		if w.err != nil {
			return false, w.err
		}
		if !walkedAll(w) {
			if le.Uint16(w.rx) > le.Uint16(w.body[8:]) {
				return false, errPeer("more qids than names")
			}
			if n := len(w.rx); n > 2 && w.rx[n-13]&plan9.QTDIR == 0 { // the type of the last qid
				return false, fs.ErrNotDir
			}
			return false, iofs.ErrNotExist
		}
	}
	for _, c := range rest {
		if errors.Is(c.err, syscall.EBADF) { // of which wire.ErrUnknownFid is one
			return true, nil
		}
	}
	return false, nil
}

// An errPeer says which rule of the protocol a peer broke.
type errPeer string

func (e errPeer) Error() string { return "9p: peer sent " + string(e) }
func (e errPeer) Unwrap() error { return fs.ErrIO }

// visit walks to n, makes the calls on the fid, and clunks it unless keep.
func (n *imported) visit(ctx context.Context, keep bool, calls func(fid uint32) []*call) (fid uint32, done []*call, err error) {
	l := n.c.link
	for range 2 {
		fid = l.fids.New()
		walks, rest := n.walkCalls(fid), calls(fid)
		all := slices.Concat(walks, rest)
		if !keep {
			all = append(all, &call{typ: plan9.Tclunk, body: le.AppendUint32(nil, fid)})
		}
		if err := l.do(ctx, all...); err != nil {
			l.discard(fid)
			return 0, nil, err
		}
		lost, err := walked(walks, rest)
		if lost && !l.serial.Swap(true) {
			continue // that fid is never used again: its state at the peer is not known
		}
		if err != nil || !keep {
			l.fids.Free(fid)
		}
		return fid, rest, err
	}
	return 0, nil, errPeer("no two answers in order")
}

func (n *imported) Stat(ctx context.Context) (fs.Stat, error) {
	_, calls, err := n.visit(ctx, false, n.statCalls)
	if err != nil {
		return fs.Stat{}, n.fail("stat", err)
	}
	st, err := n.statOf(calls)
	if err != nil {
		return fs.Stat{}, n.fail("stat", err)
	}
	return st, nil
}

// fail names n by its last element alone: callers print the path they asked for.
func (n *imported) fail(op string, err error) error {
	return &iofs.PathError{Op: op, Path: n.name(), Err: err}
}

func (n *imported) statCalls(fid uint32) []*call {
	if n.c.link.dialect == Plan9 {
		return []*call{{typ: plan9.Tstat, body: le.AppendUint32(nil, fid)}}
	}
	return []*call{
		{typ: wire.Tgetattr, body: le.AppendUint64(le.AppendUint32(nil, fid), attrBasic)},
		{typ: wire.Treadlink, body: le.AppendUint32(nil, fid)},
	}
}

// statOf makes a Stat of the answers to statCalls.
func (n *imported) statOf(calls []*call) (fs.Stat, error) {
	if calls[0].err != nil {
		return fs.Stat{}, calls[0].err
	}
	if n.c.link.dialect == Plan9 {
		st, err := stat9(calls[0].rx[2:])
		if len(n.path) > 0 {
			st.Name = n.name()
		}
		return st, err
	}
	st, err := statLinux(calls[0].rx)
	st.Name = n.name()
	if err == nil && st.Mode&iofs.ModeSymlink != 0 && calls[1].err == nil {
		d := wire.Decoder{B: calls[1].rx}
		st.Target = d.Str()
		if st.Target == "" || len(st.Target) > 4096 {
			return st, errPeer("an impossible link target")
		}
	}
	return st, err
}

// Walk asks the peer for the entry of that name.
func (n *importedDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	c, _, err := n.WalkStat(ctx, name)
	return c, err
}

// WalkStat is Walk and the Stat of what it found, in one round trip. It is what
// fs.WalkStat calls.
func (n *importedDir) WalkStat(ctx context.Context, name string) (fs.Node, fs.Stat, error) {
	if fs.CheckName(name) != nil {
		return nil, fs.Stat{}, n.fail("walk", iofs.ErrNotExist)
	}
	c := n.child(name)
	st, err := c.Stat(ctx)
	if err != nil {
		return nil, st, err
	}
	return n.Child(st), st, nil
}

// Child returns the entry that a ReadDir described, and does not ask the peer. It
// is what fs.Child calls.
func (n *importedDir) Child(st fs.Stat) fs.Node {
	c := n.child(st.Name)
	if st.IsDir() {
		return &importedDir{c}
	}
	return &c
}

func (n *importedDir) Open(context.Context, fs.OpenMode) (fs.File, error) {
	return nil, n.fail("open", fs.ErrIsDir)
}

func (n *imported) Open(ctx context.Context, mode fs.OpenMode) (fs.File, error) {
	l := n.c.link
	fid, calls, err := n.visit(ctx, true, func(fid uint32) []*call {
		return append([]*call{openCall(l.dialect, fid, mode)}, n.statCalls(fid)...)
	})
	if err != nil {
		return nil, n.fail("open", err)
	}
	st, err := n.statOf(calls[1:])
	if calls[0].err != nil {
		err = calls[0].err
	}
	if err == nil && st.IsDir() {
		err = fs.ErrIsDir
	}
	if err != nil {
		l.discard(fid)
		return nil, n.fail("open", err)
	}
	return &importedFile{link: l, fid: fid, st: st, name: n.name()}, nil
}

// firstRead is what ReadAll asks for before it knows the size.
const firstRead = 32 << 10

// ReadAll reads a small file that never changes in one round trip: walk, open,
// stat, read and clunk go out in one burst. Any other is read from the start
// of one open file. It is what fs.ReadAll calls.
func (n *imported) ReadAll(ctx context.Context) ([]byte, error) {
	l := n.c.link
	f := &importedFile{link: l}
	buf := make([]byte, min(firstRead, f.chunk()))
	_, calls, err := n.visit(ctx, false, func(fid uint32) []*call {
		f.fid = fid
		return slices.Concat([]*call{openCall(l.dialect, fid, fs.OpenRead)}, n.statCalls(fid), []*call{f.readCall(buf, 0)})
	})
	if err != nil {
		return nil, n.fail("read", err)
	}
	last := len(calls) - 1
	st, err := n.statOf(calls[1:last])
	for _, c := range []*call{calls[last], calls[0]} {
		if c.err != nil {
			err = c.err
		}
	}
	if err == nil && st.IsDir() {
		err = fs.ErrIsDir
	}
	if err != nil {
		return nil, n.fail("read", err)
	}
	b := buf[:calls[last].n]
	if st.Version != 0 && int64(len(b)) == st.Size {
		return b, nil
	}
	// It goes on, or it may: what follows must be of the same open file, for
	// a text may have been replaced meanwhile.
	o, err := n.Open(ctx, fs.OpenRead)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	for b = b[:0]; ; {
		if cap(b)-len(b) < firstRead {
			b = slices.Grow(b, max(len(b), f.chunk()))
		}
		m, err := o.ReadAt(ctx, b[len(b):cap(b)], int64(len(b)))
		b = b[:len(b)+m]
		if len(b) > fs.MaxRead {
			return nil, n.fail("read", fs.ErrTooLong)
		}
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

func (n *importedDir) ReadAll(context.Context) ([]byte, error) {
	return nil, n.fail("read", fs.ErrIsDir)
}

func openCall(d Dialect, fid uint32, mode fs.OpenMode) *call {
	b := le.AppendUint32(nil, fid)
	if d == Plan9 {
		return &call{typ: plan9.Topen, body: append(b, plan9Mode(mode))}
	}
	return &call{typ: wire.Tlopen, body: le.AppendUint32(b, linux.OpenFlags(mode))}
}

func plan9Mode(m fs.OpenMode) (mode uint8) {
	switch m & (fs.OpenRead | fs.OpenWrite) {
	case fs.OpenWrite:
		mode = plan9.OWRITE
	case fs.OpenRead | fs.OpenWrite:
		mode = plan9.ORDWR
	}
	if m&fs.OpenTrunc != 0 {
		mode |= plan9.OTRUNC
	}
	return mode
}

// An importedFile is a fid that is open.
type importedFile struct {
	link   *link
	fid    uint32
	st     fs.Stat
	name   string
	closed sync.Once
}

// ReadAt asks for as much as p holds: of a file that never changes in several
// messages at once, of a live one in one.
func (f *importedFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.st.Version != 0 {
		if off >= f.st.Size && f.st.Size > 0 {
			return 0, io.EOF
		}
	} else {
		p = p[:min(len(p), f.chunk())]
	}
	var calls []*call
	for at := 0; at < len(p) && len(calls) < 64; {
		n := min(len(p)-at, f.chunk())
		calls = append(calls, f.readCall(p[at:at+n], off+int64(at)))
		at += n
	}
	if err := f.link.do(ctx, calls...); err != nil {
		return 0, f.fail("read", err)
	}
	total := 0
	for _, c := range calls {
		total += c.n
		if c.err != nil && total == 0 {
			return 0, f.fail("read", c.err)
		}
		if c.err != nil || c.n < len(c.dst) {
			break
		}
	}
	if total == 0 {
		return 0, io.EOF
	}
	return total, nil
}

// chunk is the largest number of bytes of data in a message.
func (f *importedFile) chunk() int { return int(f.link.msize - wire.IOHeader) }

func (f *importedFile) readCall(p []byte, off int64) *call {
	b := le.AppendUint32(nil, f.fid)
	b = le.AppendUint64(b, uint64(off))
	return &call{typ: plan9.Tread, body: le.AppendUint32(b, uint32(len(p))), dst: p}
}

// WriteAt sends p whole, in as many messages as it takes.
func (f *importedFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	for at := 0; ; {
		n := min(len(p)-at, f.chunk())
		b := le.AppendUint32(nil, f.fid)
		b = le.AppendUint64(b, uint64(off+int64(at)))
		b = le.AppendUint32(b, uint32(n))
		c := &call{typ: plan9.Twrite, body: append(b, p[at:at+n]...)}
		if err := f.link.do(ctx, c); err != nil {
			return at, f.fail("write", err)
		}
		if c.err != nil {
			return at, f.fail("write", c.err)
		}
		got := le.Uint32(c.rx)
		if got > uint32(n) || got == 0 && n > 0 {
			return at, f.fail("write", errPeer("an impossible count"))
		}
		if at += int(got); at == len(p) {
			return at, nil
		}
	}
}

func (f *importedFile) fail(op string, err error) error {
	if len(f.name) == 0 {
		return err
	}
	return &iofs.PathError{Op: op, Path: f.name, Err: err}
}

// Close gives the fid back. It does not wait for the peer, and returns nil.
func (f *importedFile) Close() error {
	f.closed.Do(func() { f.link.discard(f.fid) })
	return nil
}
