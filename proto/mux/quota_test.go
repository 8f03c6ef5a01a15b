package mux

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

// The trees of one server have one session, and their files other qids.
func TestAt(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		var servers sync.WaitGroup
		dials := 0
		root := func(text string) fs.Dir {
			r := testtree.NewDir("/", 100)
			r.Add(testtree.NewNode("file", 101, 0o444, text))
			return r
		}
		trees := map[string]fs.Dir{"one": root("1\n"), "two": root("2\n")}
		b := NewBackend(func(context.Context, ninep.Dialect) (io.ReadWriteCloser, error) {
			dials++
			near, far := net.Pipe()
			servers.Go(func() {
				srv := ninep.Server{User: glenda, Attach: func(_ context.Context, _, aname string) (fs.Dir, error) {
					if trees[aname] == nil {
						return nil, iofs.ErrNotExist
					}
					return trees[aname], nil
				}}
				srv.Serve(context.Background(), far)
			})
			return near, nil
		}, "")
		t.Cleanup(func() { b.Close(); servers.Wait() })
		at := map[string]*Backend{"one": b.At("one"), "two": b.At("two"), "none": b.At("none")}
		m, _ := newMux(t, map[string]fs.Dir{"one": root(""), "two": root(""), "none": root("")})
		m.Find = func(path []string) *Backend {
			if len(path) == 2 && path[0] == "n" {
				return at[path[1]]
			}
			return nil
		}
		qids := map[uint64]string{}
		c := client9(t, m, d)
		for name, want := range map[string]string{"one": "1\n", "two": "2\n"} {
			for _, path := range []string{"n/" + name, "n/" + name + "/file"} {
				n, err := walk(t.Context(), c.Root(), path)
				if err != nil {
					t.Fatal(err)
				}
				st, err := n.Stat(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if other := qids[st.Path]; other != "" {
					t.Errorf("%s and %s have one qid", path, other)
				}
				qids[st.Path] = path
				if strings.HasSuffix(path, "file") {
					if text, err := fs.ReadAll(t.Context(), n); string(text) != want || err != nil {
						t.Errorf("%s = %q, %v", path, text, err)
					}
				}
			}
		}
		if _, err := walk(t.Context(), c.Root(), "n/none"); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("n/none: %v", err)
		}
		if dials != 1 {
			t.Errorf("%d dials, want 1", dials)
		}
	})
}

// What a Backend's Local names is the local tree's, and the way there and back is the
// Backend's.
func TestLocal(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		tree := func(text string) *testtree.Dir {
			root, ci, id := testtree.NewDir("a", 100), testtree.NewDir("ci", 101), testtree.NewDir("id", 102)
			root.Add(ci)
			ci.Add(id)
			id.Add(testtree.NewNode("live", 103, 0o444, text))
			id.Add(testtree.NewNode("file", 104, 0o444, text))
			return root
		}
		m, _ := newMux(t, map[string]fs.Dir{"a": tree("far\n")})
		local, n := testtree.NewDir("/", 1), testtree.NewDir("n", 2)
		local.Add(n)
		n.Add(tree("near\n"))
		m.Local.Root = local
		m.Find([]string{"n", "a"}).Local = func(path []string) bool { return strings.Join(path, "/") == "ci/id/live" }
		c := dialTalk(t, m, d)
		for i, test := range []struct{ from, path, want string }{
			{"", "n/a/ci/id/live", "near\n"},
			{"", "n/a/ci/id/file", "far\n"},
			{"n/a/ci/id", "live", "near\n"},
			{"n/a/ci/id", "file", "far\n"},
			{"n/a", "ci/../ci/id/live", "near\n"},
			{"n/a/ci/id", "../id/../../ci/id/live", "near\n"},
			{"n/a/ci/id", "../id/file", "far\n"},
			{"n/a/ci/id", "../../../a/ci/id/live", "near\n"},
			{"n/a/ci", "id/none", "1 qids"},
		} {
			if got := c.visit(uint32(i*2+10), test.from, test.path); got != test.want {
				t.Errorf("from %q to %q: %q, want %q", test.from, test.path, got, test.want)
			}
		}
	})
}

// A requester that has as much as it may is busy, and by all its clients. Of a session
// that is crowded it has no more than a fair share, and another gets one.
func TestQuota(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		root := testtree.NewDir("/", 100)
		root.Add(testtree.NewNode("file", 101, 0o444, "text\n"))
		gate := &gate{Node: testtree.NewNode("gate", 102, 0o444, ""), begun: make(chan struct{}, crowdedRequests), open: make(chan struct{})}
		root.Add(gate)
		m, _ := newMux(t, map[string]fs.Dir{"a": root})
		greedy, modest := &Quota{}, &Quota{}
		as := func(q *Quota) *ninep.Client {
			return client9(t, &Server{Local: m.Local, Find: m.Find, Quota: q}, d)
		}
		readFile := func(c *ninep.Client) error {
			n, err := walk(t.Context(), c.Root(), "n/a/file")
			if err != nil {
				return err
			}
			_, err = fs.ReadAll(t.Context(), n)
			return err
		}
		c, other := as(greedy), as(modest)
		n, err := walk(t.Context(), c.Root(), "n/a/gate")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		var reads sync.WaitGroup
		for range crowdedRequests {
			reads.Go(func() { f.ReadAt(t.Context(), make([]byte, 1), 0) })
		}
		for range crowdedRequests {
			<-gate.begun
		}
		for _, c := range []*ninep.Client{c, as(greedy)} {
			if err := readFile(c); !errors.Is(err, fs.ErrBusy) {
				t.Errorf("a greedy requester's read: %v, want %v", err, fs.ErrBusy)
			}
		}
		if err := readFile(other); err != nil {
			t.Errorf("a modest requester's read: %v", err)
		}
		close(gate.open)
		reads.Wait()
		f.Close()
		if err := readFile(c); err != nil {
			t.Errorf("a requester that was greedy: %v", err)
		}
		modest.fids.Add(quotaFids)
		if err := readFile(other); !errors.Is(err, fs.ErrBusy) {
			t.Errorf("a requester without fids: %v, want %v", err, fs.ErrBusy)
		}
		modest.fids.Add(-quotaFids)
		other.Close()
		if err := readFile(as(modest)); err != nil {
			t.Errorf("a requester with fids again: %v", err)
		}
	})
}

// The fewer bytes a requester has left the less a read of any of its clients gets, and
// without any left it is busy. What its clients have is given back when they go.
func TestQuotaBytes(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		root := testtree.NewDir("/", 100)
		root.Add(testtree.NewNode("file", 101, 0o444, strings.Repeat("x", 64<<10)))
		m, _ := newMux(t, map[string]fs.Dir{"a": root})
		greedy, modest := &Quota{}, &Quota{}
		open := func(q *Quota) (fs.File, *ninep.Client) {
			c := client9(t, &Server{Local: m.Local, Find: m.Find, Quota: q}, d)
			n, err := walk(t.Context(), c.Root(), "n/a/file")
			if err != nil {
				t.Fatal(err)
			}
			f, err := n.Open(t.Context(), fs.OpenRead)
			if err != nil {
				t.Fatal(err)
			}
			return f, c
		}
		other, _ := open(modest)
		file, c := open(greedy)
		b := make([]byte, 64<<10)
		for _, test := range []struct {
			others int64 // bytes that other clients of the requester have
			want   int   // 0: busy
		}{
			{0, len(b)},
			{quotaBytes - readShare*10000, 10000},
			{quotaBytes, leastRead},
			{quotaBytes + quotaRequests*leastRead, 0},
		} {
			greedy.bytes.Add(test.others)
			n, err := file.ReadAt(t.Context(), b, 0)
			if n != test.want || (n == 0) != errors.Is(err, fs.ErrBusy) {
				t.Errorf("with %d bytes elsewhere: %d bytes, %v, want %d", test.others, n, err, test.want)
			}
			if n, err := other.ReadAt(t.Context(), b, 0); n != len(b) {
				t.Errorf("another requester: %d bytes, %v, want %d", n, err, len(b))
			}
			greedy.bytes.Add(-test.others)
		}
		file.Close()
		c.Close()
	})
}

// A client that does not take its replies, while its requester has more than it may, is
// hung up on and gives all back. One whose requester has less may take its time.
func TestQuotaStalled(t *testing.T) {
	for _, others := range []int64{0, quotaBytes} {
		synctest.Test(t, func(t *testing.T) {
			q := &Quota{}
			q.bytes.Store(others)
			m, _ := newMux(t, nil)
			m.Quota = q
			near, far := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- m.Serve(t.Context(), far) }()
			w := &talk{t, near, wire.NewReader(near), ninep.Plan9}
			w.rpc(wire.End(wire.AppendString(le.AppendUint32(wire.Begin(nil, plan9.Tversion, plan9.NOTAG), 8216), "9P2000"), 0))
			w.rpc(attachFrame(ninep.Plan9, 0, "glenda", ""))
			stat := wire.End(le.AppendUint32(wire.Begin(nil, plan9.Tstat, 0), 0), 0)
			if _, err := near.Write(stat); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wire.StallTime - time.Second) // the bubble's clock
			if n := q.bytes.Load(); n <= others {
				t.Errorf("%d bytes count, want more than %d", n, others)
			}
			time.Sleep(wire.StallTime + 2*time.Second)
			if _, err := near.Read(make([]byte, 1)); (err != nil) != (others > 0) {
				t.Errorf("with %d bytes elsewhere the client reads: %v", others, err)
			}
			near.Close()
			<-served
			if n := q.bytes.Load(); n != others {
				t.Errorf("%d bytes count after the end, want %d", n, others)
			}
		})
	}
}

// A gate is a file whose reads block until it opens.
type gate struct {
	fs.Node
	begun, open chan struct{}
}

func (g *gate) Stat(ctx context.Context) (fs.Stat, error) {
	st, err := g.Node.Stat(ctx)
	st.Version = 0
	return st, err
}

func (g *gate) Open(context.Context, fs.OpenMode) (fs.File, error) { return openGate{g: g}, nil }

type openGate struct {
	fs.ByteFile
	g *gate
}

func (f openGate) ReadAt(ctx context.Context, _ []byte, _ int64) (int, error) {
	f.g.begun <- struct{}{}
	select {
	case <-f.g.open:
		return 0, io.EOF
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
