package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// A monitor speaks to that of qemu with go-qemu.
//
// A relay between qemu and go-qemu's SocketMonitor makes up for faults of the
// latter: it takes an event before the reply to qmp_capabilities for that reply;
// events that are not read hold up replies; a line over 64 KiB ends it; and what
// Run returns lies in a buffer that the next line may overwrite. So the relay
// passes no events on, and one goroutine asks one question at a time and copies
// the reply. Connect and Run have no deadline of their own: when ours passes, the
// monitor is closed for good.
type monitor struct {
	ask   chan question
	cut   chan struct{} // closed by the relay when either side has hung up
	full  chan struct{} // closed by the relay when qemu has stopped for want of room on a disk
	done  chan struct{} // closed by the owner when all of it has ended
	relay net.Conn      // to qemu
}

type question struct {
	command []byte
	reply   chan answer // holds one
}

type answer struct {
	data []byte
	err  error
}

// qmpTime is how long qemu has for a reply. It answers in milliseconds,
// and in seconds on a host with ten times more to do than it can.
const qmpTime = time.Minute

// qmpLine is the longest line taken from qemu, and what a SocketMonitor can take.
const qmpLine = 60 << 10

var errMonitor = errors.New("qemu's monitor is closed")

// newMonitor speaks to the qemu at the other end of c, and closes c.
func newMonitor(c net.Conn) (*monitor, error) {
	l, err := net.Listen("unix", "@") // a name of the kernel's choosing: no file
	if err != nil {
		c.Close()
		return nil, err
	}
	defer l.Close()
	l.(*net.UnixListener).SetDeadline(time.Now().Add(qmpTime))
	mon, err := qmp.NewSocketMonitor("unix", l.Addr().String(), qmpTime)
	if err != nil {
		c.Close()
		return nil, err
	}
	near, err := l.Accept()
	if err != nil {
		c.Close()
		mon.Disconnect()
		return nil, err
	}
	m := &monitor{
		ask:   make(chan question),
		cut:   make(chan struct{}),
		full:  make(chan struct{}),
		done:  make(chan struct{}),
		relay: c,
	}
	go m.forward(near, c)
	go m.own(mon, near)
	return m, nil
}

// forward carries lines both ways but events, until either side closes.
// It drops those but one: a machine's end is seen by its process's, which
// no event can tell sooner or better.
func (m *monitor) forward(near, far net.Conn) {
	var wg sync.WaitGroup
	defer close(m.cut)
	defer wg.Wait()
	defer near.Close()
	defer far.Close()
	wg.Go(func() {
		io.Copy(far, near)
		far.Close()
	})
	full := false
	r := bufio.NewReaderSize(far, qmpLine)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		var e qmp.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return
		}
		if e.Event != "" {
			if e.Event == "BLOCK_IO_ERROR" && e.Data["nospace"] == true && !full {
				full = true
				close(m.full)
			}
			continue
		}
		if _, err := near.Write(line); err != nil {
			return
		}
	}
}

// own is the one goroutine that uses mon.
func (m *monitor) own(mon *qmp.SocketMonitor, near net.Conn) {
	defer close(m.done)
	defer func() { <-m.cut }()
	defer mon.Disconnect()
	defer near.Close()
	// Closing near is what ends a Connect or a Run that waits.
	late := func() *time.Timer { return time.AfterFunc(qmpTime, func() { near.Close() }) }
	t := late()
	err := mon.Connect()
	if !t.Stop() || err != nil {
		return
	}
	for {
		select {
		case <-m.cut:
			return
		case q := <-m.ask:
			t := late()
			data, err := mon.Run(q.command)
			inTime := t.Stop()
			q.reply <- answer{append([]byte(nil), data...), err}
			if !inTime {
				return
			}
		}
	}
}

// run has qemu do one command and decodes what it returns into result,
// unless that is nil.
func (m *monitor) run(ctx context.Context, name string, args, result any) error {
	b, err := json.Marshal(qmp.Command{Execute: name, Args: args})
	if err != nil {
		return err
	}
	q := question{b, make(chan answer, 1)}
	select {
	case m.ask <- q:
	case <-m.done:
		return fmt.Errorf("%s: %w", name, errMonitor)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	var a answer
	select {
	case a = <-q.reply:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	if a.err != nil {
		return fmt.Errorf("%s: %w", name, a.err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.data, &struct {
		Return any `json:"return"`
	}{result})
}

// close ends the monitor and waits for its goroutines.
func (m *monitor) close() {
	m.relay.Close()
	<-m.done
}
