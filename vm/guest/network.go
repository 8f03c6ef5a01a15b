package guest

import "net/netip"

// The guest's network as it looks from inside. Machines that were saved go on with
// these, so they never change. Gateway and Nameserver are what the host answers at.
var (
	Subnet     = netip.MustParsePrefix("10.0.2.0/24")
	Address    = netip.MustParseAddr("10.0.2.15")
	Gateway    = netip.MustParseAddr("10.0.2.2")
	Nameserver = netip.MustParseAddr("10.0.2.3")
	Subnet6    = netip.MustParsePrefix("fd00:9c1::/64")
	Address6   = netip.MustParseAddr("fd00:9c1::15")
	Gateway6   = netip.MustParseAddr("fd00:9c1::2")
)
