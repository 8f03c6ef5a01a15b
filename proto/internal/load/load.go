// Package load is for tests only: it measures a 9P server under load, over a
// Unix socket.
package load

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
)

var le = binary.LittleEndian

// The tree has many small files, and a large one.
const (
	files    = 10000
	fileSize = 1 << 30
)

// Dir makes the tree that is to be served: big, and small/0 to small/9999.
func Dir(b *testing.B) string {
	dir := b.TempDir()
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(rand.Int())
	}
	for range fileSize / len(block) {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "small"), 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, "small", fmt.Sprint(i)), block[:2000], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// dial connects to a server that may not listen yet.
func dial(b *testing.B, sock string) net.Conn {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", sock)
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}

// cpuTime is what the threads of a process have used of the processors, as
// schedstat of proc(5) has it to the nanosecond.
func cpuTime(pid int) (used time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range threads {
		b, _ := os.ReadFile(name)
		first, _, _ := strings.Cut(string(b), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		used += time.Duration(n)
	}
	return used
}

// Compare has servers that are there at the sockets, each below its base, bear the
// same loads, in turns of a few milliseconds: so they find the same machine, however
// busy others keep it. The metrics are what the first one does in a time and with a
// processor by what the second does.
func Compare(b *testing.B, one, two Peer) {
	peers := []Peer{one, two}
	for _, load := range []struct {
		name string
		size int // of a read
		do   func(g *generator, size, n, ops int)
	}{
		{"read4k", 4 << 10, (*generator).reads},
		{"read64k", 64 << 10, (*generator).reads},
		{"read1m", wire.MaxMsize - wire.IOHeader, (*generator).reads},
		{"stat", 0, func(g *generator, _, n, ops int) { g.stat(n, ops) }},
		{"small", 0, func(g *generator, _, n, ops int) { g.readSmall(n, ops) }},
	} {
		for _, n := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/%d", load.name, n), func(b *testing.B) {
				var gens [2]*generator
				for i, p := range peers {
					conn := dial(b, p.Sock)
					defer conn.Close()
					gens[i] = newGeneratorSize(b, conn, "", p.Base, wire.MaxMsize)
					gens[i].rpc(AppendWalk(nil, 0, root, 1000, "big"))
					gens[i].rpc(AppendFid(nil, wire.Tlopen, 0, 1000, 0, 0, 0, 0))
				}
				var took, used [2]time.Duration
				b.ResetTimer()
				turn := min(max(8*n, 4<<20/max(load.size, 16<<10)), b.N)
				for done := 0; done < b.N; done += turn {
					for i, g := range gens {
						cpu, began := cpuTime(peers[i].Process), time.Now()
						load.do(g, load.size, n, turn)
						took[i] += time.Since(began)
						used[i] += cpuTime(peers[i].Process) - cpu
					}
				}
				b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "speed/"+two.Name)
				b.ReportMetric(used[0].Seconds()/max(used[1].Seconds(), 1e-9), "cpu/"+two.Name)
			})
		}
	}
}

// A Peer is a server that Compare measures.
type Peer struct {
	Name    string
	Sock    string
	Base    []string
	Process int // its id
}

// Server starts cmd, which serves the tree at sock, below base, and has it
// bear each load.
func Server(b *testing.B, cmd *exec.Cmd, sock, aname string, base ...string) {
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Skip(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	conn := dial(b, sock)
	defer conn.Close()
	g := newGenerator(b, conn, aname, base)
	bench := func(name string, n int, f func(*testing.B, int)) {
		b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
			before := cpuTime(cmd.Process.Pid)
			f(b, n)
			// The server's own, which another's load does not change.
			b.ReportMetric(float64(cpuTime(cmd.Process.Pid)-before)/float64(b.N), "cpu-ns/op")
		})
	}
	for _, n := range []int{1, 8} {
		bench("seq64k", n, g.sequential)
	}
	for _, n := range []int{1, 32} {
		bench("rand4k", n, g.random)
		bench("stat", n, g.stats)
		bench("small", n, g.small)
	}
}

// root is the fid of the tree.
const root = 1001

// A generator keeps a number of requests outstanding. Each slot goes through
// the steps of one operation, a reply at a time.
type generator struct {
	b    testing.TB
	conn io.ReadWriter
	fr   *wire.Reader
	out  []byte
}

func newGenerator(b testing.TB, conn io.ReadWriter, aname string, base []string) *generator {
	return newGeneratorSize(b, conn, aname, base, 64<<10)
}

func newGeneratorSize(b testing.TB, conn io.ReadWriter, aname string, base []string, msize uint32) *generator {
	g := &generator{b: b, conn: conn, fr: wire.NewReaderSize(conn, 256<<10)}
	v := le.AppendUint32(wire.Begin(nil, plan9.Tversion, plan9.NOTAG), msize)
	g.rpc(wire.End(wire.AppendString(v, "9P2000.L"), 0))
	a := le.AppendUint32(wire.Begin(nil, plan9.Tattach, 0), 0)
	a = le.AppendUint32(a, plan9.NOFID)
	a = wire.AppendString(a, "root")
	a = wire.AppendString(a, aname)
	g.rpc(wire.End(le.AppendUint32(a, 0), 0))
	g.rpc(AppendWalk(nil, 0, 0, root, base...))
	return g
}

func (g *generator) rpc(frame []byte) []byte {
	if _, err := g.conn.Write(frame); err != nil {
		g.b.Fatal(err)
	}
	return g.reply()
}

func (g *generator) reply() []byte {
	rx, err := g.fr.Next(wire.MaxMsize)
	if err != nil {
		g.b.Fatal(err)
	}
	if rx[4] == wire.Rlerror {
		g.b.Fatal(wire.Text(wire.DotL, rx, 100))
	}
	return rx
}

// run has total operations done, n at a time. step appends the next message of
// slot's operation, or nothing when that is done.
func (g *generator) run(n, total int, step func(b []byte, slot, op, i int, rx []byte) []byte) {
	type state struct{ op, i int }
	slots := make([]state, n)
	next, busy := 0, 0
	advance := func(slot int, rx []byte) {
		for {
			s := &slots[slot]
			before := len(g.out)
			g.out = step(g.out, slot, s.op, s.i, rx)
			if len(g.out) > before {
				s.i++
				return
			}
			if next == total {
				busy--
				return
			}
			*s = state{op: next}
			next++
			rx = nil
		}
	}
	for slot := range min(n, total) {
		slots[slot] = state{op: next}
		next++
		busy++
		advance(slot, nil)
	}
	for busy > 0 {
		if !g.fr.Buffered() && len(g.out) > 0 {
			if _, err := g.conn.Write(g.out); err != nil {
				g.b.Fatal(err)
			}
			g.out = g.out[:0]
		}
		rx := g.reply()
		advance(int(le.Uint16(rx[5:])), rx)
		if len(rx) > 32<<10 {
			wire.PutBuffer(rx)
		}
	}
}

// AppendWalk appends a Twalk.
func AppendWalk(b []byte, tag int, fid, newfid uint32, names ...string) []byte {
	at := len(b)
	b = le.AppendUint32(wire.Begin(b, plan9.Twalk, uint16(tag)), fid)
	b = le.AppendUint16(le.AppendUint32(b, newfid), uint16(len(names)))
	for _, name := range names {
		b = wire.AppendString(b, name)
	}
	return wire.End(b, at)
}

// AppendFid appends a message that begins with a fid. rest are its other fields.
func AppendFid(b []byte, typ uint8, tag int, fid uint32, rest ...byte) []byte {
	at := len(b)
	b = le.AppendUint32(wire.Begin(b, typ, uint16(tag)), fid)
	return wire.End(append(b, rest...), at)
}

// AppendRead appends a Tread, or a Treaddir, which has the same fields.
func AppendRead(b []byte, typ uint8, tag int, fid uint32, off int64, count int) []byte {
	at := len(b)
	b = le.AppendUint32(wire.Begin(b, typ, uint16(tag)), fid)
	b = le.AppendUint64(b, uint64(off))
	return wire.End(le.AppendUint32(b, uint32(count)), at)
}

func (g *generator) open(b *testing.B, name string) (fid uint32) {
	g.rpc(AppendWalk(nil, 0, root, 1000, name))
	g.rpc(AppendFid(nil, wire.Tlopen, 0, 1000, 0, 0, 0, 0))
	b.Cleanup(func() { g.rpc(AppendFid(nil, plan9.Tclunk, 0, 1000)) })
	return 1000
}

// reads reads the file at fid 1000 from random places, total times size bytes.
// A read that was answered with less goes on where that ended, as all clients do.
func (g *generator) reads(size, n, total int) {
	type at struct{ off, left int64 }
	slots := make([]at, n)
	g.run(n, total, func(out []byte, slot, op, i int, rx []byte) []byte {
		s := &slots[slot]
		if i == 0 {
			*s = at{rand.Int64N(fileSize/int64(size)) * int64(size), int64(size)}
		} else {
			got := int64(len(rx) - 11)
			s.off, s.left = s.off+got, s.left-got
		}
		if s.left == 0 {
			return out
		}
		return AppendRead(out, plan9.Tread, slot, 1000, s.off, int(s.left))
	})
}

func (g *generator) sequential(b *testing.B, n int) {
	fid := g.open(b, "big")
	const chunk = 64<<10 - wire.IOHeader // diod's msize is at most 64 KiB
	b.SetBytes(chunk)
	b.ResetTimer()
	g.run(n, b.N, func(out []byte, slot, op, i int, rx []byte) []byte {
		if i > 0 {
			if len(rx) != chunk+11 {
				b.Fatalf("short read: %d", len(rx))
			}
			return out
		}
		return AppendRead(out, plan9.Tread, slot, fid, int64(op)<<16%fileSize, chunk)
	})
	b.StopTimer()
}

func (g *generator) random(b *testing.B, n int) {
	fid := g.open(b, "big")
	b.ResetTimer()
	g.run(n, b.N, func(out []byte, slot, op, i int, rx []byte) []byte {
		if i > 0 {
			return out
		}
		return AppendRead(out, plan9.Tread, slot, fid, rand.Int64N(fileSize/4096)*4096, 4096)
	})
	b.StopTimer()
}

// stats walks to a file, stats it, and clunks it.
func (g *generator) stats(b *testing.B, n int) { g.stat(n, b.N) }

func (g *generator) stat(n, total int) {
	g.run(n, total, func(out []byte, slot, op, i int, rx []byte) []byte {
		fid := uint32(slot) + 1
		switch i {
		case 0:
			return AppendWalk(out, slot, root, fid, "small", fmt.Sprint(op%files))
		case 1:
			return AppendFid(out, wire.Tgetattr, slot, fid, 0xff, 7, 0, 0, 0, 0, 0, 0)
		case 2:
			return AppendFid(out, plan9.Tclunk, slot, fid)
		}
		return out
	})
}

// small lists the directory of small files, and reads b.N of them.
func (g *generator) small(b *testing.B, n int) {
	g.rpc(AppendWalk(nil, 0, root, 1000, "small"))
	g.rpc(AppendFid(nil, wire.Tlopen, 0, 1000, 0, 0, 1, 0))
	for off, listed := uint64(0), 0; ; {
		rx := g.rpc(AppendRead(nil, wire.Treaddir, 0, 1000, int64(off), 32<<10))
		d := wire.Decoder{B: rx[wire.HeaderSize+4:]}
		if len(d.B) == 0 {
			if listed != files+2 {
				b.Fatalf("listed %d files", listed)
			}
			break
		}
		for len(d.B) > 0 {
			d.Qid()
			off = d.U64()
			d.U8()
			d.Str()
			listed++
		}
	}
	g.readSmall(n, b.N)
	g.rpc(AppendFid(nil, plan9.Tclunk, 0, 1000))
}

// readSmall reads small files, total of them.
func (g *generator) readSmall(n, total int) {
	g.run(n, total, func(out []byte, slot, op, i int, rx []byte) []byte {
		fid := uint32(slot) + 1
		switch i {
		case 0:
			return AppendWalk(out, slot, root, fid, "small", fmt.Sprint(op%files))
		case 1:
			return AppendFid(out, wire.Tlopen, slot, fid, 0, 0, 0, 0)
		case 2:
			return AppendRead(out, plan9.Tread, slot, fid, 0, 4096)
		case 3:
			return AppendFid(out, plan9.Tclunk, slot, fid)
		}
		return out
	})
}
