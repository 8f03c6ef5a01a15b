package wire

import (
	"math/bits"
	"sync"
)

// headroom is where in its page a buffer starts, so that the data of an
// Rread, which follows 11 bytes, starts on a cache line and not 11 bytes into
// the page: the processors of some makers copy a page to 1 to 15 bytes behind
// the same place of another page four times slower than to anywhere else.
const headroom = 64 - (HeaderSize + 4)

// small is the least capacity of a buffer in the pool. With the headroom it is
// a page.
const small = 4096 - headroom

// NewBuffer returns an empty buffer for frames of n bytes together.
func NewBuffer(n int) []byte { return make([]byte, headroom+n)[headroom:headroom] }

// buffers has the small buffers at 0, and those with room for 1<<i to 1<<(i+1) bytes
// at i: one for a large frame is not given out for a small one.
var buffers [32]sync.Pool

// GetBuffer returns an empty buffer of at least a few kilobytes.
func GetBuffer() []byte { return GetBufferFor(small) }

// GetBufferFor returns an empty buffer with room for n bytes.
func GetBufferFor(n int) []byte {
	class := 0
	if n > small {
		class = bits.Len(uint(n - 1))
		n = 1 << class
	}
	if p, ok := buffers[class].Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return NewBuffer(max(n, small))
}

// PutBuffer gives b back. The caller must not use it, or a part of it, any
// more. A buffer that is smaller or much larger than those of the pool is left
// to the garbage collector.
func PutBuffer(b []byte) {
	switch n := cap(b); {
	case n < small || n > 2*MaxMsize:
	case n < 1<<bits.Len(small):
		buffers[0].Put(&b)
	default:
		buffers[bits.Len(uint(n))-1].Put(&b)
	}
}

// Grow lengthens b by n bytes, which are not cleared. If b has no room for them
// it returns a copy, with room for as much again, and leaves b as it is.
func Grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b[:len(b)+n]
	}
	return append(NewBuffer(2*len(b)+n), b...)[:len(b)+n]
}
