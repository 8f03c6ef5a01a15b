package ninep

import "9fans.net/go/plan9"

// A Dialect is what Tversion settled on.
type Dialect uint8

const (
	None  Dialect = iota // before Tversion
	Plan9                // 9P2000
	DotL                 // 9P2000.L, the Linux kernel's
)

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

// A kind is the encoding of a field.
type kind uint8

const (
	kind8     kind = iota
	kind16         // little endian
	kind32         //
	kind64         //
	kindStr        // two bytes of length
	kindNames      // two bytes of count, then strings
	kindQid        // type[1] vers[4] path[8]
	kindQids       // two bytes of count, then qids
	kindData       // four bytes of length
	kindStat       // two bytes of length
)

type field struct {
	name string
	kind kind
}

// A layout is a message type: its name and its fields in order.
type layout struct {
	name   string
	fields []field
}

// layouts are the messages of a dialect by type. The traces print by it, the
// trace tests write by it, and the fuzz tests hold the core to it.
var layouts = map[Dialect]*[256]*layout{Plan9: layoutsOf(Plan9), DotL: layoutsOf(DotL)}

func layoutsOf(d Dialect) *[256]*layout {
	t := new([256]*layout)
	add := func(typ uint8, name string, fields ...field) { t[typ] = &layout{name, fields} }
	fid := field{"fid", kind32}
	names := field{"wname", kindNames}
	qid := field{"qid", kindQid}
	user := []field{{"uname", kindStr}, {"aname", kindStr}}
	if d == DotL {
		user = append(user, field{"n_uname", kind32})
	}

	add(plan9.Tversion, "Tversion", field{"msize", kind32}, field{"version", kindStr})
	add(plan9.Rversion, "Rversion", field{"msize", kind32}, field{"version", kindStr})
	add(plan9.Tauth, "Tauth", append([]field{{"afid", kind32}}, user...)...)
	add(plan9.Rauth, "Rauth", field{"aqid", kindQid})
	add(plan9.Tattach, "Tattach", append([]field{fid, {"afid", kind32}}, user...)...)
	add(plan9.Rattach, "Rattach", qid)
	add(plan9.Tflush, "Tflush", field{"oldtag", kind16})
	add(plan9.Rflush, "Rflush")
	add(plan9.Twalk, "Twalk", fid, field{"newfid", kind32}, names)
	add(plan9.Rwalk, "Rwalk", field{"wqid", kindQids})
	add(plan9.Tread, "Tread", fid, field{"offset", kind64}, field{"count", kind32})
	add(plan9.Rread, "Rread", field{"data", kindData})
	add(plan9.Twrite, "Twrite", fid, field{"offset", kind64}, field{"data", kindData})
	add(plan9.Rwrite, "Rwrite", field{"count", kind32})
	add(plan9.Tclunk, "Tclunk", fid)
	add(plan9.Rclunk, "Rclunk")
	add(plan9.Tremove, "Tremove", fid)
	add(plan9.Rremove, "Rremove")
	if d == Plan9 {
		add(plan9.Rerror, "Rerror", field{"ename", kindStr})
		add(plan9.Topen, "Topen", fid, field{"mode", kind8})
		add(plan9.Ropen, "Ropen", qid, field{"iounit", kind32})
		add(plan9.Tcreate, "Tcreate", fid, field{"name", kindStr}, field{"perm", kind32}, field{"mode", kind8})
		add(plan9.Rcreate, "Rcreate", qid, field{"iounit", kind32})
		add(plan9.Tstat, "Tstat", fid)
		add(plan9.Rstat, "Rstat", field{"stat", kindStat})
		add(plan9.Twstat, "Twstat", fid, field{"stat", kindStat})
		add(plan9.Rwstat, "Rwstat")
		return t
	}

	dfid := field{"dfid", kind32}
	name := field{"name", kindStr}
	mode := field{"mode", kind32}
	gid := field{"gid", kind32}
	lock := []field{fid, {"type", kind8}, {"flags", kind32}, {"start", kind64}, {"length", kind64}, {"proc", kind32}, {"client", kindStr}}
	add(Rlerror, "Rlerror", field{"ecode", kind32})
	add(Tstatfs, "Tstatfs", fid)
	add(Tstatfs+1, "Rstatfs", field{"type", kind32}, field{"bsize", kind32}, field{"blocks", kind64}, field{"bfree", kind64},
		field{"bavail", kind64}, field{"files", kind64}, field{"ffree", kind64}, field{"fsid", kind64}, field{"namelen", kind32})
	add(Tlopen, "Tlopen", fid, field{"flags", kind32})
	add(Tlopen+1, "Rlopen", qid, field{"iounit", kind32})
	add(Tlcreate, "Tlcreate", fid, name, field{"flags", kind32}, mode, gid)
	add(Tlcreate+1, "Rlcreate", qid, field{"iounit", kind32})
	add(Tsymlink, "Tsymlink", dfid, name, field{"target", kindStr}, gid)
	add(Tsymlink+1, "Rsymlink", qid)
	add(Tmknod, "Tmknod", dfid, name, mode, field{"major", kind32}, field{"minor", kind32}, gid)
	add(Tmknod+1, "Rmknod", qid)
	add(Trename, "Trename", fid, dfid, name)
	add(Trename+1, "Rrename")
	add(Treadlink, "Treadlink", fid)
	add(Treadlink+1, "Rreadlink", field{"target", kindStr})
	add(Tgetattr, "Tgetattr", fid, field{"mask", kind64})
	add(Tgetattr+1, "Rgetattr", field{"valid", kind64}, qid, mode, field{"uid", kind32}, gid, field{"nlink", kind64},
		field{"rdev", kind64}, field{"size", kind64}, field{"blksize", kind64}, field{"blocks", kind64},
		field{"atime", kind64}, field{"atimens", kind64}, field{"mtime", kind64}, field{"mtimens", kind64},
		field{"ctime", kind64}, field{"ctimens", kind64}, field{"btime", kind64}, field{"btimens", kind64},
		field{"gen", kind64}, field{"dataversion", kind64})
	add(Tsetattr, "Tsetattr", fid, field{"valid", kind32}, mode, field{"uid", kind32}, gid, field{"size", kind64},
		field{"atime", kind64}, field{"atimens", kind64}, field{"mtime", kind64}, field{"mtimens", kind64})
	add(Tsetattr+1, "Rsetattr")
	add(Txattrwalk, "Txattrwalk", fid, field{"newfid", kind32}, name)
	add(Txattrwalk+1, "Rxattrwalk", field{"size", kind64})
	add(Txattrcreate, "Txattrcreate", fid, name, field{"size", kind64}, field{"flags", kind32})
	add(Txattrcreate+1, "Rxattrcreate")
	add(Treaddir, "Treaddir", fid, field{"offset", kind64}, field{"count", kind32})
	add(Treaddir+1, "Rreaddir", field{"data", kindData})
	add(Tfsync, "Tfsync", fid, field{"datasync", kind32})
	add(Tfsync+1, "Rfsync")
	add(Tlock, "Tlock", lock...)
	add(Tlock+1, "Rlock", field{"status", kind8})
	add(Tgetlock, "Tgetlock", append([]field{fid}, append([]field{lock[1]}, lock[3:]...)...)...)
	add(Tgetlock+1, "Rgetlock", append([]field{lock[1]}, lock[3:]...)...)
	add(Tlink, "Tlink", dfid, fid, name)
	add(Tlink+1, "Rlink")
	add(Tmkdir, "Tmkdir", dfid, name, mode, gid)
	add(Tmkdir+1, "Rmkdir", qid)
	add(Trenameat, "Trenameat", dfid, name, field{"newdirfid", kind32}, field{"newname", kindStr})
	add(Trenameat+1, "Rrenameat")
	add(Tunlinkat, "Tunlinkat", dfid, name, field{"flags", kind32})
	add(Tunlinkat+1, "Runlinkat")
	return t
}

// fits reports whether frame has exactly the fields of l.
func (l *layout) fits(frame []byte) bool {
	d := decoder{b: frame[headerSize:]}
	for _, f := range l.fields {
		d.skip(f.kind)
	}
	return d.ok()
}

func (d *decoder) skip(k kind) {
	switch k {
	case kind8:
		d.take(1)
	case kind16:
		d.take(2)
	case kind32:
		d.take(4)
	case kind64:
		d.take(8)
	case kindQid:
		d.take(13)
	case kindStr, kindStat:
		d.take(int(d.u16()))
	case kindData:
		d.bytes()
	case kindNames:
		for n := d.u16(); n > 0 && !d.bad; n-- {
			d.take(int(d.u16()))
		}
	case kindQids:
		d.take(13 * int(d.u16()))
	}
}
