package ninep

import (
	"context"
	iofs "io/fs"

	"9ci/fs"

	"9fans.net/go/plan9"
)

// A fid is a client's handle on a file. Its fields are guarded by conn.mu.
type fid struct {
	n     uint32
	ctx   context.Context // has the user that attached, and whether the dialect has links
	elem  *elem           // nil while the walk that makes the fid runs
	file  fs.File         // open, and not a directory
	open  bool
	mode  fs.OpenMode
	live  bool // reads may block
	dir   dirPos
	users int // requests that have it pinned
	gone  bool

	busy  bool       // an asynchronous operation changes it
	queue []*request // what follows that operation
	next  *fid       // has the queue since f was clunked from it
}

// An elem is one element of a walked path. It never changes. The core walks
// to ".." by parent, so no Dir is ever asked for it.
type elem struct {
	node   fs.Node
	parent *elem
	st     fs.Stat // as it was walked to; no Name, no Target
}

func newElem(ctx context.Context, parent *elem, n fs.Node) (*elem, error) {
	st, err := n.Stat(ctx)
	if err != nil {
		return nil, err
	}
	return &elem{n, parent, st}, nil
}

// qid returns a file's qid in a dialect. 9P2000 has no links: there an alias is a
// directory, and any other link a file. In 9P2000.L an alias has the types of
// both: the Linux client looks at the mode alone, and Import learns from the types
// what it can walk through.
func qid(d Dialect, st *fs.Stat) plan9.Qid {
	q := plan9.Qid{Path: st.Path, Vers: st.Version}
	if st.Mode&iofs.ModeDir != 0 {
		q.Type |= plan9.QTDIR
	}
	if st.Mode&iofs.ModeSymlink != 0 && d == DotL {
		q.Type |= plan9.QTSYMLINK
	}
	return q
}

func (r *request) unpin() {
	r.c.mu.Lock()
	f := r.fid
	r.fid = nil
	r.c.mu.Unlock()
	if f != nil {
		r.c.release(f)
	}
}

// release gives back one pin of f.
func (c *conn) release(f *fid) {
	c.mu.Lock()
	f.users--
	last := f.gone && f.users == 0
	c.mu.Unlock()
	if last {
		f.close()
	}
}

// unref is called when f is no longer in conn.fids.
func (c *conn) unref(f *fid) {
	c.mu.Lock()
	f.gone = true
	last := f.users == 0
	c.mu.Unlock()
	if last {
		f.close()
	}
}

func (f *fid) close() {
	if f.file != nil {
		f.file.Close()
	}
}
