package ninep

import (
	"fmt"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/treetest"
	"9ci/proto/internal/wire"

	"9fans.net/go/plan9"
	"golang.org/x/sys/unix"
)

// A plainConn is a client that has nothing in Go's memory: a descriptor.
type plainConn struct {
	t  testing.TB
	fd int
	d  Dialect
}

func dialPlain(t testing.TB, path string, d Dialect) plainConn {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatal(err)
	}
	return plainConn{t, fd, d}
}

// ask sends T-messages and waits until as many R-messages came, none of them
// an error.
func (c plainConn) ask(messages ...string) {
	c.t.Helper()
	c.send(messages...)
	buf := make([]byte, 8<<10)
	have := 0
	for n := 0; n < len(messages); {
		m, err := unix.Read(c.fd, buf[have:])
		if err != nil || m == 0 {
			c.t.Fatalf("read %d bytes, %v", m, err)
		}
		have += m
		for have >= 4 && have >= int(le.Uint32(buf)) {
			size := int(le.Uint32(buf))
			if text := wire.Text(c.d, buf[:size], 200); buf[4] == wire.Rlerror || buf[4] == plan9.Rerror {
				c.t.Fatalf("%q got %s", messages, text)
			}
			have = copy(buf, buf[size:have])
			n++
		}
	}
}

func (c plainConn) send(messages ...string) {
	c.t.Helper()
	var b []byte
	for _, m := range messages {
		frame, err := parse(c.d, m)
		if err != nil {
			c.t.Fatal(err)
		}
		b = append(b, frame...)
	}
	if n, err := unix.Write(c.fd, b); err != nil || n != len(b) {
		c.t.Fatalf("wrote %d of %d bytes, %v", n, len(b), err)
	}
}

// memory is what this process has in use of heap and stacks.
func memory() int64 {
	runtime.GC() // and shrinks stacks
	runtime.GC()
	m := sample("/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes", "/memory/classes/heap/stacks:bytes")
	return int64(m[0] + m[1] + m[2])
}

func sample(names ...string) (values []uint64) {
	samples := make([]metrics.Sample, len(names))
	for i, n := range names {
		samples[i].Name = n
	}
	metrics.Read(samples)
	for _, s := range samples {
		values = append(values, s.Value.Uint64())
	}
	return values
}

// waiting returns when n goroutines wait.
func waiting(t testing.TB, n uint64) {
	for start := time.Now(); sample("/sched/goroutines/waiting:goroutines")[0] < n; runtime.Gosched() {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("fewer than %d goroutines wait", n)
		}
	}
}

// A connection that says nothing and a reader that waits cost little. Measured
// is the server alone, with the tree of runs.
func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	const n = 1000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*n+100 {
		t.Fatalf("%d files may be open, %v; the test needs %d", limit.Cur, err, 2*n+100)
	}
	dialects(t, func(t *testing.T, d Dialect) {
		_, root := treetest.New(t)
		sock := listen(t, &Server{Root: root})
		attach := "Tattach tag 1 fid 0 afid -1 uname glenda aname \"\""
		open := "Topen tag 3 fid 1 mode 0"
		if d == DotL {
			attach += " n_uname -1"
			open = "Tlopen tag 3 fid 1 flags 0"
		}
		conns := make([]plainConn, 0, n+1)
		defer func() {
			for _, c := range conns {
				unix.Close(c.fd)
			}
		}()
		dial := func() plainConn {
			c := dialPlain(t, sock, d)
			conns = append(conns, c)
			// It is used before it is idle.
			c.ask(fmt.Sprintf("Tversion tag -1 msize 65536 version %s", d))
			c.ask(attach, "Twalk tag 2 fid 0 newfid 1 wname [ci last status]", open,
				"Tread tag 4 fid 1 offset 0 count 4096", "Tclunk tag 5 fid 1")
			return c
		}
		first := dial() // and whatever is made once
		before, goroutines := memory(), runtime.NumGoroutine()
		for range n {
			dial()
		}
		waiting(t, uint64(runtime.NumGoroutine()-goroutines))
		per := (memory() - before) / n
		t.Logf("an idle connection costs %d bytes", per)
		if per > 16<<10 {
			t.Errorf("an idle connection costs %d bytes, want at most 16 KiB", per)
		}

		// "ci last" is the run that goes on.
		first.ask("Twalk tag 2 fid 0 newfid 1 wname [ci last live]", open)
		off := liveSize(t, root)
		before, goroutines = memory(), runtime.NumGoroutine()
		for i := range n {
			first.send(fmt.Sprintf("Tread tag %d fid 1 offset %d count 8192", i, off))
		}
		first.ask("Twalk tag 2000 fid 0 newfid 2 wname []") // comes behind them
		waiting(t, uint64(goroutines+n))
		per = (memory() - before) / n
		t.Logf("a blocked reader costs %d bytes", per)
		if per > 6<<10 {
			t.Errorf("a blocked reader costs %d bytes, want at most 6 KiB", per)
		}
		if per < 1<<10 {
			t.Errorf("a blocked reader costs %d bytes: it does not wait", per)
		}
	})
}

// liveSize is where a reader of the last run's live blocks.
func liveSize(t testing.TB, root fs.Dir) int64 {
	st, err := walk(t, root, "ci", "last", "live").Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Size
}

// What a client does in a directory of a hundred thousand runs costs the server
// nothing that grows with them, but the store's own index.
func TestManyRuns(t *testing.T) {
	const n = 100000
	_, root := treetest.NewLarge(t, n)
	if _, err := walk(t, root, "ci").(fs.Dir).ReadDir(t.Context(), 0, 1); err != nil {
		t.Fatal(err)
	}
	sock := listen(t, &Server{Root: root})

	var conns []plainConn
	dial := func(d Dialect) plainConn {
		c := dialPlain(t, sock, d)
		conns = append(conns, c)
		c.ask(fmt.Sprintf("Tversion tag -1 msize 65536 version %s", d))
		attach := "Tattach tag 1 fid 0 afid -1 uname glenda aname \"\""
		if d == DotL {
			attach += " n_uname -1"
		}
		c.ask(attach, "Twalk tag 2 fid 0 newfid 1 wname [ci]")
		return c
	}
	defer func() {
		for _, c := range conns {
			unix.Close(c.fd)
		}
	}()
	first := dial(DotL)
	first.ask("Tlopen tag 1 fid 1 flags 0")
	before := memory()
	flat := func(what string) {
		t.Helper()
		if grown := memory() - before; grown > 2<<20 {
			t.Errorf("%s: the heap has grown by %d bytes", what, grown)
		}
	}

	// One lists them all, and nineteen others are in the midst of it.
	count, cookie := 0, uint64(0)
	for page := 0; ; page++ {
		b := first.data(fmt.Sprintf("Treaddir tag 1 fid 1 offset %d count 65000", cookie))
		if len(b) == 0 {
			break
		}
		sts, last, err := entries(append(le.AppendUint32(nil, uint32(len(b))), b...), cookie, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		count += len(sts)
		if cookie = last; page%10 == 0 {
			c := dial(DotL)
			c.ask("Tlopen tag 1 fid 1 flags 0", fmt.Sprintf("Treaddir tag 1 fid 1 offset %d count 4096", cookie))
			flat(fmt.Sprintf("page %d", page))
		}
	}
	if count != n {
		t.Errorf("/ci lists %d runs, want %d", count, n)
	}
	flat("the listing")
	if len(conns) < 5 {
		t.Errorf("only %d were in the midst of a listing", len(conns))
	}

	// In 9P2000 it lists the newest.
	c := dial(Plan9)
	c.ask("Topen tag 1 fid 1 mode 0")
	b := c.data("Tread tag 1 fid 1 offset 0 count 65000")
	newest := 0
	for len(b) > 2 {
		st, err := stat9(b[:2+le.Uint16(b)])
		if err != nil {
			t.Fatal(err)
		}
		b = b[2+le.Uint16(b):]
		newest++
		if want := fmt.Sprintf("%s.%d", treetest.PassedCommit[:12], n-40+newest); st.Name != want {
			t.Errorf("entry %d is %s, want %s", newest, st.Name, want)
		}
	}
	if newest != 40 {
		t.Errorf("in 9P2000 /ci lists %d runs, want 40", newest)
	}
	flat("the listing in 9P2000")

	for i := 1; i <= n; i += n / 1000 {
		first.ask(fmt.Sprintf("Twalk tag 1 fid 0 newfid 2 wname [ci %s.%d]", treetest.PassedCommit[:12], i),
			"Tgetattr tag 2 fid 2 mask 2047", "Tclunk tag 3 fid 2")
	}
	flat("walk and stat")

	// A client that imports the tree holds no more of it than it asked for at a
	// time.
	conn, err := Dial(t.Context(), sock)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := Import(t.Context(), conn, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer imported.Close()
	count = 0
	for _, err := range fs.Entries(t.Context(), walk(t, imported.Root(), "ci").(fs.Dir)) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count%(n/10) == 0 {
			flat(fmt.Sprintf("run %d of an imported tree", count))
		}
	}
	if count != n {
		t.Errorf("the imported /ci lists %d runs, want %d", count, n)
	}
}

// data sends a T-message that reads, and returns what was read.
func (c plainConn) data(message string) []byte {
	c.t.Helper()
	c.send(message)
	frame := make([]byte, 4, 64<<10)
	for have := 0; have < len(frame); {
		m, err := unix.Read(c.fd, frame[have:])
		if err != nil || m == 0 {
			c.t.Fatalf("read %d bytes, %v", m, err)
		}
		if have += m; have == 4 {
			frame = frame[:le.Uint32(frame)]
		}
	}
	if typ := frame[4]; typ != plan9.Rread && typ != wire.Treaddir+1 {
		c.t.Fatalf("%q got %s", message, wire.Text(c.d, frame, 200))
	}
	return frame[wire.HeaderSize+4:]
}
