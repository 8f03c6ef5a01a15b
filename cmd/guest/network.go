//go:build linux

package main

import (
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"9ci/vm/guest"
)

// The addresses of qemu's user network, qemu's defaults.
const (
	address    = "10.0.2.15"
	netmask    = "255.255.255.0"
	gateway    = "10.0.2.2"
	nameserver = "10.0.2.3"
)

// network raises the loopback and eth0. The host decides at any time whether
// frames pass on eth0.
func network(guest.Prepare) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := up(fd, "lo"); err != nil {
		return err
	}
	for _, a := range []struct {
		req  uint
		addr string
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, netmask}} {
		r, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		addr := netip.MustParseAddr(a.addr).As4()
		if err := r.SetInet4Addr(addr[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, a.req, r); err != nil {
			return os.NewSyscallError("eth0", err)
		}
	}
	if err := up(fd, "eth0"); err != nil {
		return err
	}
	return addRoute(fd, gateway)
}

func up(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return os.NewSyscallError(name, err)
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	return os.NewSyscallError(name, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r))
}

// rtentry is that of <net/route.h>.
type rtentry struct {
	_       uint64
	dst     unix.RawSockaddrInet4
	gateway unix.RawSockaddrInet4
	genmask unix.RawSockaddrInet4
	flags   uint16
	_       [6]byte
	_       uint64
	_       uint8
	_       [7]byte
	metric  int16
	_       [6]byte
	dev     *byte
	mtu     uint64
	window  uint64
	irtt    uint16
	_       [6]byte
}

// addRoute makes gw the default route.
func addRoute(fd int, gw string) error {
	any4 := unix.RawSockaddrInet4{Family: unix.AF_INET}
	r := rtentry{dst: any4, gateway: any4, genmask: any4, flags: unix.RTF_UP | unix.RTF_GATEWAY}
	r.gateway.Addr = netip.MustParseAddr(gw).As4()
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
	if e != 0 {
		return os.NewSyscallError("route", e)
	}
	return nil
}
