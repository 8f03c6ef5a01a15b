package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"9fans.net/go/plan9"
)

// Sizes of frames. A frame is size[4] type[1] tag[2] and the fields of its
// type, all little endian.
const (
	HeaderSize = 7
	IOHeader   = plan9.IOHDRSZ // the most that surrounds the data of a read or write
	MinMsize   = 4096          // v9fs cannot list a directory with less
	MaxMsize   = 1 << 20       // the largest message that we make or take
	MaxVersion = 256           // a frame before Rversion: the peer is not known yet
)

var le = binary.LittleEndian

// ErrFrame says that a frame is shorter than a header or longer than msize. It
// ends the connection, since the start of the next frame is not known.
var ErrFrame = errors.New("9p: frame of impossible size")

// A Decoder takes fields from the front of a frame. After the first field
// that is not there, all others are zero and OK reports false.
type Decoder struct {
	B   []byte // what is left
	Bad bool   // a field was not there
}

// Take returns the next n bytes. They are the frame's, not a copy.
func (d *Decoder) Take(n int) []byte {
	if d.Bad || n < 0 || n > len(d.B) {
		d.Bad = true
		return nil
	}
	b := d.B[:n]
	d.B = d.B[n:]
	return b
}

// U8 takes one byte.
func (d *Decoder) U8() uint8 {
	if b := d.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 takes an integer of two bytes.
func (d *Decoder) U16() uint16 {
	if b := d.Take(2); b != nil {
		return le.Uint16(b)
	}
	return 0
}

// U32 takes an integer of four bytes.
func (d *Decoder) U32() uint32 {
	if b := d.Take(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

// U64 takes an integer of eight bytes.
func (d *Decoder) U64() uint64 {
	if b := d.Take(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

// Bytes takes bytes with a count of four bytes before them. They are the frame's,
// not a copy.
func (d *Decoder) Bytes() []byte {
	n := d.U32()
	if uint64(n) > uint64(len(d.B)) {
		d.Bad = true
		return nil
	}
	return d.Take(int(n))
}

// Str takes a string with a length of two bytes before it. Its bytes are not
// checked: it may be no UTF-8, hold a NUL, or be empty.
func (d *Decoder) Str() string { return string(d.Take(int(d.U16()))) }

// Qid takes a qid.
func (d *Decoder) Qid() plan9.Qid {
	return plan9.Qid{Type: d.U8(), Vers: d.U32(), Path: d.U64()}
}

// OK reports whether the frame held all fields asked for and nothing else.
func (d *Decoder) OK() bool { return !d.Bad && len(d.B) == 0 }

// AppendString appends s as a field of a message. s has less than 64 KiB.
func AppendString(b []byte, s string) []byte {
	b = le.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// AppendQid appends q as a field of a message.
func AppendQid(b []byte, q plan9.Qid) []byte {
	b = append(b, q.Type)
	b = le.AppendUint32(b, q.Vers)
	return le.AppendUint64(b, q.Path)
}

// Begin appends a header to b. Once the fields are appended too, End completes
// the frame.
func Begin(b []byte, typ uint8, tag uint16) []byte {
	b = append(b, 0, 0, 0, 0, typ)
	return le.AppendUint16(b, tag)
}

// End sets the size of the frame that begins at start and ends with b.
func End(b []byte, start int) []byte {
	le.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// A Reader cuts a stream into frames. It keeps its buffer while it waits, and lends
// a larger one to a frame that needs it.
//
// A buffer that may grow does so for a frame that is longer than it, and when one read
// fills it. It shrinks again after shortReads reads of little.
type Reader struct {
	// Stalled, if set, is called when no byte has come for StallTime in the middle
	// of a frame. It should close what the Reader reads from.
	Stalled func()

	r      io.Reader
	buf    []byte
	lo, hi int // unread bytes of buf
	at     int // where the last frame is in buf; -1: it is not there

	least, most int // sizes of buf
	last        int // size of the last frame
	short       int // reads of little, one after the other
}

// wholeFrames is the size from which on whole frames are read.
const wholeFrames = 16 << 10

// ReadBuffer is the size in bytes of the buffer of NewReader.
const ReadBuffer = 4096

// StallTime is how long a peer may be silent in the middle of a frame, or take none of
// what holds others up. Between frames it may be silent for ever.
const StallTime = time.Minute

// A rest reads what is missing of a frame.
type rest struct{ fr *Reader }

func (r rest) Read(p []byte) (int, error) {
	if r.fr.Stalled != nil {
		defer time.AfterFunc(StallTime, r.fr.Stalled).Stop()
	}
	return r.fr.r.Read(p)
}

// NewReader returns a Reader for one of many connections: its buffer is small.
func NewReader(r io.Reader) *Reader { return NewReaderSize(r, ReadBuffer) }

// NewReaderSize returns a Reader that reads up to size bytes at a time, for one of
// few connections with much to read.
func NewReaderSize(r io.Reader, size int) *Reader { return NewReaderUpTo(r, size, size) }

// NewReaderUpTo returns a Reader that reads up to least bytes at a time, and up to most
// as long as much comes.
func NewReaderUpTo(r io.Reader, least, most int) *Reader {
	fr := &Reader{r: r, least: least - headroom, most: most - headroom}
	fr.buf = NewBuffer(fr.least)[:fr.least]
	return fr
}

// shortReads is after how many reads of little a buffer shrinks again. Little is up to
// half of the least size.
const shortReads = 16

// resize gives fr a buffer of n bytes, with what is unread at its start.
func (fr *Reader) resize(n int) {
	var b []byte
	if n > len(fr.buf) {
		b = GetBufferFor(n)[:n] // while much comes: it is taken often
	} else {
		b = NewBuffer(n)[:n]
	}
	fr.hi = copy(b, fr.buf[fr.lo:fr.hi])
	fr.lo, fr.buf, fr.short = 0, b, 0
}

// fit grows or shrinks the buffer, of which all has been read: n bytes came since it
// was empty.
func (fr *Reader) fit(n int) {
	fr.lo, fr.hi = 0, 0
	switch {
	case n == len(fr.buf) && n < fr.most:
		fr.resize(fr.most)
	case n > fr.least/2 || len(fr.buf) == fr.least:
		fr.short = 0
	default:
		if fr.short++; fr.short == shortReads {
			fr.resize(fr.least)
		}
	}
}

// Buffered reports whether Next has a whole frame and will not block.
func (fr *Reader) Buffered() bool {
	n := fr.hi - fr.lo
	return n >= 4 && uint32(n) >= le.Uint32(fr.buf[fr.lo:])
}

// Place returns where in the buffer the frame is that Next returned last. ok is false
// if it is not there: then it is the caller's. The bytes of the buffer stay as they are
// as long as Buffered reports true.
func (fr *Reader) Place() (start, end int, ok bool) { return fr.at, fr.lo, fr.at >= 0 }

// Bytes returns the bytes between two places in the buffer.
func (fr *Reader) Bytes(start, end int) []byte { return fr.buf[start:end:end] }

// Take gives the caller the buffer, with the frames that Next has returned. The Reader
// goes on with another.
func (fr *Reader) Take() []byte {
	old := fr.buf
	fr.buf = GetBufferFor(len(old))[:len(old)]
	fr.hi = copy(fr.buf, old[fr.lo:fr.hi])
	fr.lo, fr.at = 0, -1
	return old[:0]
}

// Next returns the next frame, of at least a header and at most max bytes. It
// blocks until the frame is there. The frame is valid until the following call; one that is
// longer than the Reader's buffer is the caller's to keep, or to give to
// PutBuffer. The error is ErrFrame for a size out of bounds, io.EOF for an end
// between frames, and io.ErrUnexpectedEOF for one within a frame.
func (fr *Reader) Next(max uint32) ([]byte, error) {
	if err := fr.fill(4); err != nil {
		return nil, err
	}
	size := le.Uint32(fr.buf[fr.lo:])
	if size < HeaderSize || size > max {
		return nil, ErrFrame
	}
	n := int(size)
	if n > len(fr.buf) && n <= fr.most {
		fr.resize(fr.most)
	}
	if n <= len(fr.buf) {
		if err := fr.fill(n); err != nil {
			return nil, err
		}
		fr.at = fr.lo
		fr.lo += n
		fr.last = n
		return fr.Bytes(fr.at, fr.lo), nil
	}
	fr.at = -1
	b := GetBufferFor(n)[:n]
	got := copy(b, fr.buf[fr.lo:fr.hi])
	fr.lo, fr.hi = 0, 0
	if _, err := io.ReadFull(rest{fr}, b[got:]); err != nil {
		return nil, noEOF(err)
	}
	return b, nil
}

// fill reads until n bytes are buffered. It reports io.EOF only between
// frames.
func (fr *Reader) fill(n int) error {
	if fr.lo == fr.hi && fr.hi > 0 {
		fr.fit(fr.hi)
	}
	switch {
	case len(fr.buf)-fr.lo >= n:
	case fr.hi == len(fr.buf) && len(fr.buf) < fr.most:
		fr.resize(fr.most)
	default:
		fr.hi = copy(fr.buf, fr.buf[fr.lo:fr.hi])
		fr.lo = 0
	}
	for fr.hi-fr.lo < n {
		r := fr.r
		if fr.hi > fr.lo {
			r = rest{fr}
		}
		m, err := r.Read(fr.room())
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

// room returns where the next bytes go. After a large frame that is room for as many
// of its size as the buffer holds: if all are alike no part of one is left at the end,
// which would be copied to the front.
func (fr *Reader) room() []byte {
	if fr.last >= wholeFrames {
		if end := fr.lo + (len(fr.buf)-fr.lo)/fr.last*fr.last; end > fr.hi {
			return fr.buf[fr.hi:end]
		}
	}
	return fr.buf[fr.hi:]
}

// Handoff returns a Reader that goes on where fr stands. It leaves fr's buffer as
// it is, so that the frame that fr returned last stays valid. fr must not be read
// from any more.
func (fr *Reader) Handoff() *Reader {
	nr := NewReader(fr.r)
	nr.Stalled = fr.Stalled
	nr.hi = copy(nr.buf, fr.buf[fr.lo:fr.hi])
	return nr
}

// Peek returns the first n bytes of the next frame without taking them. n is at
// most the size of the buffer. Peek blocks as Next does, but checks no size.
func (fr *Reader) Peek(n int) ([]byte, error) {
	if err := fr.fill(4); err != nil {
		return nil, err
	}
	if err := fr.fill(n); err != nil {
		return nil, err
	}
	return fr.buf[fr.lo : fr.lo+n], nil
}

// Data takes an Rread, whose size Peek has shown, and reads its bytes straight into
// dst. It returns how many they are. One that is longer than msize or has more
// bytes than dst, or whose count does not match its size, is an error that ends
// the connection.
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
	if _, err := io.ReadFull(rest{fr}, dst[got:n]); err != nil {
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
