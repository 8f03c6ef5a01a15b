package wire

import (
	"encoding/binary"
	"errors"
	"io"

	"9fans.net/go/plan9"
)

// Sizes of frames. A frame is size[4] type[1] tag[2] and the fields of its
// type, all little endian.
const (
	HeaderSize = 7
	IOHeader   = plan9.IOHDRSZ // the most that surrounds the data of a read or write
	MinMsize   = 4096          // v9fs cannot list a directory with less
	MaxMsize   = 1 << 20
	MaxVersion = 256 // a frame before Rversion: nobody knows the peer yet
)

var le = binary.LittleEndian

// ErrFrame ends a connection: after it nobody knows where the next frame
// starts.
var ErrFrame = errors.New("9p: frame of impossible size")

// A Decoder takes fields from the front of a frame. After the first field
// that is not there all others are zero and ok reports false.
type Decoder struct {
	B   []byte
	Bad bool
}

func (d *Decoder) Take(n int) []byte {
	if d.Bad || n < 0 || n > len(d.B) {
		d.Bad = true
		return nil
	}
	b := d.B[:n]
	d.B = d.B[n:]
	return b
}

func (d *Decoder) U8() uint8 {
	if b := d.Take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *Decoder) U16() uint16 {
	if b := d.Take(2); b != nil {
		return le.Uint16(b)
	}
	return 0
}

func (d *Decoder) U32() uint32 {
	if b := d.Take(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

func (d *Decoder) U64() uint64 {
	if b := d.Take(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

// Bytes returns what follows a four-byte count. It aliases the frame.
func (d *Decoder) Bytes() []byte {
	n := d.U32()
	if uint64(n) > uint64(len(d.B)) {
		d.Bad = true
		return nil
	}
	return d.Take(int(n))
}

func (d *Decoder) Str() string { return string(d.Take(int(d.U16()))) }

func (d *Decoder) Qid() plan9.Qid {
	return plan9.Qid{Type: d.U8(), Vers: d.U32(), Path: d.U64()}
}

// ok reports whether the frame held all fields asked for and nothing else.
func (d *Decoder) OK() bool { return !d.Bad && len(d.B) == 0 }

func AppendString(b []byte, s string) []byte {
	b = le.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func AppendQid(b []byte, q plan9.Qid) []byte {
	b = append(b, q.Type)
	b = le.AppendUint32(b, q.Vers)
	return le.AppendUint64(b, q.Path)
}

// Begin starts a frame at the end of b; end gives it its size.
func Begin(b []byte, typ uint8, tag uint16) []byte {
	b = append(b, 0, 0, 0, 0, typ)
	return le.AppendUint16(b, tag)
}

func End(b []byte, start int) []byte {
	le.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// A Reader cuts a stream into frames. It keeps its small buffer while it
// waits, so an idle connection stays small, and lends a larger one to a
// frame that needs it.
type Reader struct {
	r      io.Reader
	buf    []byte
	lo, hi int // unread bytes of buf
}

const ReadBuffer = 4096

func NewReader(r io.Reader) *Reader { return NewReaderSize(r, ReadBuffer) }

// NewReaderSize returns a Reader that takes up to size bytes at a time, for
// whoever has few connections and much to read.
func NewReaderSize(r io.Reader, size int) *Reader {
	size -= headroom
	return &Reader{r: r, buf: NewBuffer(size)[:size]}
}

// Buffered reports whether next will not have to wait.
func (fr *Reader) Buffered() bool {
	n := fr.hi - fr.lo
	return n >= 4 && uint32(n) >= le.Uint32(fr.buf[fr.lo:])
}

// Next returns the next frame of at most max bytes. It is valid until the
// following call; one that is longer than the Reader's buffer is the caller's to
// keep, or to give to PutBuffer.
func (fr *Reader) Next(max uint32) ([]byte, error) {
	if err := fr.fill(4); err != nil {
		return nil, err
	}
	size := le.Uint32(fr.buf[fr.lo:])
	if size < HeaderSize || size > max {
		return nil, ErrFrame
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
	b := Grow(GetBuffer(), n)
	got := copy(b, fr.buf[fr.lo:fr.hi])
	fr.lo, fr.hi = 0, 0
	if _, err := io.ReadFull(fr.r, b[got:]); err != nil {
		return nil, noEOF(err)
	}
	return b, nil
}

// fill reads until n bytes are buffered. It reports io.EOF only between
// frames.
func (fr *Reader) fill(n int) error {
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

// Handoff returns a reader that continues where fr stands, and leaves fr's
// buffer to whoever still looks at its last frame.
func (fr *Reader) Handoff() *Reader {
	nr := NewReader(fr.r)
	nr.hi = copy(nr.buf, fr.buf[fr.lo:fr.hi])
	return nr
}

// Peek returns the first n bytes of the next frame without taking them.
func (fr *Reader) Peek(n int) ([]byte, error) {
	if err := fr.fill(4); err != nil {
		return nil, err
	}
	if err := fr.fill(n); err != nil {
		return nil, err
	}
	return fr.buf[fr.lo : fr.lo+n], nil
}

// Data takes an Rread and puts its bytes straight where they belong.
func (fr *Reader) Data(size, msize uint32, dst []byte) (int, error) {
	if size < HeaderSize+4 {
		return 0, ErrFrame
	}
	head, err := fr.Peek(HeaderSize + 4)
	if err != nil {
		return 0, err
	}
	n := le.Uint32(head[HeaderSize:])
	if size > msize || uint64(size) != uint64(n)+HeaderSize+4 || uint64(n) > uint64(len(dst)) {
		return 0, errors.New("9p: read answered with more than was asked for")
	}
	fr.lo += HeaderSize + 4
	got := copy(dst[:n], fr.buf[fr.lo:fr.hi])
	fr.lo += got
	if _, err := io.ReadFull(fr.r, dst[got:n]); err != nil {
		return 0, noEOF(err)
	}
	return int(n), nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
