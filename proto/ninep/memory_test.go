package ninep

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/treetest"
	"9ci/proto/internal/wire"

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
			if text := wire.Text(c.d, buf[:size], 200); buf[4] == wire.Rlerror || buf[4] == 107 {
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
		sock := filepath.Join(t.TempDir(), "sock")
		l, err := Listen(sock)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- (&Server{Root: root}).ServeListener(ctx, l) }()
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
			cancel()
			<-done
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
