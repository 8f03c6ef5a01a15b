package vm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"9ci/vm/lend"
)

// What the core OS is made of besides Debian's essential packages and apt.
// mmdebstrap's variant apt has no mount(8); podman runs containers by crun; 9base is
// rc and the other tools of /usr/lib/plan9; procps is ps and free.
var packages = []string{
	"9base", "ca-certificates", "conmon", "crun", "git", "iproute2", "iptables",
	"kmod", "mount", "netavark", "podman", "procps", "tzdata",
}

// recipe finishes the core OS; see its first lines.
//
//go:embed recipe.sh
var recipe string

const (
	// epoch is the time of every file of the core OS, in seconds since
	// 1970: not 0, which mk takes for a file that is missing.
	epoch = 1735689600
	// rootUUID is its file system's.
	rootUUID = "9c100000-0000-4000-8000-000000000001"
	// cleanTime is how long mmdebstrap may clean up when it is interrupted.
	cleanTime = 30 * time.Second
)

// BuildRoom is how many bytes a build needs, in the cache and in $TMPDIR each.
const BuildRoom = 1400 << 20

// A Need is a file of the host without which there is no machine, or no core OS.
type Need struct {
	Name    string // of a program, or the path of a file
	Package string // Debian's package that has it
}

var mkfs = Need{"mkfs.ext4", "e2fsprogs"}

// Needs are those of a machine of this host's architecture; none if there are no such
// machines.
func Needs() []Need { return needs(runtime.GOARCH) }

func needs(arch string) []Need {
	b, ok := boards[arch]
	if !ok {
		return nil
	}
	return []Need{b.emulator(), mkfs}
}

// BuildNeeds are those of a build of the core OS.
func BuildNeeds() []Need {
	needs := []Need{
		{"mmdebstrap", "mmdebstrap"},
		{"mkfs.erofs", "erofs-utils"},
		{"dpkg-deb", "dpkg"},
		{"apt-get", "apt"},
		{"xz", "xz-utils"},
		{lend.Keyring, "debian-archive-keyring"},
	}
	if os.Getuid() != 0 {
		needs = append(needs, Need{"newuidmap", "uidmap"})
	}
	return needs
}

// Find returns the path of what is needed. The error says how to get it.
func (n Need) Find() (string, error) {
	if filepath.IsAbs(n.Name) {
		if _, err := os.Stat(n.Name); err != nil {
			return "", fmt.Errorf("%w: %s", err, n.Install())
		}
		return n.Name, nil
	}
	path, err := lookTool(n.Name)
	if err != nil {
		return "", fmt.Errorf("%s not found: %s", n.Name, n.Install())
	}
	return path, nil
}

// build makes an image and the link current to it in dir, whose lock is held. It
// first removes what another build left half done.
func build(ctx context.Context, dir, arch string, progress io.Writer) error {
	tmp := filepath.Join(dir, "build")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := ready(tmp); err != nil {
		return err
	}
	if err := bootstrap(ctx, tmp, arch, progress); err != nil {
		return err
	}
	if err := convert(tmp, boards[arch]); err != nil {
		return err
	}
	list, err := makeList(tmp)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, listName), []byte(list), 0o644); err != nil {
		return err
	}
	if err := syncAll(tmp); err != nil {
		return err
	}
	d := digest(list)
	final := filepath.Join(dir, d)
	if err := os.RemoveAll(final); err != nil { // a damaged one
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	link := filepath.Join(dir, "current.new")
	os.Remove(link)
	if err := os.Symlink(d, link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(dir, "current")); err != nil {
		return err
	}
	fmt.Fprintf(progress, "core OS %s: built %s\n", CoreOS, d[:12])
	return nil
}

// ready returns an error for what would stop a build later.
func ready(tmp string) error {
	for _, n := range BuildNeeds() {
		if _, err := n.Find(); err != nil {
			return err
		}
	}
	for _, d := range []string{tmp, os.TempDir()} {
		if free, err := Free(d); err == nil && free < BuildRoom {
			return fmt.Errorf("%s has %d MB free, %d MB are needed: %w", d, free>>20, BuildRoom>>20, syscall.ENOSPC)
		}
	}
	return nil
}

// Free returns how many bytes this user can still write below a directory.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func lookTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, d := range filepath.SplitList(here.sbin) {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

// bootstrap runs mmdebstrap, which leaves root.erofs, packages, vmlinuz
// and modules.tar in tmp.
func bootstrap(ctx context.Context, tmp, arch string, progress io.Writer) error {
	host, err := lend.HostAPT(ctx)
	if err != nil {
		return err
	}
	mode := "root"
	if os.Getuid() != 0 {
		mode = "unshare"
	}
	args := bootstrapArgs(mode, arch)
	if len(host.Options()) > 0 {
		// Not as --aptopt: a proxy's URL may have a password, and
		// everybody reads a process's arguments.
		args = append([]string{`--setup-hook=printf %s "$HOST_APT" >>"$1/etc/apt/apt.conf.d/99mmdebstrap"`}, args...)
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), fmt.Sprint("SOURCE_DATE_EPOCH=", epoch), "CORE_OS_UUID="+rootUUID,
		"HOST_APT="+strings.Join(append(host.Options(), ""), "\n"),
		"LC_ALL=C", "PATH="+os.Getenv("PATH")+":"+here.sbin)
	cmd.Stdin = strings.NewReader(host.List())
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	// mmdebstrap cleans up after itself on SIGINT and SIGTERM. The latter
	// comes when the thread that forked dies: this one, kept until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = child(syscall.SIGTERM)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = cleanTime
	fmt.Fprintf(progress, "core OS %s: building it from Debian's packages, once; this takes a minute or two\n", CoreOS)
	if err := cmd.Start(); err != nil {
		return err
	}
	said := tell(stderr, progress)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text := strings.Join(said, "\n")
		if strings.Contains(text, "No space left on device") || strings.Contains(text, "enough free space") {
			err = fmt.Errorf("%w: %w", err, syscall.ENOSPC)
		}
		return fmt.Errorf("mmdebstrap: %w:\n%s", err, text)
	}
	return nil
}

// bootstrapArgs are mmdebstrap's: what they make of the same packages does
// not depend on mode.
func bootstrapArgs(mode, arch string) []string {
	args := []string{
		"--mode=" + mode, "--variant=apt", "--format=null", "--architectures=" + arch,
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
	}
	for _, d := range []string{"man", "doc", "info", "locale"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+d+"/*")
	}
	args = append(args, "--customize-hook="+recipe)
	for _, f := range []string{rootFile, packagesFile, "vmlinuz", "modules.tar"} {
		args = append(args, fmt.Sprintf("--customize-hook=download /9ci/%s %s", f, f))
	}
	return append(args, lend.Release, "/dev/null", "-")
}

// tell passes mmdebstrap's steps on as they come and returns the last
// lines that it said.
func tell(r io.Reader, progress io.Writer) []string {
	const keep = 20
	var last []string
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if last = append(last, line); len(last) > keep {
			last = last[1:]
		}
		if step, ok := strings.CutPrefix(line, "I: "); ok && strings.HasSuffix(step, "...") && !strings.Contains(step, "tempdir") {
			fmt.Fprintf(progress, "core OS %s: %s\n", CoreOS, strings.TrimSuffix(step, "..."))
		}
	}
	io.Copy(io.Discard, r)
	return last
}

// convert makes the kernel and the modules what the image has of them.
func convert(tmp string, b board) error {
	packed, err := os.ReadFile(filepath.Join(tmp, "vmlinuz"))
	if err != nil {
		return err
	}
	kernel, err := b.kernel(packed)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, kernelFile), kernel, 0o644); err != nil {
		return err
	}
	modules, err := os.ReadFile(filepath.Join(tmp, "modules.tar"))
	if err != nil {
		return err
	}
	var cpio bytes.Buffer
	w := newCPIO(&cpio)
	r := tar.NewReader(bytes.NewReader(modules))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("modules.tar: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("modules.tar: %w", err)
		}
		w.file("modules/"+strings.TrimPrefix(h.Name, "./"), 0o644, unsign(data))
	}
	if err := w.close(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, modulesFile), cpio.Bytes(), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(tmp, "vmlinuz")), os.Remove(filepath.Join(tmp, "modules.tar")))
}

// unsign takes the signature off a kernel module: checking those of the
// initramfs is a third of the time from PID 1 to a guest that is ready.
// The format is that of the kernel's scripts/sign-file.c.
func unsign(module []byte) []byte {
	const magic, info = "~Module signature appended~\n", 12
	b, ok := bytes.CutSuffix(module, []byte(magic))
	if !ok || len(b) < info {
		return module
	}
	n := int64(len(b)) - info - int64(binary.BigEndian.Uint32(b[len(b)-4:]))
	if n < 0 {
		return module
	}
	return b[:n]
}

// syncAll has a directory and its files on disk.
func syncAll(dir string) error {
	names, err := glob(dir, "*")
	if err != nil {
		return err
	}
	for _, name := range append(names, dir) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
