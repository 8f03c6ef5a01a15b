package fs

import (
	"bytes"
	"os"
)

// hole is the size in bytes of the blocks of zeros that a SparseWriter leaves
// out: a page, the unit of file systems.
const hole = 4096

var zeroBlock [hole]byte

// A SparseWriter writes a file from its start and leaves holes for zeros: a
// hole takes no room on disk, however large it is.
type SparseWriter struct {
	f    *os.File
	off  int64
	part []byte // of a block, at off
}

// NewSparseWriter returns a writer of f, which is empty. Close completes the
// file, and leaves it open.
func NewSparseWriter(f *os.File) *SparseWriter { return &SparseWriter{f: f} }

// Write implements io.Writer.
func (w *SparseWriter) Write(p []byte) (int, error) {
	n := len(p)
	if len(w.part) > 0 {
		k := min(hole-len(w.part), len(p))
		w.part, p = append(w.part, p[:k]...), p[k:]
		if len(w.part) < hole {
			return n, nil
		}
		if err := w.blocks(w.part); err != nil {
			return 0, err
		}
		w.part = w.part[:0]
	}
	whole := len(p) &^ (hole - 1)
	if err := w.blocks(p[:whole]); err != nil {
		return 0, err
	}
	w.part = append(w.part, p[whole:]...)
	return n, nil
}

// blocks writes p but for its blocks of zeros; it writes what lies between two
// of them at once.
func (w *SparseWriter) blocks(p []byte) error {
	start, end := 0, 0
	for end < len(p) {
		next := min(end+hole, len(p))
		if !bytes.Equal(p[end:next], zeroBlock[:next-end]) {
			end = next
			continue
		}
		if _, err := w.f.WriteAt(p[start:end], w.off+int64(start)); err != nil {
			return err
		}
		start, end = next, next
	}
	_, err := w.f.WriteAt(p[start:end], w.off+int64(start))
	w.off += int64(len(p))
	return err
}

// Close writes what is left and gives the file its size.
func (w *SparseWriter) Close() error {
	if err := w.blocks(w.part); err != nil {
		return err
	}
	w.part = nil
	return w.f.Truncate(w.off)
}
