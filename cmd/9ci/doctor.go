package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
	"9ci/vm"
)

// A finding is a line of doctor: what there is, or what is missing or wrong and what
// mends it.
type finding struct {
	what, has string
	lacks     error
	optional  bool   // runs work without it
	pkg       string // Debian's package that mends it, or ""
	coreOS    bool   // a build of the core OS mends it
}

// doctorCommand prints what this machine has and lacks; with -fix it first mends what
// packages and a build of the core OS can. Its status is 1 if runs cannot work here.
func doctorCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("doctor")
	fix := f.Bool("fix", false, "")
	if err := parseFlags(f, args, 0, 0); err != nil {
		return exitError, err
	}
	all := examine(ctx)
	if *fix {
		if err := mend(ctx, all); err != nil {
			if ctx.Err() != nil {
				return exitError, ctx.Err()
			}
			say("%v", err)
		}
		all = examine(ctx)
	}
	code := 0
	for _, f := range all {
		switch {
		case f.lacks == nil:
			show.Out.Printf("%-14s ok: %s\n", f.what, f.has)
		case f.optional:
			show.Out.Printf("%-14s no: %v\n", f.what, f.lacks)
		default:
			show.Out.Printf("%-14s missing: %v\n", f.what, f.lacks)
			code = 1
		}
	}
	return code, nil
}

func examine(ctx context.Context) []finding {
	var all []finding
	need := func(n vm.Need, optional bool) bool {
		path, err := n.Find()
		f := finding{what: n.Name, has: path, optional: optional}
		if err != nil {
			f.lacks, f.pkg = errors.New(n.Install()), n.Package
		}
		all = append(all, f)
		return err == nil
	}
	need(vm.Need{Name: "git", Package: "git"}, false)
	machines := true
	for _, n := range vm.Needs() {
		machines = need(n, false) && machines
	}
	var guest string
	for _, name := range []string{"mk", "guest"} { // they go into the machine
		path, err := tool(name)
		if err == nil {
			err = static(path)
		}
		if name == "guest" && err == nil {
			guest = path
		}
		all = append(all, finding{what: name, has: path, lacks: err})
	}

	cache, err := home.Cache()
	var image *vm.Image
	core := finding{what: "core OS", lacks: err}
	if err == nil {
		image, core.lacks = vm.LookupImage(cache)
	}
	if image != nil {
		core.lacks = image.Verify()
	}
	if err == nil {
		core.lacks, core.coreOS = coreAdvice(core.lacks)
	}
	if core.coreOS {
		for _, n := range vm.BuildNeeds() {
			need(n, false)
		}
	} else if core.lacks == nil {
		core.has = image.Label + " " + image.Digest
	}
	all = append(all, core)
	if machines && guest != "" && image != nil && core.lacks == nil {
		f := finding{what: vm.Accelerator(), has: "it works", optional: true}
		if _, why := vm.Probe(ctx, vm.Config{Image: image, Guest: guest, Cache: cache}); why != "" {
			f.lacks = fmt.Errorf("%s: machines run all the same, slowly", kvmAdvice(kvmDevice, why, openKVM()))
		}
		all = append(all, f)
	}
	all = append(all, disks(cache, core.coreOS)...)
	need(vm.Need{Name: "fusermount3", Package: "fuse3"}, true)

	dir, err := ninep.Namespace()
	all = append(all, finding{what: "namespace", has: dir, lacks: err})
	rp, _ := repo.Open(ctx, ".") // nil outside a repository
	c, err := loadConfig(ctx, rp)
	conf := finding{what: "configuration", lacks: err}
	if err == nil {
		conf.has, conf.lacks = home.Config()
	}
	all = append(all, conf)
	if conf.lacks != nil {
		return all
	}
	key, err := sign.LoadKey(c.Key)
	f := finding{what: "key", lacks: err}
	if err == nil {
		f.has = c.Key + " " + sign.Fingerprint(key.PublicKey())
	}
	all = append(all, f)
	if key != nil && c.Orchestrator != "" {
		all = append(all, finding{what: "orchestrator", has: c.Address(), lacks: reach(ctx, c, key), optional: true})
	}
	return all
}

// coreAdvice adds to err, what is wrong with the core OS, the command that mends it, and
// reports whether there is one.
func coreAdvice(err error) (advice error, build bool) {
	switch {
	case err == nil || errors.Is(err, errors.ErrUnsupported):
		return err, false
	case errors.Is(err, iofs.ErrNotExist):
		return errors.New("9ci image build"), true
	}
	return fmt.Errorf("%w: 9ci image build", err), true
}

// static returns an error for a program that would not run in a machine, which has no
// libraries for it.
func static(path string) error {
	const build = "mk install builds it as it must be"
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is no program of Linux: %w: %s", path, err, build)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: %s", path, build)
		}
	}
	return nil
}

// openKVM says whether this user may open the device of KVM.
func openKVM() error {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err
}

const kvmDevice = "/dev/kvm"

// kvmAdvice adds to why, the reason for which machines do not run under KVM, what mends
// it, if that is the error that this user gets who opens the device.
func kvmAdvice(device, why string, err error) string {
	if !errors.Is(err, iofs.ErrPermission) || err.Error() != why {
		return why
	}
	fi, err := os.Stat(device)
	if err != nil {
		return why
	}
	group := "root"
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Gid != 0 {
		group = strconv.FormatUint(uint64(st.Gid), 10)
		if g, err := user.LookupGroupId(group); err == nil {
			group = g.Name
		}
	}
	if fi.Mode().Perm()&0o060 != 0o060 || group == "root" {
		return fmt.Sprintf("%s: as root, chgrp kvm %s && chmod 660 %[2]s, and usermod -aG kvm %s; then log in again", why, device, userName())
	}
	return fmt.Sprintf("%s: as root, usermod -aG %s %s; then log in again", why, group, userName())
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

// runRoom is how many bytes free a run of a small repository is sure to do with, and
// storeRoom is that of what it keeps.
const (
	runRoom   = 1 << 30
	storeRoom = 100 << 20
)

// disks has a line for each directory in which runs need room.
func disks(cache string, build bool) []finding {
	buildRoom := int64(0)
	if build {
		buildRoom = vm.BuildRoom
	}
	state, err := home.State()
	if err != nil {
		return []finding{{what: "store", lacks: err}}
	}
	var all []finding
	for _, r := range []room{
		{what: "disks", dir: vm.DiskDir, bytes: runRoom, shut: "as root, mkdir -p -m 1777 " + vm.DiskDir + " && chmod 1777 " + vm.DiskDir},
		{what: "TMPDIR", dir: os.TempDir(), bytes: max(runRoom, buildRoom), shut: "set TMPDIR to another directory"},
		{what: "cache", dir: cache, made: true, bytes: buildRoom, shut: "set XDG_CACHE_HOME to another directory"},
		{what: "store", dir: state, made: true, bytes: storeRoom, shut: "set XDG_STATE_HOME to another directory"},
	} {
		f := finding{what: r.what}
		f.has, f.lacks = r.look()
		all = append(all, f)
	}
	return all
}

// A room is a directory that this user must be able to write.
type room struct {
	what, dir string
	made      bool   // by 9ci, if it is not there
	bytes     int64  // that must be free
	shut      string // what to do if it cannot be written
}

// look returns how much room there is, or an error that says what to do.
func (r room) look() (string, error) {
	dir, err := r.dir, error(nil)
	for {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
		up := filepath.Dir(dir)
		if !r.made || up == dir || !errors.Is(err, iofs.ErrNotExist) {
			break
		}
		dir = up
	}
	if fi, serr := os.Stat(dir); err == nil && serr == nil && !fi.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return "", fmt.Errorf("%s cannot be written: %w: %s", dir, err, r.shut)
	}
	free, err := vm.Free(dir)
	if err != nil {
		return "", err
	}
	if free < r.bytes {
		return "", fmt.Errorf("%s has %d MB free, %d MB are needed: make room", r.dir, free>>20, r.bytes>>20)
	}
	return fmt.Sprintf("%s, %d MB free", r.dir, free>>20), nil
}

// mend installs the packages that findings lack, and then builds the core OS if that is
// what is missing.
func mend(ctx context.Context, all []finding) error {
	var packages []string
	for _, f := range all {
		if f.lacks != nil && f.pkg != "" {
			packages = append(packages, f.pkg)
		}
	}
	if len(packages) > 0 {
		slices.Sort(packages)
		if err := install(ctx, slices.Compact(packages)); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(all, func(f finding) bool { return f.coreOS }) {
		return nil
	}
	cache, err := home.Cache()
	if err != nil {
		return err
	}
	_, err = vm.EnsureImage(ctx, vm.ImageOptions{Cache: cache, Progress: show.Err, Verify: true})
	return err
}

// install has apt-get install packages, by sudo(8) if this user is not root.
func install(ctx context.Context, packages []string) error {
	path, err := vm.Need{Name: "apt-get", Package: "apt"}.Find()
	if err != nil {
		return fmt.Errorf("there is no apt-get here: install what Debian has in the packages %s", strings.Join(packages, ", "))
	}
	const quiet = "DEBIAN_FRONTEND=noninteractive"
	command := []string{path, "-q", "-o", "DPkg::Lock::Timeout=600"}
	if os.Getuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("there is no sudo here: as root, apt-get install %s", strings.Join(packages, " "))
		}
		command = append([]string{"sudo", "env", quiet}, command...)
	}
	apt := func(args ...string) error {
		say("apt-get %s", strings.Join(args, " "))
		args = slices.Concat(command, args)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), quiet)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, show.Err, show.Err
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // dpkg ends what it does
		return cmd.Run()
	}
	if err := apt("update"); err != nil {
		say("apt-get update: %v", err) // the lists that there are may do
	}
	if err := apt(append([]string{"install", "--no-install-recommends", "-y"}, packages...)...); err != nil {
		return fmt.Errorf("apt-get install: %w", err)
	}
	return nil
}

// reach connects to the orchestrator and hangs up.
func reach(ctx context.Context, c *config.Config, key ssh.Signer) error {
	opts, err := host.DialOptions(key, c, c.Orchestrator)
	if err != nil {
		return err
	}
	conn, err := dial.Dial(ctx, c.Orchestrator, opts)
	if err != nil {
		return err
	}
	return conn.Close()
}
