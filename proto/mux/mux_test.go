package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/treetest"
	"9ci/proto/internal/testtree"
	"9ci/proto/internal/wire"
	"9ci/proto/ninep"

	"9fans.net/go/plan9"
)

var glenda = fs.User{Name: "glenda", UID: int64(os.Getuid())}

// A server is a backend that a test can hang up on.
type server struct {
	t    testing.TB
	root fs.Dir

	mu    sync.Mutex
	conns []net.Conn
	dials int
	wg    sync.WaitGroup
}

func (s *server) dial(context.Context, ninep.Dialect) (io.ReadWriteCloser, error) {
	near, far := net.Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, near)
	s.dials++
	s.wg.Go(func() { (&ninep.Server{Root: s.root, User: glenda}).Serve(context.Background(), far) })
	return near, nil
}

func (s *server) hangup() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// newMux is a mux of a local tree, which has a README and /n, and of backends
// at /n/NAME.
func newMux(t testing.TB, roots map[string]fs.Dir) (*Server, map[string]*server) {
	local := testtree.NewDir("/", 1)
	local.Add(testtree.NewNode("README", 2, 0o444, "hello\n"))
	n := testtree.NewDir("n", 3)
	local.Add(n)
	servers := make(map[string]*server)
	backends := make(map[string]*Backend)
	for name, root := range roots {
		n.Add(testtree.NewDir(name, uint64(len(servers))+4))
		s := &server{t: t, root: root}
		b := NewBackend(s.dial, "")
		servers[name], backends[name] = s, b
		t.Cleanup(func() { b.Close(); s.hangup(); s.wg.Wait() })
	}
	return &Server{
		Local: &ninep.Server{Root: local, User: glenda},
		Find: func(path []string) *Backend {
			if len(path) == 2 && path[0] == "n" {
				return backends[path[1]]
			}
			return nil
		},
	}, servers
}

func dial(t testing.TB, m *Server) net.Conn {
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- m.Serve(context.Background(), far) }()
	t.Cleanup(func() {
		near.Close()
		<-done
	})
	return near
}

func client9(t testing.TB, m *Server, d ninep.Dialect) *ninep.Client {
	t.Helper()
	c, err := ninep.Import(t.Context(), dial(t, m), ninep.ImportOptions{Dialect: d, Uname: "glenda"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialects(t *testing.T, f func(*testing.T, ninep.Dialect)) {
	for _, d := range []ninep.Dialect{ninep.Plan9, ninep.DotL} {
		t.Run(d.String(), func(t *testing.T) { f(t, d) })
	}
}

func walk(ctx context.Context, d fs.Dir, path string) (fs.Node, error) {
	var n fs.Node = d
	for _, name := range strings.Split(path, "/") {
		var err error
		if n, err = n.(fs.Dir).Walk(ctx, name); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func read(ctx context.Context, d fs.Dir, path string) (string, error) {
	n, err := walk(ctx, d, path)
	if err != nil {
		return "", err
	}
	b, err := fs.ReadAll(ctx, n)
	return string(b), err
}

func TestMux(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		a, _ := testtree.New()
		b, _ := testtree.New()
		m, servers := newMux(t, map[string]fs.Dir{"a": a, "b": b})
		c := client9(t, m, d)
		paths := make(map[uint64]string)
		for _, path := range []string{"README", "n/a/ci/last/status", "n/b/ci/3f2a9c1d0b7e.1/status"} {
			want := "passed 0 1.500 -\n"
			if path == "README" {
				want = "hello\n"
			}
			if got, err := read(t.Context(), c.Root(), path); err != nil || got != want {
				t.Errorf("%s = %q, %v, want %q", path, got, err, want)
			}
			n, err := walk(t.Context(), c.Root(), path)
			if err != nil {
				continue
			}
			st, err := n.Stat(t.Context())
			if err != nil || paths[st.Path] != "" {
				t.Errorf("%s has the qid.path of %q, %v", path, paths[st.Path], err)
			}
			paths[st.Path] = path
		}
		for _, path := range []string{"n/c", "n/a/nothing", "nothing", "n/a/ci/nothing/status"} {
			if _, err := walk(t.Context(), c.Root(), path); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("Walk(%s) = %v, want %v", path, err, iofs.ErrNotExist)
			}
		}
		client9(t, m, d) // shares the sessions
		if n := servers["a"].dials; n != 1 {
			t.Errorf("a was dialled %d times, want once", n)
		}
	})
}

// A backend's tree keeps its rules through the mux.
func TestTree(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		_, root := treetest.New(t)
		m, _ := newMux(t, map[string]fs.Dir{"a": root})
		n, err := walk(t.Context(), client9(t, m, d).Root(), "n/a")
		if err != nil {
			t.Fatal(err)
		}
		treetest.TestDoor(t, n.(fs.Dir), treetest.Lacks{Links: d == ninep.Plan9})
	})
}

// Backend loss: what is pending fails, what is open is stale, and the next
// walk dials anew.
func TestBackendLoss(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		a, log := testtree.New()
		arrived, _ := log.Watch()
		m, servers := newMux(t, map[string]fs.Dir{"a": a})
		c := client9(t, m, d)
		n, err := walk(t.Context(), c.Root(), "n/a/ci/last/live")
		if err != nil {
			t.Fatal(err)
		}
		f, err := n.Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		read1 := make(chan error, 1)
		go func() {
			_, err := f.ReadAt(context.Background(), make([]byte, 10), 0)
			read1 <- err
		}()
		<-arrived
		servers["a"].hangup()
		if err := <-read1; !errors.Is(err, fs.ErrIO) {
			t.Errorf("ReadAt = %v, want %v", err, fs.ErrIO)
		}
		if _, err := f.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, fs.ErrIO) {
			t.Errorf("ReadAt of a stale file = %v, want %v", err, fs.ErrIO)
		}
		f.Close()
		if got, err := read(t.Context(), c.Root(), "n/a/ci/last/status"); err != nil || got != "passed 0 1.500 -\n" {
			t.Errorf("after the loss: %q, %v", got, err)
		}
		if got, err := read(t.Context(), c.Root(), "README"); err != nil || got != "hello\n" {
			t.Errorf("the local tree after the loss: %q, %v", got, err)
		}
	})
}

// Client loss: the backend's reads end and its files are closed.
func TestClientLoss(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		a, log := testtree.New()
		arrived, closed := log.Watch()
		m, _ := newMux(t, map[string]fs.Dir{"a": a})
		c := client9(t, m, d)
		n, err := walk(t.Context(), c.Root(), "n/a/ci/last/live")
		if err != nil {
			t.Fatal(err)
		}
		const files = 10
		for range files {
			f, err := n.Open(t.Context(), fs.OpenRead)
			if err != nil {
				t.Fatal(err)
			}
			go f.ReadAt(context.Background(), make([]byte, 10), 0)
			<-arrived
		}
		c.Close()
		for range files {
			<-closed
		}
		// And the session is there for others.
		if got, err := read(t.Context(), client9(t, m, d).Root(), "n/a/ci/last/status"); err != nil || got != "passed 0 1.500 -\n" {
			t.Errorf("after the loss: %q, %v", got, err)
		}
	})
}

// Many cancelled reads among many clients.
func TestFlushStorm(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		a, log := testtree.New()
		m, _ := newMux(t, map[string]fs.Dir{"a": a})
		var wg sync.WaitGroup
		for range 4 {
			c := client9(t, m, d)
			n, err := walk(t.Context(), c.Root(), "n/a/ci/last/live")
			if err != nil {
				t.Fatal(err)
			}
			f, err := n.Open(t.Context(), fs.OpenRead)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(context.Background())
					if i%2 == 0 {
						cancel()
					} else {
						time.AfterFunc(time.Duration(i)*10*time.Microsecond, cancel)
					}
					if _, err := f.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
						t.Errorf("ReadAt = %v, want %v", err, context.Canceled)
					}
					cancel()
					if got, err := read(context.Background(), c.Root(), "n/a/ci/last/status"); err != nil || got != "passed 0 1.500 -\n" {
						t.Errorf("beside the storm: %q, %v", got, err)
					}
				})
			}
		}
		wg.Wait()
		log.Append("end\n", true)
	})
}

// A client that does not read its replies holds nobody up.
func TestSlowClient(t *testing.T) {
	a, _ := testtree.New()
	a.Add(testtree.NewNode("big", 99, 0o444, strings.Repeat("x", 4<<20)))
	m, _ := newMux(t, map[string]fs.Dir{"a": a})
	slow := &stuck{Conn: dial(t, m), until: make(chan struct{})}
	c, err := ninep.Import(t.Context(), slow, ninep.ImportOptions{Uname: "glenda"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := walk(t.Context(), c.Root(), "n/a/big")
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.Open(t.Context(), fs.OpenRead)
	if err != nil {
		t.Fatal(err)
	}
	slow.stick(true)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			p := make([]byte, 64<<10)
			n, err := f.ReadAt(context.Background(), p, int64(i)<<16)
			if err != nil || n == 0 || !bytes.Equal(p[:n], bytes.Repeat([]byte("x"), n)) {
				t.Errorf("slow ReadAt = %d, %v", n, err)
			}
		})
	}
	fast := client9(t, m, ninep.DotL)
	for range 10 {
		if got, err := read(t.Context(), fast.Root(), "n/a/big"); err != nil || len(got) != 4<<20 {
			t.Errorf("fast: %d bytes, %v", len(got), err)
		}
	}
	slow.stick(false)
	wg.Wait()
}

// A stuck connection does not read while it sticks.
type stuck struct {
	net.Conn
	mu     sync.Mutex
	sticks bool
	until  chan struct{}
}

func (s *stuck) stick(on bool) {
	s.mu.Lock()
	s.sticks = on
	s.mu.Unlock()
	if !on {
		close(s.until)
	}
}

func (s *stuck) Read(p []byte) (int, error) {
	s.mu.Lock()
	on := s.sticks
	s.mu.Unlock()
	if on {
		<-s.until
	}
	return s.Conn.Read(p)
}

func TestDotDot(t *testing.T) {
	dialects(t, func(t *testing.T, d ninep.Dialect) {
		a, _ := testtree.New()
		b, _ := testtree.New()
		m, _ := newMux(t, map[string]fs.Dir{"a": a, "b": b})
		c := dialTalk(t, m, d)
		for i, test := range []struct {
			from string
			path string
			want string // of the file there, or the number of qids
		}{
			{"", "n/a/../../README", "hello\n"},
			{"n/a", "../../README", "hello\n"},
			{"n/a/ci", "../../b/ci/last/status", "passed 0 1.500 -\n"},
			{"n/a/ci/last", "../../../../../../README", "hello\n"},
			{"n/a", "ci/../ci/last/status", "passed 0 1.500 -\n"},
			{"n/a", "../../nothing/x", "2 qids"},
			{"n/a/ci", "../nothing", "1 qids"},
			{"n/a", "nothing", "error"},
			{"n", "a/ci/nothing", "2 qids"},
			{"n", "a/nothing", "1 qids"},
			{"n/a", "..", "3 is the qid"},
			{"n/a", "../..", "1 is the qid"},
			{"n/b", "../a/../b/../../n/a/ci/last/../last/status", "passed 0 1.500 -\n"},
		} {
			if got := c.visit(uint32(i*2+10), test.from, test.path); got != test.want && !strings.HasSuffix(got, test.want) {
				t.Errorf("from %q to %q: %q, want %q", test.from, test.path, got, test.want)
			}
		}
	})
}

// An unknown fid is EBADF, whatever was asked of it: the mux and the core agree.
func TestUnknownFid(t *testing.T) {
	root, _ := testtree.New()
	m, _ := newMux(t, map[string]fs.Dir{"a": root})
	w := dialTalk(t, m, ninep.DotL)
	for typ, l := range wire.Layouts[ninep.DotL] {
		switch {
		case l == nil || typ&1 != 0 || typ == plan9.Tversion || typ == plan9.Tflush || typ == plan9.Tauth || typ == plan9.Tattach:
			continue
		}
		b := wire.Begin(nil, uint8(typ), 0)
		for i, f := range l.Fields {
			switch {
			case i == 0:
				b = le.AppendUint32(b, 77)
			default:
				n := map[wire.Kind]int{wire.Kind8: 1, wire.Kind16: 2, wire.Kind32: 4, wire.Kind64: 8, wire.KindStr: 2, wire.KindNames: 2, wire.KindData: 4}[f.Kind]
				b = append(b, make([]byte, n)...)
			}
		}
		rx := w.rpc(wire.End(b, 0))
		if got := wire.Text(ninep.DotL, rx, 64); got != "Rlerror tag 0 ecode 9" {
			t.Errorf("%s of an unknown fid: %s, want ecode 9", l.Name, got)
		}
	}
}
