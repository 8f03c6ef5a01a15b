package wire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// A Reader of changing size cuts the same frames as any other, whatever comes at
// once, grows while much comes, and is small again when little does.
func TestReaderUpTo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const least, size = 1 << 10, 32 << 10
	near, far := io.Pipe()
	fr := NewReaderUpTo(near, least, size)
	exchange := func(frames int, most int) {
		t.Helper()
		var sent []byte
		var want [][]byte
		for range frames {
			b := End(append(Begin(nil, 100, uint16(r.Uint32())), bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(most))...), 0)
			sent, want = append(sent, b...), append(want, b)
		}
		go far.Write(sent)
		for i, w := range want {
			b, err := fr.Next(MaxMsize)
			if err != nil || !bytes.Equal(b, w) {
				t.Fatalf("frame %d of %d bytes: %d bytes, %v", i, len(w), len(b), err)
			}
		}
	}
	for range 20 {
		exchange(500, 2000)
		if n := len(fr.buf); n != size-headroom {
			t.Errorf("while much comes the buffer has %d bytes", n)
		}
		for range shortReads + 1 {
			exchange(1, 200)
		}
		if n := len(fr.buf); n != least-headroom {
			t.Errorf("while little comes the buffer has %d bytes", n)
		}
		// A frame that is longer than the buffer has it grow, as far as it may.
		exchange(1, 1)
		long := End(append(Begin(nil, 100, 1), make([]byte, least)...), 0)
		go far.Write(long)
		if b, err := fr.Next(MaxMsize); err != nil || !bytes.Equal(b, long) || len(fr.buf) != size-headroom {
			t.Fatalf("a frame of %d bytes: %d bytes, %v; the buffer has %d", len(long), len(b), err, len(fr.buf))
		}
		exchange(3, 100000)
	}
}
