package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"

	"9ci/vm/guest"
)

// DiskDir is where machines have their disks if a Config does not say where.
const DiskDir = "/var/tmp"

// A Config says what machine to start.
type Config struct {
	Image *Image // from EnsureImage

	// Guest and Mk are static programs of this host: PID 1, and the mk
	// of /usr/lib/plan9/bin. They go into the initramfs, not the Image.
	Guest, Mk string

	Memory int64 // the guest's RAM in bytes, in whole MiB; 0: 2 GiB
	CPUs   int   // 0: all of this host's; no more than the machine can have

	// Accel is tcg or this system's accelerator: kvm, or hvf on a Mac. Empty is the
	// latter where Probe finds that it works.
	Accel string

	// Net lets the guest reach the network from its start, by package
	// network: all that this host reaches, from this host's address, but no
	// socket of this host itself. SetNet changes it.
	Net bool

	Files []guest.File // written in the guest before Start returns

	// Forwards answer the guest's HTTP while it reaches the network, each at
	// a port of guest.Gateway.
	Forwards map[uint16]http.Handler

	Shares []Share // what the guest sees of this host's files

	// Disk is the size in bytes of a sparse disk for all that the guest
	// writes: /src, /tmp, podman's store and what is written over the core
	// OS. It is 0 or at least 64 MiB. 0 is memory: faster, and 80% of Memory
	// at most. The disk lies in Dir without a name.
	Disk int64

	// Outbox is the size in bytes, a multiple of 512, of one more sparse
	// disk with nothing on it. Machine.Outbox reads what the guest writes to
	// the device Machine.OutboxDevice. This is the only way in which a guest
	// hands over more than the output of commands, and never more than
	// this size. 0 is none. The disk lies in Dir without a name.
	Outbox int64

	Log     *slog.Logger // nil: none
	Console io.Writer    // gets the guest's console, and must not block; nil: it is dropped
	Dir     string       // for Disk and Outbox; empty: DiskDir

	// Env is added to the environment of every command in the guest:
	// NAME=VALUE.
	Env []string

	// Cache is the directory in which machines are saved, and in which
	// Probe remembers what it found. Empty: neither is done.
	Cache string

	// Cold starts the kernel anew. Else a machine under TCG goes on from a
	// saved one like it, which takes a tenth of the time; the first machine
	// of its kind is saved in Cache.
	Cold bool
}

// A Share is a directory of the host that the guest sees by 9P. qemu refuses
// writes with EROFS, which root in the guest cannot change. Every program in
// the guest can read the directory from the start, mounted or not, with the
// rights of this process.
type Share struct {
	Tag    string // its name on the wire, at most 31 bytes; unique
	Dir    string // here
	Target string // there; empty: not mounted at boot
}

// complete checks c and fills in what it leaves open.
func (c *Config) complete(ctx context.Context) error {
	if c.Image == nil {
		return errors.New("no image")
	}
	if _, ok := boards[c.Image.Arch]; !ok {
		return fmt.Errorf("no machine of architecture %q, only of amd64 and arm64", c.Image.Arch)
	}
	for _, f := range []struct{ what, name string }{
		{"kernel", c.Image.Kernel}, {"core OS", c.Image.Root}, {"modules", c.Image.Modules},
		{"guest", c.Guest}, {"mk", c.Mk},
	} {
		if _, err := os.Stat(f.name); err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
	}
	if c.Memory == 0 {
		c.Memory = 2 << 30
	}
	if c.Memory < 128<<20 {
		return fmt.Errorf("memory of %d MiB, want at least 128", c.Memory>>20)
	}
	c.Memory = (c.Memory + 1<<20 - 1) &^ (1<<20 - 1)
	if c.CPUs == 0 {
		c.CPUs = runtime.NumCPU()
	}
	c.CPUs = min(c.CPUs, c.board().cpus)
	if c.Disk != 0 && c.Disk < 64<<20 {
		return fmt.Errorf("disk of %d bytes, want none or at least 64 MiB", c.Disk)
	}
	if c.Outbox < 0 || c.Outbox%512 != 0 {
		return fmt.Errorf("outbox of %d bytes, want whole sectors of 512", c.Outbox)
	}
	if c.Dir == "" {
		c.Dir = DiskDir
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	tags := make(map[string]bool)
	for _, s := range c.Shares {
		if s.Tag == "" || len(s.Tag) > 31 || tags[s.Tag] {
			return fmt.Errorf("share %q: tag is empty, too long or taken", s.Tag)
		}
		tags[s.Tag] = true
		if !filepath.IsAbs(s.Dir) || s.Target != "" && !filepath.IsAbs(s.Target) {
			return fmt.Errorf("share %q: %s to %s: not absolute", s.Tag, s.Dir, s.Target)
		}
		if fi, err := os.Stat(s.Dir); err != nil {
			return fmt.Errorf("share %q: %w", s.Tag, err)
		} else if !fi.IsDir() {
			return fmt.Errorf("share %q: %s: not a directory", s.Tag, s.Dir)
		}
	}
	switch c.Accel {
	case here.accel, "tcg":
	case "":
		var why string
		if c.Accel, why = Probe(ctx, *c); why != "" {
			c.Log.Info("no "+here.accel, "why", why)
		}
	default:
		return fmt.Errorf("accelerator %q, want %s or tcg", c.Accel, here.accel)
	}
	return nil
}
