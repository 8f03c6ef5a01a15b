package store

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"

	"9ci/fs"
)

// Wherever a door may send a tar's bytes from disk, they are what a read gives;
// that is so for all of a file in it, and for nothing that spans two.
func TestTarExtents(t *testing.T) {
	s := newStore(t)
	id := writeRun(t, s, commitA, treeA, "passed", 0)
	f, err := s.openTar(id)
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(fs.NewReader(t.Context(), f))
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for _, n := range []int{1, 100, 512} {
		for off := -1; off <= len(want); off++ {
			file, at, done := f.Extent(int64(off), n)
			if file == nil {
				continue
			}
			got := make([]byte, n)
			if _, err := file.ReadAt(got, at); err != nil || !bytes.Equal(got, want[off:off+n]) {
				t.Fatalf("Extent(%d, %d) is not what ReadAt gives: %v", off, n, err)
			}
			if done(); n == 1 {
				sent++
			}
		}
	}
	data := int64(0)
	for tr := tar.NewReader(bytes.NewReader(want)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data += h.Size
	}
	if int64(sent) != data || data == 0 {
		t.Errorf("%d bytes of %d can be sent from disk", sent, data)
	}
	f.Close()
	if file, _, _ := f.Extent(0, 1); file != nil {
		t.Error("Extent of a closed file")
	}
}
