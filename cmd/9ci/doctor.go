package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/crypto/ssh"

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

// A finding is a line of doctor: what there is, or what is missing and the command
// that mends it.
type finding struct {
	what, has string
	lacks     error
	optional  bool // runs work without it
}

// doctorCommand prints what this machine has and lacks. Its status is 1 if runs
// cannot work here.
func doctorCommand(ctx context.Context, args []string) (int, error) {
	if err := parseFlags(newFlags("doctor"), args, 0, 0); err != nil {
		return exitError, err
	}
	code := 0
	for _, f := range examine(ctx) {
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
	program := func(name, pkg string, optional bool) bool {
		f := finding{what: name, optional: optional}
		path, err := exec.LookPath(name)
		if f.has = path; err != nil {
			f.lacks = fmt.Errorf("apt-get install %s", pkg)
		}
		all = append(all, f)
		return err == nil
	}
	program("git", "git", false)
	qemu := program("qemu-system-x86_64", "qemu-system-x86", false)
	program("mkfs.ext4", "e2fsprogs", false)
	for _, name := range []string{"mk", "guest"} { // they go into the machine
		path, err := tool(name)
		all = append(all, finding{what: name, has: path, lacks: err})
	}

	cache, err := home.Cache()
	var image *vm.Image
	core := finding{what: "core OS", lacks: err}
	if err == nil {
		image, err = vm.LookupImage(cache)
	}
	switch {
	case err == nil:
		core.has = image.Label + " " + image.Digest
	case core.lacks == nil:
		core.lacks = errors.New("9ci image build")
		program("mmdebstrap", "mmdebstrap", false)
		program("mkfs.erofs", "erofs-utils", false)
		program("xz", "xz-utils", false)
	}
	all = append(all, core)
	if qemu && image != nil {
		f := finding{what: "KVM", has: "it works", optional: true}
		if ok, why := vm.ProbeKVM(ctx, vm.Config{Image: image, Cache: cache}); !ok {
			f.lacks = fmt.Errorf("%s: machines run all the same, slowly", why)
		}
		all = append(all, f)
	}
	program("fusermount3", "fuse3", true)

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
