package wire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// pieces reads a stream in pieces of any size.
type pieces struct {
	r   io.Reader
	rnd *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:1+p.rnd.IntN(len(b))]) }

// Frames come out of a Reader as they went in, however they are cut on the way and
// whatever buffers are taken from it. What was taken stays as it is.
func TestReader(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		usual := HeaderSize + rnd.IntN(70<<10)
		var stream bytes.Buffer
		var frames [][]byte
		for range 60 {
			size := usual
			if rnd.IntN(4) == 0 {
				size = HeaderSize + rnd.IntN(200<<10)
			}
			f := make([]byte, size)
			for i, k := 0, rnd.Int(); i < size; i++ {
				f[i] = byte(i*k>>3 + k)
			}
			le.PutUint32(f, uint32(size))
			stream.Write(f)
			frames = append(frames, f)
		}
		fr := NewReaderUpTo(pieces{&stream, rnd}, 32<<10, 160<<10)
		var kept, want [][]byte
		for i, f := range frames {
			got, err := fr.Next(MaxMsize)
			if err != nil || !bytes.Equal(got, f) {
				t.Fatalf("seed %d: frame %d of %d bytes: got %d, %v", seed, i, len(f), len(got), err)
			}
			start, end, ok := fr.Place()
			if ok && !bytes.Equal(fr.Bytes(start, end), f) {
				t.Fatalf("seed %d: frame %d is not in its place", seed, i)
			}
			if ok && rnd.IntN(3) == 0 {
				kept, want = append(kept, got), append(want, f)
				if buf := fr.Take(); &buf[:end][start] != &got[0] {
					t.Fatalf("seed %d: frame %d is not in the buffer that was taken", seed, i)
				}
			}
		}
		if _, err := fr.Next(MaxMsize); err != io.EOF {
			t.Errorf("seed %d: Next at the end = %v", seed, err)
		}
		for i := range kept {
			if !bytes.Equal(kept[i], want[i]) {
				t.Errorf("seed %d: a frame changed in a buffer that was taken", seed)
			}
		}
	}
}
