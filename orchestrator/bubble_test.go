package orchestrator

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// A cable is one direction of a connection in memory, for tests in a bubble: real
// sockets do not stop synctest's clock.
type cable struct {
	mu     sync.Mutex
	cond   *sync.Cond
	sent   []packet
	delay  time.Duration // until what is written arrives
	closed bool
	frozen bool // what is written does not arrive
	late   bool // the reader's deadline has passed
	timer  *time.Timer
}

// A packet is what one Write sent.
type packet struct {
	b  []byte
	at time.Time // when it arrives
}

func newCable() *cable {
	w := &cable{}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *cable) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.cond.Broadcast()
}

func (w *cable) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.late:
			return 0, os.ErrDeadlineExceeded
		case len(w.sent) > 0 && !w.frozen && !time.Now().Before(w.sent[0].at):
			n := copy(p, w.sent[0].b)
			if w.sent[0].b = w.sent[0].b[n:]; len(w.sent[0].b) == 0 {
				w.sent = w.sent[1:]
			}
			return n, nil
		case w.closed && (len(w.sent) == 0 || w.frozen):
			return 0, io.EOF
		}
		w.cond.Wait()
	}
}

func (w *cable) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	w.sent = append(w.sent, packet{bytes.Clone(p), time.Now().Add(w.delay)})
	if w.delay > 0 {
		time.AfterFunc(w.delay, func() { w.set(func() {}) })
	}
	w.cond.Broadcast()
	return len(p), nil
}

// A memConn is one end of a connection in memory.
type memConn struct {
	in, out *cable
	remote  net.Addr
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c *memConn) Close() error {
	for _, w := range []*cable{c.in, c.out} {
		w.set(func() { w.closed = true })
	}
	return nil
}

func (c *memConn) LocalAddr() net.Addr                { return c.remote }
func (c *memConn) RemoteAddr() net.Addr               { return c.remote }
func (c *memConn) SetWriteDeadline(t time.Time) error { return nil }
func (c *memConn) SetDeadline(t time.Time) error      { return c.SetReadDeadline(t) }

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.set(func() {
		if c.in.timer != nil {
			c.in.timer.Stop()
		}
		c.in.late = false
		if !t.IsZero() {
			c.in.timer = time.AfterFunc(time.Until(t), func() { c.in.set(func() { c.in.late = true }) })
		}
	})
	return nil
}

// freeze makes the peer look stopped: what it is sent stays where it is.
func (c *memConn) freeze(on bool) { c.in.set(func() { c.in.frozen = on }) }

// A memListener accepts connections in memory.
type memListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memListener) Addr() net.Addr { return memAddr("127.0.0.1") }

func memAddr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000} }

// dialFrom connects as if from an address.
func (l *memListener) dialFrom(ip string) *memConn { return l.dialFar(ip, 0) }

// dialFar is dialFrom over a way that a byte needs half of rtt for.
func (l *memListener) dialFar(ip string, rtt time.Duration) *memConn {
	a, b := newCable(), newCable()
	a.delay, b.delay = rtt/2, rtt/2
	l.conns <- &memConn{in: a, out: b, remote: memAddr(ip)}
	return &memConn{in: b, out: a, remote: memAddr("192.0.2.1")}
}

// A bubbleMux is a server within a synctest bubble.
type bubbleMux struct {
	*testMux
	l *memListener
}

// inBubble runs f with a server on a clock that jumps.
func inBubble(t *testing.T, f func(t *testing.T, m *bubbleMux)) { inBubbleOf(t, Options{}, f) }

func inBubbleOf(t *testing.T, o Options, f func(t *testing.T, m *bubbleMux)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := &bubbleMux{testMux: &testMux{t: t, dir: filepath.Join(dir, "state"), home: dir}, l: newMemListener()}
		m.start(m.l, o)
		f(t, m)
	})
}

// A testLink is a client's connection, which the test can also use as SSH has it.
type testLink struct {
	*client.Link
	ssh ssh.Conn
}

// login connects as a client of ours over a connection that the test can freeze.
func (m *bubbleMux) login(s ssh.Signer) (testLink, *memConn) { return m.loginAs(s, s) }

// loginAs connects as an executor whose runs key signs, or nothing.
func (m *bubbleMux) loginAs(s, key ssh.Signer) (testLink, *memConn) {
	m.t.Helper()
	nc := m.l.dialFrom("192.0.2.7")
	sc, chans, reqs, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{
		Auth: []ssh.AuthMethod{ssh.PublicKeys(s)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	l := client.New(sc, m.s.HostKey(), key)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Serve(chans, reqs)
	}()
	m.t.Cleanup(func() {
		nc.freeze(false)
		l.Close()
		<-done
	})
	return testLink{l, sc}, nc
}

// exportOn serves tree on a link until the test ends.
func (m *bubbleMux) exportOn(l testLink, a wire.Announce, tree fs.Dir) error {
	m.t.Helper()
	return m.exportTold(l, a, client.Told{Joined: func(string) {}}, tree)
}

// exportTold is exportOn that tells what the orchestrator tells.
func (m *bubbleMux) exportTold(l testLink, a wire.Announce, told client.Told, tree fs.Dir) error {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.t.Cleanup(cancel)
	joined := make(chan error, 2)
	named := told.Joined
	told.Joined = func(shown string) { named(shown); joined <- nil }
	go func() {
		joined <- l.Export(ctx, a, told, func(ctx context.Context, rwc io.ReadWriteCloser, aname string, user fs.User) {
			srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree, nil }}
			srv.Serve(ctx, rwc)
		})
	}()
	return <-joined
}

// treeOn imports the mux's tree over a link.
func (m *bubbleMux) treeOn(l testLink, aname string) fs.Dir {
	m.t.Helper()
	rwc, err := l.Import(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	cl, err := ninep.Import(m.t.Context(), rwc, ninep.ImportOptions{Aname: aname, Uname: "test"})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cl.Close() })
	return cl.Root()
}
