package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A countedLog counts the bytes that are read of a log.
type countedLog struct {
	io.ReaderAt
	read atomic.Int64
}

func (l *countedLog) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.ReaderAt.ReadAt(p, off)
	l.read.Add(int64(n))
	return n, err
}

// openCounted opens the live of an unfinished run, and says how much of its log is
// read.
func openCounted(t *testing.T, r *Run) (*openLive, *countedLog) {
	t.Helper()
	log := r.shareLog()
	if log == nil {
		t.Fatal("the run has ended")
	}
	c := &countedLog{ReaderAt: log}
	return &openLive{run: r, log: c, release: log.put}, c
}

// A client has several reads of live under way, whose order is not that of their
// offsets. None begins at the start of the log.
func TestLivePipelined(t *testing.T) {
	s := newStore(t)
	r := mustCreate(t, s)
	r.Enter("test")
	var want bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&want, "%d is the number of this line\n", i)
	}
	if _, err := r.Stdout().Write(want.Bytes()); err != nil {
		t.Fatal(err)
	}
	length, _ := r.logged()
	const size = 8 << 10
	live := want.Len()
	got := make([]byte, live)
	read := func(t *testing.T, f *openLive, off int) {
		p := got[off:min(off+size, live)]
		if n, err := f.ReadAt(t.Context(), p, int64(off)); n < len(p) {
			t.Errorf("ReadAt(%d) = %d, %v", off, n, err)
		}
	}
	for _, tt := range []struct {
		name  string
		order func(t *testing.T, f *openLive)
	}{
		{"as they are", func(t *testing.T, f *openLive) {
			for off := 0; off < live; off += size {
				read(t, f, off)
			}
		}},
		{"eight at a time, the last one first", func(t *testing.T, f *openLive) {
			for off := 0; off < live; off += 8 * size {
				for i := 7; i >= 0; i-- {
					if at := off + i*size; at < live {
						read(t, f, at)
					}
				}
			}
		}},
		{"sixteen at once", func(t *testing.T, f *openLive) {
			for off := 0; off < live; off += 16 * size {
				var wg sync.WaitGroup
				for at := off; at < min(off+16*size, live); at += size {
					wg.Go(func() { read(t, f, at) })
				}
				wg.Wait()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clear(got)
			f, log := openCounted(t, r)
			defer f.Close()
			tt.order(t, f)
			if !bytes.Equal(got, want.Bytes()) {
				t.Error("live is not what was written")
			}
			// A read looks at two of the longest lines at least, and at those between its
			// mark and its offset.
			if n := log.read.Load(); n > 32*length {
				t.Errorf("%d bytes of a log of %d were read", n, length)
			}
		})
	}
}

// A reader that waits for more, however far behind the end its offset is, reads
// nothing of the log until there is something for it.
func TestLiveWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		r := mustCreate(t, s)
		r.Enter("test")
		r.Stdout().Write(bytes.Repeat([]byte("a line\n"), 10_000))
		_, live := r.logged()
		f, log := openCounted(t, r)
		defer f.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		for _, off := range []int64{live + 1000, 1 << 40} {
			wg.Go(func() {
				if n, err := f.ReadAt(ctx, make([]byte, 100), off); n > 0 || err != context.Canceled {
					t.Errorf("ReadAt(%d) = %d, %v", off, n, err)
				}
			})
		}
		for range 100 {
			synctest.Wait()
			r.Stdout().Write([]byte("more\n"))
		}
		synctest.Wait()
		if n := log.read.Load(); n > 0 {
			t.Errorf("readers that wait have read %d bytes of the log", n)
		}
	})
}
