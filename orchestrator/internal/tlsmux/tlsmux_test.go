package tlsmux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/yamux"
	"golang.org/x/crypto/ssh"

	"9ci/orchestrator/internal/wire"
)

// connected returns the two ends of a TCP connection.
func connected(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// pair returns the two ends of a connection.
func pair(t testing.TB, answer AnswerFunc) (client, server *Conn, toClient, toServer <-chan ssh.NewChannel) {
	t.Helper()
	near, far := connected(t)
	var err error
	if client, toClient, err = start(near, []byte("id"), false, nil); err != nil {
		t.Fatal(err)
	}
	if server, toServer, err = start(far, []byte("id"), true, answer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
		for range toClient {
		}
		for range toServer {
		}
	})
	return client, server, toClient, toServer
}

// Both sides open channels, which carry data both ways, end one way, and end as a
// whole when both sides have closed them.
func TestChannel(t *testing.T) {
	client, server, toClient, toServer := pair(t, nil)
	for _, side := range []struct {
		from *Conn
		to   <-chan ssh.NewChannel
	}{{client, toServer}, {server, toClient}} {
		done := make(chan error, 1)
		go func() {
			nc := <-side.to
			if nc.ChannelType() != "echo" || string(nc.ExtraData()) != "extra" {
				done <- fmt.Errorf("channel %q, %q", nc.ChannelType(), nc.ExtraData())
				return
			}
			ch, reqs, err := nc.Accept()
			if err != nil {
				done <- err
				return
			}
			_, err = io.Copy(ch, ch)
			ch.Close()
			ssh.DiscardRequests(reqs)
			done <- err
		}()
		ch, reqs, err := side.from.OpenChannel("echo", []byte("extra"))
		if err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("0123456789abcdef"), 3*window/16)
		go func() {
			ch.Write(sent)
			ch.CloseWrite()
		}()
		got, err := io.ReadAll(ch)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("echo of %d bytes = %d bytes, %v", len(sent), len(got), err)
		}
		if err := ch.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		ssh.DiscardRequests(reqs)
		if err := <-done; err != nil {
			t.Errorf("the other side: %v", err)
		}
		if _, err := ch.Write([]byte("x")); err != io.EOF {
			t.Errorf("Write after Close = %v, want EOF", err)
		}
		if err := ch.Close(); err != io.EOF {
			t.Errorf("second Close = %v, want EOF", err)
		}
	}
}

// A channel that is refused says why, by the reason that package ssh has.
func TestRefused(t *testing.T) {
	client, _, _, toServer := pair(t, nil)
	go func() { wire.Refuse(<-toServer, wire.ErrBusy) }()
	_, _, err := client.OpenChannel("x", nil)
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage || refused.Message != wire.ErrBusy.Error() {
		t.Errorf("OpenChannel = %v, want ErrBusy's refusal", err)
	}
}

// Requests are answered in their order, and end with the connection.
func TestRequests(t *testing.T) {
	var got []string
	client, server, _, _ := pair(t, func(name string, payload []byte) (bool, []byte) {
		got = append(got, name+" "+string(payload))
		return name == "yes", []byte("re " + string(payload))
	})
	client.SendRequest("first", false, []byte("1"))
	for _, name := range []string{"yes", "no"} {
		ok, reply, err := client.SendRequest(name, true, []byte("2"))
		if ok != (name == "yes") || string(reply) != "re 2" || err != nil {
			t.Errorf("SendRequest(%q) = %t, %q, %v", name, ok, reply, err)
		}
	}
	if want := "[first 1 yes 2 no 2]"; fmt.Sprint(got) != want {
		t.Errorf("requests %v, want %v", got, want)
	}
	if ok, _, err := server.SendRequest("keepalive", true, nil); ok || err != nil {
		t.Errorf("a client's answer: %t, %v, want a denial", ok, err)
	}
	server.Close()
	if _, _, err := client.SendRequest("yes", true, nil); err != io.EOF {
		t.Errorf("SendRequest after the end: %v, want EOF", err)
	}
}

// A peer that leaves open what the other side has closed is hung up on: it would hold
// its streams for ever.
func TestTooManyStreams(t *testing.T) {
	client, server, _, toServer := pair(t, nil)
	go func() {
		for nc := range toServer {
			nc.Reject(ssh.Prohibited, "no")
		}
	}()
	var opened int
	for ; opened < 2*maxStreams; opened++ {
		st, err := client.mux.OpenStream() // and never closes it
		if err != nil {
			break
		}
		if writeMsg(st, &header{Type: "x"}) != nil {
			break
		}
	}
	<-server.mux.CloseChan()
	if opened < maxStreams {
		t.Errorf("hung up on after %d streams, want %d or more", opened, maxStreams)
	}
}

// raw returns a connection to a server that is a Conn.
func raw(t *testing.T) (peer net.Conn, server *Conn) {
	t.Helper()
	near, far := connected(t)
	server, chans, err := start(far, nil, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, near)
	t.Cleanup(func() {
		near.Close()
		server.Close()
		for range chans {
		}
	})
	return near, server
}

// frame returns a frame of yamux.
func frame(kind, flags, stream int, data []byte, length int) []byte {
	b := []byte{0, byte(kind)}
	b = binary.BigEndian.AppendUint16(b, uint16(flags))
	b = binary.BigEndian.AppendUint32(b, uint32(stream))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, data...)
}

// A peer that pings is hung up on, however its frames are cut: yamux would have a
// goroutine for each ping. What only looks like a ping is data.
func TestPing(t *testing.T) {
	ping := frame(framePing, 1, 0, nil, 7)
	t.Run("data", func(t *testing.T) {
		c := &frameConn{Conn: bytesConn{r: iotest.OneByteReader(bytes.NewReader(append(frame(frameData, 0, 1, ping, len(ping)), frame(1, 0, 1, nil, 99)...)))}}
		if b, err := io.ReadAll(c); err != nil || len(b) != 3*frameHeader {
			t.Errorf("read %d bytes, %v, want %d", len(b), err, 3*frameHeader)
		}
	})
	for _, cut := range []int{1, 5, frameHeader, 2 * frameHeader} {
		peer, server := raw(t)
		b := append(frame(1, 1, 1, nil, 0), ping...)
		peer.Write(b[:cut])
		peer.Write(b[cut:])
		<-server.mux.CloseChan()
	}
}

type bytesConn struct {
	net.Conn
	r io.Reader
}

func (c bytesConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// A peer that resets its streams when they have said what they are has no more of them
// waiting to be served than one that leaves them open.
func TestManyResets(t *testing.T) {
	peer, server := raw(t) // nobody receives its channels
	h := ssh.Marshal(&header{Type: "x"})
	h = append(binary.BigEndian.AppendUint32(nil, uint32(len(h))), h...)
	n := 0
	for ; n < 2*maxStreams && !server.mux.IsClosed(); n++ {
		peer.Write(frame(frameData, 1, 2*n+1, h, len(h)))
		for int(server.waiting.Load()) <= n && !server.mux.IsClosed() {
			runtime.Gosched()
		}
		peer.Write(frame(1, 8, 2*n+1, nil, 0))
	}
	if n != maxStreams+1 {
		t.Errorf("hung up on after %d streams, want %d", n, maxStreams+1)
	}
}

// What a peer sends on a stream ends no more than that stream.
func FuzzStream(f *testing.F) {
	frame := func(b []byte) []byte {
		var w bytes.Buffer
		writeFrame(&w, b)
		return w.Bytes()
	}
	f.Add(frame(ssh.Marshal(&header{"9p@9ci", []byte("x")})))
	f.Add(append(frame(ssh.Marshal(&header{Type: streamRequests})), frame(ssh.Marshal(&request{"announce@9ci", true, []byte("name=a\n")}))...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	near, far := net.Pipe()
	s, chans, err := start(far, nil, true, func(string, []byte) (bool, []byte) { return true, nil })
	if err != nil {
		f.Fatal(err)
	}
	defer s.Close()
	m, err := yamux.Client(near, &yamux.Config{AcceptBacklog: 1, KeepAliveInterval: 1, ConnectionWriteTimeout: writeTimeout, MaxStreamWindowSize: window, LogOutput: io.Discard})
	if err != nil {
		f.Fatal(err)
	}
	defer m.Close()
	go func() {
		for nc := range chans {
			nc.Reject(ssh.Prohibited, nc.ChannelType())
		}
	}()
	f.Fuzz(func(t *testing.T, b []byte) {
		s.asked.Store(false)
		st, err := m.OpenStream()
		if err != nil {
			t.Fatalf("the connection has ended: %v", err)
		}
		st.Write(b)
		st.Close()
		io.Copy(io.Discard, st)
	})
}
