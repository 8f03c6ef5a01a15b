package ninep

import (
	"encoding/binary"
	"errors"
	"io"

	"9fans.net/go/plan9"
)

// Sizes of frames. A frame is size[4] type[1] tag[2] and the fields of its
// type, all little endian.
const (
	headerSize = 7
	ioHeader   = plan9.IOHDRSZ // the most that surrounds the data of a read or write
	minMsize   = 4096          // v9fs cannot list a directory with less
	maxMsize   = 1 << 20
	maxVersion = 256 // a frame before Rversion: nobody knows the peer yet
)

var le = binary.LittleEndian

// errFrame ends a connection: after it nobody knows where the next frame
// starts.
var errFrame = errors.New("9p: frame of impossible size")

// A decoder takes fields from the front of a frame. After the first field
// that is not there all others are zero and ok reports false.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return le.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

// bytes returns what follows a four-byte count. It aliases the frame.
func (d *decoder) bytes() []byte {
	n := d.u32()
	if uint64(n) > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) str() string { return string(d.take(int(d.u16()))) }

func (d *decoder) qid() plan9.Qid {
	return plan9.Qid{Type: d.u8(), Vers: d.u32(), Path: d.u64()}
}

// ok reports whether the frame held all fields asked for and nothing else.
func (d *decoder) ok() bool { return !d.bad && len(d.b) == 0 }

func appendString(b []byte, s string) []byte {
	b = le.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendQid(b []byte, q plan9.Qid) []byte {
	b = append(b, q.Type)
	b = le.AppendUint32(b, q.Vers)
	return le.AppendUint64(b, q.Path)
}

// begin starts a frame at the end of b; end gives it its size.
func begin(b []byte, typ uint8, tag uint16) []byte {
	b = append(b, 0, 0, 0, 0, typ)
	return le.AppendUint16(b, tag)
}

func end(b []byte, start int) []byte {
	le.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// A frameReader cuts a stream into frames. It keeps its small buffer while it
// waits, so an idle connection stays small, and lends a larger one to a
// frame that needs it.
type frameReader struct {
	r      io.Reader
	buf    []byte
	lo, hi int // unread bytes of buf
}

const readBuffer = 4096

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: r, buf: make([]byte, readBuffer)}
}

// buffered reports whether next will not have to wait.
func (fr *frameReader) buffered() bool {
	n := fr.hi - fr.lo
	return n >= 4 && uint32(n) >= le.Uint32(fr.buf[fr.lo:])
}

// next returns the next frame of at most max bytes. It is valid until the
// following call.
func (fr *frameReader) next(max uint32) ([]byte, error) {
	if err := fr.fill(4); err != nil {
		return nil, err
	}
	size := le.Uint32(fr.buf[fr.lo:])
	if size < headerSize || size > max {
		return nil, errFrame
	}
	n := int(size)
	if n <= len(fr.buf) {
		if err := fr.fill(n); err != nil {
			return nil, err
		}
		b := fr.buf[fr.lo : fr.lo+n : fr.lo+n]
		fr.lo += n
		return b, nil
	}
	b := make([]byte, n)
	got := copy(b, fr.buf[fr.lo:fr.hi])
	fr.lo, fr.hi = 0, 0
	if _, err := io.ReadFull(fr.r, b[got:]); err != nil {
		return nil, noEOF(err)
	}
	return b, nil
}

// fill reads until n bytes are buffered. It reports io.EOF only between
// frames.
func (fr *frameReader) fill(n int) error {
	if fr.lo == fr.hi {
		fr.lo, fr.hi = 0, 0
	}
	if len(fr.buf)-fr.lo < n {
		fr.hi = copy(fr.buf, fr.buf[fr.lo:fr.hi])
		fr.lo = 0
	}
	for fr.hi-fr.lo < n {
		m, err := fr.r.Read(fr.buf[fr.hi:])
		fr.hi += m
		if fr.hi-fr.lo >= n {
			break
		}
		if err != nil {
			if fr.hi > fr.lo || n > 4 {
				return noEOF(err)
			}
			return err
		}
	}
	return nil
}

// handoff returns a reader that continues where fr stands, and leaves fr's
// buffer to whoever still looks at its last frame.
func (fr *frameReader) handoff() *frameReader {
	nr := newFrameReader(fr.r)
	nr.hi = copy(nr.buf, fr.buf[fr.lo:fr.hi])
	return nr
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
