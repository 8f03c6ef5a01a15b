package ninep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"9ci/fs"
	"9ci/proto/internal/testtree"
)

// serve starts s on one end of a connection and returns the other. The test
// ends only after Serve has.
func serve(t testing.TB, s *Server) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), far) }()
	t.Cleanup(func() {
		near.Close()
		<-done
	})
	return near
}

func dialects(t *testing.T, f func(t *testing.T, d Dialect)) {
	for _, d := range []Dialect{Plan9, DotL} {
		t.Run(d.String(), func(t *testing.T) { f(t, d) })
	}
}

func importTest(t testing.TB, s *Server, d Dialect) *Client {
	t.Helper()
	c, err := Import(t.Context(), serve(t, s), ImportOptions{Dialect: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func walk(t testing.TB, d fs.Dir, names ...string) fs.Node {
	t.Helper()
	n, err := walkPath(t.Context(), d, names...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func walkPath(ctx context.Context, d fs.Dir, names ...string) (fs.Node, error) {
	var n fs.Node = d
	for _, name := range names {
		var err error
		if n, err = n.(fs.Dir).Walk(ctx, name); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func TestImport(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		root, _ := testtree.New()
		c := importTest(t, &Server{Root: root}, d)
		if c.Dialect() != d {
			t.Fatalf("Dialect() = %v, want %v", c.Dialect(), d)
		}
		ctx := t.Context()
		b, err := fs.ReadAll(ctx, walk(t, c.Root(), "ci", "last", "status"))
		if err != nil || string(b) != "passed 0 1.500 -\n" {
			t.Errorf("ReadAll(ci/last/status) = %q, %v", b, err)
		}
		if b, err := fs.ReadAll(ctx, walk(t, c.Root(), "empty")); err != nil || len(b) != 0 {
			t.Errorf("ReadAll(empty) = %q, %v", b, err)
		}
		if _, err := c.Root().Walk(ctx, "nothing"); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("Walk(nothing) = %v, want %v", err, iofs.ErrNotExist)
		}
		if _, err := walk(t, c.Root(), "ci", "last", "secret").Open(ctx, fs.OpenRead); !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("Open(secret) = %v, want %v", err, iofs.ErrPermission)
		}
		if _, err := walk(t, c.Root(), "empty").Open(ctx, fs.OpenWrite); !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("Open(empty, write) = %v, want %v", err, iofs.ErrPermission)
		}

		var names []string
		for after := uint64(0); ; {
			sts, err := c.Root().ReadDir(ctx, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(sts) == 0 {
				break
			}
			for _, st := range sts {
				names = append(names, st.Name)
				after = st.Cookie
				n := walk(t, c.Root(), st.Name)
				if got, err := n.Stat(ctx); err != nil || got.Mode != st.Mode || got.Path != st.Path || !got.ModTime.Equal(st.ModTime) {
					t.Errorf("Stat(%s) = %+v, %v, want %+v", st.Name, got, err, st)
				}
			}
		}
		if len(names) != 4 || names[0] != "ci" || names[3] != "empty" {
			t.Errorf("ReadDir = %q", names)
		}
		st, err := walk(t, c.Root(), "link").Stat(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d == DotL && (st.Mode&iofs.ModeSymlink == 0 || st.Target != "ci/last/status") {
			t.Errorf("Stat(link) = %+v", st)
		}
		if d == Plan9 {
			if b, err := fs.ReadAll(ctx, walk(t, c.Root(), "link")); err != nil || string(b) != "ci/last/status" {
				t.Errorf("ReadAll(link) = %q, %v", b, err)
			}
		}
	})
}

// A peer of ours is attached to with the first burst; one that turns out to speak
// something else is an error. A file that is taken to be there is read in a burst,
// and its errors are those of a walk.
func TestImportOurs(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		root, _ := testtree.New()
		ctx := t.Context()
		c, err := Import(ctx, serve(t, &Server{Root: root}), ImportOptions{Dialect: d, Ours: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for path, want := range map[string]error{
			"ci/last/status": nil, "/ci//./last/status": nil, "ci/last/none": iofs.ErrNotExist, "ci/none/status": iofs.ErrNotExist,
			"../ci": iofs.ErrNotExist, "empty/x": fs.ErrNotDir, "empty/x/y": fs.ErrNotDir, "ci/last": fs.ErrIsDir, "": fs.ErrIsDir,
			"ci/last/secret": iofs.ErrPermission,
		} {
			n, err := fs.FileAt(ctx, c.Root(), path)
			var b []byte
			if err == nil {
				b, err = fs.ReadAll(ctx, n)
			}
			if !errors.Is(err, want) || want == nil && string(b) != "passed 0 1.500 -\n" {
				t.Errorf("%q = %q, %v, want %v", path, b, err, want)
			}
		}
		_, err = Import(ctx, serve(t, &Server{Attach: func(context.Context, string, string) (fs.Dir, error) { return nil, iofs.ErrPermission }}),
			ImportOptions{Dialect: d, Ours: true})
		if !errors.Is(err, iofs.ErrPermission) {
			t.Errorf("Import of a peer that refuses = %v, want %v", err, iofs.ErrPermission)
		}
		c, err = Import(ctx, serve(t, &Server{Attach: func(_ context.Context, _, aname string) (fs.Dir, error) {
			if aname != "" {
				return nil, iofs.ErrNotExist
			}
			return root, nil
		}}), ImportOptions{Dialect: d, Ours: true, Aname: "x", OrRoot: true})
		if err != nil || c.Aname() != "" {
			t.Fatalf("Import with OrRoot: %v", err)
		}
		c.Close()
	})
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		far.Read(make([]byte, 1024))
		far.Write([]byte("\x13\x00\x00\x00\x65\xff\xff\x00\x00\x01\x00\x06\x009P2000"))
		far.Write([]byte("\x14\x00\x00\x00\x69\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
		io.Copy(io.Discard, far)
	}()
	if _, err := Import(t.Context(), near, ImportOptions{Dialect: DotL, Ours: true}); err == nil || !strings.Contains(err.Error(), `9P2000.L with "9P2000"`) {
		t.Errorf("Import of a peer of another dialect = %v", err)
	}
}

// crowded is a directory that has no room for the moment.
type crowded struct{ fs.Dir }

func (crowded) Walk(context.Context, string) (fs.Node, error) { return nil, fs.ErrBusy }

// A name that cannot be looked up for now is not one that is not there, wherever in
// a walk it stands.
func TestWalkBusy(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		c := importTest(t, &Server{Root: fs.NewDir("/", fs.NewDir("a", fs.Named(crowded{fs.NewDir("b")}, "b")))}, d)
		for _, path := range []string{"a/b/c", "a/b/c/d"} {
			n, err := fs.FileAt(t.Context(), c.Root(), path)
			if err == nil {
				_, err = n.Stat(t.Context())
			}
			if !errors.Is(err, fs.ErrBusy) {
				t.Errorf("Stat(%s) = %v, want %v", path, err, fs.ErrBusy)
			}
		}
	})
}

func TestImportCtl(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		root, _ := testtree.New()
		c := importTest(t, &Server{Root: root}, d)
		ctx := t.Context()
		ctl := walk(t, c.Root(), "ctl")
		if b, err := fs.ReadAll(ctx, ctl); err != nil || string(b) != "manual\n" {
			t.Errorf("ReadAll(ctl) = %q, %v", b, err)
		}
		f, err := ctl.Open(ctx, fs.OpenRead|fs.OpenWrite|fs.OpenTrunc)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(ctx, []byte("run\n"), 0); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, err := f.ReadAt(ctx, b, 0); err != nil || string(b[:n]) != "did run\n" {
			t.Errorf("ReadAt(ctl) = %q, %v", b[:n], err)
		}
		_, err = f.WriteAt(ctx, []byte("bad\n"), 0)
		if !errors.Is(err, iofs.ErrInvalid) {
			t.Errorf("WriteAt(bad) = %v, want %v", err, iofs.ErrInvalid)
		}
	})
}

// A small file is one round trip, whatever it takes.
func TestImportBurst(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		root, _ := testtree.New()
		big := strings.Repeat("0123456789", 30000)
		root.Add(testtree.NewNode("big", 50, 0o444, big))
		conn := &countedConn{Conn: serve(t, &Server{Root: root})}
		c, err := Import(t.Context(), conn, ImportOptions{Dialect: d})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		n := walk(t, c.Root(), "ci", "last", "status")
		before := conn.writes.Load()
		if b, err := fs.ReadAll(t.Context(), n); err != nil || string(b) != "passed 0 1.500 -\n" {
			t.Errorf("ReadAll = %q, %v", b, err)
		}
		if n := conn.writes.Load() - before; n != 1 {
			t.Errorf("it took %d writes, want 1", n)
		}
		if b, err := fs.ReadAll(t.Context(), walk(t, c.Root(), "big")); err != nil || string(b) != big {
			t.Errorf("ReadAll(big) = %d bytes, %v", len(b), err)
		}
		if _, err := fs.ReadAll(t.Context(), c.Root()); !errors.Is(err, fs.ErrIsDir) {
			t.Errorf("ReadAll(/) = %v, want %v", err, fs.ErrIsDir)
		}
	})
}

type countedConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A reader gives up, and the tree's read with it.
// A listing of names asks the server about no entry.
func TestImportNames(t *testing.T) {
	many := testtree.NewDir("many", 100)
	for i := range 600 {
		many.Add(testtree.NewNode(fmt.Sprintf("file%d", i), uint64(i)+1000, 0o444, "x"))
	}
	root, _ := testtree.New()
	root.Add(many)
	dialects(t, func(t *testing.T, d Dialect) {
		var trace lockedBuffer
		c := importTest(t, &Server{Root: root, Trace: &trace}, d)
		dir := walk(t, c.Root(), "many").(fs.Dir)
		asked := func() int { return strings.Count(trace.String(), "Tgetattr") + strings.Count(trace.String(), "Tstat") }
		before := asked()
		seen := make(map[string]bool)
		for st, err := range fs.Names(t.Context(), dir) {
			if err != nil || st.IsDir() {
				t.Fatalf("Names: %+v, %v", st, err)
			}
			seen[st.Name] = true
		}
		if len(seen) != 600 || !seen["file599"] {
			t.Errorf("Names yields %d names, want 600", len(seen))
		}
		if n := asked() - before; n != 0 {
			t.Errorf("Names asked about %d files", n)
		}
	})
}

// A lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestImportCancel(t *testing.T) {
	dialects(t, func(t *testing.T, d Dialect) {
		root, log := testtree.New()
		arrived, closed := log.Watch()
		c := importTest(t, &Server{Root: root}, d)
		f, err := walk(t, c.Root(), "ci", "last", "live").Open(t.Context(), fs.OpenRead)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		if _, err := f.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("ReadAt = %v, want %v", err, context.Canceled)
		}
		f.Close()
		<-closed

		// The connection is as good as before.
		log.Append("hello\n", true)
		if b, err := fs.ReadAll(t.Context(), walk(t, c.Root(), "ci", "last", "live")); err != nil || string(b) != "hello\n" {
			t.Errorf("ReadAll(live) = %q, %v", b, err)
		}
	})
}

// me is the user who runs the test.
func me() fs.User {
	return fs.User{Name: userName(uint32(os.Getuid())), UID: int64(os.Getuid())}
}
