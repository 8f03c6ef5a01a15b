package ninep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"
)

// A far file takes a round trip for each read.
type far struct {
	*testtree.Node
	rtt time.Duration
}

func (f far) Open(context.Context, fs.OpenMode) (fs.File, error) { return f, nil }
func (f far) Close() error                                       { return nil }
func (f far) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, fs.ErrReadOnly
}

func (f far) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	select {
	case <-time.After(f.rtt):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if off >= int64(len(f.Data)) {
		return 0, io.EOF
	}
	return copy(p, f.Data[off:]), nil
}

func TestStream(t *testing.T) {
	data := make([]byte, 40<<20+12345)
	for i := range data {
		data[i] = byte(rand.Int())
	}
	dialects(t, func(t *testing.T, d Dialect) {
		root, log := testtree.New()
		root.Add(testtree.NewNode("big", 50, 0o444, string(data)))
		c := importTest(t, &Server{Root: root}, d)
		r, err := Stream(t.Context(), walk(t, c.Root(), "big"))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
			t.Errorf("ReadAll = %d bytes, %v", len(b), err)
		}
		r.Close()
		log.Append("hello\n", true)
		if r, err = Stream(t.Context(), walk(t, c.Root(), "ci", "last", "live")); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != "hello\n" {
			t.Errorf("ReadAll(live) = %q, %v", b, err)
		}
		r.Close()
	})
	// Over 50 ms, 40 MiB one read at a time would be 16 s.
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r, err := Stream(t.Context(), far{testtree.NewNode("far", 1, 0o444, string(data)), 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
			t.Errorf("ReadAll = %d bytes, %v", len(b), err)
		}
		r.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("40 MiB over 50 ms took %v", took)
		}
	})
	// A file that is shorter than its size says gives an error.
	n := testtree.NewNode("short", 1, 0o444, string(data[:1<<20]))
	n.St.Size = 2 << 20
	r, err := Stream(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) || len(b) != 1<<20 {
		t.Errorf("ReadAll = %d bytes, %v", len(b), err)
	}
	r.Close()
}
