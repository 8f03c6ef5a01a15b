package vm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CoreOS is the label of the core OS's recipe: Debian's release and a
// number that is raised when the recipe changes. Two builds of one label
// may differ by Debian's updates; their digests then do.
const CoreOS = "debian-12/2"

// An Image is a core OS in a cache. Its files never change.
type Image struct {
	Label   string // CoreOS
	Digest  string // SHA-256 in hex of the list of its files' digests and sizes
	Dir     string // where its files are
	Kernel  string // an ELF kernel with a PVH entry
	Root    string // an erofs of the whole system
	Modules string // a cpio archive of those modules that are needed to mount Root
}

// ImageOptions say where an image is kept, and where a build reports.
type ImageOptions struct {
	Cache    string    // the directory it is in, absolute
	Progress io.Writer // gets a line for each step of a build; nil: they are dropped
}

// The files of an image. The list names the others, and comes last.
const (
	kernelFile   = "vmlinux"
	rootFile     = "root.erofs"
	modulesFile  = "modules.cpio"
	packagesFile = "packages" // "name version" lines of what it was made of
	listFile     = "files"    // "sha256 size name" lines
)

// EnsureImage returns the image in the cache. If there is none, or one that is not
// whole, it builds one, which takes minutes and the network. A process waits while
// another builds. The error says which program or package the build lacks; it
// wraps syscall.ENOSPC where there is no room, and is ctx's cause once that is
// done.
func EnsureImage(ctx context.Context, o ImageOptions) (*Image, error) {
	dir, err := imageDir(o.Cache)
	if err != nil {
		return nil, err
	}
	if img, err := lookup(dir); err == nil {
		return img, nil
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("vm: core OS: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"), func() {
		fmt.Fprintf(o.Progress, "core OS %s: waiting for another process that builds it\n", CoreOS)
	})
	if err != nil {
		return nil, fmt.Errorf("vm: core OS: %w", err)
	}
	defer unlock()
	img, err := lookup(dir)
	if err == nil {
		return img, nil
	}
	if !errors.Is(err, iofs.ErrNotExist) {
		fmt.Fprintf(o.Progress, "core OS %s: %v; building it anew\n", CoreOS, err)
	}
	if err := build(ctx, dir, o.Progress); err != nil {
		return nil, fmt.Errorf("vm: build the core OS %s: %w", CoreOS, err)
	}
	return lookup(dir)
}

// LookupImage returns the image in a cache. If there is none the error wraps
// [iofs.ErrNotExist].
func LookupImage(cache string) (*Image, error) {
	dir, err := imageDir(cache)
	if err != nil {
		return nil, err
	}
	return lookup(dir)
}

// imageDir returns the directory of a label. It holds the images, each under its
// digest; current, a link to one of them; lock, which the process that builds
// has; and during a build the directory build.
func imageDir(cache string) (string, error) {
	if !filepath.IsAbs(cache) {
		return "", fmt.Errorf("vm: cache %q of the core OS: not absolute", cache)
	}
	return filepath.Join(cache, "coreos", filepath.FromSlash(CoreOS)), nil
}

// lookup finds the current image of dir, if it is whole.
func lookup(dir string) (*Image, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(dir, "current"))
	if err != nil {
		return nil, fmt.Errorf("vm: no core OS %s: %w", CoreOS, err)
	}
	return whole(dir, CoreOS)
}

// whole returns the image in dir if that is whole. It looks at the sizes of the
// files, since their digests, which Verify compares, take a second.
func whole(dir, label string) (*Image, error) {
	list, err := readList(dir)
	if err != nil {
		return nil, fmt.Errorf("core OS at %s is incomplete: %v", dir, err)
	}
	for _, f := range list {
		fi, err := os.Stat(filepath.Join(dir, f.name))
		if err != nil {
			return nil, fmt.Errorf("core OS at %s is incomplete: %v", dir, err)
		}
		if fi.Size() != f.size {
			return nil, fmt.Errorf("core OS at %s is damaged: %s has %d bytes, want %d", dir, f.name, fi.Size(), f.size)
		}
	}
	return &Image{
		Label:   label,
		Digest:  filepath.Base(dir),
		Dir:     dir,
		Kernel:  filepath.Join(dir, kernelFile),
		Root:    filepath.Join(dir, rootFile),
		Modules: filepath.Join(dir, modulesFile),
	}, nil
}

// Verify reads all of the image and compares it with its digest, which takes a
// second.
func (img *Image) Verify() error {
	text, err := makeList(img.Dir)
	if err != nil {
		return fmt.Errorf("vm: verify core OS: %w", err)
	}
	if d := digest(text); d != img.Digest {
		return fmt.Errorf("vm: core OS at %s has digest %s, want %s", img.Dir, d, img.Digest)
	}
	return nil
}

// A listed file is one line of an image's list.
type listed struct {
	sum  string
	size int64
	name string
}

func readList(dir string) ([]listed, error) {
	f, err := os.Open(filepath.Join(dir, listFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []listed
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		if len(w) != 3 || filepath.Base(w[2]) != w[2] {
			return nil, fmt.Errorf("%s: bad line %q", listFile, sc.Text())
		}
		size, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", listFile, err)
		}
		list = append(list, listed{w[0], size, w[2]})
	}
	if sc.Err() == nil && len(list) != 4 {
		return nil, fmt.Errorf("%s: %d files, want 4", listFile, len(list))
	}
	return list, sc.Err()
}

// makeList is the text of the list of an image.
func makeList(dir string) (string, error) {
	names := []string{kernelFile, rootFile, modulesFile, packagesFile}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		h := sha256.New()
		n, err := io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%x %d %s\n", h.Sum(nil), n, name)
	}
	return b.String(), nil
}

func digest(list string) string {
	d := sha256.Sum256([]byte(list))
	return hex.EncodeToString(d[:])
}

// lock takes the lock on the file name, which also ends with this process. If it
// must wait it calls waiting first.
func lock(ctx context.Context, name string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		waiting()
		got := make(chan error, 1)
		go func() {
			for {
				err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
				if err != unix.EINTR {
					got <- err
					return
				}
			}
		}()
		select {
		case err = <-got:
		case <-ctx.Done():
			// The goroutine gets the lock when it can, and gives it back.
			go func() { <-got; f.Close() }()
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}
