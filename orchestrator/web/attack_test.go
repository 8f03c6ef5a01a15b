package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
)

// served serves a site on a listener in memory until the test has ended.
func served(t testing.TB, s *site) *pipeListener {
	t.Helper()
	l := newPipeListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, nil) }()
	t.Cleanup(func() { cancel(); <-ended })
	return l
}

// A request whose end or whose host two servers could see at different places is refused, and
// what comes behind it on the connection is not answered.
func TestSmuggling(t *testing.T) {
	s := newSite(t, testURL)
	l := served(t, s)
	const host, behind = "Host: ci.example.org\r\n", "GET /login HTTP/1.1\r\nHost: ci.example.org\r\nX-Behind: 1\r\n\r\n"
	for _, tt := range []struct {
		name, raw string
		want      int // the status of the only answer
	}{
		{"two lengths", "POST /login HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400},
		{"a length and chunks", "POST /logout HTTP/1.1\r\n" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411},
		{"chunks and a length", "POST /logout HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n0\r\n\r\n", 411},
		{"chunks", "POST /logout HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411},
		{"chunks of a GET", "GET /login HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411},
		{"chunks twice", "POST /logout HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501},
		{"unknown chunks", "POST /logout HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
		{"chunks behind a tab", "POST /logout HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
		{"a length with a sign", "POST /login HTTP/1.1\r\n" + host + "Content-Length: +0\r\n\r\n", 400},
		{"a length in two parts", "POST /login HTTP/1.1\r\n" + host + "Content-Length: 0, 0\r\n\r\n", 400},
		{"a blank before the colon", "POST /login HTTP/1.1\r\n" + host + "Content-Length : 0\r\n\r\n", 400},
		{"a NUL", "GET /login HTTP/1.1\r\n" + host + "X: \x00\r\n\r\n", 400},
		{"two hosts", "GET /login HTTP/1.1\r\n" + host + "Host: evil.example.org\r\n\r\n", 400},
		{"no host", "GET /login HTTP/1.1\r\n\r\n", 400},
		{"a long head", "GET /login HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := l.dial(1)
			defer c.Close()
			go io.WriteString(c, tt.raw+behind) // the server may not read all
			r := bufio.NewReader(c)
			a, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, a.Body)
			if a.StatusCode != tt.want {
				t.Errorf("%s, want %d", a.Status, tt.want)
			}
			if a, err := http.ReadResponse(r, nil); err == nil {
				t.Errorf("what came behind was answered: %s", a.Status)
			}
		})
	}
}

// The page answers to its own name, and says no other in what it answers.
func TestHostOnTheWire(t *testing.T) {
	s := newSite(t, testURL)
	l := served(t, s)
	for raw, want := range map[string]int{
		"GET /login HTTP/1.1\r\nHost: ci.example.org\r\n":                                        200,
		"GET /login HTTP/1.1\r\nHost: CI.Example.ORG:443\r\n":                                    200,
		"GET /login HTTP/1.1\r\nHost: ci.example.org:444\r\n":                                    421,
		"GET /login HTTP/1.1\r\nHost: ci.example.org.\r\n":                                       421,
		"GET /login HTTP/1.1\r\nHost: ci.example.org.evil.org\r\n":                               421,
		"GET /login HTTP/1.1\r\nHost: evil.org\r\n":                                              421,
		"GET /login HTTP/1.1\r\nHost: evil@ci.example.org\r\n":                                   400,
		"GET /login HTTP/1.1\r\nHost: ci.example.org, evil.org\r\n":                              400,
		"GET /login HTTP/1.1\r\nHost: evil.org\r\nX-Forwarded-Host: ci.example.org\r\n":          421,
		"GET /login HTTP/1.1\r\nHost: ci.example.org\r\nX-Forwarded-Host: evil.org\r\n":          200, // not from this machine
		"GET /login HTTP/1.1\r\nHost: ci.example.org\r\nForwarded: host=evil.org\r\n":            200,
		"GET /login HTTP/1.1\r\nHost: ci.example.org\r\nX-Original-URL: /account\r\n":            200,
		"GET https://evil.org/login HTTP/1.1\r\nHost: ci.example.org\r\n":                        421,
		"GET http://ci.example.org/login HTTP/1.1\r\nHost: evil.org\r\n":                         200, // RFC 9112 §3.2.2
		"GET //evil.org/%2e%2e HTTP/1.1\r\nHost: ci.example.org\r\n":                             307,
		"GET /\\evil.org HTTP/1.1\r\nHost: ci.example.org\r\n":                                   404,
		"CONNECT evil.org:443 HTTP/1.1\r\nHost: evil.org:443\r\n":                                421,
		"TRACE /login HTTP/1.1\r\nHost: ci.example.org\r\nCookie: __Host-9ci=secret\r\n":         404,
		"OPTIONS * HTTP/1.1\r\nHost: ci.example.org\r\n":                                         400,
		"GET /login HTTP/1.1\r\nHost: ci.example.org\r\nX-HTTP-Method-Override: DELETE\r\n":      200,
		"GET /login?next=//evil.org HTTP/1.1\r\nHost: ci.example.org\r\nReferer: //evil.org\r\n": 200,
	} {
		c := l.dial(1)
		fmt.Fprintf(c, "%sConnection: close\r\n\r\n", raw)
		b, err := io.ReadAll(c)
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		a, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if a.StatusCode != want {
			t.Errorf("%q: %s, want %d", raw, a.Status, want)
		}
		if to := a.Header.Get("Location"); strings.Contains(to, "evil") && !strings.HasPrefix(to, "/evil") || bytes.Contains(b, []byte("//evil")) || bytes.Contains(b, []byte("secret")) {
			t.Errorf("%q: it says %s", raw, b)
		}
	}
}

// Nobody between keeps what is private, whatever the answer: all but files of the program and
// badges of public namespaces is no-store.
func TestCacheHeaders(t *testing.T) {
	s, x, b := newReadSite(t)
	x.run(testRun, "passed", map[string]string{"step/test/log": "", "artifacts/a.txt": "a"})
	nobody, stale := s.browser(), s.browser()
	stale.cookies["__Host-9ci"] = "Z2l0aHViOjE.stale"
	for _, who := range []*browser{b, nobody, stale} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "TRACE"} {
			for _, path := range []string{
				"/", "/runs/" + testSpace, "/compare/" + testSpace, "/rev/last/" + testSpace, "/run/box/" + testRun + "/" + testSpace, "/log/box/" + testRun + "/test/" + testSpace,
				"/artifacts/box/" + testRun + "/" + testSpace, "/raw/box/" + testRun + "/" + testSpace + "?name=a.txt", "/live/box/none/" + testSpace, "/login", "/login/github.com", "/login/none",
				"/callback/github.com", "/logout", "/passkey/login/begin", "/passkey/add", "/invite/none", "/approve", "/approve/none", "/account", "/none", "/style-0.css", "/badge/none",
			} {
				a := who.do(method, path, "", "")
				if c := a.Header().Get("Cache-Control"); c != "no-store" && !(strings.HasPrefix(path, "/badge/") && a.Code == http.StatusNotFound) {
					t.Errorf("%s %s = %d: Cache-Control %q", method, path, a.Code, c)
				}
			}
		}
		for path, want := range map[string]string{files["style.css"].path: "public, max-age=31536000, immutable", "/badge/" + testSpace + ".svg": "public, max-age=60"} {
			a := who.get(path)
			if c := a.Header().Get("Cache-Control"); c != want || len(a.Result().Cookies()) > 0 || strings.Contains(a.text, ">passed<") {
				t.Errorf("GET %s = %d: Cache-Control %q, cookies %v, %.100s", path, a.Code, c, a.Result().Cookies(), a.text)
			}
		}
	}
	b.header.Set("Host", "evil.example.org")
	if a := b.get("/account"); a.Code != http.StatusMisdirectedRequest || a.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("another host: %d %v", a.Code, a.Header())
	}
}

// A client that is slow is hung up on, and until then holds nothing of the tree.
func TestSlow(t *testing.T) {
	big := strings.Repeat("x", 4<<20)
	for _, tt := range []struct {
		name  string
		send  string        // at once
		drip  string        // and then a byte of this each five seconds
		takes bool          // what it is answered
		after time.Duration // when it is hung up on
		held  int           // trees until then
	}{
		{"nothing", "", "", true, 10 * time.Second, 0},
		{"a head", "GET /login HTTP/1.1\r\n", "Host: ci.example.org\r\n", true, 10 * time.Second, 0},
		{"a body", "POST /logout HTTP/1.1\r\nHost: ci.example.org\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n", strings.Repeat("x", 100), true, 30 * time.Second, 0},
		{"no reading of a page", "GET /run/box/" + testRun + "/" + testSpace + " HTTP/1.1\r\nHost: ci.example.org\r\n\r\n", "", false, time.Minute, 0},
		{"no reading of an artifact", "GET /raw/box/" + testRun + "/" + testSpace + "?name=big HTTP/1.1\r\nHost: ci.example.org\r\n\r\n", "", false, writeTime, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, x := newSite(t, testURL), newTestTree(t)
				x.run(testRun, "passed", map[string]string{"artifacts/big": big})
				trees := &testTrees{t: t, dirs: map[string]fs.Dir{"": x.root()}}
				s.trees = trees
				c := served(t, s).dial(1)
				defer c.Close()
				began := time.Now()
				gone := make(chan time.Duration, 1)
				if tt.takes {
					go io.Copy(io.Discard, c)
				}
				go func() {
					_, err := io.WriteString(c, tt.send)
					for i := 0; err == nil; i++ {
						if i < len(tt.drip) {
							time.Sleep(5 * time.Second)
							_, err = c.Write([]byte{tt.drip[i]})
							continue
						}
						time.Sleep(time.Second)
						_, err = c.Write(nil) // which tells that the other end is closed
					}
					gone <- time.Since(began)
				}()
				time.Sleep(tt.after - 2*time.Second)
				synctest.Wait()
				trees.mu.Lock()
				if trees.held != tt.held {
					t.Errorf("it holds %d trees, want %d", trees.held, tt.held)
				}
				trees.mu.Unlock()
				if took := <-gone; took < tt.after-time.Second || took > tt.after+6*time.Second {
					t.Errorf("it was hung up on after %v, want %v", took, tt.after)
				}
				synctest.Wait()
				trees.mu.Lock()
				if trees.held != 0 {
					t.Errorf("it has gone and holds %d trees", trees.held)
				}
				trees.mu.Unlock()
			})
		})
	}
}

// A reader of a live log that takes nothing is hung up on, and others get their lines.
func TestSlowLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 3)
		slow := c.l.dial(99)
		defer slow.Close()
		fmt.Fprintf(slow, "GET %s HTTP/1.1\r\nHost: ci.example.org\r\n\r\n", c.at.URL("live"))
		synctest.Wait()
		began := time.Now()
		c.say("a line\n")
		c.do(nil)
		c.await(3, "a line")
		if took := time.Since(began); took > time.Second {
			t.Errorf("others waited %v for the slow one", took)
		}
		for {
			time.Sleep(time.Second)
			if _, err := slow.Write(nil); err != nil {
				break
			}
		}
		if took := time.Since(began); took > 2*writeTime {
			t.Errorf("it was hung up on after %v", took)
		}
	})
}

// Connections that say nothing keep nobody out, and those with a request under way stay.
func TestSilent(t *testing.T) {
	x := living(t, newSite(t, testURL))
	x.do(x.run.Enter("boot"))
	x.limits.conns = 8
	pair, err := access.Pair(writePairIn(t, x.dir))
	if err != nil {
		t.Fatal(err)
	}
	l := newPipeListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- x.Serve(ctx, l, Certificate(pair)) }()
	t.Cleanup(func() { cancel(); <-ended })
	ask := func(n int, path string) *bufio.Reader {
		t.Helper()
		c := tls.Client(l.dial(n), &tls.Config{InsecureSkipVerify: true, ServerName: "ci.example.org", NextProtos: []string{"http/1.1"}})
		t.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: ci.example.org\r\n\r\n", path); err != nil {
			t.Fatalf("GET %s from address %d: %v", path, n, err)
		}
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("GET %s from address %d: %s, %v", path, n, line, err)
		}
		return r
	}
	reader := ask(0, x.at.URL("live"))
	for n := range 5 * x.limits.conns {
		silent := l.dial(100 + n)
		t.Cleanup(func() { silent.Close() })
		ask(1000+n, "/login") // which then is idle
	}
	x.say("a line\n")
	x.do(nil)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("the reader: %v", err)
		}
		if strings.Contains(line, "a line") {
			break
		}
	}
}

// A client that opens streams and resets them has no more than its share of requests under way,
// is hung up on, and nobody else notices.
func TestRapidReset(t *testing.T) {
	s := newSite(t, testURL)
	slow := &slowTrees{entered: make(chan struct{}, 100_000), leave: make(chan struct{})}
	s.trees = slow
	pair, err := access.Pair(writePairIn(t, s.dir))
	if err != nil {
		t.Fatal(err)
	}
	l := newPipeListener()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, Certificate(pair)) }()
	t.Cleanup(func() { cancel(); <-ended })
	dial := func(n int) *tls.Conn {
		return tls.Client(l.dial(n), &tls.Config{InsecureSkipVerify: true, ServerName: "ci.example.org", NextProtos: []string{"h2"}})
	}
	c := dial(1)
	defer c.Close()
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(c, c)
	goaway := make(chan error, 1)
	go func() {
		for {
			f, err := framer.ReadFrame()
			if g, ok := f.(*http2.GoAwayFrame); ok {
				err = fmt.Errorf("goaway: %v", g.ErrCode)
			}
			if err != nil {
				goaway <- err
				io.Copy(io.Discard, c) // until the server closes it
				close(goaway)
				return
			}
		}
	}()
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	sent := 0
	for ; sent < 50_000; sent++ { // a pipe holds nothing, so the server has read all of it
		head.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "ci.example.org"}, {":path", "/runs/" + testSpace}} {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		id := uint32(2*sent + 1)
		if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}) != nil || framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	if err := <-goaway; !strings.Contains(err.Error(), "ENHANCE_YOUR_CALM") {
		t.Errorf("after %d resets: %v", sent, err)
	}
	<-goaway
	if n := len(slow.entered); n > maxStreams {
		t.Errorf("%d of its requests were under way at once, want %d at most", n, maxStreams)
	}
	other := http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return dial(2), nil }, ForceAttemptHTTP2: true}}
	defer other.CloseIdleConnections()
	a, err := other.Get(testURL + "/login")
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != http.StatusOK || a.ProtoMajor != 2 {
		t.Errorf("somebody else gets %s by %s", a.Status, a.Proto)
	}
	close(slow.leave)
}

// writePairIn returns what access.Pair takes: the files of a certificate.
func writePairIn(t *testing.T, dir string) (crt, key string, log *slog.Logger) {
	crt, key = writePair(t, dir, 1)
	return crt, key, slog.New(slog.DiscardHandler)
}

// slowTrees give no tree until they are told to.
type slowTrees struct {
	entered chan struct{} // has an element for each that waits, or has waited
	leave   chan struct{} // closed when they need wait no longer
}

var errSlow = errors.New("too slow")

func (x *slowTrees) Tree(context.Context, *account.Account, netip.Addr) (fs.Dir, func(), error) {
	x.entered <- struct{}{}
	<-x.leave
	return nil, nil, errSlow
}
