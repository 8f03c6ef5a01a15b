package network

import (
	"fmt"
	"net"
	"net/netip"
)

// hasInterface reports whether an interface of this host has an address, or is in the
// network of which it is the first or, in IPv4, the last: those are everybody's there.
func hasInterface(a netip.Addr) (bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, i := range all {
		p, err := netip.ParsePrefix(i.String())
		if err != nil {
			return false, fmt.Errorf("address %v of an interface: %w", i, err)
		}
		if p.Addr().WithZone("").Unmap() == a {
			return true, nil
		}
		if p.Addr().BitLen()-p.Bits() < 2 || !p.Contains(a) { // RFC 3021 §2.1, RFC 6164 §4
			continue
		}
		if a == p.Masked().Addr() || a.Is4() && !p.Contains(a.Next()) {
			return true, nil
		}
	}
	return false, nil
}
