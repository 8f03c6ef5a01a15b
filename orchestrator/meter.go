package orchestrator

import (
	"io"
	"maps"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/wire"
)

// A meter counts the bytes of a channel, or of a connection that is one stream.
type meter struct {
	traffic traffic
	moved   atomic.Uint64 // bytes, either way
	writing atomic.Int64  // Writes that have not returned
	hidden  bool          // it stands for bytes that pass elsewhere

	c      *conn     // whose stream it is
	stderr io.Writer // of a session: what a person reads; else nil
}

func (m *meter) read(r io.Reader, p []byte) (int, error) {
	n, err := r.Read(p)
	m.traffic.in.Add(float64(n))
	m.moved.Add(uint64(n))
	return n, err
}

func (m *meter) write(w io.Writer, p []byte) (int, error) {
	m.writing.Add(1)
	n, err := w.Write(p)
	m.writing.Add(-1)
	m.traffic.out.Add(float64(n))
	m.moved.Add(uint64(n))
	return n, err
}

// A metered is a channel whose bytes are counted.
type metered struct {
	ssh.Channel
	m *meter
}

func (c metered) Read(p []byte) (int, error)  { return c.m.read(c.Channel, p) }
func (c metered) Write(p []byte) (int, error) { return c.m.write(c.Channel, p) }

// A meteredStream is a connection whose bytes are counted.
type meteredStream struct {
	io.ReadWriteCloser
	m *meter
}

func (c meteredStream) Read(p []byte) (int, error)  { return c.m.read(c.ReadWriteCloser, p) }
func (c meteredStream) Write(p []byte) (int, error) { return c.m.write(c.ReadWriteCloser, p) }

// A meteredChannel is a channel that a client opens: once it is accepted, its
// bytes are counted, and it may carry a transfer unless it carries a question.
type meteredChannel struct {
	ssh.NewChannel
	c *conn
	m *meter // of the channel, once it is accepted
}

func (n *meteredChannel) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := n.NewChannel.Accept()
	if err != nil {
		return nil, nil, err
	}
	n.m = &meter{traffic: n.c.s.metrics.client, hidden: n.ChannelType() == wire.ChannelDoor, c: n.c}
	if n.ChannelType() == "session" {
		n.m.stderr = ch.Stderr()
	}
	if kind := n.ChannelType(); kind != wire.ChannelFind && kind != wire.ChannelTold {
		n.c.s.live.open(n.m)
	}
	return metered{ch, n.m}, reqs, nil
}

// underWay is what a server has under way.
type underWay struct {
	mu      sync.Mutex // guards what follows
	conns   map[*conn]bool
	streams map[*meter]bool // of clients, that may carry transfers
}

func (l *underWay) enter(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = make(map[*conn]bool)
	}
	l.conns[c] = true
}

func (l *underWay) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *underWay) open(m *meter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == nil {
		l.streams = make(map[*meter]bool)
	}
	l.streams[m] = true
}

func (l *underWay) close(m *meter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, m)
}

// transfers returns the meters of what may carry transfers.
func (l *underWay) transfers() map[*meter]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.streams)
}

// all returns the connections that have logged in.
func (l *underWay) all() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		all = append(all, c)
	}
	return all
}
