package ninep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// A longLine is a line between two places that are far apart. Its connections
// are like SSH channels: each has at most window bytes under way, and they
// share the bandwidth.
type longLine struct {
	rtt       time.Duration
	bandwidth float64 // bytes a second, each way
	window    int64

	mu   sync.Mutex   // guards free
	free [2]time.Time // when the line can take the next byte, each way
}

// newLongLine is 50 ms and 1 Gbit/s, with the window that both OpenSSH and
// x/crypto/ssh give a channel.
func newLongLine() *longLine {
	return &longLine{rtt: 50 * time.Millisecond, bandwidth: 125e6, window: 2 << 20}
}

// pipe is a connection by the line.
func (l *longLine) pipe() (near, far *longConn) {
	ctx, hangup := context.WithCancel(context.Background())
	to, from := l.half(0), l.half(1)
	return &longConn{in: from, out: to, ctx: ctx, hangup: hangup},
		&longConn{in: to, out: from, ctx: ctx, hangup: hangup}
}

func (l *longLine) half(way int) *longHalf {
	return &longHalf{line: l, way: way, window: semaphore.NewWeighted(l.window), packets: make(chan packet, l.window)}
}

// A longHalf is one way of a connection.
type longHalf struct {
	line    *longLine
	way     int
	window  *semaphore.Weighted
	packets chan packet
	bytes   atomic.Int64 // that came
}

type packet struct {
	data []byte
	at   time.Time // when it is there
}

// sent is when n bytes that are sent now are there.
func (h *longHalf) sent(n int) time.Time {
	l := h.line
	l.mu.Lock()
	defer l.mu.Unlock()
	start := time.Now()
	if l.free[h.way].After(start) {
		start = l.free[h.way]
	}
	l.free[h.way] = start.Add(time.Duration(float64(n) / l.bandwidth * 1e9))
	return l.free[h.way].Add(l.rtt / 2)
}

// A longConn is an end of a connection.
type longConn struct {
	in, out *longHalf
	ctx     context.Context // until either end hangs up
	hangup  func()
	rest    []byte // of the packet that is being read
}

func (c *longConn) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		m := min(len(p)-n, 32<<10)
		if c.out.window.Acquire(c.ctx, int64(m)) != nil {
			return n, net.ErrClosed
		}
		c.out.packets <- packet{slices.Clone(p[n : n+m]), c.out.sent(m)}
		n += m
	}
	return len(p), nil
}

func (c *longConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		select {
		case k := <-c.in.packets:
			select {
			case <-time.After(time.Until(k.at)):
			case <-c.ctx.Done():
				return 0, io.EOF
			}
			time.AfterFunc(c.in.line.rtt/2, func() { c.in.window.Release(int64(len(k.data))) })
			c.in.bytes.Add(int64(len(k.data)))
			c.rest = k.data
		case <-c.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *longConn) Close() error {
	c.hangup()
	return nil
}

// dialer serves root at the other end of a long line.
type dialer struct {
	root fs.Dir
	line *longLine
	wg   sync.WaitGroup // of the servers

	mu    sync.Mutex // guards conns
	conns []*longConn
}

func (d *dialer) dial(context.Context) (io.ReadWriteCloser, error) {
	near, far := d.line.pipe()
	d.wg.Go(func() { (&Server{Root: d.root, User: me()}).Serve(context.Background(), far) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, near)
	return near, nil
}

// importLong imports root over a long line.
func importLong(t testing.TB, d *dialer, o ImportOptions) *Client {
	t.Helper()
	d.line = newLongLine()
	rwc, _ := d.dial(t.Context())
	c, err := Import(t.Context(), rwc, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// manyFiles is a directory of n small files.
func manyFiles(n int) *testtree.Dir {
	root := testtree.NewDir("/", 1)
	for i := range n {
		root.Add(testtree.NewNode(fmt.Sprint(i), uint64(i)+2, 0o444, string(make([]byte, 2000))))
	}
	return root
}

// readMany lists a directory and reads each of its files, 256 at a time.
func readMany(ctx context.Context, d fs.Dir) (files int, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(256)
	for st, err := range fs.Entries(ctx, d) {
		if err != nil {
			return files, errors.Join(err, g.Wait())
		}
		files++
		g.Go(func() error {
			n, err := fs.Child(ctx, d, st)
			if err != nil {
				return err
			}
			b, err := fs.ReadAll(ctx, n)
			if err == nil && int64(len(b)) != st.Size {
				err = fmt.Errorf("%s has %d bytes, want %d", st.Name, len(b), st.Size)
			}
			return err
		})
	}
	return files, g.Wait()
}

// A stream reads the same bytes over several connections, and as fast as the
// line allows.
func TestStreamMore(t *testing.T) {
	data := make([]byte, 64<<20+12345)
	for i := range data {
		data[i] = byte(rand.Int())
	}
	root := testtree.NewDir("/", 1)
	root.Add(testtree.NewNode("big", 2, 0o444, string(data)))
	for _, test := range []struct {
		name  string
		more  func(*dialer, context.Context) (io.ReadWriteCloser, error) // nil: there is none
		conns int
		most  time.Duration
	}{
		{"one connection", nil, 1, 1900 * time.Millisecond},
		{"several", (*dialer).dial, streamLinks, 1000 * time.Millisecond},
		{"refused", func(*dialer, context.Context) (io.ReadWriteCloser, error) {
			return nil, errors.New("no")
		}, 1, 1900 * time.Millisecond},
		{"hung up at once", func(d *dialer, ctx context.Context) (io.ReadWriteCloser, error) {
			rwc, err := d.dial(ctx)
			rwc.Close()
			return rwc, err
		}, streamLinks, 1900 * time.Millisecond},
		{"hung up later", func(d *dialer, ctx context.Context) (io.ReadWriteCloser, error) {
			rwc, err := d.dial(ctx)
			time.AfterFunc(500*time.Millisecond, func() { rwc.Close() })
			return rwc, err
		}, streamLinks, 1900 * time.Millisecond},
		{"silent", func(d *dialer, ctx context.Context) (io.ReadWriteCloser, error) {
			near, _ := d.line.pipe()
			return near, nil
		}, 1, 1900 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &dialer{root: root}
				var o ImportOptions
				if test.more != nil {
					o.More = func(ctx context.Context) (io.ReadWriteCloser, error) { return test.more(d, ctx) }
				}
				c := importLong(t, d, o)
				n := walk(t, c.Root(), "big")
				start := time.Now()
				r, err := Stream(t.Context(), n)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
					t.Errorf("ReadAll = %d bytes, %v", len(b), err)
				}
				if took := time.Since(start); took > test.most {
					t.Errorf("%d bytes took %v, want at most %v", len(data), took, test.most)
				} else {
					t.Log(took)
				}
				r.Close()
				if len(d.conns) != test.conns {
					t.Errorf("there are %d connections, want %d", len(d.conns), test.conns)
				}
				for i, conn := range d.conns {
					got := conn.in.bytes.Load()
					if test.name == "several" && got < int64(len(data)/test.conns/2) {
						t.Errorf("connection %d brought %d bytes of %d", i, got, len(data))
					}
				}
				c.Close()
				d.wg.Wait() // every server sees its connection closed
			})
		})
	}
}

// A listing, and many small files, take a few round trips.
func TestLongListing(t *testing.T) {
	root := manyFiles(1000)
	dialects(t, func(t *testing.T, dialect Dialect) {
		synctest.Test(t, func(t *testing.T) {
			d := &dialer{root: root}
			c := importLong(t, d, ImportOptions{Dialect: dialect})
			trips := func(what string, most int, f func() (int, error)) {
				t.Helper()
				start := time.Now()
				if n, err := f(); n != 1000 || err != nil {
					t.Errorf("%s: %d files, %v", what, n, err)
				}
				if took := time.Since(start); took > time.Duration(most)*d.line.rtt+20*time.Millisecond {
					t.Errorf("%s took %v, want at most %d round trips", what, took, most)
				} else {
					t.Log(what, took)
				}
			}
			trips("listing", 5, func() (n int, err error) {
				for _, err := range fs.Entries(t.Context(), c.Root()) {
					if err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			})
			trips("reading", 8, func() (int, error) { return readMany(t.Context(), c.Root()) })
			c.Close()
			d.wg.Wait()
		})
	})
}

// BenchmarkLong reads over a line of 50 ms and 1 Gbit/s.
func BenchmarkLong(b *testing.B) {
	data := make([]byte, 128<<20)
	for i := range data {
		data[i] = byte(rand.Int())
	}
	big := &dialer{root: testtree.NewDir("/", 1)}
	big.root.(*testtree.Dir).Add(testtree.NewNode("big", 2, 0o444, string(data)))
	for name, o := range map[string]ImportOptions{"one": {}, "more": {More: big.dial}} {
		b.Run("stream/"+name, func(b *testing.B) {
			c := importLong(b, big, o)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := Stream(b.Context(), walk(b, c.Root(), "big"))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
					b.Fatalf("Copy = %d, %v", n, err)
				}
				r.Close()
			}
			c.Close()
			big.wg.Wait()
		})
	}
	many := &dialer{root: manyFiles(10000)}
	list := func(ctx context.Context, d fs.Dir) (n int, err error) {
		for _, err := range fs.Entries(ctx, d) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	for _, d := range []Dialect{DotL, Plan9} {
		for name, f := range map[string]func(context.Context, fs.Dir) (int, error){"list": list, "read": readMany} {
			b.Run(name+"/"+d.String(), func(b *testing.B) {
				c := importLong(b, many, ImportOptions{Dialect: d})
				files := 0
				for b.Loop() {
					n, err := f(b.Context(), c.Root())
					if err != nil {
						b.Fatal(err)
					}
					files += n
				}
				b.ReportMetric(float64(files)/b.Elapsed().Seconds(), "files/s")
				c.Close()
				many.wg.Wait()
			})
		}
	}
}
