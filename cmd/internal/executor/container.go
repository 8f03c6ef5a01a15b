package executor

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"9ci/vm"
)

// A container is the repository's base image, as podman knows it.
type container struct {
	name   string
	digest string
	dir    string   // the image's working directory, or /src
	path   string   // $PATH in the image, or podman's default
	root   bool     // the image's user is root
	env    []string // NAME=VALUE, what the image does not set
}

// common are variables of the core OS that a container has too, unless its image sets
// them.
var common = []string{"HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}

// safe are those by which git in a container takes every directory for safe, as the core
// OS has it from PID 1: a test may go on as another user than its image's.
var safe = []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}

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
		ID           string `json:"Id"`
		Digest       string
		OS           string `json:"Os"`
		Architecture string
		Config       struct {
			Env        []string
			WorkingDir string
			User       string
		}
	}
	if err := json.Unmarshal([]byte(out), &images); err != nil {
		return container{}, fmt.Errorf("podman image inspect %s: %w", name, err)
	}
	im := images[0]
	user, _, _ := strings.Cut(im.Config.User, ":")
	c := container{name: name, digest: im.Digest, dir: path.Clean(im.Config.WorkingDir), root: user == "" || user == "root" || user == "0"}
	if im.OS != "" && im.OS != "linux" || im.Architecture != "" && im.Architecture != runtime.GOARCH {
		return container{}, mkAnswer{1, fmt.Sprintf("the image %s is for %s/%s and the machine is linux/%s: build or pull it with --platform=linux/%[4]s", name, im.OS, im.Architecture, runtime.GOARCH)}
	}
	if im.Config.WorkingDir == "" || c.dir == "/" {
		c.dir = srcDir
	}
	if !path.IsAbs(c.dir) {
		return container{}, mkAnswer{1, fmt.Sprintf("the working directory %q of the image %s is not absolute: set its WORKDIR to a path from /", c.dir, name)}
	}
	if c.digest == "" {
		c.digest = "sha256:" + im.ID
	}
	if hex, ok := strings.CutPrefix(c.digest, "sha256:"); !ok || !validDigest(hex) {
		return container{}, fmt.Errorf("podman image inspect %s: %.80q is no digest", name, c.digest)
	}
	has := make(map[string]bool)
	c.path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range im.Config.Env {
		name, value, _ := strings.Cut(v, "=")
		if has[name] = true; name == "PATH" {
			c.path = value
		}
	}
	for _, v := range slices.Concat(common, safe) {
		name, _, _ := strings.Cut(v, "=")
		if !has[name] && (name != "HOME" || c.root) { // podman knows the home of another user
			c.env = append(c.env, v)
		}
	}
	if len(c.path)+len(c.dir) > maxSettings {
		return container{}, mkAnswer{1, fmt.Sprintf("the PATH and the working directory of the image %s are over %d bytes", name, maxSettings)}
	}
	return c, nil
}

func validDigest(hex string) bool {
	return len(hex) == 64 && !strings.ContainsFunc(hex, func(c rune) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
}

// own has podman make the image's user the owner of what is mounted.
func (c container) own() string { return fmt.Sprintf("U=%t", !c.root) }

// mountFlag returns podman's flag for a directory of the machine. Podman reads the
// fields as encoding/csv writes them.
func mountFlag(from, to, option string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	w.Write([]string{"type=bind", "src=" + from, "dst=" + to, option})
	w.Flush()
	return "--mount=" + strings.TrimSuffix(b.String(), "\n")
}

// podmanRun returns the command that runs mk in the base image. Its container stays as
// testContainer if it is to be kept: shells go on from what the test leaves there.
func (r *activeRun) podmanRun(targets []string, keep bool) vm.Cmd {
	flags := []string{"--rm"}
	if keep {
		flags = []string{"--name=" + testContainer}
	}
	args := r.podman(flags, r.base.name, append([]string{plan9Bin + "/mk"}, targets...)...)
	if len(r.cfg.Secrets) == 0 {
		return vm.Cmd{Args: args}
	}
	script := []string{"/bin/sh", "-c", `exec "$@" 3<&0 </dev/null`, "9ci"}
	return vm.Cmd{
		Args:  slices.Concat(script, args),
		Stdin: strings.NewReader(strings.Join(r.cfg.Secrets, "\x00") + "\x00"),
	}
}

// podman returns the command that runs a program in an image, as the test has it. If there
// are secrets, the command wants them at descriptor 3. Whatever the image says, that
// program is what runs, nothing of the repository is hidden behind a volume of the
// image, and no systemd is asked to check its health. The rest of what the container has
// as the core OS has it, podman gets from PID 1, as guest's manual says. flags are
// podman's besides, which go last.
func (r *activeRun) podman(flags []string, image string, program ...string) []string {
	c := r.base
	network := "ns:" + vm.Loopback
	if r.cfg.Net == "all" {
		network = "host"
	}
	args := []string{"podman", "run", "--log-driver=none", "--network=" + network, "--uts=host",
		"--image-volume=ignore", "--no-healthcheck", "--workdir=" + c.dir,
		mountFlag(srcDir, c.dir, c.own()), mountFlag(artifactsDir, artifactsDir, c.own()), mountFlag(plan9Dir, plan9Dir, "ro=true")}
	if r.cfg.Runs {
		args = append(args, mountFlag(runsDir, runsDir, "ro=true"))
	}
	for _, v := range c.env {
		args = append(args, "--env="+v)
	}
	for _, v := range r.cfg.Env {
		name, _, _ := strings.Cut(v, "=")
		args = append(args, "--env="+name) // podman takes the value from its environment
	}
	for _, v := range append(r.fixed(c.path+":"+plan9Bin), "CONTAINERIMAGE="+c.name) { // the last of a name counts
		args = append(args, "--env="+v)
	}
	args = append(args, flags...)
	if len(r.cfg.Secrets) > 0 {
		// Podman writes the environment that it is told to files, so secrets go
		// through a descriptor.
		args = append(args, "--preserve-fds=1", mountFlag(vm.GuestPath, vm.GuestPath, "ro=true"))
		program = append([]string{vm.GuestPath, "env"}, program...)
	}
	return slices.Concat(args, []string{"--entrypoint=" + program[0], image}, program[1:])
}
