package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
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
	Arch    string // amd64 or arm64, as Go and Debian name them
	Digest  string // SHA-256 in hex of the list of its files' digests and sizes
	Dir     string // where its files are
	Kernel  string // as qemu starts it: an ELF kernel with a PVH entry; of arm64 an Image
	Root    string // an erofs of the whole system
	Modules string // a cpio archive of those modules that are needed to mount Root
}

// ImageOptions say where an image is kept, and where a build reports.
type ImageOptions struct {
	Arch     string    // empty: this host's. A build of another needs qemu-user-static
	Cache    string    // the directory it is in, absolute
	Progress io.Writer // gets a line for each step of a build; nil: they are dropped
	Verify   bool      // read all of an image that is there, also if nobody has touched it
}

// The files of an image. The list names the others, and comes last.
const (
	kernelFile   = "vmlinux"
	rootFile     = "root.erofs"
	modulesFile  = "modules.cpio"
	packagesFile = "packages" // "name version" lines of what it was made of
	listName     = "files"    // "sha256 size name" lines
)

// verifiedFile is beside the images; see imageDir.
const verifiedFile = "verified"

// EnsureImage returns the image in the cache. If there is none, or one that is not
// whole, it builds one, which takes minutes and the network. It verifies an image if
// that was not done since its files last changed, which takes a second. A process waits
// while another builds. The error says which program or package the build lacks; it
// wraps syscall.ENOSPC where there is no room, and is ctx's cause once that is
// done.
func EnsureImage(ctx context.Context, o ImageOptions) (*Image, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	dir, err := imageDir(o.Cache, o.Arch)
	if err != nil {
		return nil, err
	}
	img, err := sound(dir, o.Verify)
	if err == nil {
		return img, nil
	}
	if err := canBuild(); err != nil {
		return nil, fmt.Errorf("vm: no core OS %s: %w", CoreOS, err)
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
	img, err = sound(dir, o.Verify)
	if err == nil {
		return img, nil
	}
	if !errors.Is(err, iofs.ErrNotExist) {
		fmt.Fprintf(o.Progress, "core OS %s: %v; building it anew\n", CoreOS, err)
	}
	if err := build(ctx, dir, o.Arch, o.Progress); err != nil {
		return nil, fmt.Errorf("vm: build the core OS %s: %w", CoreOS, err)
	}
	return sound(dir, true)
}

// LookupImage returns the image of this host's architecture in a cache. If there is none
// the error wraps [iofs.ErrNotExist], and [errors.ErrUnsupported] if there can be none.
func LookupImage(cache string) (*Image, error) {
	dir, err := imageDir(cache, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	return lookup(dir)
}

// imageDir returns the directory of the label for an architecture: a cache may be in a
// home that hosts of several share. It holds the images, each under its digest; current,
// a link to one of them; verified, a note of the files that were last verified; lock,
// which the process that builds has; and during a build the directory build.
func imageDir(cache, arch string) (string, error) {
	if !filepath.IsAbs(cache) {
		return "", fmt.Errorf("vm: cache %q of the core OS: not absolute", cache)
	}
	if _, ok := boards[arch]; !ok {
		return "", fmt.Errorf("vm: no core OS for %s, only for amd64 and arm64: %w", arch, errors.ErrUnsupported)
	}
	return filepath.Join(cache, "coreos", filepath.FromSlash(CoreOS)+"-"+arch), nil
}

// lookup finds the current image of dir, if it is whole.
func lookup(dir string) (*Image, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(dir, "current"))
	if err != nil {
		return nil, fmt.Errorf("vm: no core OS %s: %w", CoreOS, err)
	}
	return whole(dir)
}

// sound is lookup for an image that is to be booted: one whose files have changed since
// they were verified is verified, and so is any if verify is set.
func sound(dir string, verify bool) (*Image, error) {
	img, err := lookup(dir)
	if err != nil {
		return nil, err
	}
	stamp, err := img.stamp()
	if err != nil {
		return nil, err
	}
	note := filepath.Join(dir, verifiedFile)
	if b, err := os.ReadFile(note); err == nil && string(b) == stamp && !verify {
		return img, nil
	}
	if err := img.Verify(); err != nil {
		os.Remove(note)
		return nil, err
	}
	os.WriteFile(note, []byte(stamp), 0o644) // or else the image is verified again
	return img, nil
}

// stamp tells what changes when a file of the image is written or replaced, whatever
// time it is then given.
func (img *Image) stamp() (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", img.Digest)
	for _, name := range []string{img.Kernel, img.Root, img.Modules} {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return "", &iofs.PathError{Op: "stat", Path: name, Err: err}
		}
		fmt.Fprintf(&b, "%d %d %d %d\n", st.Dev, st.Ino, st.Size, st.Ctim.Nano())
	}
	return b.String(), nil
}

// whole returns the image in dir if that is whole. The names of the directories around
// it are its label and its architecture. It looks at the list and the sizes of the
// files: their digests, which Verify compares, take a second.
func whole(dir string) (*Image, error) {
	text, list, err := readList(dir)
	if err != nil {
		return nil, fmt.Errorf("core OS at %s is incomplete: %v", dir, err)
	}
	label, arch := labelOf(filepath.Dir(dir))
	img := &Image{
		Label:   label,
		Arch:    arch,
		Digest:  filepath.Base(dir),
		Dir:     dir,
		Kernel:  filepath.Join(dir, kernelFile),
		Root:    filepath.Join(dir, rootFile),
		Modules: filepath.Join(dir, modulesFile),
	}
	if d := digest(text); d != img.Digest {
		return nil, fmt.Errorf("core OS at %s is damaged: the list of its files has the digest %s", dir, d)
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
	return img, nil
}

// labelOf returns what a directory of images is named for.
func labelOf(dir string) (label, arch string) {
	label, arch, _ = strings.Cut(filepath.Base(dir), "-")
	return filepath.Base(filepath.Dir(dir)) + "/" + label, arch
}

// Verify reads all of the image and compares it with its digest, which takes a
// second. The error says which file is not as it was built.
func (img *Image) Verify() error {
	_, list, err := readList(img.Dir)
	if err != nil {
		return fmt.Errorf("core OS at %s is incomplete: %v", img.Dir, err)
	}
	for _, f := range list {
		got, err := listFile(img.Dir, f.name)
		if err != nil {
			return fmt.Errorf("core OS at %s cannot be read: %w", img.Dir, err)
		}
		if got != f {
			return fmt.Errorf("core OS at %s is damaged: %s has %d bytes of SHA-256 %.12s, want %d of %.12s", img.Dir, f.name, got.size, got.sum, f.size, f.sum)
		}
	}
	_, err = whole(img.Dir) // the list itself
	return err
}

// A listed file is one line of an image's list.
type listed struct {
	sum  string
	size int64
	name string
}

// readList returns the list of an image, as it stands there and taken apart.
func readList(dir string) (string, []listed, error) {
	text, err := os.ReadFile(filepath.Join(dir, listName))
	if err != nil {
		return "", nil, err
	}
	var list []listed
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) != 3 || filepath.Base(w[2]) != w[2] {
			return "", nil, fmt.Errorf("%s: bad line %q", listName, line)
		}
		size, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", listName, err)
		}
		list = append(list, listed{w[0], size, w[2]})
	}
	if len(list) != 4 {
		return "", nil, fmt.Errorf("%s: %d files, want 4", listName, len(list))
	}
	return string(text), list, nil
}

// makeList is the text of the list of an image.
func makeList(dir string) (string, error) {
	names := []string{kernelFile, rootFile, modulesFile, packagesFile}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		f, err := listFile(dir, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %s\n", f.sum, f.size, f.name)
	}
	return b.String(), nil
}

func listFile(dir, name string) (listed, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return listed{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return listed{hex.EncodeToString(h.Sum(nil)), n, name}, err
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
