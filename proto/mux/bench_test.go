package mux

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// BenchmarkMux compares reads of 4 KiB through the mux with direct ones, over
// Unix sockets: the mux should keep 0.8 of direct at 32 in flight, 0.6 at one.
func BenchmarkMux(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 16<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	m, servers := newMux(b, map[string]fs.Dir{"a": fs.DiskDir(root, "/")})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()

	direct := filepath.Join(dir, "direct")
	l, err := ninep.Listen(direct)
	if err != nil {
		b.Fatal(err)
	}
	go (&ninep.Server{Root: servers["a"].root}).ServeListener(ctx, l)
	backend := NewBackend(func(ctx context.Context, _ ninep.Dialect) (io.ReadWriteCloser, error) {
		return ninep.Dial(ctx, direct)
	}, "")
	defer backend.Close()
	m.Find = func(path []string) *Backend {
		if len(path) == 2 && path[1] == "a" {
			return backend
		}
		return nil
	}
	muxed, err := ninep.Listen(filepath.Join(dir, "muxed"))
	if err != nil {
		b.Fatal(err)
	}
	defer muxed.Close()
	go func() {
		for {
			c, err := muxed.Accept()
			if err != nil {
				return
			}
			go m.Serve(ctx, c)
		}
	}()
	for _, n := range []int{1, 32} {
		for _, way := range []struct {
			name, addr string
			path       []string
		}{{"direct", direct, []string{"big"}}, {"mux", muxed.Addr().String(), []string{"n", "a", "big"}}} {
			b.Run(fmt.Sprintf("%s/%d", way.name, n), func(b *testing.B) {
				conn, err := net.Dial("unix", way.addr)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				readRandom(b, conn, way.path, n)
			})
		}
	}
}

// readRandom keeps n reads outstanding.
func readRandom(b *testing.B, conn net.Conn, path []string, n int) {
	w := &talk{b, conn, wire.NewReaderSize(conn, 64<<10), ninep.DotL}
	v := le.AppendUint32(wire.Begin(nil, plan9.Tversion, plan9.NOTAG), 64<<10)
	w.rpc(wire.End(wire.AppendString(v, "9P2000.L"), 0))
	w.rpc(attachFrame(ninep.DotL, 0, "glenda", ""))
	w.rpc(walkFrame(0, 1, path))
	w.rpc(wire.End(append(le.AppendUint32(wire.Begin(nil, wire.Tlopen, 0), 1), 0, 0, 0, 0), 0))
	read := func(out []byte, tag, i int) []byte {
		at := len(out)
		out = le.AppendUint32(wire.Begin(out, plan9.Tread, uint16(tag)), 1)
		out = le.AppendUint64(out, uint64(i*7919%4096)<<12)
		return wire.End(le.AppendUint32(out, 4096), at)
	}
	b.SetBytes(4096)
	b.ResetTimer()
	var out []byte
	sent := 0
	for ; sent < min(n, b.N); sent++ {
		out = read(out, sent, sent)
	}
	for range b.N {
		if !w.fr.Buffered() && len(out) > 0 {
			conn.Write(out)
			out = out[:0]
		}
		rx, err := w.fr.Next(wire.MaxMsize)
		if err != nil || rx[4] != plan9.Rread {
			b.Fatalf("%x, %v", rx, err)
		}
		if sent < b.N {
			out = read(out, int(le.Uint16(rx[5:])), sent)
			sent++
		}
	}
}
