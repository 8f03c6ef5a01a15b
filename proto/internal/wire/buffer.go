package wire

import "sync"

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

var buffers sync.Pool

// GetBuffer returns an empty buffer of at least a few kilobytes.
func GetBuffer() []byte {
	if p, ok := buffers.Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return NewBuffer(small)
}

// PutBuffer gives b back. The caller must not use it, or a part of it, any
// more. A buffer that is smaller or much larger than those of the pool is left
// to the garbage collector.
func PutBuffer(b []byte) {
	if cap(b) >= small && cap(b) <= 2*MaxMsize {
		buffers.Put(&b)
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
