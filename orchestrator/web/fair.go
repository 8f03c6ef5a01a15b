package web

import (
	"net"
	"sync"
)

// maxConnsOf is how many connections one address has at most, of IPv6 one /64, so that it
// does not take all that the page has. A proxy on this machine has as many as it opens.
const maxConnsOf = 64

// A fairListener closes connections of an address that has too many.
type fairListener struct {
	net.Listener

	mu sync.Mutex // guards of
	of map[string]int
}

func newFairListener(l net.Listener) *fairListener {
	return &fairListener{Listener: l, of: make(map[string]int)}
}

// Accept returns the next connection that may be served.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok || t.IP.IsLoopback() {
			return c, nil
		}
		if key := source(t.AddrPort().Addr().Unmap().WithZone("")); l.take(key) {
			return &fairConn{Conn: c, leave: sync.OnceFunc(func() { l.give(key) })}, nil
		}
		c.Close()
	}
}

func (l *fairListener) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[key] >= maxConnsOf {
		return false
	}
	l.of[key]++
	return true
}

func (l *fairListener) give(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[key]--; l.of[key] == 0 {
		delete(l.of, key)
	}
}

type fairConn struct {
	net.Conn
	leave func()
}

func (c *fairConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
