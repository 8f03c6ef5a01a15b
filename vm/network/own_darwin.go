package network

import "net/netip"

// isOwn reports whether an address is this host's.
func isOwn(a netip.Addr) (bool, error) { return hasInterface(a) }
