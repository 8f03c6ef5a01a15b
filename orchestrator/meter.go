package orchestrator

import (
	"maps"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/wire"
)

// A meter is a channel whose bytes are counted.
type meter struct {
	ssh.Channel
	traffic traffic
	moved   atomic.Uint64 // bytes, either way
	writing atomic.Int64  // Writes that have not returned
	hidden  bool          // it stands for bytes that pass elsewhere
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Channel.Read(p)
	m.traffic.in.Add(float64(n))
	m.moved.Add(uint64(n))
	return n, err
}

func (m *meter) Write(p []byte) (int, error) {
	m.writing.Add(1)
	n, err := m.Channel.Write(p)
	m.writing.Add(-1)
	m.traffic.out.Add(float64(n))
	m.moved.Add(uint64(n))
	return n, err
}

// A meteredChannel is a channel that a client opens: once it is accepted, its
// bytes are counted.
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
	n.m = &meter{Channel: ch, traffic: n.c.s.metrics.client, hidden: n.ChannelType() == wire.ChannelDoor}
	n.c.s.live.open(n)
	return n.m, reqs, nil
}

// underWay is what a server has under way.
type underWay struct {
	mu       sync.Mutex // guards what follows
	conns    map[*conn]bool
	channels map[*meteredChannel]bool // accepted, of clients
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

func (l *underWay) open(n *meteredChannel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.channels == nil {
		l.channels = make(map[*meteredChannel]bool)
	}
	l.channels[n] = true
}

func (l *underWay) close(n *meteredChannel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.channels, n)
}

// transfers returns the channels that may carry transfers.
func (l *underWay) transfers() map[*meteredChannel]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := maps.Clone(l.channels)
	maps.DeleteFunc(all, func(n *meteredChannel, _ bool) bool { return n.ChannelType() == wire.ChannelFind })
	return all
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
