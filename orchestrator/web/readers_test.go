package web

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/fs"
	"9ci/orchestrator/access"
)

// A pipeListener is a listener in memory: as many connections as one likes, each from an
// address of its own.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newPipeListener() *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	return l
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.close(); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

type pipeConn struct {
	net.Conn
	from net.Addr
}

func (c pipeConn) RemoteAddr() net.Addr { return c.from }

// dial opens the connection of the nth address.
func (l *pipeListener) dial(n int) net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- pipeConn{theirs, &net.TCPAddr{IP: net.IPv4(10, byte(n>>16), byte(n>>8), byte(n)), Port: 1}}
	return ours
}

// A crowd are readers of one log, each by a connection of its own.
type crowd struct {
	*livingSite
	l     *pipeListener
	conns []net.Conn
	got   chan string   // what a reader has got
	over  chan struct{} // closed when nobody looks at what they get
}

// newCrowd serves a run that goes on to n readers, and waits until all follow it. The page has as
// many descriptors as it could use.
func newCrowd(t testing.TB, n int) *crowd {
	t.Helper()
	c := &crowd{livingSite: living(t, newSite(t, testURL)), l: newPipeListener(), got: make(chan string), over: make(chan struct{})}
	c.limits.conns = mostConns
	c.limits.live.All = mostConns - mostConns/liveShare
	c.do(c.run.Enter("boot"))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(ctx, c.l, nil) }()
	var wg sync.WaitGroup
	t.Cleanup(func() {
		close(c.over)
		for _, conn := range c.conns {
			conn.Close()
		}
		cancel()
		<-ended
		wg.Wait()
	})
	for i := range n {
		conn := c.l.dial(i)
		c.conns = append(c.conns, conn)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: ci.example.org\r\n\r\n", c.at.URL("live"))
		wg.Go(func() {
			b := make([]byte, 2048)
			for {
				n, err := conn.Read(b)
				if err != nil {
					return
				}
				select {
				case c.got <- string(b[:n]):
				case <-c.over:
				}
			}
		})
	}
	c.await(n, "retry: ")
	return c
}

// await waits until n readers have got a text.
func (c *crowd) await(n int, text string) {
	c.t.Helper()
	for n > 0 {
		got := <-c.got
		if strings.Contains(got, text) {
			n--
		}
		if strings.HasPrefix(got, "HTTP/1.1 ") && !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			c.t.Fatalf("a reader got %s", got)
		}
	}
}

// get asks for a path from the nth address, and returns the answer's beginning.
func (c *crowd) get(n int, path string) string {
	c.t.Helper()
	conn := c.l.dial(n)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: ci.example.org\r\nConnection: close\r\n\r\n", path)
	b, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// Ten thousand read one log. Each gets its lines, the run is read once for all of them, others see
// their pages, and readers that are too many are told so.
func TestManyReaders(t *testing.T) {
	const n = 10_000
	before := runtime.NumGoroutine()
	t.Run("readers", func(t *testing.T) {
		c := newCrowd(t, n)
		c.mu.Lock()
		opens := c.opens["log"]
		c.mu.Unlock()
		c.say("a line for all\n")
		c.do(nil)
		c.await(n, "a line for all")
		c.mu.Lock()
		if got := c.opens["log"] - opens; got > 5 || c.opens["live"] != 1 {
			t.Errorf("a line for %d readers opened log %d times, and live %d times in all", n, got, c.opens["live"])
		}
		c.mu.Unlock()
		if a := c.get(1<<20, c.at.URL("run")); !strings.HasPrefix(a, "HTTP/1.1 200 ") || !strings.Contains(a, "a line for all") {
			t.Errorf("a page beside them: %.500s", a)
		}
		trees := c.trees.(*testTrees)
		trees.mu.Lock()
		if trees.held != 1 { // the follower's
			t.Errorf("%d readers hold %d trees", n, trees.held)
		}
		trees.mu.Unlock()
		c.limits.live.All = n
		if a := c.get(1<<20, c.at.URL("live")); !strings.HasPrefix(a, "HTTP/1.1 503 ") || !strings.Contains(a, "Retry-After: 60") || !strings.Contains(a, "too much to do") {
			t.Errorf("one reader too many: %.500s", a)
		}
		if a := c.get(1<<20, c.at.URL("run")); !strings.HasPrefix(a, "HTTP/1.1 200 ") {
			t.Errorf("a page, when there is no room for readers: %.500s", a)
		}
	})
	if after := runtime.NumGoroutine(); after > before+100 {
		t.Errorf("%d goroutines before, and %d after all have gone", before, after)
	}
}

// What a reader of a live log costs, and what a line for all of them does.
func BenchmarkLiveReaders(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			routines := runtime.NumGoroutine()
			c := newCrowd(b, n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			perReader := float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse) / float64(n)
			routines = runtime.NumGoroutine() - routines - n // the test has one for each
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				line := fmt.Sprintf("line %d.", i)
				c.say(line + "\n")
				c.do(nil)
				c.await(n, line)
			}
			b.ReportMetric(perReader, "B/reader")
			b.ReportMetric(float64(routines)/float64(n), "goroutines/reader")
		})
	}
}

// A visitor that follows a run and may read it no more is sent away at the next beat, or
// before the next line of it, whatever has taken that away.
func TestLiveRevoked(t *testing.T) {
	for what, lose := range map[string]func(x *livingSite){
		"the namespace": func(x *livingSite) {
			trees := x.trees.(*testTrees)
			trees.mu.Lock()
			defer trees.mu.Unlock()
			trees.dirs[alice.Principal] = fs.NewDir("")
		},
		"the session": func(x *livingSite) {
			if _, err := x.accounts.End(alice.Principal); err != nil {
				x.t.Fatal(err)
			}
		},
	} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,busy=%t", what, busy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testLiveRevoked(t, lose, busy) })
			})
		}
	}
}

func testLiveRevoked(t *testing.T, lose func(x *livingSite), busy bool) {
	x := living(t, newSite(t, testURL))
	x.do(x.run.Enter("boot"))
	b := x.browser()
	b.login(alice, "/account")
	r := httptest.NewRequest("GET", x.at.URL("live"), nil)
	r.Host = x.url.Host
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	ended := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		x.ServeHTTP(w, r)
	}()
	time.Sleep(5 * liveBeat / 2)
	synctest.Wait()
	select {
	case <-ended:
		t.Fatalf("it has ended after %v: %d %s", time.Since(began), w.Code, w.Body)
	default:
	}
	lose(x)
	want, beats := 3*liveBeat, 3
	if busy {
		time.Sleep(liveLook)
		fmt.Fprintln(x.run.Stdout(), "not for you")
		x.do(nil)
		want, beats = 5*liveBeat/2+liveLook, 2
	}
	<-ended
	if took := time.Since(began).Truncate(liveLook); took != want || w.Code != http.StatusOK || strings.Count(w.Body.String(), ":\n\n") != beats || strings.Contains(w.Body.String(), "not for you") {
		t.Errorf("it ended after %v, want %v: %d %s", took, want, w.Code, w.Body)
	}
}

// An answer of server-sent events goes on for liveLife, by HTTP/1.1 and by HTTP/2, longer than any
// other may take.
func TestLiveLasts(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := living(t, newSite(t, testURL))
				x.do(x.run.Enter("boot"))
				crt, key := writePair(t, x.dir, 1)
				pair, err := access.Pair(crt, key, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				l := newPipeListener()
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- x.Serve(ctx, l, Certificate(pair)) }()
				defer func() { cancel(); <-ended }()
				transport := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
					c := tls.Client(l.dial(1), &tls.Config{InsecureSkipVerify: true, ServerName: "ci.example.org", NextProtos: []string{proto}})
					return c, c.Handshake()
				}}
				defer transport.CloseIdleConnections()
				began := time.Now()
				a, err := (&http.Client{Transport: transport}).Get(testURL + x.at.URL("live"))
				if err != nil {
					t.Fatal(err)
				}
				defer a.Body.Close()
				b, err := io.ReadAll(a.Body)
				if took := time.Since(began); err != nil || took != liveLife || a.ProtoMajor != map[string]int{"http/1.1": 1, "h2": 2}[proto] {
					t.Errorf("by %s it ended after %v, %v: %s", a.Proto, took, err, b)
				}
			})
		})
	}
}
