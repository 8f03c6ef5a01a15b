package web

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"
)

// What the page has of connections at most. Most are of readers of live logs.
const (
	mostConns   = 16384
	ofFiles     = 4    // one in so many of the descriptors that the process may have: executors need the others
	maxConnsOf  = 256  // of one address, of IPv6 one /64. A proxy on this machine has as many as it opens
	leastOfAny  = 64   // connections, however few descriptors there are
	fallbackNum = 1024 // descriptors, where nobody says how many there may be
)

// maxConns returns how many connections the page has at most.
func maxConns() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		r.Cur = fallbackNum
	}
	return int(max(leastOfAny, min(mostConns, r.Cur/ofFiles)))
}

// A fairListener closes connections of an address that has too many. When there are too many
// in all, the one makes way that has gone longest without a request under way, also if it
// never had one: those that open connections and say nothing, or that little, keep nobody out.
type fairListener struct {
	net.Listener
	most int // connections

	mu   sync.Mutex // guards what follows
	of   map[string]int
	all  int
	idle list.List // of *fairConn, that without a request for longest first
}

func newFairListener(l net.Listener, most int) *fairListener {
	return &fairListener{Listener: l, most: most, of: make(map[string]int)}
}

// Accept returns the next connection that may be served.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &fairConn{Conn: nc, l: l}
		if t, ok := nc.RemoteAddr().(*net.TCPAddr); ok && !t.IP.IsLoopback() {
			c.key = source(t.AddrPort().Addr().Unmap().WithZone(""))
		}
		way, ok := l.take(c)
		if way != nil {
			way.Close()
		}
		if ok {
			return c, nil
		}
		nc.Close()
	}
}

// take counts a connection, unless there is no room for it, and returns the one that makes way for
// it if there is one.
func (l *fairListener) take(c *fairConn) (way *fairConn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.key != "" && l.of[c.key] >= maxConnsOf {
		return nil, false
	}
	if l.all >= l.most {
		longest := l.idle.Front()
		if longest == nil {
			return nil, false
		}
		way = longest.Value.(*fairConn)
		l.drop(way)
	}
	l.all++
	if c.key != "" {
		l.of[c.key]++
	}
	c.at = l.idle.PushBack(c)
	return way, true
}

// drop counts a connection no more. The caller holds mu.
func (l *fairListener) drop(c *fairConn) {
	if c.gone {
		return
	}
	c.gone = true
	if c.at != nil {
		l.idle.Remove(c.at)
		c.at = nil
	}
	l.all--
	if c.key == "" {
		return
	}
	if l.of[c.key]--; l.of[c.key] == 0 {
		delete(l.of, c.key)
	}
}

// A fairConn is a connection of a fairListener, whose mu guards its fields.
type fairConn struct {
	net.Conn
	l     *fairListener
	key   string        // of the address; "" if it is not counted
	at    *list.Element // in l.idle; nil while a request is under way
	under int           // requests under way
	gone  bool
}

// Close implements net.Conn.
func (c *fairConn) Close() error {
	c.l.mu.Lock()
	c.l.drop(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// begin counts a request, which keeps its connection.
func (c *fairConn) begin() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.under++; c.at != nil {
		c.l.idle.Remove(c.at)
		c.at = nil
	}
}

// end undoes begin.
func (c *fairConn) end() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.under--; c.under == 0 && !c.gone {
		c.at = c.l.idle.PushBack(c)
	}
}

// connKey is the key of a request's *fairConn in its context.
type connKey struct{}

// withConn is the ConnContext of a server on a fairListener.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// keeping counts a request of a connection while next answers it.
func keeping(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*fairConn); ok {
			c.begin()
			defer c.end()
		}
		next.ServeHTTP(w, r)
	})
}
