package access

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strings"
)

// Addresses are where a key may log in from, a pattern list of ssh_config(5): an
// address is in it if any of its patterns matches and none that is negated does.
// Nil means anywhere.
type Addresses []addressPattern

type addressPattern struct {
	negated bool
	block   netip.Prefix // an address is a block of one
	glob    string       // * and ? match in an address's text; "": the block counts
}

// parseAddresses reads the value of from: addresses, ADDRESS/BITS, or addresses
// with * and ?, each of which may be negated by a ! before it. Here sshd(8) has
// names of hosts too, and looks them up only with UseDNS.
func parseAddresses(s string) (Addresses, error) {
	var l Addresses
	for _, text := range strings.Split(s, ",") {
		var p addressPattern
		text = strings.TrimSpace(text)
		text, p.negated = strings.CutPrefix(text, "!")
		var err error
		if p.block, err = parseBlock(text); err != nil {
			p.glob = strings.ToLower(text)
			if !strings.ContainsAny(text, "*?") || strings.Trim(p.glob, "0123456789abcdef.:*?") != "" {
				return nil, fmt.Errorf("from %q: %w", text, err)
			}
		}
		l = append(l, p)
	}
	return l, nil
}

// String returns l as it may be written in a line.
func (l Addresses) String() string {
	all := make([]string, len(l))
	for i, p := range l {
		switch {
		case p.glob != "":
			all[i] = p.glob
		case p.block.IsSingleIP():
			all[i] = p.block.Addr().String()
		default:
			all[i] = p.block.String()
		}
		if p.negated {
			all[i] = "!" + all[i]
		}
	}
	return strings.Join(all, ",")
}

// Match reports whether addr is one of l. The address of a Unix socket is none.
func (l Addresses) Match(addr net.Addr) (found bool) {
	if l == nil {
		return true
	}
	ip, ok := ipOf(addr)
	if !ok {
		return false
	}
	for _, p := range l {
		is := p.block.Contains(ip)
		if p.glob != "" {
			is, _ = path.Match(p.glob, ip.String())
		}
		if is {
			if p.negated {
				return false
			}
			found = true
		}
	}
	return found
}

// parseBlock reads ADDRESS or ADDRESS/BITS. As sshd(8) does, it refuses a block
// whose address has bits beyond BITS: one of the two is wrong.
func parseBlock(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("want an address or ADDRESS/BITS; names of hosts are not looked up")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("the address has bits beyond its %d: want %v", p.Bits(), p.Masked())
	}
	return p, nil
}

// ipOf returns the address of a TCP connection, without a zone.
func ipOf(addr net.Addr) (netip.Addr, bool) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return ip, ip.IsValid()
}
