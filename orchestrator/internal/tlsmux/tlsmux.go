// Package tlsmux carries the channels and global requests of an SSH connection (RFC
// 4254) over one TLS connection, without SSH. The streams are yamux's. Package
// orchestrator documents the wire.
//
// What is served over SSH is served here as it is: a Conn is an ssh.Conn, and what
// it opens and takes are an ssh.Channel and an ssh.NewChannel. A channel here has no
// requests of its own, and no second stream for errors.
package tlsmux

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/wire"
)

// Proto is the name of the protocol (RFC 7301).
const Proto = "9ci"

// Limits on a peer.
const (
	maxFrame = 256 << 10 // bytes of a message that is no channel's data

	// maxStreams is how many streams are open at once, those included that one
	// side has closed, and how many wait to be received from a Conn.
	// A peer that has more is hung up on.
	maxStreams = 2 * (wire.MaxChannels + wire.MaxDoors)

	headerTimeout = 10 * time.Second // for a stream to say what it is
	writeTimeout  = time.Minute      // for the connection to take a write
	window        = 1 << 20          // bytes of a stream that may be unread
	chunk         = 32 << 10         // bytes of a stream that are written at once, so that streams take turns
)

// A Conn is one side of a connection. Its session identifier is the connection's
// tls-exporter value. Of the words that an ssh.Conn has for its
// peer (user, versions) it knows none.
type Conn struct {
	net    net.Conn
	mux    *yamux.Session
	id     []byte
	answer AnswerFunc
	chans  chan ssh.NewChannel

	asked   atomic.Bool  // the peer has opened its stream of requests
	waiting atomic.Int32 // channels that nobody has received; the peer may have reset their streams

	mu      sync.Mutex             // guards what follows
	streams map[*yamux.Stream]bool // that may be read
	over    bool                   // the connection ends

	asking   sync.Mutex // guards requests, and is held while an answer is awaited
	requests *yamux.Stream
}

// An AnswerFunc answers a global request of the peer's. It is called for one after
// the other, in their order.
type AnswerFunc func(name string, payload []byte) (ok bool, reply []byte)

// New returns the Conn of a TLS connection whose handshake is done, and the channels
// that the peer opens, which must be received until that is closed: the Conn has
// ended then, and all that it started. A nil answer denies all requests.
func New(tc *tls.Conn, server bool, answer AnswerFunc) (*Conn, <-chan ssh.NewChannel, error) {
	cs := tc.ConnectionState()
	id, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32) // RFC 9266: tls-exporter
	if err != nil {
		return nil, nil, err
	}
	return start(tc, id, server, answer)
}

func start(nc net.Conn, id []byte, server bool, answer AnswerFunc) (*Conn, <-chan ssh.NewChannel, error) {
	side := yamux.Client
	if server {
		side = yamux.Server
	}
	c := &Conn{net: nc, id: id, answer: answer, chans: make(chan ssh.NewChannel), streams: map[*yamux.Stream]bool{}}
	m, err := side(&frameConn{Conn: nc, closing: c.expire}, &yamux.Config{
		AcceptBacklog:          maxStreams,
		KeepAliveInterval:      time.Minute, // is not enabled: both sides of a Conn have keepalives of their own
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    window,
		LogOutput:              io.Discard,
	})
	if err != nil {
		return nil, nil, err
	}
	if answer == nil {
		c.answer = func(string, []byte) (bool, []byte) { return false, nil }
	}
	c.mux = m
	go c.accept()
	return c, c.chans, nil
}

// Greet is the server's first word: why the client is refused, or "" if it is not.
// Without it a client would not learn that its certificate is refused before it
// asks for something.
func Greet(w io.Writer, refusal string) error { return writeFrame(w, []byte(refusal)) }

// Greeted returns what the server says by Greet.
func Greeted(r io.Reader) (refusal string, err error) {
	b, err := readFrame(r)
	return string(b), err
}

func (c *Conn) User() string          { return "" }
func (c *Conn) SessionID() []byte     { return c.id }
func (c *Conn) ClientVersion() []byte { return nil }
func (c *Conn) ServerVersion() []byte { return nil }
func (c *Conn) RemoteAddr() net.Addr  { return c.net.RemoteAddr() }
func (c *Conn) LocalAddr() net.Addr   { return c.net.LocalAddr() }
func (c *Conn) Close() error          { return c.mux.Close() }

func (c *Conn) Wait() error {
	<-c.mux.CloseChan()
	return nil
}

// expire ends what reads streams, as the connection ends: from then on until yamux has
// closed a stream, a Read of it without a deadline turns in a loop. Hundreds of these
// kept yamux from closing the rest for minutes.
func (c *Conn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for st := range c.streams {
		st.SetReadDeadline(past)
	}
}

var past = time.Unix(1, 0)

// patience sets how long a Read of st may take. Zero is without end.
func (c *Conn) patience(st *yamux.Stream, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams[st] = true
	switch {
	case c.over:
		st.SetReadDeadline(past)
	case d == 0:
		st.SetReadDeadline(time.Time{})
	default:
		st.SetReadDeadline(time.Now().Add(d))
	}
}

// finish throws away what the peer still sends on a stream, until the stream ends.
func (c *Conn) finish(st *yamux.Stream) {
	io.Copy(io.Discard, st)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, st)
}

// A header is the first message of a stream.
type header struct {
	Type    string // of the channel; streamRequests
	Payload []byte `ssh:"rest"`
}

// streamRequests is the type of the stream on which one side asks its global
// requests, each a request, and reads the answers. A side opens one at most.
const streamRequests = "requests@9ci"

type request struct {
	Name      string
	WantReply bool
	Payload   []byte `ssh:"rest"`
}

type reply struct {
	OK      bool
	Payload []byte `ssh:"rest"`
}

// An opened answers the header of a channel.
type opened struct {
	Reason  uint32 // 0: the channel is open. Else as RFC 4254 §5.1 has it
	Message string
}

// accept takes the streams that the peer opens, until the connection ends.
func (c *Conn) accept() {
	defer close(c.chans)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.mux.Close()
	for {
		st, err := c.mux.AcceptStream()
		if err != nil || c.mux.NumStreams() > maxStreams {
			return
		}
		wg.Go(func() { c.take(st) })
	}
}

// take reads what a stream is, and hands it on.
func (c *Conn) take(st *yamux.Stream) {
	c.patience(st, headerTimeout)
	var h header
	if err := readMsg(st, &h); err != nil {
		c.drop(st)
		return
	}
	c.patience(st, 0)
	if h.Type == streamRequests {
		if !c.asked.Swap(true) {
			c.answerAll(st)
		}
		c.drop(st)
		return
	}
	defer c.waiting.Add(-1)
	if c.waiting.Add(1) > maxStreams {
		c.mux.Close()
		return
	}
	select {
	case c.chans <- &newChannel{c, st, h}:
	case <-c.mux.CloseChan():
	}
}

// answerAll answers the requests that come on st.
func (c *Conn) answerAll(st *yamux.Stream) {
	for {
		var r request
		if err := readMsg(st, &r); err != nil {
			return
		}
		ok, text := c.answer(r.Name, r.Payload)
		if !r.WantReply {
			continue
		}
		if err := writeMsg(st, &reply{ok, text}); err != nil {
			return
		}
	}
}

// SendRequest is ssh.Conn's. The error of a connection that has ended is io.EOF.
func (c *Conn) SendRequest(name string, wantReply bool, payload []byte) (bool, []byte, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	if c.requests == nil {
		st, err := c.open(header{Type: streamRequests})
		if err != nil {
			return false, nil, io.EOF
		}
		c.requests = st
	}
	if err := writeMsg(c.requests, &request{name, wantReply, payload}); err != nil {
		return false, nil, io.EOF
	}
	if !wantReply {
		return false, nil, nil
	}
	var r reply
	if err := readMsg(c.requests, &r); err != nil {
		return false, nil, io.EOF
	}
	return r.OK, r.Payload, nil
}

// OpenChannel is ssh.Conn's. It reports an *ssh.OpenChannelError if the peer refuses
// the channel.
func (c *Conn) OpenChannel(name string, data []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	st, err := c.open(header{name, data})
	if err != nil {
		return nil, nil, err
	}
	var o opened
	if err := readMsg(st, &o); err != nil {
		c.drop(st)
		return nil, nil, fmt.Errorf("open a channel: %w", err)
	}
	if o.Reason != 0 {
		c.drop(st)
		return nil, nil, &ssh.OpenChannelError{Reason: ssh.RejectionReason(o.Reason), Message: o.Message}
	}
	ch := c.newOpen(st)
	return ch, ch.reqs, nil
}

func (c *Conn) open(h header) (*yamux.Stream, error) {
	if c.mux.NumStreams() > maxStreams {
		c.mux.Close() // the peer leaves open what is closed here
		return nil, net.ErrClosed
	}
	st, err := c.mux.OpenStream()
	if err != nil {
		return nil, err
	}
	c.patience(st, 0)
	if err := writeMsg(st, &h); err != nil {
		c.drop(st)
		return nil, err
	}
	return st, nil
}

// A newChannel is a channel that the peer asks for.
type newChannel struct {
	c  *Conn
	st *yamux.Stream
	h  header
}

func (n *newChannel) ChannelType() string { return n.h.Type }
func (n *newChannel) ExtraData() []byte   { return n.h.Payload }

func (n *newChannel) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	if err := writeMsg(n.st, &opened{}); err != nil {
		n.c.drop(n.st)
		return nil, nil, err
	}
	ch := n.c.newOpen(n.st)
	return ch, ch.reqs, nil
}

func (n *newChannel) Reject(reason ssh.RejectionReason, message string) error {
	err := writeMsg(n.st, &opened{uint32(max(reason, 1)), message})
	n.c.drop(n.st)
	return err
}

// A channel is an open channel.
type channel struct {
	c      *Conn
	st     *yamux.Stream
	reqs   chan *ssh.Request // has none, and is closed when both sides have closed the channel
	closed atomic.Bool
}

func (c *Conn) newOpen(st *yamux.Stream) *channel {
	return &channel{c: c, st: st, reqs: make(chan *ssh.Request)}
}

func (ch *channel) Read(p []byte) (int, error) {
	n, err := ch.st.Read(p)
	if ch.closed.Load() {
		return 0, io.EOF
	}
	if errors.Is(err, yamux.ErrTimeout) { // the connection ends
		err = io.EOF
	}
	return n, err
}

func (ch *channel) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = ch.st.Write(p[n:min(len(p), n+chunk)])
		n += m
	}
	if errors.Is(err, yamux.ErrStreamClosed) {
		err = io.EOF // as package ssh has it
	}
	return n, err
}

// CloseWrite ends this side's data: the peer reads its end.
func (ch *channel) CloseWrite() error { return ch.st.Close() }

// Close ends both sides' data. As over SSH, a Read ends when the peer has closed the
// channel too.
func (ch *channel) Close() error {
	if ch.closed.Swap(true) {
		return io.EOF
	}
	err := ch.st.Close()
	go func() { // ends with the stream
		ch.c.finish(ch.st)
		close(ch.reqs)
	}()
	return err
}

func (ch *channel) SendRequest(string, bool, []byte) (bool, error) { return false, nil }

func (ch *channel) Stderr() io.ReadWriter { return noStderr{} }

type noStderr struct{}

func (noStderr) Read([]byte) (int, error)    { return 0, io.EOF }
func (noStderr) Write(p []byte) (int, error) { return len(p), nil }

// drop closes a stream that is no channel, and throws away what the peer still sends
// on it.
func (c *Conn) drop(st *yamux.Stream) {
	st.Close()
	go func() { // ends with the stream
		c.patience(st, 0)
		c.finish(st)
	}()
}

func writeMsg(w io.Writer, msg any) error { return writeFrame(w, ssh.Marshal(msg)) }

func readMsg(r io.Reader, msg any) error {
	b, err := readFrame(r)
	if err != nil {
		return err
	}
	return ssh.Unmarshal(b, msg)
}

// writeFrame writes the length of b in four bytes, big-endian, and b.
func writeFrame(w io.Writer, b []byte) error {
	if len(b) > maxFrame {
		return fmt.Errorf("message of %d bytes: at most %d", len(b), maxFrame)
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("message of %d bytes: at most %d", n, maxFrame)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
