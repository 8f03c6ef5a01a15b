package network

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isOwn reports whether the kernel's own routes lead from an address to this host, or
// nowhere.
func isOwn(a netip.Addr) (bool, error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			return true, nil
		}
	}
	return false, err
}
