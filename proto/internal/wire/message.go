package wire

import "9fans.net/go/plan9"

// A Dialect is what Tversion settled on.
type Dialect uint8

const (
	None  Dialect = iota // before Tversion
	Plan9                // 9P2000
	DotL                 // 9P2000.L, the Linux kernel's
)

// String is the version that Tversion and Rversion carry, or "unknown", which
// version(5) has for a version that the server does not know.
func (d Dialect) String() string {
	switch d {
	case Plan9:
		return "9P2000"
	case DotL:
		return "9P2000.L"
	}
	return "unknown"
}

// The message types of 9P2000.L, as linux/include/net/9p/9p.h numbers them.
const (
	Rlerror      = 7
	Tstatfs      = 8
	Tlopen       = 12
	Tlcreate     = 14
	Tsymlink     = 16
	Tmknod       = 18
	Trename      = 20
	Treadlink    = 22
	Tgetattr     = 24
	Tsetattr     = 26
	Txattrwalk   = 30
	Txattrcreate = 32
	Treaddir     = 40
	Tfsync       = 50
	Tlock        = 52
	Tgetlock     = 54
	Tlink        = 70
	Tmkdir       = 72
	Trenameat    = 74
	Tunlinkat    = 76
)

// A Kind is the encoding of a field.
type Kind uint8

const (
	Kind8     Kind = iota // one byte
	Kind16                // little endian
	Kind32                //
	Kind64                //
	KindStr               // two bytes of length
	KindNames             // two bytes of count, then strings
	KindQid               // type[1] vers[4] path[8]
	KindQids              // two bytes of count, then qids
	KindData              // four bytes of length
	KindStat              // two bytes of length
)

// A Field is one of a message's fields.
type Field struct {
	Name string // as the manuals and traces have it
	Kind Kind
}

// A Layout is a message type: its name and its fields in order, behind the
// header.
type Layout struct {
	Name     string // for example Twalk
	Fields   []Field
	Optional int // how many of the last fields some clients leave out
}

// Layouts has the messages of each dialect by type. Servers and clients check
// frames by it, traces print by it, and the trace tests write by it.
var Layouts = map[Dialect]*[256]*Layout{Plan9: layoutsOf(Plan9), DotL: layoutsOf(DotL)}

func layoutsOf(d Dialect) *[256]*Layout {
	t := new([256]*Layout)
	add := func(typ uint8, name string, fields ...Field) { t[typ] = &Layout{Name: name, Fields: fields} }
	fid := Field{"fid", Kind32}
	names := Field{"wname", KindNames}
	qid := Field{"qid", KindQid}
	user := []Field{{"uname", KindStr}, {"aname", KindStr}, {"n_uname", Kind32}}

	add(plan9.Tversion, "Tversion", Field{"msize", Kind32}, Field{"version", KindStr})
	add(plan9.Rversion, "Rversion", Field{"msize", Kind32}, Field{"version", KindStr})
	add(plan9.Tauth, "Tauth", append([]Field{{"afid", Kind32}}, user...)...)
	add(plan9.Rauth, "Rauth", Field{"aqid", KindQid})
	add(plan9.Tattach, "Tattach", append([]Field{fid, {"afid", Kind32}}, user...)...)
	add(plan9.Rattach, "Rattach", qid)
	add(plan9.Tflush, "Tflush", Field{"oldtag", Kind16})
	add(plan9.Rflush, "Rflush")
	add(plan9.Twalk, "Twalk", fid, Field{"newfid", Kind32}, names)
	add(plan9.Rwalk, "Rwalk", Field{"wqid", KindQids})
	add(plan9.Tread, "Tread", fid, Field{"offset", Kind64}, Field{"count", Kind32})
	add(plan9.Rread, "Rread", Field{"data", KindData})
	add(plan9.Twrite, "Twrite", fid, Field{"offset", Kind64}, Field{"data", KindData})
	add(plan9.Rwrite, "Rwrite", Field{"count", Kind32})
	add(plan9.Tclunk, "Tclunk", fid)
	add(plan9.Rclunk, "Rclunk")
	add(plan9.Tremove, "Tremove", fid)
	add(plan9.Rremove, "Rremove")
	if d == Plan9 {
		// A client of 9P2000.u may go on to send it.
		t[plan9.Tauth].Optional, t[plan9.Tattach].Optional = 1, 1
		add(plan9.Rerror, "Rerror", Field{"ename", KindStr})
		add(plan9.Topen, "Topen", fid, Field{"mode", Kind8})
		add(plan9.Ropen, "Ropen", qid, Field{"iounit", Kind32})
		add(plan9.Tcreate, "Tcreate", fid, Field{"name", KindStr}, Field{"perm", Kind32}, Field{"mode", Kind8})
		add(plan9.Rcreate, "Rcreate", qid, Field{"iounit", Kind32})
		add(plan9.Tstat, "Tstat", fid)
		add(plan9.Rstat, "Rstat", Field{"stat", KindStat})
		add(plan9.Twstat, "Twstat", fid, Field{"stat", KindStat})
		add(plan9.Rwstat, "Rwstat")
		return t
	}

	dfid := Field{"dfid", Kind32}
	name := Field{"name", KindStr}
	mode := Field{"mode", Kind32}
	gid := Field{"gid", Kind32}
	lock := []Field{fid, {"type", Kind8}, {"flags", Kind32}, {"start", Kind64}, {"length", Kind64}, {"proc", Kind32}, {"client", KindStr}}
	add(Rlerror, "Rlerror", Field{"ecode", Kind32})
	add(Tstatfs, "Tstatfs", fid)
	add(Tstatfs+1, "Rstatfs", Field{"type", Kind32}, Field{"bsize", Kind32}, Field{"blocks", Kind64}, Field{"bfree", Kind64},
		Field{"bavail", Kind64}, Field{"files", Kind64}, Field{"ffree", Kind64}, Field{"fsid", Kind64}, Field{"namelen", Kind32})
	add(Tlopen, "Tlopen", fid, Field{"flags", Kind32})
	add(Tlopen+1, "Rlopen", qid, Field{"iounit", Kind32})
	add(Tlcreate, "Tlcreate", fid, name, Field{"flags", Kind32}, mode, gid)
	add(Tlcreate+1, "Rlcreate", qid, Field{"iounit", Kind32})
	add(Tsymlink, "Tsymlink", dfid, name, Field{"target", KindStr}, gid)
	add(Tsymlink+1, "Rsymlink", qid)
	add(Tmknod, "Tmknod", dfid, name, mode, Field{"major", Kind32}, Field{"minor", Kind32}, gid)
	add(Tmknod+1, "Rmknod", qid)
	add(Trename, "Trename", fid, dfid, name)
	add(Trename+1, "Rrename")
	add(Treadlink, "Treadlink", fid)
	add(Treadlink+1, "Rreadlink", Field{"target", KindStr})
	add(Tgetattr, "Tgetattr", fid, Field{"mask", Kind64})
	add(Tgetattr+1, "Rgetattr", Field{"valid", Kind64}, qid, mode, Field{"uid", Kind32}, gid, Field{"nlink", Kind64},
		Field{"rdev", Kind64}, Field{"size", Kind64}, Field{"blksize", Kind64}, Field{"blocks", Kind64},
		Field{"atime", Kind64}, Field{"atimens", Kind64}, Field{"mtime", Kind64}, Field{"mtimens", Kind64},
		Field{"ctime", Kind64}, Field{"ctimens", Kind64}, Field{"btime", Kind64}, Field{"btimens", Kind64},
		Field{"gen", Kind64}, Field{"dataversion", Kind64})
	add(Tsetattr, "Tsetattr", fid, Field{"valid", Kind32}, mode, Field{"uid", Kind32}, gid, Field{"size", Kind64},
		Field{"atime", Kind64}, Field{"atimens", Kind64}, Field{"mtime", Kind64}, Field{"mtimens", Kind64})
	add(Tsetattr+1, "Rsetattr")
	add(Txattrwalk, "Txattrwalk", fid, Field{"newfid", Kind32}, name)
	add(Txattrwalk+1, "Rxattrwalk", Field{"size", Kind64})
	add(Txattrcreate, "Txattrcreate", fid, name, Field{"size", Kind64}, Field{"flags", Kind32})
	add(Txattrcreate+1, "Rxattrcreate")
	add(Treaddir, "Treaddir", fid, Field{"offset", Kind64}, Field{"count", Kind32})
	add(Treaddir+1, "Rreaddir", Field{"data", KindData})
	add(Tfsync, "Tfsync", fid, Field{"datasync", Kind32})
	t[Tfsync].Optional = 1 // which diod's protocol.md does not have
	add(Tfsync+1, "Rfsync")
	add(Tlock, "Tlock", lock...)
	add(Tlock+1, "Rlock", Field{"status", Kind8})
	add(Tgetlock, "Tgetlock", append([]Field{fid}, append([]Field{lock[1]}, lock[3:]...)...)...)
	add(Tgetlock+1, "Rgetlock", append([]Field{lock[1]}, lock[3:]...)...)
	add(Tlink, "Tlink", dfid, fid, name)
	add(Tlink+1, "Rlink")
	add(Tmkdir, "Tmkdir", dfid, name, mode, gid)
	add(Tmkdir+1, "Rmkdir", qid)
	add(Trenameat, "Trenameat", dfid, name, Field{"newdirfid", Kind32}, Field{"newname", KindStr})
	add(Trenameat+1, "Rrenameat")
	add(Tunlinkat, "Tunlinkat", dfid, name, Field{"flags", Kind32})
	add(Tunlinkat+1, "Runlinkat")
	return t
}

// Fits reports whether frame, which is at least a header, has exactly the
// fields of l, of which the Optional ones may be missing. Only then may those that
// are not Optional be decoded without looking at Bad.
func (l *Layout) Fits(frame []byte) bool {
	d := Decoder{B: frame[HeaderSize:]}
	for i, f := range l.Fields {
		if i >= len(l.Fields)-l.Optional && len(d.B) == 0 {
			break
		}
		d.skip(f.Kind)
	}
	return d.OK()
}

func (d *Decoder) skip(k Kind) {
	switch k {
	case Kind8:
		d.Take(1)
	case Kind16:
		d.Take(2)
	case Kind32:
		d.Take(4)
	case Kind64:
		d.Take(8)
	case KindQid:
		d.Take(13)
	case KindStr, KindStat:
		d.Take(int(d.U16()))
	case KindData:
		d.Bytes()
	case KindNames:
		for n := d.U16(); n > 0 && !d.Bad; n-- {
			d.Take(int(d.U16()))
		}
	case KindQids:
		d.Take(13 * int(d.U16()))
	}
}
