package guest

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// msg is a message's bytes.
func msg(kind byte, id uint32, data ...byte) string {
	b := binary.LittleEndian.AppendUint32(nil, uint32(headerSize+len(data)))
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, id)
	return string(append(b, data...))
}

// What a guest may say, each a lie after a proper start, ends the
// connection with an error that names it.
func TestLies(t *testing.T) {
	hello := msg(rHello, 0, []byte(Version)...)
	boot := msg(rPrep, 0) + msg(rBoot, 0)
	ran := msg(rRun, 1, 1, 0, 0, 0)
	for _, test := range []struct{ name, say, want string }{
		{"another version", msg(rHello, 0, []byte("ssh-2.0")...), `version "ssh-2.0"`},
		{"no protocol at all", "HTTP/1.1 400 Bad Request\r\n", "message of"},
		{"too short", "\x00\x00\x00\x00\x01\x00\x00\x00\x00", "message of 0 bytes"},
		{"too long", "\xff\xff\xff\xff\x01\x00\x00\x00\x00", "message of 4294967295 bytes"},
		{"cut short", hello + boot + ran[:5], "unexpected EOF"},
		{"hello twice", hello + hello, "Rhello of 0"},
		{"boot unasked", msg(rBoot, 0), "Rboot of 0"},
		{"boot first", hello + msg(rBoot, 0), "Rboot of 0"},
		{"prepared twice", hello + boot + msg(rPrep, 0), "Rprep of 0"},
		{"boot twice", hello + boot + msg(rBoot, 0), "Rboot of 0"},
		{"ping unasked", hello + boot + msg(rPing, 0), "Rping of 0"},
		{"no such command", hello + boot + msg(rStdout, 7, 'x'), "Rstdout of 7"},
		{"output before start", hello + boot + msg(rStdout, 1, 'x'), "out of order"},
		{"start twice", hello + boot + ran + ran, "out of order"},
		{"start without pid", hello + boot + msg(rRun, 1), "0 bytes of data, want 4"},
		{"error after start", hello + boot + ran + msg(rError, 1, 1, 0, 0, 0), "out of order"},
		{"error without errno", hello + boot + msg(rError, 1), "Rerror of 1: 0 bytes"},
		{"error too long", hello + boot + msg(rError, 1, make([]byte, 10<<10)...), "Rerror of 1: 10240 bytes"},
		{"empty output", hello + boot + ran + msg(rStdout, 1), "no room"},
		{"long output", hello + boot + ran + msg(rStderr, 1, make([]byte, MaxData+1)...), "no room"},
		{"flood", hello + boot + ran + strings.Repeat(msg(rStdout, 1, make([]byte, MaxData)...), 1+Window/MaxData), "no room"},
		{"flood of crumbs", hello + boot + ran + strings.Repeat(msg(rStdout, 1, 'x')+msg(rStderr, 1, 'y'), Window/10), "no room"},
		{"input not sent", hello + boot + ran + msg(rTaken, 1, 1, 0, 0, 0), "not sent"},
		{"huge count", hello + boot + ran + msg(rTaken, 1, 255, 255, 255, 255), "not sent"},
		{"count of nothing", hello + boot + ran + msg(rTaken, 1, 0, 0, 0, 0), "not sent"},
		{"exit before start", hello + boot + msg(rExit, 1, make([]byte, 8)...), "out of order"},
		{"exit without status", hello + boot + ran + msg(rExit, 1), "0 bytes of data, want 8"},
		{"impossible status", hello + boot + ran + msg(rExit, 1, 0, 1, 0, 0, 0, 0, 0, 0), "status 256"},
		{"exit twice", hello + boot + ran + msg(rExit, 1, make([]byte, 8)...) + msg(rExit, 1, make([]byte, 8)...), "Rexit of 1"},
		{"a host's message", hello + boot + ran + msg(tTaken, 1, 1, 0, 0, 0), "not for a host"},
		{"no such type", hello + boot + ran + msg(99, 1), "message of type 99"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newLiar(t, test.say)
			<-c.Done()
			if err := c.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Err = %v, want %q", err, test.want)
			}
		})
	}
}

// newLiar is a client, which boots and runs one command, of a guest that
// says what it is given, at its time: each answer comes when it was asked
// for, if it ever was.
func newLiar(t testing.TB, say string) *Client {
	ours, theirs := net.Pipe()
	c := NewClient(ours, time.Hour)
	heard := make(chan bool)
	go func() {
		defer close(heard)
		io.Copy(io.Discard, theirs)
	}()
	spoke := make(chan bool)
	go func() {
		defer close(spoke)
		defer theirs.Close()
		hello := msg(rHello, 0, []byte(Version)...)
		prep, boot := msg(rPrep, 0), msg(rBoot, 0)
		rest, ok := strings.CutPrefix(say, hello)
		if !ok {
			io.WriteString(theirs, say)
			return
		}
		io.WriteString(theirs, hello)
		if after, ok := strings.CutPrefix(rest, prep); ok {
			waitFor(c, func() bool { return c.asked == tPrep })
			io.WriteString(theirs, prep)
			rest = after
			if after, ok := strings.CutPrefix(rest, boot); ok {
				waitFor(c, func() bool { return c.asked == tBoot })
				io.WriteString(theirs, boot)
				rest = after
				waitFor(c, func() bool { return c.commands[1] != nil })
			}
		}
		io.WriteString(theirs, rest)
	}()
	ran := make(chan bool)
	go func() {
		defer close(ran)
		if c.Hello(t.Context()) == nil && c.Prepare(t.Context(), Prepare{}) == nil && c.Boot(t.Context(), Boot{}) == nil {
			blocked := writerFunc(func(p []byte) (int, error) { <-c.Done(); return len(p), nil })
			c.Run(t.Context(), Cmd{Args: []string{"x"}, Stdout: blocked, Stderr: blocked})
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-heard
		<-spoke
		<-ran
	})
	return c
}

// waitFor waits until f holds, or c has ended.
func waitFor(c *Client, f func() bool) {
	for {
		c.mu.Lock()
		ok := f() || c.err != nil
		c.mu.Unlock()
		if ok {
			return
		}
		runtime.Gosched()
	}
}
