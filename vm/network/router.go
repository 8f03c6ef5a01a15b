package network

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	netlog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"9ci/vm/guest"
)

const (
	maxTCP     = 1024             // connections of a guest at once; one more is reset
	maxUDP     = 1024             // pairs of addresses at once; a datagram of one more is refused
	dialTime   = 30 * time.Second // for the outside to take a connection
	idleUDP    = 2 * time.Minute  // RFC 4787 §4.3
	headTime   = 30 * time.Second // for the head of a request to a forward
	idleTime   = 2 * time.Minute  // until the next request on the same connection
	queueSize  = 1024             // frames on the way to the guest; more are dropped, as in any router
	bufferSize = 4 << 20          // of a connection, for each direction, at most
)

// netstack and http.Server log what guests send, which is for nobody.
func init() {
	netlog.SetLevel(netlog.Warning) // of loggers that exist already
	netlog.SetTarget(&netlog.Writer{Next: io.Discard})
}

var nobody = log.New(io.Discard, "", 0)

const nic tcpip.NICID = 1

// A router is a network that is up, from then until it is cut off.
type router struct {
	ctx    context.Context // done when the router is closed
	cancel context.CancelFunc
	card   *channel.Endpoint
	stack  *stack.Stack
	wg     sync.WaitGroup // of all that goes on in the stack

	dialer   func(context.Context, string, netip.AddrPort) (net.Conn, error)
	tcp, udp chan struct{} // a place for each connection

	mu     sync.Mutex // guards what follows
	closed bool       // wg grows no more
}

// newRouter returns a router whose frames for the guest wait for write.
func newRouter(c Config, res *resolver) (*router, error) {
	r := &router{
		card:   channel.New(queueSize, MTU+header.EthernetMinimumSize, gatewayMAC),
		dialer: dial,
		tcp:    make(chan struct{}, maxTCP),
		udp:    make(chan struct{}, maxUDP),
	}
	// The frames cross a socket, so no bit of them changes on the way.
	r.card.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.makeStack(); err != nil {
		r.close()
		return nil, err
	}
	if err := r.listen(c, res); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// write gives the frames for the guest to send, until the router is closed or send reports
// an error.
func (r *router) write(send func(context.Context, *stack.PacketBuffer) error) {
	for p := r.card.ReadContext(r.ctx); p != nil; p = r.card.ReadContext(r.ctx) {
		err := send(r.ctx, p)
		p.DecRef()
		if err != nil {
			return
		}
	}
}

// errorOf makes an error of one of the stack's.
func errorOf(e tcpip.Error) error {
	if e == nil {
		return nil
	}
	return errors.New(e.String())
}

// makeStack makes a stack that takes itself for every host there is.
func (r *router) makeStack() error {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	r.stack = s
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: bufferSize}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: bufferSize}
	err := errors.Join(
		errorOf(s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)),
		errorOf(s.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate)),
		errorOf(s.SetTransportProtocolOption(tcp.ProtocolNumber, &send)),
		errorOf(s.SetTransportProtocolOption(tcp.ProtocolNumber, &receive)),
		errorOf(s.CreateNIC(nic, ethernet.New(r.card))),
		errorOf(s.SetPromiscuousMode(nic, true)), // takes what is for any address
		errorOf(s.SetSpoofing(nic, true)),        // and answers from there
	)
	for _, a := range []netip.Addr{guest.Gateway, guest.Nameserver, guest.Gateway6} {
		p := tcpip.ProtocolAddress{Protocol: protocol(a), AddressWithPrefix: address(a).WithPrefix()}
		err = errors.Join(err, errorOf(s.AddProtocolAddress(nic, p, stack.AddressProperties{})))
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, maxTCP, r.dialTCP).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, r.dialUDP).HandlePacket)
	return err
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func fullAddress(a netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: address(a), Port: port}
}

// listen serves the forwards and the nameserver.
func (r *router) listen(c Config, res *resolver) error {
	for port, h := range c.Forwards {
		l, err := gonet.ListenTCP(r.stack, fullAddress(guest.Gateway, port), ipv4.ProtocolNumber)
		if err != nil {
			return err
		}
		s := &http.Server{
			Handler: h, ReadHeaderTimeout: headTime, IdleTimeout: idleTime, ErrorLog: nobody,
			BaseContext: func(net.Listener) context.Context { return r.ctx },
		}
		context.AfterFunc(r.ctx, func() { s.Close() })
		r.wg.Go(func() { s.Serve(&limited{l, r.tcp}) })
	}
	l, err := gonet.ListenTCP(r.stack, fullAddress(guest.Nameserver, dnsPort), ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	context.AfterFunc(r.ctx, func() { l.Close() })
	r.wg.Go(func() { r.serveDNS(&limited{l, r.tcp}, res) })
	at := fullAddress(guest.Nameserver, dnsPort)
	u, err := gonet.DialUDP(r.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	context.AfterFunc(r.ctx, func() { u.Close() })
	r.wg.Go(func() { r.answerDNS(u, res) })
	return nil
}

// receive takes a frame of the guest's.
func (r *router) receive(frame []byte) {
	if !passes(frame) {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer p.DecRef()
	r.card.InjectInbound(0, p)
}

// passes reports whether a frame is for the stack. It would answer for every
// address in the guest's own subnet, in ARP and neighbour discovery: then the
// guest's own would be taken.
func passes(frame []byte) bool {
	if len(frame) < header.EthernetMinimumSize {
		return false
	}
	packet := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		a := header.ARP(packet)
		if !a.IsValid() {
			return false
		}
		to := tcpip.AddrFromSlice(a.ProtocolAddressTarget())
		return a.Op() == header.ARPReply || to == address(guest.Gateway) || to == address(guest.Nameserver)
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) || ip.TransportProtocol() != header.ICMPv6ProtocolNumber {
			return true
		}
		icmp := header.ICMPv6(ip.Payload())
		if len(icmp) < header.ICMPv6NeighborSolicitMinimumSize || icmp.Type() != header.ICMPv6NeighborSolicit {
			return true
		}
		return header.NDPNeighborSolicit(icmp.MessageBody()).TargetAddress() == address(guest.Gateway6)
	}
	return true
}

// begin counts a goroutine that the stack has started, unless the router is
// closed.
func (r *router) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.wg.Add(1)
	}
	return !r.closed
}

// close ends all connections, and waits for what served them. No frame may be
// received meanwhile.
func (r *router) close() {
	r.cancel()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(ended)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for open := true; open; {
		// A connection may have begun its handshake just now.
		for _, e := range r.stack.RegisteredEndpoints() {
			e.Abort()
		}
		select {
		case <-ended:
			open = false
		case <-tick.C:
		}
	}
	r.card.Close()
	r.stack.Destroy()
}

// enter takes a place, if one is free.
func enter(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

func leave(places chan struct{}) { <-places }

// dial dials the outside.
func dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTime, Control: Control}
	return d.DialContext(ctx, network, to.String())
}

// target is the address that a guest dials.
func target(id stack.TransportEndpointID) netip.AddrPort {
	a, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(a, id.LocalPort)
}

// dialTCP makes a connection of the guest's one of ours. It runs in a goroutine of
// its own.
func (r *router) dialTCP(q *tcp.ForwarderRequest) {
	if !r.begin() {
		q.Complete(false)
		return
	}
	defer r.wg.Done()
	if !enter(r.tcp) {
		q.Complete(true)
		return
	}
	defer leave(r.tcp)
	out, err := r.dialer(r.ctx, "tcp", target(q.ID()))
	if err != nil {
		q.Complete(true)
		return
	}
	defer out.Close()
	var wq waiter.Queue
	ep, e := q.CreateEndpoint(&wq)
	q.Complete(false)
	if e != nil {
		return
	}
	in := gonet.NewTCPConn(&wq, ep)
	defer in.Close()
	ep.SocketOptions().SetKeepAlive(true) // a guest that went away
	stop := context.AfterFunc(r.ctx, func() {
		ep.Abort()
		out.Close()
	})
	defer stop()
	Splice(in, out.(*net.TCPConn))
}

// A Stream is a connection whose directions end each on its own.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Splice copies between two connections until both directions have ended. An error
// of one closes both.
func Splice(a, b Stream) {
	var wg sync.WaitGroup
	for _, p := range [][2]Stream{{a, b}, {b, a}} {
		wg.Go(func() {
			if _, err := io.Copy(p[0], p[1]); err != nil {
				a.Close()
				b.Close()
				return
			}
			p[0].CloseWrite()
		})
	}
	wg.Wait()
}

// dialUDP makes the first datagram from one address of the guest's to another a
// socket of ours. It must not block.
func (r *router) dialUDP(q *udp.ForwarderRequest) bool {
	if r.ctx.Err() != nil || !enter(r.udp) {
		return false
	}
	out, err := r.dialer(r.ctx, "udp", target(q.ID()))
	if err != nil {
		leave(r.udp)
		return false
	}
	var wq waiter.Queue
	ep, e := q.CreateEndpoint(&wq)
	if e != nil {
		out.Close()
		leave(r.udp)
		return true // another goroutine's was first
	}
	in := gonet.NewUDPConn(&wq, ep)
	r.wg.Go(func() {
		defer leave(r.udp)
		relay(r.ctx, in, out)
	})
	return true
}

// relay copies datagrams between two sockets until none came for a time.
func relay(ctx context.Context, a, b net.Conn) {
	shut := func() {
		a.Close()
		b.Close()
	}
	stop := context.AfterFunc(ctx, shut)
	defer stop()
	idle := time.AfterFunc(idleUDP, shut)
	defer idle.Stop()
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			defer shut()
			buf := make([]byte, 1<<16)
			for {
				n, err := p[1].Read(buf)
				if err != nil {
					return
				}
				idle.Reset(idleUDP)
				p[0].Write(buf[:n]) // one that is lost is no error of the others
			}
		})
	}
	wg.Wait()
}

// A limited listener gives no more connections at once than there are places.
type limited struct {
	net.Listener
	places chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if enter(l.places) {
			return &placed{TCPConn: c.(*gonet.TCPConn), leave: sync.OnceFunc(func() { leave(l.places) })}, nil
		}
		c.Close()
	}
}

// A placed connection gives its place back when it is closed.
type placed struct {
	*gonet.TCPConn
	leave func()
}

func (c *placed) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}
