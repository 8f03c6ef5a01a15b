// Package network is the network of a machine: a router that is no more than
// code of this process.
//
// qemu hands over the frames of the guest's card (-netdev stream), and a TCP/IP
// stack of this process, gvisor's netstack, ends the guest's connections: it takes
// each for the host that the guest dials. For each connection this process dials
// that host itself, if Allowed permits the address. So root of a guest can send what
// it likes, from and to any address, and reaches no socket of this host: not
// 127.0.0.0/8 routed out of its card, nor 0.0.0.0, nor an address of this host's
// own. The names that a guest resolves decide nothing, the address that is
// dialled does.
//
// Sockets of this host are reached by name alone:
//
//   - guest.Nameserver forwards questions to the resolvers of this host, wherever they
//     are, as messages that are made here anew.
//   - Each of Config.Forwards answers HTTP at a port of guest.Gateway.
//
// # Why this and not another
//
// The stack of qemu's -netdev user dials this host's 127.0.0.1 for its gateway,
// and for all of 127.0.0.0/8 that a guest routes out of its card; no option of
// it prevents that.
//
// passt of 2023-03, which Debian 12 has, was attacked beside it. Without the mapping
// of its gateway (--no-map-gw), the gateway's address is a stranger's, but root of the
// guest still reached this host by 127.0.0.0/8, ::1, :: and each address of the
// host's own, in TCP and UDP. It takes no rule about what is dialled.
package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// What the guest's card and its router have for hardware. A machine that was saved
// goes on with another Network, so these never change.
const (
	MTU      = 65520 // the largest packet, in bytes: a frame is 14 more
	GuestMAC = "52:54:00:12:34:56"

	gatewayMAC = "\x52\x55\x0a\x00\x02\x02"
)

// A Config says what a Network has besides the outside.
type Config struct {
	// Forwards answer HTTP at a port of guest.Gateway. What else they reach is
	// their own rule.
	Forwards map[uint16]http.Handler

	// Resolv is the resolv.conf(5) of the resolvers, read for each question;
	// empty is /etc/resolv.conf.
	Resolv string
}

// A Network is what the frames of one guest go to.
type Network struct {
	c        Config
	resolver *resolver
	wire     net.Conn
	done     chan struct{} // closed when no frame comes any more

	write   sync.Mutex     // held while a frame is written
	writers sync.WaitGroup // of the routers: a guest can hold them up until wire is closed

	mu     sync.RWMutex // guards what follows; held by read while a frame is received
	router *router      // nil while the network is down
	closed bool
}

// New returns the network of the guest whose frames wire carries, each behind its
// length as qemu's netdev stream has it: 4 bytes, big endian. It owns wire. The
// network is down.
func New(wire net.Conn, c Config) *Network {
	n := &Network{c: c, wire: wire, resolver: newResolver(c.Resolv), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		n.read()
	}()
	return n
}

// SetUp lets the guest reach the network, or cuts it off: then each connection has
// ended, and no frame goes in or out, when SetUp returns.
func (n *Network) SetUp(up bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return net.ErrClosed
	}
	if up == (n.router != nil) {
		return nil
	}
	if !up {
		n.cut()
		return nil
	}
	r, err := newRouter(n.c, n.resolver)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	n.writers.Go(func() { r.write(n.send) })
	n.router = r
	return nil
}

// cut ends the router. The caller holds n.mu.
func (n *Network) cut() {
	if n.router != nil {
		n.router.close()
		n.router = nil
	}
}

// Close ends the network and all that goes on in it.
func (n *Network) Close() {
	n.wire.Close() // before cut: a write of a frame that is stuck ends
	n.mu.Lock()
	n.closed = true
	n.cut()
	n.mu.Unlock()
	<-n.done
	n.writers.Wait()
}

// maxFrame is more than a frame of MTU with its header and a VLAN tag.
const maxFrame = MTU + 64

// read passes frames on until wire ends, or brings nonsense, which cannot be
// resynchronized: then the guest has no network.
func (n *Network) read() {
	frame := make([]byte, maxFrame)
	var size [4]byte
	r := bufio.NewReaderSize(n.wire, 256<<10)
	for {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		l := binary.BigEndian.Uint32(size[:])
		if l > maxFrame {
			n.wire.Close()
			return
		}
		if _, err := io.ReadFull(r, frame[:l]); err != nil {
			return
		}
		n.mu.RLock()
		if n.router != nil {
			n.router.receive(frame[:l])
		}
		n.mu.RUnlock()
	}
}

// send writes a frame. A guest that reads none holds up its own network alone.
func (n *Network) send(ctx context.Context, p *stack.PacketBuffer) error {
	n.write.Lock()
	defer n.write.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	b := net.Buffers{binary.BigEndian.AppendUint32(nil, uint32(p.Size()))}
	b = append(b, p.AsSlices()...)
	_, err := b.WriteTo(n.wire)
	return err
}
