//go:build linux

package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"9ci/vm/guest"
)

// root is where the core OS is put together before it becomes /.
const root = "/root"

// environment is that of every command; what the host adds wins.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/plan9/bin",
	"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8", "TZ=UTC0",
}

// A step is part of making a machine of a kernel and an initramfs.
type step[T any] struct {
	name string
	do   func(T) error
}

// prepare does what is the same in all machines that go on from this one. A
// disk is each machine's own, so with a disk that is only to load modules.
func prepare(p guest.Prepare, m *modules) error {
	all := []step[guest.Prepare]{{"modules", m.loadAll}}
	if !p.Disk {
		all = append(all, assemble...)
	}
	return steps(p, all)
}

// assemble puts the system together.
var assemble = []step[guest.Prepare]{
	{"root", mountRoot},     // the core OS, and what is written over it
	{"kernel", mountKernel}, // /dev, /proc and the like
	{"enter", enter},        // it becomes /
	{"cgroup", groups},
	{"limits", limits},
	{"network", raise},
	{"loopback", loopback},
}

// boot makes what prepare left the machine that b describes.
func boot(b guest.Boot, p guest.Prepare) error {
	if err := steps(b, []step[guest.Boot]{
		{"clock", setClock},
		{"seed", seed},
	}); err != nil {
		return err
	}
	if p.Disk {
		if err := steps(p, assemble); err != nil {
			return err
		}
	}
	return steps(b, []step[guest.Boot]{
		{"files", writeFiles},
		{"mounts", mountShares},
	})
}

func steps[T any](v T, all []step[T]) error {
	for _, s := range all {
		if err := s.do(v); err != nil {
			return fmt.Errorf("boot: %s: %w", s.name, err)
		}
	}
	return nil
}

func setClock(b guest.Boot) error {
	ts := unix.NsecToTimespec(b.Time.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// seed makes this machine's randomness its own: other machines may go on from the
// same saved one.
func seed(b guest.Boot) error {
	if len(b.Seed) == 0 {
		return nil
	}
	f, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b.Seed); err != nil {
		return err
	}
	const rndReseedCRNG = 0x5207 // of <linux/random.h>
	return unix.IoctlSetInt(int(f.Fd()), rndReseedCRNG, 0)
}

// loadAll loads the modules that the other steps and boot need: after enter those
// of the initramfs are gone, and loading one of the core OS takes a modprobe.
func (m *modules) loadAll(p guest.Prepare) error {
	names := []string{"virtio_blk", "erofs", "overlay", "virtio_net", "9p", "9pnet_virtio"}
	if p.Disk {
		names = append(names, "ext4")
	}
	return m.load(names...)
}

// mountRoot mounts the core OS read-only, the layer of the initramfs (guest, mk)
// over it, and a place for what is written over both. podman's store, /src, /tmp and
// the artifacts lie in that place beside the overlay, and not in it: an overlay does
// not stack on another, and is slower.
func mountRoot(p guest.Prepare) error {
	if err := mount("/dev/vda", "/core", "erofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if p.Disk {
		if err := mount("/dev/vdb", "/own", "ext4", unix.MS_NOATIME, ""); err != nil {
			return err
		}
	} else if err := mount("tmpfs", "/own", "tmpfs", 0, "mode=0755,size=80%,nr_inodes=1m"); err != nil {
		return err
	}
	for _, d := range []string{"upper", "work", "src", "containers", "tmp", "artifacts"} {
		if err := os.Mkdir("/own/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod("/own/tmp", 0o1777); err != nil {
		return err
	}
	if err := mount("overlay", root, "overlay", 0, "lowerdir=/layer:/core,upperdir=/own/upper,workdir=/own/work"); err != nil {
		return err
	}
	for from, to := range map[string]string{
		"/own/src":        "/src",
		"/own/containers": "/var/lib/containers",
		"/own/tmp":        "/tmp",
		"/own/artifacts":  "/var/lib/ci/artifacts",
	} {
		if err := mount(from, root+to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func mountKernel(guest.Prepare) error {
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		if err := mount(d, root+d, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	for _, f := range []struct {
		kind, dir string
		flags     uintptr
		data      string
	}{
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", flags, "mode=1777"},
		{"mqueue", "/dev/mqueue", flags | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", flags, "mode=0755"},
		{"cgroup2", "/sys/fs/cgroup", flags | unix.MS_NOEXEC, ""},
	} {
		if err := mount(f.kind, root+f.dir, f.kind, f.flags, f.data); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, root+"/dev/"+name); err != nil {
			return err
		}
	}
	return os.Mkdir(root+"/run/lock", 0o1777)
}

// enter does what switch_root(8) does. The initramfs stays beneath the new root,
// emptied of its modules.
func enter(guest.Prepare) error {
	os.RemoveAll("/modules")
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// As systemd has it, and containers expect it.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

// groups moves PID 1 out of the root group: a group with controllers for
// its children holds no process of its own.
func groups(guest.Prepare) error {
	const top = "/sys/fs/cgroup"
	if err := os.Mkdir(top+"/9ci", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(top+"/9ci/cgroup.procs", []byte("1"), 0); err != nil {
		return err
	}
	b, err := os.ReadFile(top + "/cgroup.controllers")
	if err != nil {
		return err
	}
	all := "+" + strings.Join(strings.Fields(string(b)), " +")
	return os.WriteFile(top+"/cgroup.subtree_control", []byte(all), 0)
}

func writeFiles(b guest.Boot) error {
	if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:])
	files := append([]guest.File{
		{Name: "/etc/hostname", Data: []byte(b.Hostname + "\n")},
		{Name: "/etc/hosts", Data: fmt.Appendf(nil, "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n", b.Hostname)},
		{Name: "/etc/resolv.conf", Data: []byte("nameserver " + guest.Nameserver.String() + "\n")},
		{Name: "/etc/machine-id", Data: []byte(hex.EncodeToString(id[:]) + "\n")},
		containersConf(),
		// The repository is of the user that the image runs as.
		{Name: "/etc/gitconfig", Data: []byte("[safe]\n\tdirectory = *\n")},
	}, b.Files...)
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.Name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(f.Name, f.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// msize is the size of 9P messages in bytes that measured best; a larger one
// gains nothing.
const msize = 512000

func mountShares(b guest.Boot) error {
	for _, s := range b.Mounts {
		data := fmt.Sprintf("trans=virtio,version=9p2000.L,msize=%d,access=any", msize)
		if err := mount(s.Tag, s.Target, "9p", unix.MS_RDONLY, data); err != nil {
			return err
		}
	}
	return nil
}

// mount mounts a file system, and makes the directory for it.
func mount(from, to, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, kind, flags, data); err != nil {
		return &os.PathError{Op: "mount " + from, Path: to, Err: err}
	}
	return nil
}
