package mux

import (
	"encoding/binary"
	"errors"
	iofs "io/fs"

	"9ci/fs"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

var (
	le         = binary.LittleEndian
	errInvalid = iofs.ErrInvalid
	errEntries = errors.New("malformed directory entries")
)

// Offsets of fields in a frame that are rewritten in place.
const (
	atFid    = wire.HeaderSize
	atNewfid = wire.HeaderSize + 4
	atCount  = wire.HeaderSize + 12 // of Tread and Treaddir
	atData   = wire.HeaderSize + 4  // of Rread and Rreaddir
	atIounit = wire.HeaderSize + 13 // of Ropen and Rlopen
	qidSize  = 13
)

// salted rewrites the path of the qid at b. Its low 56 bits stay distinct for
// the files of one backend; what is above is not a qid.path's.
func salted(b []byte, salt uint64) {
	p := b[5:qidSize]
	le.PutUint64(p, (le.Uint64(p)^salt)&(1<<56-1))
}

// saltQids rewrites every qid of an R-message, which has its layout. dir says
// that an Rread is a directory's.
func saltQids(frame []byte, dir bool, salt uint64) error {
	if salt == 0 {
		return nil
	}
	body := frame[wire.HeaderSize:]
	switch frame[4] {
	case plan9.Rattach, plan9.Ropen, plan9.Rcreate, wire.Tlopen + 1, wire.Tlcreate + 1,
		wire.Tmkdir + 1, wire.Tsymlink + 1, wire.Tmknod + 1:
		salted(body, salt)
	case plan9.Rwalk:
		for b := body[2:]; len(b) >= qidSize; b = b[qidSize:] {
			salted(b, salt)
		}
	case wire.Tgetattr + 1:
		salted(body[8:], salt)
	case plan9.Rstat:
		return saltDir(body[2:], salt)
	case plan9.Rread:
		if dir {
			return saltDir(body[4:], salt)
		}
	case wire.Treaddir + 1:
		for b := body[4:]; len(b) > 0; {
			// qid[13] offset[8] type[1] name[s]
			if len(b) < 24 || len(b) < 24+int(le.Uint16(b[22:])) {
				return errEntries
			}
			salted(b, salt)
			name := b[24 : 24+int(le.Uint16(b[22:]))]
			if fs.CheckPlain(string(name)) != nil && string(name) != "." && string(name) != ".." {
				return errEntries
			}
			b = b[24+len(name):]
		}
	}
	return nil
}

// saltDir rewrites the qids of stat(5) entries, and refuses names that no file
// can have.
func saltDir(b []byte, salt uint64) error {
	for len(b) > 0 {
		if len(b) < 2 {
			return errEntries
		}
		n := 2 + int(le.Uint16(b))
		if n < atDirName+2 || n > len(b) || n < atDirName+2+int(le.Uint16(b[atDirName:])) {
			return errEntries
		}
		salted(b[8:], salt)
		if name := b[atDirName+2 : atDirName+2+int(le.Uint16(b[atDirName:]))]; fs.CheckPlain(string(name)) != nil && string(name) != "/" {
			return errEntries
		}
		b = b[n:]
	}
	return nil
}

// atDirName is where the name is in a stat(5) entry, behind size[2] type[2]
// dev[4] qid[13] mode[4] atime[4] mtime[4] length[8].
const atDirName = 41
