package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"9ci/vm"
)

// A container is the repository's base image, as podman knows it.
type container struct {
	name   string
	digest string
	dir    string // the image's working directory, or /src
	path   string // $PATH in the image, or podman's default
	user   string // the image's user; empty for root
}

// wrapperFile is a mkfile that adds one rule to the repository's: it writes the
// name of the base image to containerFile once base-image is made.
const (
	wrapperFile = "/run/9ci/mkfile"
	wrapper     = `<mkfile
` + containerFile + `:V: base-image
	echo $CONTAINERIMAGE >` + containerFile + `
`
)

// defaultImage returns the value of CONTAINERIMAGE for a mkfile that does not set
// it.
func (r *activeRun) defaultImage() string {
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			return c
		}
		return '-'
	}, strings.ToLower(path.Base(r.e.Namespace)))
	return "localhost/9ci/" + strings.Trim(name, "-_.") + ":" + r.req.Tree
}

// maxSettings is how many bytes of an image's settings are put into a command: less
// than the 128 KiB that Linux takes for one argument.
const maxSettings = 64 << 10

// inspect asks podman about the image that base-image has named.
func (r *activeRun) inspect(ctx context.Context) (container, error) {
	name, _, err := r.ask(ctx, "CONTAINERIMAGE", 1<<10, vm.Cmd{Args: []string{"cat", containerFile}})
	if err != nil {
		return container{}, err
	}
	name = strings.TrimSpace(name)
	if name == "" || name[0] == '-' || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return container{}, mkAnswer{1, fmt.Sprintf("CONTAINERIMAGE is %q, which names no image: set it to one name", name)}
	}
	out, code, err := r.ask(ctx, "what podman says of the image "+name, maxAnswer, vm.Cmd{Args: []string{"podman", "image", "inspect", name}})
	if err != nil {
		return container{}, err
	}
	if code != 0 {
		return container{}, mkAnswer{1, fmt.Sprintf("base-image left no image %s: build, pull or tag it as $CONTAINERIMAGE", name)}
	}
	var images [1]struct { // whatever more there is takes no memory
		ID     string `json:"Id"`
		Digest string
		Config struct {
			Env        []string
			WorkingDir string
			User       string
		}
	}
	if err := json.Unmarshal([]byte(out), &images); err != nil {
		return container{}, fmt.Errorf("podman image inspect %s: %w", name, err)
	}
	im := images[0]
	c := container{name: name, digest: im.Digest, dir: im.Config.WorkingDir, user: im.Config.User}
	if c.digest == "" {
		c.digest = "sha256:" + im.ID
	}
	if hex, ok := strings.CutPrefix(c.digest, "sha256:"); !ok || !validDigest(hex) {
		return container{}, fmt.Errorf("podman image inspect %s: %.80q is no digest", name, c.digest)
	}
	if c.dir == "" || c.dir == "/" {
		c.dir = srcDir
	}
	c.path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range im.Config.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			c.path = p
		}
	}
	if len(c.path)+len(c.dir)+len(c.user) > maxSettings {
		return container{}, mkAnswer{1, fmt.Sprintf("the PATH, the directory and the user of the image %s are over %d bytes", name, maxSettings)}
	}
	return c, nil
}

func validDigest(hex string) bool {
	return len(hex) == 64 && !strings.ContainsFunc(hex, func(c rune) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
}

// podmanRun returns the command that runs mk in the base image. The machine is
// what confines a test, so podman's own limits are lifted.
func (r *activeRun) podmanRun(targets []string) vm.Cmd {
	c := r.base
	network := "none"
	if r.cfg.Net == "all" {
		network = "host"
	}
	volume := srcDir + ":" + c.dir
	if u, _, _ := strings.Cut(c.user, ":"); u != "" && u != "root" && u != "0" {
		volume += ":U" // the image's user becomes the owner of the repository
	}
	args := []string{"podman", "run", "--rm", "--log-driver=none", "--pids-limit=-1", "--network=" + network,
		"--volume=" + volume, "--volume=" + plan9Dir + ":" + plan9Dir + ":ro", "--workdir=" + c.dir,
		"--volume=" + artifactsDir + ":" + artifactsDir}
	if r.cfg.Runs {
		args = append(args, "--volume="+runsDir+":"+runsDir+":ro")
	}
	for _, v := range r.cfg.Env {
		name, _, _ := strings.Cut(v, "=")
		args = append(args, "--env="+name) // podman takes the value from its environment
	}
	for _, v := range append(r.fixed(c.path+":"+plan9Bin), "CONTAINERIMAGE="+c.name) { // the last of a name counts
		args = append(args, "--env="+v)
	}
	mk := plan9Bin + "/mk"
	if len(r.cfg.Secrets) == 0 {
		return vm.Cmd{Args: slices.Concat(args, []string{"--entrypoint=" + mk, c.name}, targets)}
	}
	// Podman writes the environment that it is told to files, so secrets go
	// through a descriptor.
	args = append(args, "--preserve-fds=1", "--volume="+vm.GuestPath+":"+vm.GuestPath+":ro", "--entrypoint="+vm.GuestPath, c.name, "env", mk)
	script := []string{"/bin/sh", "-c", `exec "$@" 3<&0 </dev/null`, "9ci"}
	return vm.Cmd{
		Args:  slices.Concat(script, args, targets),
		Stdin: strings.NewReader(strings.Join(r.cfg.Secrets, "\x00") + "\x00"),
	}
}
