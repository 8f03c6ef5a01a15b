//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"9ci/vm/guest"
)

// raise raises the loopback and eth0. The host decides at any time whether frames
// pass on eth0.
func raise(guest.Prepare) error {
	if err := raiseLink("lo"); err != nil {
		return err
	}
	// The addresses are this machine's alone: nobody needs to be asked first.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0); err != nil {
		return err
	}
	if err := raiseLink("eth0"); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, a := range []struct {
		address netip.Addr
		subnet  netip.Prefix
		gateway netip.Addr
	}{
		{guest.Address, guest.Subnet, guest.Gateway},
		{guest.Address6, guest.Subnet6, guest.Gateway6},
	} {
		net, err := netlink.ParseIPNet(netip.PrefixFrom(a.address, a.subnet.Bits()).String())
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: net, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("eth0: %v: %w", a.address, err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: a.gateway.AsSlice()}); err != nil {
			return fmt.Errorf("route by %v: %w", a.gateway, err)
		}
	}
	return nil
}

// raiseLink raises a link of the thread's network namespace.
func raiseLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
