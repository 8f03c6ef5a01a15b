package network

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"9ci/vm/guest"
	"9ci/vm/network/networktest"
)

// A machine is one that has nothing but a card, and a stack that sends to any
// address what it is told to.
type machine struct {
	t     *testing.T
	stack *stack.Stack
	card  *channel.Endpoint
	wire  net.Conn
}

// newMachine returns a machine on a network that is up.
func newMachine(t *testing.T, c Config) (*machine, *Network) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "wire")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	n := New(ends[0], c)
	t.Cleanup(n.Close)
	if err := n.SetUp(true); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, wire: ends[1], card: channel.New(1024, MTU+header.EthernetMinimumSize, "\x52\x54\x00\x12\x34\x56")}
	m.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}), ipv6.NewProtocol, arp.NewProtocol,
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := m.stack.CreateNIC(nic, ethernet.New(m.card)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{guest.Address, guest.Address6} {
		p := tcpip.ProtocolAddress{Protocol: protocol(a), AddressWithPrefix: address(a).WithPrefix()}
		if err := m.stack.AddProtocolAddress(nic, p, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	near4, _ := tcpip.NewSubnet(address(guest.Subnet.Addr()), tcpip.MaskFromBytes([]byte{255, 255, 255, 0}))
	m.stack.SetRouteTable([]tcpip.Route{
		{Destination: near4, NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: address(guest.Gateway), NIC: nic},
		{Destination: header.IPv6EmptySubnet, Gateway: address(guest.Gateway6), NIC: nic},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(m.read)
	wg.Go(func() {
		for p := m.card.ReadContext(ctx); p != nil; p = m.card.ReadContext(ctx) {
			v := p.ToView()
			m.wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(v.Size())), v.AsSlice()...))
			v.Release()
			p.DecRef()
		}
	})
	t.Cleanup(func() {
		cancel()
		m.wire.Close()
		wg.Wait()
		m.stack.Close()
	})
	return m, n
}

func (m *machine) read() {
	r := bufio.NewReader(m.wire)
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		m.card.InjectInbound(0, p)
		p.DecRef()
	}
}

func (m *machine) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, m.stack, fullAddress(to.Addr(), to.Port()), protocol(to.Addr()))
}

func (m *machine) dialUDP(to netip.AddrPort) *gonet.UDPConn {
	m.t.Helper()
	a := fullAddress(to.Addr(), to.Port())
	c, err := gonet.DialUDP(m.stack, nil, &a, protocol(to.Addr()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

func portOf(a net.Addr) uint16 {
	_, s, _ := net.SplitHostPort(a.String())
	n, _ := strconv.Atoi(s)
	return uint16(n)
}

// echo answers each connection with what it brings, and ends its own direction when
// the other end has.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// The outside is reached in TCP and UDP, by IPv4 and IPv6, with all the bytes and
// each direction's own end, until the network is cut; then again.
func TestOutside(t *testing.T) {
	o := networktest.New(t)
	m, n := newMachine(t, Config{})
	for _, a := range []netip.Addr{o.Addr, o.Addr6} {
		l := o.Listen(t, "tcp", ":0")
		go echo(l)
		to := netip.AddrPortFrom(a, portOf(l.Addr()))
		c, err := m.dial(to)
		if err != nil {
			t.Fatalf("dial %v: %v", to, err)
		}
		sent := bytes.Repeat([]byte("all of it "), 1<<18)
		go func() {
			c.Write(sent)
			c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%v: got %d bytes back, %v, want %d", to, len(got), err, len(sent))
		}
		c.Close()
		l.Close()
		if c, err := m.dial(to); err == nil {
			c.Close()
			t.Errorf("dial %v, where nobody listens: no error", to)
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("dial %v, where nobody listens: %v, want refused", to, err)
		}

		u := o.ListenPacket(t, "udp", ":0")
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo(b[:n], from)
			}
		}()
		uc := m.dialUDP(netip.AddrPortFrom(a, portOf(u.LocalAddr())))
		for _, size := range []int{1, 1400, 30000} { // the outside's MTU is 1500
			msg := bytes.Repeat([]byte("x"), size)
			uc.Write(msg)
			uc.SetReadDeadline(time.Now().Add(10 * time.Second))
			got := make([]byte, 1<<16)
			if k, err := uc.Read(got); err != nil || k != size {
				t.Errorf("udp %v: %d bytes, %v, want %d", a, k, err, size)
			}
		}
	}

	// A cut ends what is open, on both sides.
	l := o.Listen(t, "tcp", ":0")
	to := netip.AddrPortFrom(o.Addr, portOf(l.Addr()))
	old, err := m.dial(to)
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.SetUp(false); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the outside reads on after a cut")
	}
	far.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := gonet.DialContextTCP(ctx, m.stack, fullAddress(to.Addr(), to.Port()), ipv4.ProtocolNumber); err == nil {
		c.Close()
		t.Error("dial without a network: no error")
	}
	if err := n.SetUp(true); err != nil {
		t.Fatal(err)
	}
	// As in a machine that was saved with it: what the guest still holds open is
	// reset at its next word.
	old.Write([]byte("x"))
	old.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := old.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a connection of before the cut: %v, want reset", err)
	}
	go echo(l)
	if c, err := m.dial(to); err != nil {
		t.Errorf("dial once it is up again: %v", err)
	} else {
		c.Close()
	}
}

// No address of this host's leads to it, whatever its form, and no name that
// resolves to one.
func TestEscape(t *testing.T) {
	var mu sync.Mutex
	var came []string
	add := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		came = append(came, what)
	}
	caught := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(came)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := portOf(l.Addr())
	u, err := net.ListenPacket("udp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			add("tcp " + c.LocalAddr().String())
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			n, _, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			add("udp " + string(b[:n]))
		}
	}()

	// A resolver on this host's loopback, whose answers are such addresses.
	res := serveNames(t, "127.0.0.153", func(q dnsmessage.Question) dnsmessage.ResourceBody {
		if q.Type == dnsmessage.TypeAAAA {
			return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
		}
		return &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}
	})
	m, _ := newMachine(t, Config{Resolv: resolvConf(t, res)})

	targets := []string{
		"127.0.0.1", "127.0.0.53", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.2.2", "10.0.2.3", "10.0.2.99",
		"169.254.169.254", "255.255.255.255", "224.0.0.1", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0.0.0.0",
		"64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "fe80::1", "ff02::1", "fd00:9c1::2",
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0 // connections of our own, which the trap catches
	for _, a := range own {
		p := netip.MustParsePrefix(a.String())
		targets = append(targets, p.Addr().String())
		if c, err := net.Dial("tcp", netip.AddrPortFrom(p.Addr(), port).String()); err == nil {
			c.Close()
			ours++
		}
	}
	for ours == 0 || caught() < ours {
		runtime.Gosched()
	}
	for _, name := range []string{"rebinding.example.", "again.example."} {
		for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			answer := m.lookup(name, typ)
			if len(answer) != 1 {
				t.Fatalf("lookup %s %v: %v", name, typ, answer)
			}
			switch body := answer[0].Body.(type) {
			case *dnsmessage.AResource:
				targets = append(targets, netip.AddrFrom4(body.A).String())
			case *dnsmessage.AAAAResource:
				targets = append(targets, netip.AddrFrom16(body.AAAA).String())
			}
		}
	}
	before := caught()
	var wg sync.WaitGroup
	for _, s := range targets {
		a := netip.MustParseAddr(s)
		if err := Allowed(a); err == nil {
			t.Errorf("Allowed(%v): no error", a)
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if c, err := gonet.DialContextTCP(ctx, m.stack, fullAddress(a, port), protocol(a)); err == nil {
				t.Errorf("dial %v: no error", a)
				c.Close()
			}
			to := fullAddress(a, port)
			if c, err := gonet.DialUDP(m.stack, nil, &to, protocol(a)); err == nil {
				c.Write([]byte(s))
				c.SetReadDeadline(time.Now().Add(time.Second))
				c.Read(make([]byte, 1)) // the network's refusal, which is behind the datagram
				c.Close()
			}
		})
	}
	wg.Wait()
	if n := caught(); n != before {
		t.Errorf("a guest reached sockets of this host: %q", came[before:])
	}
}

// lookup asks the nameserver of m's network in a datagram.
func (m *machine) lookup(name string, typ dnsmessage.Type) []dnsmessage.Resource {
	m.t.Helper()
	c := m.dialUDP(netip.AddrPortFrom(guest.Nameserver, dnsPort))
	msg := packQuestion(m.t, name, typ)
	c.Write(msg)
	c.SetReadDeadline(time.Now().Add(dnsTime))
	b := make([]byte, maxMessage)
	n, err := c.Read(b)
	if err != nil {
		m.t.Fatalf("lookup %s: %v", name, err)
	}
	return unpackAnswer(m.t, b[:n])
}

func packQuestion(t *testing.T, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	msg := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	b, err := msg.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpackAnswer(t *testing.T, b []byte) []dnsmessage.Resource {
	t.Helper()
	var msg dnsmessage.Message
	if err := msg.Unpack(b); err != nil || msg.ID != 4711 || !msg.Response {
		t.Fatalf("answer %+v, %v, want one to 4711", msg.Header, err)
	}
	if msg.RCode != dnsmessage.RCodeSuccess {
		return nil
	}
	return msg.Answers
}

// serveNames is a resolver at port 53 of an address of this host's loopback, in
// datagrams and connections. A nil answer is a SERVFAIL.
func serveNames(t *testing.T, at string, answer func(dnsmessage.Question) dnsmessage.ResourceBody) string {
	t.Helper()
	hostPort := net.JoinHostPort(at, strconv.Itoa(dnsPort))
	u, err := net.ListenPacket("udp", hostPort)
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("a resolver takes root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", hostPort)
	if err != nil {
		t.Fatal(err)
	}
	reply := func(q []byte) []byte {
		var msg dnsmessage.Message
		if err := msg.Unpack(q); err != nil {
			t.Errorf("the resolver got %x: %v", q, err)
			return nil
		}
		msg.Response, msg.RecursionAvailable = true, true
		if body := answer(msg.Questions[0]); body != nil {
			msg.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: msg.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: body}}
		} else {
			msg.RCode = dnsmessage.RCodeServerFailure
		}
		b, err := msg.Pack()
		if err != nil {
			t.Error(err)
		}
		return b
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, maxMessage)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(reply(b[:n]), from)
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if q, err := readMessage(c); err == nil {
				writeMessage(c, reply(q))
			}
			c.Close()
		}
	})
	t.Cleanup(func() {
		u.Close()
		l.Close()
		wg.Wait()
	})
	return at
}

func resolvConf(t *testing.T, servers ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# a comment\nsearch example.com\noptions edns0\n"
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Names resolve by resolvers on this host's loopback, IPv6 ones, and those behind
// one that is silent, refuses or fails; the nameserver has both transports.
func TestNames(t *testing.T) {
	is := func(a string) func(dnsmessage.Question) dnsmessage.ResourceBody {
		return func(q dnsmessage.Question) dnsmessage.ResourceBody {
			if q.Name.String() == "none.example." {
				return nil
			}
			return &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()}
		}
	}
	silent, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.154", strconv.Itoa(dnsPort)))
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("a resolver takes root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	good := serveNames(t, "127.0.0.153", is("192.0.2.53"))
	good6 := serveNames(t, "::1", is("192.0.2.66"))
	bad := serveNames(t, "127.0.0.155", func(dnsmessage.Question) dnsmessage.ResourceBody { return nil })
	for _, test := range []struct {
		name    string
		servers []string
		want    string
	}{
		{"loopback", []string{good}, "192.0.2.53"},
		{"IPv6", []string{good6}, "192.0.2.66"},
		{"a silent first", []string{"127.0.0.154", good}, "192.0.2.53"},
		{"none there first", []string{"127.0.0.156", good6}, "192.0.2.66"},
		{"a failing first", []string{bad, good}, "192.0.2.53"},
		{"nonsense first", []string{"resolver.example", good}, "192.0.2.53"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, _ := newMachine(t, Config{Resolv: resolvConf(t, test.servers...)})
			for range 2 {
				got := m.lookup("some.example.", dnsmessage.TypeA)
				if len(got) != 1 || netip.AddrFrom4(got[0].Body.(*dnsmessage.AResource).A).String() != test.want {
					t.Errorf("lookup = %v, want %s", got, test.want)
				}
			}
			if got := m.lookup("none.example.", dnsmessage.TypeA); got != nil {
				t.Errorf("lookup of a name that fails = %v", got)
			}
			c, err := m.dial(netip.AddrPortFrom(guest.Nameserver, dnsPort))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for range 2 { // on one connection
				if err := writeMessage(c, packQuestion(t, "some.example.", dnsmessage.TypeA)); err != nil {
					t.Fatal(err)
				}
				msg, err := readMessage(c)
				if err != nil {
					t.Fatal(err)
				}
				if got := unpackAnswer(t, msg); len(got) != 1 {
					t.Errorf("in a connection: %v", got)
				}
			}
		})
	}
}

// A silent resolver is asked first once: then the one that answers is.
func TestSilentResolverRemembered(t *testing.T) {
	r := newResolver(resolvConf(t, "127.0.0.154", "127.0.0.153"))
	r.last = netip.MustParseAddrPort("127.0.0.153:53")
	if got := r.servers(); len(got) != 2 || got[0] != r.last {
		t.Errorf("servers = %v, want %v first", got, r.last)
	}
}

// What reaches a resolver of this host is a question and nothing else of the
// guest's; what is none is not passed on.
func FuzzQuestion(f *testing.F) {
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 1}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	plain, err := q.Pack()
	if err != nil {
		f.Fatal(err)
	}
	var h dnsmessage.ResourceHeader
	h.SetEDNS0(4096, dnsmessage.RCodeSuccess, true)
	q.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 8, Data: []byte("who I am")}}}}}
	edns, err := q.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(edns)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err != nil {
			return
		}
		var msg dnsmessage.Message
		if err := msg.Unpack(q.text); err != nil {
			t.Fatalf("%x became %x: %v", b, q.text, err)
		}
		if len(msg.Questions) != 1 || msg.Questions[0] != q.q || msg.ID != q.sent || msg.Response || msg.OpCode != 0 ||
			len(msg.Answers)+len(msg.Authorities) != 0 || len(msg.Additionals) > 1 {
			t.Fatalf("%x became %+v", b, msg)
		}
		for _, a := range msg.Additionals {
			if o, ok := a.Body.(*dnsmessage.OPTResource); !ok || len(o.Options) != 0 {
				t.Fatalf("%x became %+v", b, msg)
			}
		}
		if bytes.Contains(q.text, []byte("who I am")) {
			t.Fatal("an option passed")
		}
	})
}

// A guest has so many connections at once and no more, whatever it does, and those
// that end make room.
func TestLimits(t *testing.T) {
	o := networktest.New(t)
	m, n := newMachine(t, Config{})
	l := o.Listen(t, "tcp", ":0")
	go echo(l)
	u := o.ListenPacket(t, "udp", ":0")
	to := netip.AddrPortFrom(o.Addr, portOf(l.Addr()))
	var all []net.Conn
	for range maxTCP {
		c, err := m.dial(to)
		if err != nil {
			t.Fatalf("connection %d: %v", len(all), err)
		}
		all = append(all, c)
	}
	if c, err := m.dial(to); err == nil {
		c.Close()
		t.Errorf("more than %d connections", maxTCP)
	}
	for _, c := range all {
		c.Close()
	}
	for len(n.router.tcp) > 0 {
		runtime.Gosched()
	}
	if c, err := m.dial(to); err != nil {
		t.Errorf("once the others have ended: %v", err)
	} else {
		c.Close()
	}

	b := make([]byte, 10)
	for i := range maxUDP + 10 {
		m.dialUDP(netip.AddrPortFrom(o.Addr, portOf(u.LocalAddr()))).Write([]byte("x"))
		if i < maxUDP {
			u.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, _, err := u.ReadFrom(b); err != nil {
				t.Fatalf("pair %d: %v", i, err)
			}
		}
	}
	if got := len(n.router.udp); got != maxUDP {
		t.Errorf("%d pairs of addresses at once, want %d", got, maxUDP)
	}
}

// A forward answers at its port of the gateway, and only there.
func TestForward(t *testing.T) {
	m, n := newMachine(t, Config{Forwards: map[uint16]http.Handler{
		3128: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "forward of "+r.Host) }),
	}})
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to := netip.MustParseAddrPort(addr)
			return gonet.DialContextTCP(ctx, m.stack, fullAddress(to.Addr(), to.Port()), protocol(to.Addr()))
		},
	}}
	get := func(url string) string {
		r, err := client.Get(url)
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	if got, want := get("http://10.0.2.2:3128/"), "forward of 10.0.2.2:3128"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, url := range []string{"http://10.0.2.2:3129/", "http://10.0.2.3:3128/"} {
		if got := get(url); !strings.Contains(got, "refused") {
			t.Errorf("%s: got %q, want refused", url, got)
		}
	}
	for range 3 {
		if err := errors.Join(n.SetUp(false), n.SetUp(true)); err != nil {
			t.Fatal(err)
		}
		if got := get("http://10.0.2.2:3128/"); !strings.HasPrefix(got, "forward of") {
			t.Errorf("up again: %q", got)
		}
	}
}

// Frames that are no frames, or cannot be, take nothing along but the network of
// the guest that sent them.
func TestNonsense(t *testing.T) {
	m, n := newMachine(t, Config{})
	send := func(b []byte) { m.wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)) }
	send(nil)
	send([]byte("x"))
	for typ := range 0x10000 / 251 {
		b := make([]byte, 14+typ%100)
		binary.BigEndian.PutUint16(b[12:], uint16(typ*251))
		send(b)
	}
	for _, typ := range []uint16{0x0800, 0x0806, 0x86dd} {
		for size := range 120 {
			b := bytes.Repeat([]byte{0x45}, 14+size)
			binary.BigEndian.PutUint16(b[12:], typ)
			send(b)
		}
	}
	c, err := m.dial(netip.AddrPortFrom(guest.Nameserver, dnsPort))
	if err != nil {
		t.Fatalf("after nonsense: %v", err)
	}
	c.Close()
	m.wire.Write([]byte{0xff, 0xff, 0xff, 0xff})
	<-n.done
}

// A Network that is closed leaves nothing, however its guest stalls.
func TestNothingLeft(t *testing.T) {
	o := networktest.New(t)
	l := o.Listen(t, "tcp", ":0")
	go echo(l)
	before := runtime.NumGoroutine()
	for range 5 {
		t.Run("", func(t *testing.T) {
			m, n := newMachine(t, Config{})
			c, err := m.dial(netip.AddrPortFrom(o.Addr, portOf(l.Addr())))
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("hello"))
			m.dialUDP(netip.AddrPortFrom(o.Addr, 9)).Write([]byte("x"))
			n.Close()
			if err := n.SetUp(true); !errors.Is(err, net.ErrClosed) {
				t.Errorf("SetUp after Close: %v, want %v", err, net.ErrClosed)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+1; runtime.Gosched() {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		}
	}
}

// A slowWire takes its time to return from a Write that its end has cut short.
type slowWire struct {
	net.Conn
	writes atomic.Int32 // that have not returned
}

func (w *slowWire) Write(p []byte) (int, error) {
	w.writes.Add(1)
	defer w.writes.Add(-1)
	n, err := w.Conn.Write(p)
	for i := 0; err != nil && i < 1_000_000; i++ {
		runtime.Gosched()
	}
	return n, err
}

// A guest that takes none of the frames that are for it holds up nobody: its network
// can be cut, raised and closed.
func TestStalledGuest(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, g := os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "wire")
	defer g.Close()
	wire, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowWire{Conn: wire}
	n := New(slow, Config{})
	defer func() {
		n.Close()
		if n := slow.writes.Load(); n != 0 {
			t.Errorf("%d frames are still being written after Close", n)
		}
	}()
	if err := n.SetUp(true); err != nil {
		t.Fatal(err)
	}
	send := func(b []byte) {
		if _, err := g.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
	}
	ask := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(ask).Encode(&header.EthernetFields{SrcAddr: "\x52\x54\x00\x12\x34\x56", DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
	a := header.ARP(ask[header.EthernetMinimumSize:])
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), "\x52\x54\x00\x12\x34\x56")
	copy(a.ProtocolAddressSender(), guest.Address.AsSlice())
	copy(a.ProtocolAddressTarget(), guest.Gateway.AsSlice())
	const size = 60000
	ping := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+size)
	header.Ethernet(ping).Encode(&header.EthernetFields{SrcAddr: "\x52\x54\x00\x12\x34\x56", DstAddr: gatewayMAC, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(ping[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: header.IPv4MinimumSize + size, TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: address(guest.Address), DstAddr: address(guest.Gateway),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	echo := header.ICMPv4(ip.Payload())
	echo.SetType(header.ICMPv4Echo)
	echo.SetChecksum(header.ICMPv4Checksum(echo, 0))
	for range 3 {
		send(ask)
		for range 2 * queueSize {
			send(ping)
		}
		if n.write.TryLock() {
			t.Error("no frame is stuck: the guest is not stalled")
			n.write.Unlock()
		}
		if err := errors.Join(n.SetUp(false), n.SetUp(true)); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0x60}, 100))
	f.Add(append([]byte("\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56\x08\x06"), bytes.Repeat([]byte{1}, 28)...))
	r, err := newRouter(Config{}, newResolver(""))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(r.close)
	r.dialer = func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, errors.New("not here") }
	f.Fuzz(func(t *testing.T, b []byte) { r.receive(b) })
}
