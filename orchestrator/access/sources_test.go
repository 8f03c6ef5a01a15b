package access

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func addr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000} }

// A fakeConn comes from an address and sends what it holds.
type fakeConn struct {
	net.Conn
	from   net.Addr
	sends  io.Reader
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr              { return c.from }
func (c *fakeConn) Read(p []byte) (int, error)        { return c.sends.Read(p) }
func (c *fakeConn) SetReadDeadline(t time.Time) error { return nil }
func (c *fakeConn) Close() error                      { c.closed = true; return nil }

// A sourcesTest is Sources with their file and log.
type sourcesTest struct {
	*Sources
	t   *testing.T
	log bytes.Buffer
}

func newSources(t *testing.T, rules string) *sourcesTest {
	t.Helper()
	s := &sourcesTest{t: t}
	file := filepath.Join(t.TempDir(), "sources")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.Sources, err = NewSources(file, slog.New(slog.NewTextHandler(&s.log, nil))); err != nil {
		t.Fatal(err)
	}
	return s
}

// from returns a connection from ip, nil if it is refused.
func (s *sourcesTest) from(ip string) *Conn { return s.fromSaying(ip, "") }

func (s *sourcesTest) fromSaying(ip, text string) *Conn {
	s.t.Helper()
	nc := &fakeConn{from: addr(ip), sends: strings.NewReader(text)}
	c, err := s.Admit(nc)
	if (err != nil) != nc.closed {
		s.t.Errorf("Admit = %v, and the connection is closed: %t", err, nc.closed)
	}
	return c
}

// fails makes n logins from ip fail, of which each must be heard.
func (s *sourcesTest) fails(n int, ip string, f Failure) {
	s.t.Helper()
	for i := range n {
		c := s.from(ip)
		if c == nil {
			s.t.Fatalf("connection %d from %s is refused", i, ip)
		}
		c.Failed(f)
	}
}

func (s *sourcesTest) want(ip string, heard bool) {
	s.t.Helper()
	c := s.from(ip)
	if (c != nil) != heard {
		s.t.Errorf("%s is heard: %t, want %t", ip, c != nil, heard)
	}
	if c != nil {
		c.Failed(Left)
	}
}

// Penalties are OpenSSH's: they gather up to a limit, a source is refused from 15
// seconds on until all is over, and others are heard. It is logged.
func TestPenalties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "")
		s.fails(2, "203.0.113.5", NoAuth)
		s.want("203.0.113.5", true)
		s.fails(1, "203.0.113.5", NoAuth)
		s.want("203.0.113.5", false)
		s.want("203.0.113.6", true)
		if !strings.Contains(s.log.String(), "msg=penalty addr=203.0.113.5:40000 for=15s") || !strings.Contains(s.log.String(), "msg=refused addr=203.0.113.5:40000") {
			t.Errorf("log: %s", &s.log)
		}
		time.Sleep(14 * time.Second)
		s.want("203.0.113.5", false)
		time.Sleep(2 * time.Second)
		s.want("203.0.113.5", true)

		s.fails(2, "2001:db8::1", TooSlow)
		s.want("2001:db8::ffff", false)
		s.want("2001:db8:0:1::1", true)
		// Those under way when a penalty begins go on, and add to it.
		var under []*Conn
		for range openSource {
			under = append(under, s.from("198.51.100.1"))
		}
		for _, c := range under {
			for range 100 {
				c.Failed(TooSlow) // counts once
			}
		}
		time.Sleep(openSource*10*time.Second - time.Second)
		s.want("198.51.100.1", false)
		time.Sleep(2 * time.Second)
		s.want("198.51.100.1", true)
		s.fails(1, "127.0.0.1", TooSlow)
		s.fails(100, "127.0.0.1", TooSlow)
		s.fails(100, "::1", TooSlow)
	})
}

// A client that leaves, as ssh-keyscan does, pays nothing, however often it does.
func TestScans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "")
		s.fails(150, "203.0.113.5", Left)
		s.fails(2, "203.0.113.5", NoAuth)
		s.want("203.0.113.5", true)
		s.fails(14, "203.0.113.6", NoSpeech)
		s.want("203.0.113.6", true)
		s.fails(1, "203.0.113.6", NoSpeech)
		s.want("203.0.113.6", false)
	})
}

// An address from which a key has logged in is heard whatever others behind it do.
func TestGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "source 24 64\n")
		c := s.from("203.0.113.5")
		c.LoggedIn()
		s.fails(3, "203.0.113.6", NoAuth)
		s.want("203.0.113.7", false) // of one block
		s.want("203.0.113.5", true)
		s.fails(100, "203.0.113.5", NoAuth)
		s.fails(100, "203.0.113.5", TooSlow)
		s.want("203.0.113.5", true)
		// The login ends after days.
		time.Sleep(100 * time.Hour)
		c.LoggedIn()
		s.fails(100, "203.0.113.5", NoAuth)
		time.Sleep(goodFor + time.Second)
		s.fails(3, "203.0.113.5", NoAuth)
		s.want("203.0.113.5", false)

		// A penalty of before counts no more.
		late := s.from("198.51.100.1")
		s.fails(3, "198.51.100.1", NoAuth)
		s.want("198.51.100.1", false)
		late.LoggedIn()
		s.want("198.51.100.1", true)
	})
}

// A source has its bucket, and others have theirs.
func TestBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "exempt 192.0.2.0/24 2001:db8::/32\n")
		count := func(ip string) (n int) {
			for c := s.from(ip); c != nil && n < 10000; c = s.from(ip) {
				n++
				c.Failed(Left)
			}
			return n
		}
		if n := count("203.0.113.5"); n != sourceBurst {
			t.Errorf("%d connections of one source at once, want %d", n, sourceBurst)
		}
		s.want("203.0.113.6", true)
		time.Sleep(time.Second)
		if n := count("203.0.113.5"); n != sourceRate {
			t.Errorf("%d connections after a second, want %d", n, sourceRate)
		}
		s.from("203.0.113.7").LoggedIn()
		if n := count("203.0.113.7"); n < sourceBurst*goodShare/2 || n > sourceBurst*goodShare {
			t.Errorf("%d connections of one that has logged in, want about %d", n, sourceBurst*goodShare)
		}
		for _, ip := range []string{"192.0.2.9", "2001:db8::9", "::1"} {
			if n := count(ip); n != 10000 {
				t.Errorf("%s is refused after %d connections", ip, n)
			}
		}
		s.fails(100, "192.0.2.9", TooSlow)
	})
}

// Half-open connections are bounded for a source, for a network and for all. They
// keep no address out from which a key has logged in, neither those of others nor
// those of others behind it.
func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "")
		s.from("203.0.113.5").LoggedIn()
		hold := func(ip func(i int) string, n int) (held int) {
			for i := range n {
				if s.from(ip(i)) != nil {
					held++
				}
			}
			return held
		}
		if n := hold(func(int) string { return "10.9.8.7" }, 100); n != openSource {
			t.Errorf("one source holds %d, want %d", n, openSource)
		}
		s.want("10.9.8.8", true)
		if n := hold(func(i int) string { return fmt.Sprintf("10.9.8.%d", 10+i%100) }, 1000) + openSource; n > openWide || n < openBegin {
			t.Errorf("one network holds %d, want %d at most", n, openWide)
		}
		hold(func(i int) string { return fmt.Sprintf("10.%d.%d.1", i/256, i%256) }, 20000)
		if n := s.HalfOpen(); n != openFull {
			t.Errorf("%d are half-open, want %d", n, openFull)
		}
		s.want("198.51.100.1", false)
		var first *Conn
		for i := range 2 * openGood {
			c := s.from("203.0.113.5")
			if c == nil {
				t.Fatalf("connection %d of one that has logged in is refused", i)
			}
			if first == nil {
				first = c
			}
		}
		if n := s.HalfOpen(); n != openFull+openGood {
			t.Errorf("%d are half-open, want %d", n, openFull+openGood)
		}
		if !first.Conn.(*fakeConn).closed {
			t.Error("the oldest does not make way")
		}
		if n := hold(func(int) string { return "127.0.0.1" }, 20000); n != openFull {
			t.Errorf("loopback holds %d, want %d", n, openFull)
		}
		if n := strings.Count(s.log.String(), "\n"); n > 10+1000/2 {
			t.Errorf("the log has %d lines", n)
		}
	})
}

// The PROXY header of a balancer tells the client's address; one that is wrong or
// not there is refused. From others it is bytes of the client's.
func TestProxyHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "balancer 192.0.2.1 127.0.0.0/8\nexempt 192.0.2.0/24\n")
		v2 := func(b ...byte) string { return "\r\n\r\n\x00\r\nQUIT\n" + string(b) }
		for _, test := range []struct{ from, sends, addr string }{
			{"192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 40001 22\r\n", "203.0.113.9:40001"},
			{"127.0.0.1", "PROXY TCP6 2001:db8::9 ::1 40001 22\r\n", "[2001:db8::9]:40001"},
			{"192.0.2.1", "PROXY UNKNOWN\r\n", "192.0.2.1:40000"},
			{"192.0.2.1", v2(0x21, 0x11, 0, 12, 203, 0, 113, 9, 1, 2, 3, 4, 0, 7, 0, 22), "203.0.113.9:7"},
			{"192.0.2.1", v2(0x21, 0x11, 0, 15, 203, 0, 113, 9, 1, 2, 3, 4, 0, 7, 0, 22, 4, 0, 0), "203.0.113.9:7"},
			{"192.0.2.1", v2(0x20, 0x00, 0, 0), "192.0.2.1:40000"},
			{"192.0.2.1", v2(0x21, 0x11, 0, 11, 203, 0, 113, 9, 1, 2, 3, 4, 0, 7, 0), ""},
			{"192.0.2.1", v2(0x21, 0x12, 0, 12, 203, 0, 113, 9, 1, 2, 3, 4, 0, 7, 0, 22), ""}, // UDP
			{"192.0.2.1", v2(0x21, 0x00, 0, 0), ""},
			{"192.0.2.1", v2(0x31, 0x11, 0, 12, 203, 0, 113, 9, 1, 2, 3, 4, 0, 7, 0, 22), ""},
			{"192.0.2.1", v2(0x21, 0x11, 0xff, 0xff), ""},
			{"192.0.2.1", v2(0x21, 0x31, 0, 216) + strings.Repeat("x", 216), ""}, // Unix
			{"192.0.2.1", v2(0x21, 0x11, 0, 12, 0, 0, 0, 0, 1, 2, 3, 4, 0, 7, 0, 22), ""},
			{"192.0.2.1", "SSH-2.0-x\r\n", ""},
			{"192.0.2.1", "", ""},
			{"192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 40001 22\n", ""},
			{"192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 40001\r\n", ""},
			{"192.0.2.1", "PROXY TCP4  203.0.113.9 192.0.2.1 40001 22\r\n", ""},
			{"192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 040001 22\r\n", ""},
			{"192.0.2.1", "PROXY TCP4 203.0.113.09 192.0.2.1 40001 22\r\n", ""},
			{"192.0.2.1", "PROXY TCP4 ::1 ::1 40001 22\r\n", ""},
			{"192.0.2.1", "PROXY TCP6 fe80::1%eth0 ::1 40001 22\r\n", ""},
			{"192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 65536 22\r\n", ""},
			{"192.0.2.1", "PROXY " + strings.Repeat("x", 200) + "\r\n", ""},
		} {
			c := s.fromSaying(test.from, test.sends+"SSH-2.0-next\r\n")
			got := ""
			if c != nil {
				got = c.RemoteAddr().String()
			}
			if got != test.addr {
				t.Errorf("%s sends %q: it is %q, want %q", test.from, test.sends, got, test.addr)
			}
			if c == nil {
				continue
			}
			if line, err := bufio.NewReader(c).ReadString('\n'); line != "SSH-2.0-next\r\n" || err != nil {
				t.Errorf("behind %q comes %q, %v", test.sends, line, err)
			}
			c.Failed(Left)
		}
		other := s.fromSaying("192.0.2.2", "PROXY TCP4 203.0.113.9 192.0.2.1 40001 22\r\n")
		if b, _ := io.ReadAll(other); other.RemoteAddr().String() != "192.0.2.2:40000" || !bytes.HasPrefix(b, []byte("PROXY ")) {
			t.Errorf("another address sends a header: it is %v, and reads %q", other.RemoteAddr(), b)
		}
		// Penalties are the client's.
		for range 3 {
			s.fromSaying("192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 40001 22\r\n").Failed(NoAuth)
		}
		if s.fromSaying("192.0.2.1", "PROXY TCP4 203.0.113.9 192.0.2.1 40001 22\r\n") != nil {
			t.Error("a client with a penalty is heard through a balancer")
		}
		if s.fromSaying("192.0.2.1", "PROXY TCP4 203.0.113.10 192.0.2.1 40001 22\r\n") == nil {
			t.Error("another client is not heard")
		}
	})
}

// A line that cannot be read is told of with its number, and changes nothing.
func TestRules(t *testing.T) {
	s := newSources(t, "# who\nbalancer 10.0.0.1\nexempt 10.0.0.1/8\nexempt host.example\nexempt\nbalance 1\nsource 33 64\nsource 24 48\nsource 24 48\nbalancer ::1 fe80::/10")
	r := s.rules()
	if got := fmt.Sprint(r.balancers, r.exempt, r.four, r.six); got != "[10.0.0.1/32 ::1/128 fe80::/10] [] 24 48" {
		t.Errorf("rules = %s", got)
	}
	for _, n := range []int{3, 4, 5, 6, 7, 9} {
		if !strings.Contains(s.log.String(), fmt.Sprintf("sources:%d: the line is skipped", n)) {
			t.Errorf("the log does not tell of line %d: %s", n, &s.log)
		}
	}
	if n := strings.Count(s.log.String(), "skipped"); n != 6 {
		t.Errorf("the log tells of %d lines", n)
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 203.0.113.9 192.0.2.1 40001 22\r\nSSH-"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x01\x02\x03\x04\x00\x07\x00\x16"))
	s, err := NewSources("", slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	rules := sourceRules{balancers: blocks{netip.MustParsePrefix("192.0.2.1/32")}}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &Conn{Conn: &fakeConn{from: addr("192.0.2.1"), sends: bytes.NewReader(b)}, s: s, remote: addr("192.0.2.1")}
		if s.proxied(rules, c) == nil {
			if _, ok := ipOf(c.RemoteAddr()); !ok {
				t.Errorf("%q is from %v", b, c.RemoteAddr())
			}
			rest, _ := io.ReadAll(c)
			if !bytes.HasSuffix(b, rest) || len(rest) == len(b) {
				t.Errorf("behind %q comes %q", b, rest)
			}
		}
		if s.headers != 0 {
			t.Errorf("%d headers are awaited", s.headers)
		}
	})
}

// Strangers of ever new addresses write no more lines of the log than all may, and a
// later line says how many were left out.
func TestLinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, "")
		s.fails(1, "2001:db8::1", NoAuth) // opens the /48
		for range openWide {
			s.from("2001:db8::1")
			s.from("2001:db8:0:1::1")
			s.from("2001:db8:0:2::1")
			s.from("2001:db8:0:3::1")
			s.from("2001:db8:0:4::1")
		}
		for i := range 3 * linesBurst {
			if s.from(fmt.Sprintf("2001:db8:0:%x::1", 16+i)) != nil {
				t.Fatal("a connection over the limit of its /48 is heard")
			}
		}
		if n := strings.Count(s.log.String(), "\n"); n != linesBurst {
			t.Errorf("%d lines, want %d", n, linesBurst)
		}
		time.Sleep(time.Second)
		s.log.Reset()
		s.from("2001:db8:0:ffff::1")
		if text := s.log.String(); !strings.Contains(text, "missed=") {
			t.Errorf("the next line is %q, want how many were left out", text)
		}
	})
}
