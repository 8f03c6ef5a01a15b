package orchestrator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"9ci/fs"
	"9ci/orchestrator/door"
	"9ci/orchestrator/internal/client"
	"9ci/orchestrator/internal/wire"
	"9ci/proto/ninep"
)

// A client that does not log in is put out when the grace is over, and costs its
// address. After enough of them the address is not heard for a while.
func TestHalfOpen(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		var silent []*memConn
		for range 3 {
			silent = append(silent, m.l.dialFrom("198.51.100.1"))
		}
		synctest.Wait()
		if n := m.s.sources.HalfOpen(); n != 3 {
			t.Fatalf("%d half-open connections, want 3", n)
		}
		began := time.Now()
		for _, c := range silent {
			io.ReadAll(c) // until the server hangs up
		}
		if d := time.Since(began); d != door.LoginGrace {
			t.Errorf("put out after %v, want %v", d, door.LoginGrace)
		}
		synctest.Wait()
		if n := m.s.sources.HalfOpen(); n != 0 {
			t.Errorf("%d half-open connections are left", n)
		}
		// 3 times 10 s have gathered.
		c := m.l.dialFrom("198.51.100.1")
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("the address is heard at once: %q", b)
		}
		m.login(k) // others are
		time.Sleep(31 * time.Second)
		c = m.l.dialFrom("198.51.100.1")
		b := make([]byte, 12)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "SSH-2.0-9ci\r" {
			t.Errorf("the address is not heard again: %q %v", b, err)
		}
		c.Close()
	})
}

// Garbage ends the connection and nothing else.
func TestGarbage(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		for i, b := range [][]byte{
			nil,
			[]byte("GET / HTTP/1.1\r\n\r\n"),
			bytes.Repeat([]byte("x"), 1<<20),
			append([]byte("SSH-2.0-x\r\n"), bytes.Repeat([]byte{0xff}, 100000)...),
			append([]byte("SSH-2.0-x\r\n"), 0, 0, 0, 12, 10, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
			[]byte("SSH-1.5-old\r\n"),
		} {
			c := m.l.dialFrom(fmt.Sprintf("198.51.%d.1", i))
			c.Write(b)
			c.out.set(func() { c.out.closed = true })
			io.ReadAll(c)
		}
		synctest.Wait()
		if n, s := m.s.conns.count(), m.s.sources.HalfOpen(); n != 0 || s != 0 {
			t.Errorf("%d connections and %d half-open ones are left", n, s)
		}
		l, _ := m.login(k)
		m.treeOn(l, "")
	})
}

// A client that connects and leaves without a word, as a monitor does, pays nothing for
// it, and one that says something else than SSH does.
func TestSilentLeaver(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n"} {
			heard := 0
			for range 100 {
				c := m.l.dialFrom("198.51.100.1")
				c.Write([]byte(text))
				c.out.set(func() { c.out.closed = true })
				if b, _ := io.ReadAll(c); len(b) > 0 {
					heard++
				}
				synctest.Wait()
			}
			if all := heard == 100; all != (text == "") {
				t.Errorf("%d of 100 connections that say %q are heard", heard, text)
			}
		}
	})
}

// Five keys that may not enter may come before one that may, and six are enough. A
// password is none.
func TestAuthTries(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		var keys []ssh.Signer
		for range 5 {
			keys = append(keys, newSigner(t))
		}
		login := func(auth ssh.AuthMethod) error {
			nc := m.l.dialFrom("198.51.100.1")
			sc, _, _, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{Auth: []ssh.AuthMethod{auth}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
			if err == nil {
				sc.Close()
			}
			nc.Close()
			return err
		}
		if err := login(ssh.PublicKeys(append(keys, newSigner(t), k)...)); err == nil || !strings.Contains(err.Error(), "too many authentication failures") {
			t.Errorf("the seventh key: %v", err)
		}
		if err := login(ssh.PublicKeys(append(keys, k)...)); err != nil {
			t.Errorf("the sixth key: %v", err)
		}
		if err := login(ssh.Password("guess")); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("a password: %v", err)
		}
	})
}

// A PROXY header from an address that is no balancer is garbage, though the ssh
// package would skip the line.
func TestProxyHeaderOfStranger(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		for _, b := range []string{"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nSSH-2.0-x\r\n", "\nSSH-2.0-x\r\n", "S\nSSH-2.0-x\r\n"} {
			c := m.l.dialFrom("198.51.100.1")
			io.WriteString(c, b)
			got, _ := io.ReadAll(c)
			if !bytes.HasPrefix(got, []byte("SSH-2.0-9ci")) || bytes.Count(got, []byte("\n")) != 1 {
				t.Errorf("to %q it answers %q", b, got)
			}
		}
	})
}

// Many half-open connections keep no other client out: some are dropped at random,
// and then all that come.
func TestFlood(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		var conns []net.Conn
		for i := range 2000 {
			conns = append(conns, m.l.dialFrom(fmt.Sprintf("10.%d.%d.1", i/256, i%256)))
		}
		synctest.Wait()
		if n := m.s.sources.HalfOpen(); n > 512 || n < 64 {
			t.Errorf("%d half-open connections, want 64 to 512", n)
		}
		for _, c := range conns {
			c.Close()
		}
	})
}

// What a client sends to a command that reads nothing is not kept for it.
func TestInputOfCommands(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		ch := m.cat(l, "event")
		if n, err := ch.Write(make([]byte, 8<<20)); err != nil { // beyond a channel's window
			t.Errorf("Write = %d, %v", n, err)
		}
		ch.Close()
	})
}

// A requester's channels are counted by all its connections, and given back.
func TestChannelsOfKey(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		other, _ := m.key("", "bob")
		a, _ := m.login(k)
		b, _ := m.login(k)
		c, _ := m.login(other)
		var r *requester
		for _, conn := range m.s.live.all() {
			if conn.login.Name == "alice" {
				r = conn.requester
			}
		}
		for range maxChannelsOfKey - 1 {
			r.channels.Wait()
		}
		open := func(l testLink) (ssh.Channel, error) {
			ch, reqs, err := l.ssh.OpenChannel("session", nil)
			if err == nil {
				go ssh.DiscardRequests(reqs)
			}
			return ch, err
		}
		ch, err := open(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []testLink{a, b} {
			if _, err := open(l); err == nil || !strings.Contains(err.Error(), errChannels.Error()) {
				t.Errorf("one channel more: %v, want %v", err, errChannels)
			}
		}
		if _, err := open(c); err != nil {
			t.Errorf("another key's channel: %v", err)
		}
		ch.Close()
		synctest.Wait()
		if _, err := open(b); err != nil {
			t.Errorf("a channel once there is room: %v", err)
		}
	})
}

// A client's channels, programs and requests have their limits.
func TestSessionLimits(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		var open []ssh.Channel
		for {
			ch, reqs, err := l.ssh.OpenChannel("session", nil)
			if err != nil {
				if !strings.Contains(err.Error(), "too many channels") {
					t.Errorf("OpenChannel: %v", err)
				}
				break
			}
			go ssh.DiscardRequests(reqs)
			open = append(open, ch)
		}
		if len(open) != wire.MaxChannels {
			t.Errorf("%d channels, want %d", len(open), wire.MaxChannels)
		}
		for _, ch := range open {
			ch.Close()
		}
		synctest.Wait()
		for _, kind := range []string{"x11", "direct-streamlocal@openssh.com", "forwarded-tcpip", wire.ChannelExport} {
			if _, _, err := l.ssh.OpenChannel(kind, nil); err == nil {
				t.Errorf("a channel of type %s is taken", kind)
			}
		}
		ch, reqs, err := l.ssh.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		for _, r := range []struct {
			kind    string
			payload []byte
		}{
			{"env", ssh.Marshal(&struct{ K, V string }{"LD_PRELOAD", "x"})},
			{"pty-req", []byte("nonsense")},
			{"exec", []byte{0xff, 0xff, 0xff, 0xff}},
			{"subsystem", []byte("short")},
			{"subsystem", ssh.Marshal(&struct{ S string }{"sftpd"})},
			{"subsystem", ssh.Marshal(&struct{ S string }{"9pfs"})},
			{"auth-agent-req@openssh.com", nil},
			{"x11-req", nil},
		} {
			if ok, err := ch.SendRequest(r.kind, true, r.payload); ok || err != nil {
				t.Errorf("request %s %q: %t %v", r.kind, r.payload, ok, err)
			}
		}
		run := ssh.Marshal(&struct{ S string }{"whoami"})
		if ok, err := ch.SendRequest("exec", true, run); !ok || err != nil {
			t.Errorf("exec: %t %v", ok, err)
		}
		if ok, _ := ch.SendRequest("exec", true, run); ok {
			t.Error("a second program on one channel")
		}
		if b, err := io.ReadAll(ch); err != nil || !strings.Contains(string(b), "rights=") {
			t.Errorf("whoami: %q %v", b, err)
		}
		for _, r := range []struct {
			kind    string
			payload []byte
		}{
			{"tcpip-forward", []byte("x")},
			{"tcpip-forward", ssh.Marshal(&forwardTCPMsg{"localhost", 22})},
			{"tcpip-forward", ssh.Marshal(&forwardTCPMsg{"../x", port9P})},
			{"streamlocal-forward@openssh.com", ssh.Marshal(&forwardUnixMsg{"/etc/passwd"})},
			{"hostkeys-prove-00@openssh.com", nil},
			{wire.RequestAnnounce, bytes.Repeat([]byte("x"), wire.MaxAnnounce+1)},
		} {
			if ok, reason, err := l.ssh.SendRequest(r.kind, true, r.payload); ok || err != nil || len(reason) == 0 {
				t.Errorf("global request %s: %t %q %v", r.kind, ok, reason, err)
			}
		}
		for i := range maxMembers + 1 {
			a := wire.Announce{Name: fmt.Sprintf("x.%d", i), Namespaces: []string{hello}}
			ok, reason, err := l.ssh.SendRequest(wire.RequestAnnounce, true, a.Text())
			if err != nil || ok != (i < maxMembers) {
				t.Errorf("announcement %d: %t %q %v", i, ok, reason, err)
			}
		}
	})
}

// An export that takes the channel and never speaks, and one that refuses it,
// are given up, and hold nothing once they have left.
func TestDeafExport(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		reader, _ := m.login(k)
		root := m.treeOn(reader, hello)
		nc := m.l.dialFrom("192.0.2.7")
		sc, chans, reqs, err := ssh.NewClientConn(nc, "mux:22", &ssh.ClientConfig{
			Auth: []ssh.AuthMethod{ssh.PublicKeys(k)}, HostKeyCallback: ssh.FixedHostKey(m.s.HostKey()),
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan int)
		go func() {
			n := 0
			for ch := range chans {
				n++
				if n%2 == 0 {
					ch.Reject(ssh.ConnectionFailed, "no")
					continue
				}
				c, r, err := ch.Accept()
				if err == nil {
					go ssh.DiscardRequests(r)
					go io.Copy(io.Discard, c)
				}
			}
			done <- n
		}()
		go ssh.DiscardRequests(reqs) // and so answers keepalives
		if ok, reason, err := sc.SendRequest(wire.RequestAnnounce, true, wire.Announce{Name: "deaf", Namespaces: []string{hello}}.Text()); !ok || err != nil {
			t.Fatalf("announce: %q %v", reason, err)
		}
		began := time.Now()
		for range 4 {
			if _, err := door.Walk(t.Context(), root, "n/deaf/ci"); err == nil {
				t.Error("a deaf executor is walked to")
			}
		}
		if d := time.Since(began); d > 4*openTimeout {
			t.Errorf("four walks took %v", d)
		}
		answer, _ := find(t, root, "commit="+testCommit)
		if answer != "" {
			t.Errorf("find = %q", answer)
		}
		sc.Close()
		<-done
	})
}

// One key cannot take all connections.
func TestTally(t *testing.T) {
	var c tally
	n := 0
	enter := func(key string) error {
		_, err := c.enter(key)
		return err
	}
	for ; enter("a") == nil; n++ {
	}
	if n != maxConnsOfKey {
		t.Errorf("%d connections of one key, want %d", n, maxConnsOfKey)
	}
	for ; enter(fmt.Sprint(n)) == nil; n++ {
	}
	if n != maxConns {
		t.Errorf("%d connections, want %d", n, maxConns)
	}
	c.leave(c.byKey["a"])
	if err := enter("a"); err != nil || c.count() != maxConns {
		t.Errorf("after one has left: %v, %d", err, c.count())
	}
}

// A deafConn is an executor's 9P connection on which answers stop coming.
type deafConn struct {
	io.ReadWriteCloser
	deaf chan struct{} // closed when they stop
	end  chan struct{}
}

func (d *deafConn) Write(p []byte) (int, error) {
	select {
	case <-d.deaf:
		<-d.end
		return 0, io.ErrClosedPipe
	default:
		return d.ReadWriteCloser.Write(p)
	}
}

// An executor that stops answering 9P, and still answers SSH, holds no client
// that has gone: what it has open there is given up.
func TestDeafExecutorHoldsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, m *bubbleMux) {
		k, _ := m.key("", "alice")
		l, _ := m.login(k)
		tree := newTestTree()
		tree.add("3f2a9c1d0b7e.1", testCommit, "passed")
		deaf, end := make(chan struct{}), make(chan struct{})
		defer close(end)
		joined := make(chan bool, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go l.Export(ctx, wire.Announce{Name: "deaf", Namespaces: []string{hello}}, client.Told{Joined: func(string) { joined <- true }},
			func(ctx context.Context, rwc io.ReadWriteCloser, _ string, user fs.User) {
				srv := ninep.Server{User: user, Attach: func(context.Context, string, string) (fs.Dir, error) { return tree.root(), nil }}
				srv.Serve(ctx, &deafConn{rwc, deaf, end})
			})
		<-joined
		reader, _ := m.login(k)
		root := m.treeOn(reader, hello)
		if got := read(t, root, "n/deaf/status"); got != "mode=run\n" {
			t.Fatalf("status = %q", got)
		}
		synctest.Wait()
		before := m.s.conns.count()
		close(deaf)
		go fs.Walk(t.Context(), root, "n/deaf/ci/3f2a9c1d0b7e.1/stdout")
		synctest.Wait()
		reader.Close()
		<-reader.Done()
		time.Sleep(2 * opTimeout)
		synctest.Wait()
		if n := m.s.conns.count(); n != before-1 {
			t.Errorf("%d connections are left, want %d", n, before-1)
		}
	})
}
