package mux

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/ninep"
)

// Over sockets, replies go out of the session's buffer, as far as the client takes
// them: whatever their size and order, and whatever else is answered meanwhile,
// each has its own bytes.
func TestSocket(t *testing.T) {
	const size = 4 << 20
	data := make([]byte, size)
	for i := 0; i < size; i += 4 {
		binary.BigEndian.PutUint32(data[i:], uint32(i))
	}
	root := testtree.NewDir("/", 100)
	root.Add(testtree.NewNode("big", 101, 0o444, string(data)))
	m, _ := newMux(t, map[string]fs.Dir{"a": root})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { m.Serve(context.Background(), c) })
		}
	})
	var clients sync.WaitGroup
	for range 3 { // they share the session
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := ninep.Import(t.Context(), conn, ninep.ImportOptions{Uname: "glenda", Msize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		n, err := walk(t.Context(), c.Root(), "n/a/big")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 64 {
			clients.Go(func() {
				for j := range 20 {
					p := make([]byte, []int{100, 4 << 10, 30 << 10, 64 << 10, 128 << 10, 300 << 10}[(i+j)%6])
					off := (i*977 + j*131071) % (size - len(p)) &^ 3
					got := 0
					for got < len(p) {
						n, err := f.ReadAt(context.Background(), p[got:], int64(off+got))
						if err != nil {
							t.Errorf("ReadAt = %d, %v", n, err)
							return
						}
						got += n
					}
					if string(p) != string(data[off:off+len(p)]) {
						t.Errorf("%d bytes at %d are others", len(p), off)
					}
					if _, err := fs.Walk(context.Background(), c.Root(), fmt.Sprintf("n/a/no%d", i)); err == nil {
						t.Error("a file that is not there is")
					}
				}
			})
		}
	}
	clients.Wait()
}
