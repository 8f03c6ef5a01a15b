// Package networktest gives tests an outside: a host other than this one.
package networktest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// An Outside is a network namespace that is a host at the other end of a cable, with
// an address of each kind (RFC 2544, RFC 3849). Those of processes that test at the same
// time differ.
type Outside struct {
	Addr, Addr6 netip.Addr

	ns netns.NsHandle
}

// New makes an Outside that ends with the test. It takes root.
func New(t testing.TB) *Outside {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace of its own takes root")
	}
	n := uint16(os.Getpid())
	name := fmt.Sprintf("9ci-%x", os.Getpid())
	o := &Outside{
		Addr:  address(n, 1),
		Addr6: netip.MustParseAddr(fmt.Sprintf("2001:db8:9c1:%x::2", n)),
	}
	if err := o.make(name, n); err != nil {
		t.Fatalf("outside: %v", err)
	}
	t.Cleanup(func() {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err := errors.Join(err, o.ns.Close()); err != nil {
			t.Errorf("outside: %v", err)
		}
	})
	return o
}

// address returns an end of the cable n, whose subnet is a /31 of 198.18.0.0/15.
func address(n uint16, end byte) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18 + byte(n>>15), byte(n >> 7), byte(n<<1) | end})
}

func (o *Outside) make(name string, n uint16) error {
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if err := inThread(func() error {
		o.ns, err = netns.New()
		return err
	}); err != nil {
		return err
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "x", PeerNamespace: netlink.NsFd(o.ns)}
	if err := netlink.LinkAdd(cable); err != nil {
		return err
	}
	there, err := netlink.NewHandleAt(o.ns)
	if err != nil {
		return err
	}
	defer there.Close()
	us := address(n, 0)
	us6 := netip.MustParseAddr(fmt.Sprintf("2001:db8:9c1:%x::1", n))
	root, err := netlink.NewHandleAt(here)
	if err != nil {
		return err
	}
	defer root.Close()
	lo, err := there.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(
		there.LinkSetUp(lo), // package net looks there for what kinds of addresses there are
		join(root, name, netip.PrefixFrom(us, 31), netip.PrefixFrom(us6, 64)),
		join(there, name+"x", netip.PrefixFrom(o.Addr, 31), netip.PrefixFrom(o.Addr6, 64)),
	)
}

// join gives an end of the cable its addresses.
func join(h *netlink.Handle, name string, addrs ...netip.Prefix) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		net, err := netlink.ParseIPNet(a.String())
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: net}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // it is nobody else's
		}
		if err := h.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("%v: %w", a, err)
		}
	}
	return h.LinkSetUp(l)
}

// Listen is net.Listen there.
func (o *Outside) Listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := o.do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket is net.ListenPacket there.
func (o *Outside) ListenPacket(t testing.TB, network, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	if err := o.do(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (o *Outside) do(f func() error) error {
	return inThread(func() error {
		if err := netns.Set(o.ns); err != nil {
			return err
		}
		return f()
	})
}

// inThread runs f in a thread of its own, which ends with it: f leaves it in
// another network namespace.
func inThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
