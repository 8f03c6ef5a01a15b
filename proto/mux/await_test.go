package mux

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// A tap is the connection to a backend. It counts the bytes that the backend sends,
// and loses the connection behind the first few if limit is set.
type tap struct {
	net.Conn
	got, limit atomic.Int64
}

func (c *tap) Read(p []byte) (int, error) {
	if limit := c.limit.Load(); limit > 0 {
		if p = p[:min(int64(len(p)), limit-c.got.Load())]; len(p) == 0 {
			c.Close()
			return 0, io.EOF
		}
	}
	n, err := c.Conn.Read(p)
	c.got.Add(int64(n))
	return n, err
}

// tapped returns a mux of one backend at /n/a, which has a file big.
func tapped(t *testing.T, big string) (*Server, *tap) {
	root := testtree.NewDir("/", 100)
	root.Add(testtree.NewNode("big", 101, 0o444, big))
	m, servers := newMux(t, map[string]fs.Dir{"a": root})
	c := new(tap)
	m.Find([]string{"n", "a"}).dial = func(ctx context.Context, d ninep.Dialect) (io.ReadWriteCloser, error) {
		rwc, err := servers["a"].dial(ctx, d)
		if err == nil {
			c.Conn = rwc.(net.Conn)
		}
		return c, err
	}
	return m, c
}

// openBig opens big at fid 1, with messages of msize.
func openBig(t *testing.T, m *Server, msize uint32) *talk {
	c := dial(t, m)
	w := &talk{t, c, wire.NewReader(c), ninep.DotL}
	b := le.AppendUint32(wire.Begin(nil, plan9.Tversion, plan9.NOTAG), msize)
	w.rpc(wire.End(wire.AppendString(b, ninep.DotL.String()), 0))
	w.rpc(attachFrame(ninep.DotL, 0, "glenda", ""))
	w.rpc(walkFrame(0, 1, []string{"n", "a", "big"}))
	open := le.AppendUint32(le.AppendUint32(wire.Begin(nil, wire.Tlopen, 0), 1), 0)
	if rx := w.rpc(wire.End(open, 0)); isError(rx[4]) {
		t.Fatal(wire.Text(ninep.DotL, rx, 100))
	}
	return w
}

// reads asks for n parts of big, of size bytes each.
func (w *talk) reads(n, size int) {
	var all []byte
	for i := range n {
		b := le.AppendUint64(le.AppendUint32(wire.Begin(nil, plan9.Tread, uint16(i)), 1), uint64(i*size))
		all = append(all, wire.End(le.AppendUint32(b, uint32(size)), 0)...)
	}
	go w.Write(all)
}

const part = 100 << 10

func parts(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(string(rune('a'+i)), part))
	}
	return b.String()
}

// take reads the answers to reads, whatever their order.
func (w *talk) take(n int, big string) {
	w.t.Helper()
	for range n {
		rx, err := w.fr.Next(wire.MaxMsize)
		if err != nil {
			w.t.Fatal(err)
		}
		i := int(le.Uint16(rx[5:]))
		if want := big[i*part:][:part]; rx[4] != plan9.Rread || string(rx[atData:]) != want {
			w.t.Fatalf("read %d answered with %s", i, wire.Text(ninep.DotL, rx, 30))
		}
	}
}

// A client that does not take its replies slows a backend down that it is alone at,
// until another wants something of it or the backend is closed.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 30
		big := parts(n)
		m, c := tapped(t, big)
		slow := openBig(t, m, 1<<20)
		before := c.got.Load()
		slow.reads(n, part)
		synctest.Wait()
		if got := c.got.Load() - before; got > aheadOfChannel+2*largeBuffer {
			t.Errorf("a client that reads nothing is alone, and the mux read %d bytes of its backend", got)
		}
		other := openBig(t, m, 1<<20)
		other.reads(1, part)
		other.take(1, big)
		synctest.Wait()
		if got := c.got.Load() - before; got < n*part {
			t.Errorf("another client waits, and the mux read only %d bytes", got)
		}
		slow.take(n, big)

		slow.reads(n, part) // alone again
		synctest.Wait()
		m.Find([]string{"n", "a"}).Close()
		lost := 0
		for range n {
			rx, err := slow.fr.Next(wire.MaxMsize)
			if err != nil {
				t.Fatal(err)
			}
			if isError(rx[4]) {
				lost++
			}
		}
		if lost == 0 {
			t.Error("no read failed when the backend was closed")
		}
	})
}

// A client that hangs up while its backend waits for it leaves the backend to others.
func TestAwaitGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big := parts(20)
		m, _ := tapped(t, big)
		slow := openBig(t, m, 1<<20)
		slow.reads(20, part)
		synctest.Wait()
		slow.Close()
		other := openBig(t, m, 1<<20)
		other.reads(20, part)
		other.take(20, big)
	})
}

// An answer whose rest never comes fails, with those behind it. The client keeps what
// came before, and its connection.
func TestCutShort(t *testing.T) {
	for _, size := range []int{100, 30 << 10, part, 300 << 10, 1<<20 - wire.IOHeader} {
		big := parts(20)
		m, c := tapped(t, big)
		cl, err := ninep.Import(t.Context(), dial(t, m), ninep.ImportOptions{Uname: "glenda", Msize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cl.Close() })
		n, err := walk(t.Context(), cl.Root(), "n/a/big")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, size)
		c.limit.Store(c.got.Load() + int64(size+size/2) + 11)
		if n, err := f.ReadAt(t.Context(), p, 7); n != size || err != nil || string(p) != big[7:7+size] {
			t.Errorf("ReadAt of %d bytes = %d, %v", size, n, err)
		}
		if n, err := f.ReadAt(t.Context(), p, 7); n != 0 || !errors.Is(err, fs.ErrIO) {
			t.Errorf("ReadAt of %d bytes of which some never come = %d, %v, want %v", size, n, err, fs.ErrIO)
		}
		if s, err := read(t.Context(), cl.Root(), "README"); s != "hello\n" || err != nil {
			t.Errorf("README = %q, %v", s, err)
		}
		if _, err := walk(t.Context(), cl.Root(), "n/a/none"); !errors.Is(err, iofs.ErrNotExist) && !errors.Is(err, fs.ErrIO) {
			t.Errorf("Walk(n/a/none) = %v", err)
		}
	}
}

// Of many requests no read takes all the credit, but one of 128 KiB, which most
// clients ask for, is answered whole.
func TestManyReads(t *testing.T) {
	m, _ := tapped(t, parts(20))
	w := openBig(t, m, wire.MaxMsize)
	for _, tt := range []struct{ before, ask, want int }{
		{manyRequests - 1, 1 << 20, wire.MaxMsize - wire.IOHeader},
		{manyRequests, 1 << 20, 128<<10 - wire.IOHeader},
		{manyRequests, 128 << 10, 128 << 10},
	} {
		var burst [][]byte
		for i := range tt.before + 1 {
			count := 100
			if i == tt.before {
				count = tt.ask
			}
			b := le.AppendUint64(le.AppendUint32(wire.Begin(nil, plan9.Tread, 0), 1), 0)
			burst = append(burst, wire.End(le.AppendUint32(b, uint32(count)), 0))
		}
		if rx := w.rpc(burst...); len(rx) != atData+tt.want {
			t.Errorf("a read of %d bytes behind %d others was answered with %d, want %d", tt.ask, tt.before, len(rx)-atData, tt.want)
		}
	}
}
