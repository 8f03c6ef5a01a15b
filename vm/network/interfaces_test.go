package network

import (
	"net"
	"net/netip"
	"testing"
)

// What the interfaces of this host say of an address is what the kernel's routes do.
func TestHasInterface(t *testing.T) {
	check := func(a netip.Addr, want bool) {
		t.Helper()
		if own, err := hasInterface(a); err != nil || own != want {
			t.Errorf("hasInterface(%v) = %v, %v, want %v", a, own, err, want)
		}
		if routed, err := isOwn(a); err == nil && routed != want {
			t.Errorf("isOwn(%v) = %v, want %v", a, routed, want)
		}
	}
	all, err := net.InterfaceAddrs()
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	for _, i := range all {
		p := netip.MustParsePrefix(i.String())
		check(p.Addr(), true)
		if a := p.Addr(); a.Is4() && !a.IsLoopback() && p.Bits() < 31 {
			last := p.Masked().Addr()
			for p.Contains(last.Next()) {
				last = last.Next()
			}
			check(last, true)
		}
	}
	check(netip.MustParseAddr("192.0.2.1"), false)
	check(netip.MustParseAddr("2001:db8::1"), false)
}
