package ninep

import (
	iofs "io/fs"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

// dirPos is where the reading of a directory in 9P2000 stands: read(5) allows no
// offset but 0 and the end of the last read.
type dirPos struct {
	offset uint64
	cookie uint64
	most   int // the largest count that was asked for since offset 0
}

// dirBatch is how many entries are asked of a directory at a time.
const dirBatch = 64

func (r *request) stat() error {
	st, err := r.elem.node.Stat(r)
	if err != nil {
		return err
	}
	if r.elem.parent == nil {
		st.Name = "/"
		st.Mode |= iofs.ModeDir
	}
	r.reply(plan9.Rstat)
	at := len(r.out)
	r.out = append(r.out, 0, 0)
	r.out = appendDir(r.out, &st)
	le.PutUint16(r.out[at:], uint16(len(r.out)-at-2))
	return nil
}

// appendDir appends a stat(5) entry, with its length before it.
func appendDir(b []byte, st *fs.Stat) []byte {
	at := len(b)
	q := qid(Plan9, st)
	size := uint64(st.Size)
	mode := uint32(st.Mode.Perm())
	if st.Mode&iofs.ModeSymlink != 0 {
		mode &= 0o555 // a link's mode means nothing
	}
	switch {
	case st.Mode&iofs.ModeDir != 0:
		mode |= plan9.DMDIR
		size = 0
	case st.Mode&iofs.ModeSymlink != 0:
		size = uint64(len(st.Target))
	}
	mtime := uint32(max(0, st.ModTime.Unix()))
	b = append(b, 0, 0)                         // size
	b = append(b, 0, 0, 0, 0, 0, 0)             // type, dev: the kernel's
	b = wire.AppendQid(b, q)                    //
	b = le.AppendUint32(b, mode)                //
	b = le.AppendUint32(b, mtime)               // atime
	b = le.AppendUint32(b, mtime)               //
	b = le.AppendUint64(b, size)                //
	b = wire.AppendString(b, st.Name)           //
	uid := userName(st.UID)                     //
	b = wire.AppendString(b, uid)               //
	b = wire.AppendString(b, groupName(st.GID)) //
	b = wire.AppendString(b, uid)               // muid
	le.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// readdir9 reads whole entries, as read(5) asks for. A client that fills its buffer
// (p9_client_read of Linux's net/9p) asks with the few bytes that are left of it. If
// no entry fits in those it gets none, as lib9p has it, and goes on with a whole
// buffer. If none fits in a whole buffer the client gets an error: no bytes would
// tell it that the directory ends.
func (r *request) readdir9(count int) error {
	c := r.c
	c.mu.Lock()
	pos := r.fid.dir
	c.mu.Unlock()
	if r.offset == 0 {
		pos = dirPos{}
	} else if r.offset != pos.offset {
		return wire.ErrDirOffset
	}
	rest := count < pos.most
	pos.most = max(count, pos.most)
	r.reply(plan9.Rread)
	at := len(r.out) + 4
	r.out = le.AppendUint32(r.out, 0)
	err := r.list(pos.cookie, func(st *fs.Stat) bool {
		n := len(r.out)
		r.out = appendDir(r.out, st)
		if len(r.out)-at > count {
			r.out = r.out[:n]
			return false
		}
		pos.cookie = st.Cookie
		return true
	})
	if err == errShort && !rest {
		return iofs.ErrInvalid
	}
	if err != nil && err != errShort {
		return err
	}
	n := len(r.out) - at
	le.PutUint32(r.out[at-4:], uint32(n))
	pos.offset = r.offset + uint64(n)
	c.mu.Lock()
	if r.commit() {
		r.fid.dir = pos
	}
	c.mu.Unlock()
	return nil
}

// list calls add for the entries behind after until it returns false, the
// directory ends, or there was an error with nothing added. It reports
// errShort if the first add returned false.
func (r *request) list(after uint64, add func(*fs.Stat) bool) error {
	dir, ok := r.elem.node.(fs.Dir)
	if !ok {
		return fs.ErrNotDir
	}
	for added := 0; ; {
		sts, err := dir.ReadDir(r, after, dirBatch)
		if err != nil && added == 0 {
			return err
		}
		if err != nil || len(sts) == 0 {
			return nil // the next read will see the error
		}
		for i := range sts {
			if fs.CheckName(sts[i].Name) != nil { // no dialect can carry it
				after = sts[i].Cookie
				continue
			}
			if !add(&sts[i]) {
				if added == 0 {
					return errShort
				}
				return nil
			}
			added++
			after = sts[i].Cookie
		}
	}
}

// wstat refuses every change but a length of 0, which a shell's > asks for. Linux
// sends the times with it.
func (r *request) wstat(b []byte) error {
	d, err := plan9Dir(b)
	if err != nil {
		return wire.ErrMalformed
	}
	truncates := d.Length == 0
	d.Length = ^uint64(0)
	if truncates {
		d.Atime, d.Mtime = ^uint32(0), ^uint32(0)
	}
	if !d.IsNull() {
		return fs.ErrReadOnly
	}
	if truncates {
		if err := r.truncate(); err != nil {
			return err
		}
	}
	r.reply(plan9.Rwstat)
	return nil
}

// plan9Dir decodes a stat entry, which must fill b.
func plan9Dir(b []byte) (*plan9.Dir, error) {
	d := wire.Decoder{B: b}
	n := int(d.U16())
	if n != len(d.B) {
		return nil, wire.ErrMalformed
	}
	var p plan9.Dir
	p.Type, p.Dev, p.Qid, p.Mode = d.U16(), d.U32(), d.Qid(), plan9.Perm(d.U32())
	p.Atime, p.Mtime, p.Length = d.U32(), d.U32(), d.U64()
	p.Name, p.Uid, p.Gid, p.Muid = d.Str(), d.Str(), d.Str(), d.Str()
	if !d.OK() {
		return nil, wire.ErrMalformed
	}
	return &p, nil
}
