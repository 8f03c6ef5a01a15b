package tlsmux

import (
	"encoding/binary"
	"errors"
	"net"
)

// A frameConn is a connection whose frames of yamux are looked at as they come.
// Yamux answers each ping on a goroutine of its own, so a peer that pings and does not
// read the answers would have as many goroutines as it likes. Neither side of a Conn
// pings: a peer that does is hung up on.
type frameConn struct {
	net.Conn
	closing func() // is called by Close, before all else
	head    [frameHeader]byte
	got     int    // bytes of head that have come
	data    uint32 // bytes of the frame's data that have not
}

// What frames of yamux begin with: version, type, flags (2 bytes), stream and length
// (4 bytes each). Frames of type 0 have that many bytes of data, others have none.
const (
	frameHeader = 12
	frameData   = 0
	framePing   = 2
)

var errPing = errors.New("the peer sends a ping of yamux")

func (c *frameConn) Close() error {
	c.closing()
	return c.Conn.Close()
}

func (c *frameConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if c.data > 0 {
			m := min(c.data, uint32(len(b)))
			c.data -= m
			b = b[m:]
			continue
		}
		m := copy(c.head[c.got:], b)
		c.got += m
		b = b[m:]
		if c.got < frameHeader {
			break
		}
		c.got = 0
		switch c.head[1] {
		case frameData:
			c.data = binary.BigEndian.Uint32(c.head[8:])
		case framePing:
			return 0, errPing
		}
	}
	return n, err
}
