package ninep

import (
	"errors"
	iofs "io/fs"
	"syscall"

	"9ci/fs"
	"9ci/proto/internal/linux"
	"9ci/proto/internal/wire"
)

// Bits of a wire.Tgetattr's mask and a wire.Tsetattr's valid.
const (
	attrBasic = 0x7ff

	setattrSize     = 1 << 3
	setattrHarmless = 1<<4 | 1<<5 | 1<<6 // ATIME MTIME CTIME, that come with a truncation
)

func (r *request) getattr(uint64) error {
	st, err := r.elem.node.Stat(r)
	if err != nil {
		return err
	}
	if r.elem.parent == nil { // a root is a directory, even by an alias
		st.Mode = st.Mode&^iofs.ModeSymlink | iofs.ModeDir
	}
	size := uint64(max(0, st.Size))
	if st.Mode&iofs.ModeSymlink != 0 {
		size = uint64(len(st.Target))
	}
	sec, nsec := uint64(st.ModTime.Unix()), uint64(st.ModTime.Nanosecond())
	if st.ModTime.IsZero() {
		sec, nsec = 0, 0
	}
	r.reply(wire.Tgetattr + 1)
	b := le.AppendUint64(r.out, attrBasic)
	b = wire.AppendQid(b, qid(DotL, &st))
	b = le.AppendUint32(b, linux.Mode(st.Mode))
	b = le.AppendUint32(b, st.UID)
	b = le.AppendUint32(b, st.GID)
	b = le.AppendUint64(b, 1) // nlink; find(1) knows that 1 says nothing of subdirectories
	b = le.AppendUint64(b, 0) // rdev
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, 4096)           // blksize
	b = le.AppendUint64(b, (size+511)/512) // blocks
	for range 3 {                          // atime, mtime, ctime
		b = le.AppendUint64(b, sec)
		b = le.AppendUint64(b, nsec)
	}
	b = append(b, make([]byte, 24)...) // btime, gen
	r.out = le.AppendUint64(b, uint64(st.Version))
	return nil
}

// setattr refuses every change but a size of 0, which a shell's > asks for, and
// none at all.
func (r *request) setattr(d *wire.Decoder) error {
	valid := d.U32()
	d.Take(12) // mode uid gid
	size := d.U64()
	if valid == 0 {
		r.reply(wire.Tsetattr + 1)
		return nil
	}
	if valid&^(setattrSize|setattrHarmless|1<<7|1<<8) != 0 || valid&setattrSize == 0 || size != 0 {
		return fs.ErrReadOnly
	}
	if err := r.truncate(); err != nil {
		return err
	}
	r.reply(wire.Tsetattr + 1)
	return nil
}

func (r *request) readlink() error {
	st, err := r.elem.node.Stat(r)
	if err != nil {
		return err
	}
	if st.Mode&iofs.ModeSymlink == 0 {
		return iofs.ErrInvalid
	}
	if len(st.Target) > 4096 { // PATH_MAX
		return syscall.ENAMETOOLONG
	}
	r.reply(wire.Treadlink + 1)
	r.out = wire.AppendString(r.out, st.Target)
	return nil
}

// Cookies of "." and "..", which no tree lists but every client of this
// dialect expects. The cookies of trees are smaller.
const (
	cookieDot    = 1 << 62
	cookieDotDot = 1<<62 | 1
)

// direntSize is the size of an entry of an Rreaddir without its name. A request
// for fewer bytes gets none, and no error.
const direntSize = 24

var errShort = errors.New("not one entry fits")

func (r *request) readdir(offset uint64, count uint32) error {
	r.c.mu.Lock()
	open := r.fid.open && r.file == nil
	r.c.mu.Unlock()
	if !open {
		return wire.ErrNotOpen
	}
	most := int(min(count, r.msize-wire.IOHeader))
	r.reply(wire.Treaddir + 1)
	at := len(r.out) + 4
	r.out = le.AppendUint32(r.out, 0)
	add := func(st *fs.Stat) bool {
		if len(r.out)-at+direntSize+len(st.Name) > most {
			return false
		}
		r.out = wire.AppendQid(r.out, qid(DotL, st))
		r.out = le.AppendUint64(r.out, st.Cookie)
		r.out = append(r.out, uint8(linux.Mode(st.Mode)>>linux.TypeShift))
		r.out = wire.AppendString(r.out, st.Name)
		return true
	}
	full := false
	for _, dot := range []struct {
		at, cookie uint64
		name       string
		elem       *elem
	}{{0, cookieDot, ".", r.elem}, {cookieDot, cookieDotDot, "..", r.elem.parent}} {
		if offset == dot.at && !full {
			if dot.elem == nil {
				dot.elem = r.elem
			}
			st := fs.Stat{Name: dot.name, Mode: iofs.ModeDir, Path: dot.elem.st.Path, Version: dot.elem.st.Version, Cookie: dot.cookie}
			if full = !add(&st); !full {
				offset = dot.cookie
			}
		}
	}
	if offset == cookieDotDot {
		offset = 0
	}
	var err error
	if !full {
		err = r.list(offset, add)
	}
	n := len(r.out) - at
	if n == 0 && most > direntSize && (full || err == errShort) {
		return iofs.ErrInvalid // as getdents(2) has it
	}
	if n == 0 && err != nil && err != errShort {
		return err
	}
	le.PutUint32(r.out[at-4:], uint32(n))
	return nil
}

func (r *request) statfs() {
	r.reply(wire.Tstatfs + 1)
	// FUSE_SUPER_MAGIC: tail(1) believes that inotify(7) sees all changes
	// where it finds V9FS_MAGIC, and here polls.
	b := le.AppendUint32(r.out, 0x65735546)
	b = le.AppendUint32(b, 4096)       // bsize
	b = append(b, make([]byte, 48)...) // blocks bfree bavail files ffree fsid
	r.out = le.AppendUint32(b, 255)    // namelen
}

// getlock says that the lock is free.
func (r *request) getlock(d *wire.Decoder) {
	d.U8()
	r.reply(wire.Tgetlock + 1)
	r.out = append(r.out, 2) // F_UNLCK
	r.out = append(r.out, d.B...)
}
