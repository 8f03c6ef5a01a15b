package network

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"9ci/vm/guest"
)

// refused are the addresses that are not dialled for a guest, whatever this host's
// routes say: those of this host and of its links, of everybody at once, and those
// at which clouds tell a host its credentials.
var refused = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an address of this host"}, // RFC 1122 §3.2.1.3; Linux takes 0.0.0.0 for itself
	{netip.MustParsePrefix("127.0.0.0/8"), "an address of this host"},
	{netip.MustParsePrefix("169.254.0.0/16"), "an address of a link of this host's"}, // and of a cloud's metadata
	{netip.MustParsePrefix("224.0.0.0/4"), "an address of a group"},
	{netip.MustParsePrefix("240.0.0.0/4"), "an address of nobody"},             // the broadcast address is of these
	{netip.MustParsePrefix("::/96"), "an address of this host"},                // ::, ::1, and IPv4-compatible ones (RFC 4291 §2.5.5.1)
	{netip.MustParsePrefix("2001::/32"), "an address in a tunnel"},             // Teredo
	{netip.MustParsePrefix("2002::/16"), "an address in a tunnel"},             // 6to4
	{netip.MustParsePrefix("fe80::/9"), "an address of a link of this host's"}, // fec0::/10 too
	{netip.MustParsePrefix("ff00::/8"), "an address of a group"},
	{guest.Subnet, "an address of the guest's own network"},
	{guest.Subnet6, "an address of the guest's own network"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "a cloud's metadata"},      // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), "a cloud's metadata"},   // Google
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud's metadata"},   // Azure
	{netip.MustParsePrefix("100.100.100.200/32"), "a cloud's metadata"}, // Alibaba
}

// translated are the prefixes behind which an IPv6 address has an IPv4 one in its
// last 32 bits, which a router dials (RFC 6052 §2.1, RFC 8215).
var translated = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48")}

// ErrRefused is the error of an address that is not for a guest.
var ErrRefused = errors.New("refused to a machine")

// Allowed returns nil if a socket of this host may be connected to an address on
// behalf of a guest. The error is ErrRefused if the address is this host's own in
// any way, as the kernel tells at this moment, or one of those that
// nobody is to be given; else it is that of finding a route.
func Allowed(a netip.Addr) error {
	a = a.WithZone("").Unmap()
	if !a.IsValid() {
		return ErrRefused
	}
	for _, r := range refused {
		if r.prefix.Contains(a) {
			return fmt.Errorf("%w: %v is %s", ErrRefused, a, r.why)
		}
	}
	for _, p := range translated {
		if p.Contains(a) {
			b := a.As16()
			if err := Allowed(netip.AddrFrom4([4]byte(b[12:]))); err != nil {
				return fmt.Errorf("%v stands for another: %w", a, err)
			}
		}
	}
	own, err := isOwn(a)
	if err != nil {
		return fmt.Errorf("route to %v: %w", a, err)
	}
	if own {
		return fmt.Errorf("%w: %v is an address of this host", ErrRefused, a)
	}
	return nil
}

// Control is a net.Dialer's Control that lets Allowed decide: on each address that
// is dialled, after its name was resolved.
func Control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return Allowed(to.Addr())
}
