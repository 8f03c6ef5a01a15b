package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/fs"
	"9ci/vm"
)

// steps is the life of a run. The names appear in its status file.
var steps = []struct {
	name string
	do   func(*running, context.Context) error
}{
	{"boot", (*running).boot},                      // start a machine for this run alone
	{"clone", (*running).clone},                    // the revision, never the dirty tree
	{"prepare-runtime", (*running).prepareRuntime}, // mk prepare-runtime, as root in the machine
	{"base-image", (*running).baseImage},           // mk base-image makes or pulls $CONTAINERIMAGE
	{"test", (*running).test},                      // mk test in a container of that image
	{"artifacts", (*running).artifacts},            // mk /var/run/ci/artifacts/%
	{"post-test", (*running).postTest},             // mk post-test, once, never on replay
}

// A running is a run while its machine lives.
type running struct {
	e      *Executor
	repo   *repo.Repo
	req    Request
	cfg    *config.Config
	run    *fs.Run
	m      machine
	dir    string            // scratch of this run on the host: the source
	show   *fs.Show          // what the machine sees of kept runs
	kept   []string          // their ids, as they were at the start
	alias  map[string]string // and their aliases
	mask   *mask
	stdout *maskWriter // of the current step
	stderr *maskWriter
	mkfile *mkfile
	base   container // the repository's own image; its name is empty where there is none
}

// A machine is what a run asks of its vm.Machine.
type machine interface {
	Run(ctx context.Context, cmd vm.Cmd) (vm.Exit, error)
	SetNet(ctx context.Context, up bool) error
	Outbox() *io.SectionReader
	OutboxDevice() string
	Kill()
}

// errSkipped is a step's answer that there was nothing for it to do.
var errSkipped = errors.New("skipped")

// A failed is what mk, or the program it ran, answered: a result of the run,
// not an error of the executor.
type failed struct {
	code int
	why  string // one line for the step's log, or empty where mk said it
}

func (f failed) Error() string { return f.why }

// A timeout is the cause of the end of a run that took too long.
type timeout struct{ after time.Duration }

func (t timeout) Error() string {
	return fmt.Sprintf("the run took longer than %v: CI_TIMEOUT raises that", t.after)
}

// live runs the seven steps and seals the run. ctx ends it early: its state
// is then cancelled. The error is one of keeping the run, not of running it.
func (r *running) live(ctx context.Context) error {
	if r.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.cfg.Timeout, timeout{r.cfg.Timeout})
		defer cancel()
	}
	defer r.close()

	state, code := "passed", 0
	for _, s := range steps {
		if state != "passed" {
			r.run.Leave(s.name, "skipped", 0)
			continue
		}
		r.run.Enter(s.name) // what cannot be kept of the run Seal tells
		st, c := r.outcome(ctx, s.do(r, ctx))
		r.stdout.Flush()
		r.stderr.Flush()
		r.run.Leave(s.name, st, c)
		switch {
		case st == "passed" || st == "skipped":
		case s.name == "post-test": // the run is passed and shareable all the same
		default:
			state, code = st, c
		}
	}
	return r.run.Seal(context.WithoutCancel(ctx), state, code, r.e.Sign)
}

// outcome turns a step's error into its state and code, and tells the step's
// log what mk did not.
func (r *running) outcome(ctx context.Context, err error) (state string, code int) {
	var f failed
	switch {
	case err == nil:
		return "passed", 0
	case errors.Is(err, errSkipped):
		return "skipped", 0
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		state, code = "cancelled", 130
		if sig, ok := err.(Signalled); ok {
			code = 128 + int(sig.Signal)
		} else if _, ok := err.(timeout); ok {
			state, code = "error", 125
		}
	case errors.As(err, &f):
		state, code = "failed", f.code
	default:
		state, code = "error", 125
	}
	if err.Error() != "" {
		r.say("%v", err)
	}
	return state, code
}

// say tells the current step's log a line of ours. What is in it of a machine's
// may hold secrets as well.
func (r *running) say(format string, args ...any) {
	fmt.Fprintf(r.stderr, "9ci: "+format+"\n", args...)
}

// close ends the machine and removes what the run left on the host.
func (r *running) close() {
	if r.m != nil {
		r.m.Kill()
	}
	if r.show != nil {
		r.show.Close()
	}
	os.RemoveAll(r.dir)
}

// diskSize is what a machine may write. The disk is sparse: it takes what is
// written, until the run ends.
const diskSize = 64 << 30

// outboxSize is that of the disk by which the artifacts leave a machine: all
// that a run may keep, and as much again as its names take at most.
const outboxSize = fs.MaxArtifacts + 1<<30

// Where things are in the machine.
const (
	srcDir        = "/src"
	sourceShare   = "/n/source"
	runsDir       = "/n/ci"
	artifactsDir  = "/var/run/ci/artifacts"
	containerFile = "/var/run/ci/containerimage"
	guestPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + plan9Bin
	plan9Dir      = "/usr/lib/plan9"
	plan9Bin      = plan9Dir + "/bin"
)

func (r *running) boot(ctx context.Context) error {
	guest, err := r.e.Tool("guest")
	if err != nil {
		return err
	}
	mk, err := r.e.Tool("mk")
	if err != nil {
		return err
	}
	cache, err := home.Cache()
	if err != nil {
		return err
	}
	image, err := vm.EnsureImage(ctx, vm.ImageOptions{Cache: cache, Progress: r.stderr})
	if err != nil {
		return err
	}
	r.run.SetInfo(fs.Attrs{{Name: "coreos", Value: image.Digest}})
	source := filepath.Join(r.dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		return err
	}
	if r.show, err = r.e.Store.NewShow(); err != nil {
		return err
	}
	r.keptRuns(ctx)
	c := r.cfg
	config := vm.Config{
		Image:  image,
		Guest:  guest,
		Mk:     mk,
		Memory: c.Memory,
		CPUs:   c.CPUs,
		Net:    c.Net != "none",
		Disk:   diskSize,
		Cache:  cache,
		Outbox: outboxSize,
		Log:    r.e.Log,
		Shares: []vm.Share{
			{Tag: "source", Dir: source, Target: sourceShare},
			{Tag: "runs", Dir: r.show.Dir(), Target: runsDir}, // empty until showRuns
		},
	}
	if ok, why := vm.ProbeKVM(ctx, config); !ok {
		config.Accel = "tcg"
		r.say("no KVM, so the machine is slow: %s", why)
	}
	m, err := vm.Start(ctx, config)
	if err != nil {
		return err
	}
	r.m = m
	r.e.Queue.setAccel(m.Accel())
	// Artifacts are made on the machine's own disk: /var/run is memory.
	script := `
set -e
mkdir -p "${1%/*}" "$3" /var/lib/ci/artifacts
printf %s "$2" >"$1"
mount --bind /var/lib/ci/artifacts "$3"
`
	if err := r.shell(ctx, script, wrapperFile, wrapper, artifactsDir); err != nil {
		return err
	}
	if r.cfg.Runs {
		return r.showRuns(ctx)
	}
	return nil
}

func (r *running) clone(ctx context.Context) error {
	bundle := filepath.Join(r.dir, "source", "bundle")
	head, err := r.repo.Bundle(ctx, r.req.Commit, r.cfg.MatchTree, bundle)
	if err != nil {
		return err
	}
	script := `
set -e
git init --quiet .
if [ -e "$1/bundle.shallow" ]; then cp "$1/bundle.shallow" .git/shallow; fi
git fetch --quiet --no-auto-maintenance "$1/bundle" 'refs/*:refs/*'
git checkout --quiet --detach "$2"
git update-ref -d ` + repo.Ref + `
`
	if !r.repo.HasFile(ctx, r.req.Commit, "mkfile") {
		r.say("no mkfile at this revision: write one with a target test")
	}
	return r.shell(ctx, script, sourceShare, head)
}

func (r *running) prepareRuntime(ctx context.Context) error {
	var err error
	if r.mkfile, err = r.askMkfile(ctx); err != nil {
		return err
	}
	if !r.mkfile.hasTarget("prepare-runtime") {
		return errSkipped
	}
	return r.mk(ctx, "prepare-runtime")
}

func (r *running) baseImage(ctx context.Context) error {
	if !r.mkfile.hasTarget("base-image") {
		r.say("no target base-image: mk test runs in the core OS")
		return errSkipped
	}
	if err := r.mk(ctx, "-f", wrapperFile, containerFile); err != nil {
		return err
	}
	var err error
	if r.base, err = r.inspect(ctx); err != nil {
		return err
	}
	return r.run.SetInfo(fs.Attrs{{Name: "image", Value: r.mask.text(r.base.name) + " " + r.base.digest}})
}

func (r *running) test(ctx context.Context) error {
	// The key that the run is signed with says net=build: a test that ran with
	// a network all the same must not pass for one that had none.
	if r.cfg.Net == "build" {
		if err := r.m.SetNet(ctx, false); err != nil {
			return err
		}
	}
	targets := r.req.Targets
	if r.base.name == "" {
		return r.mk(ctx, targets...)
	}
	code, err := r.exec(ctx, r.podmanRun(targets))
	if err != nil {
		return err
	}
	switch code {
	case 0:
		return nil
	case 125, 126, 127: // podman-run(1): podman itself failed, or could not start mk
		return fmt.Errorf("podman could not run mk in %s (status %d)", r.base.name, code)
	}
	return failed{code: code}
}

// artifacts has mk make every artifact, and copies what is there.
func (r *running) artifacts(ctx context.Context) error {
	targets, literal := r.mkfile.artifactTargets()
	if len(targets) == 0 {
		return errSkipped
	}
	if err := r.mk(ctx, targets...); err != nil {
		var f failed
		if literal && errors.As(err, &f) {
			f.why = "the rule for " + artifactsDir + "/% was made for a stem of % as the mkfile names no artifact: set ARTIFACTS to their names"
			return f
		}
		if errors.Is(err, syscall.E2BIG) {
			return failed{1, "the names of the artifacts in the mkfile are more than a command takes: make a tar of them"}
		}
		return err
	}
	return r.collect(ctx)
}

// collect has the machine put the artifacts on its outbox as a tar, holes kept,
// and takes them from there. What is on the outbox is whatever the machine's
// root wrote there.
func (r *running) collect(ctx context.Context) error {
	script := `
cd "$1" || exit
s=$(find . -type s -print -quit)
if [ "$s" ]; then printf %s "${s#./}"; exit 3; fi
tar --format=pax --pax-option=delete=atime,delete=ctime --sparse --hard-dereference --one-file-system -b 2048 -cf "$2" . || [ $? = 1 ] || exit
sync "$2"
`
	name, code, err := r.ask(ctx, "the name of a socket", 8<<10, vm.Cmd{Args: []string{"/bin/sh", "-c", script, "9ci", artifactsDir, r.m.OutboxDevice()}})
	switch {
	case err != nil:
		return err
	case code == 3:
		return failed{1, fmt.Sprintf("%q is a socket: only files, directories and symbolic links can be kept", name)}
	case code != 0:
		return failed{1, fmt.Sprintf("tar could not pack %s, of which %d bytes can be kept", artifactsDir, int64(fs.MaxArtifacts))}
	}
	err = r.run.AddArtifacts(ctx, r.m.Outbox())
	if errors.Is(err, fs.ErrRefused) {
		return failed{1, err.Error()}
	}
	return err
}

func (r *running) postTest(ctx context.Context) error {
	if !r.mkfile.hasTarget("post-test") {
		return errSkipped
	}
	if r.cfg.Net == "build" {
		if err := r.m.SetNet(ctx, true); err != nil {
			return err
		}
	}
	if !r.cfg.Runs {
		if err := r.showRuns(ctx); err != nil {
			return err
		}
	}
	return r.mk(ctx, "post-test")
}

// keptRuns notes the kept runs of this repository and their aliases, as they
// are now: those that have aliases, and then the newest first.
func (r *running) keptRuns(ctx context.Context) {
	r.alias = make(map[string]string)
	for _, alias := range []string{"green", "head"} {
		if id, ok := r.e.sealed(ctx, alias); ok {
			r.alias[alias] = id
			r.kept = append(r.kept, id)
		}
	}
	for run := range r.e.Store.Runs() {
		if run.Run != nil {
			continue // it goes on, as this one does
		}
		if r.alias["last"] == "" {
			r.alias["last"] = run.ID
		}
		r.kept = append(r.kept, run.ID)
	}
}

// showRuns lets the machine see the kept runs, at /n/ci, where nothing is
// until then.
func (r *running) showRuns(ctx context.Context) error {
	shown, err := r.show.Fill(ctx, r.kept, r.alias)
	if err != nil {
		return err
	}
	if all := len(slices.Compact(slices.Sorted(slices.Values(r.kept)))); shown < all {
		r.say("%d of %d kept runs are at %s: the others were evicted or have too many files", shown, all, runsDir)
	}
	return nil
}

// mk runs our mk in the repository, in the machine.
func (r *running) mk(ctx context.Context, args ...string) error {
	code, err := r.exec(ctx, vm.Cmd{Args: append([]string{plan9Bin + "/mk"}, args...)})
	if err != nil {
		return err
	}
	if code != 0 {
		return failed{code: code}
	}
	return nil
}

// shell runs a script of ours with arguments; its failure is the executor's.
func (r *running) shell(ctx context.Context, script string, args ...string) error {
	var stderr tail
	w := r.mask.writer(&stderr)
	code, err := r.exec(ctx, vm.Cmd{Args: append([]string{"/bin/sh", "-c", script, "9ci"}, args...), Stderr: w})
	w.Flush()
	if err == nil && code != 0 {
		err = fmt.Errorf("status %d: %s", code, strings.TrimSpace(stderr.String()))
	}
	return err
}

// errTooLong is an answer's that is over its limit.
var errTooLong = errors.New("more than that is taken")

// An answer is what the executor itself reads of a machine, of limit bytes at
// most: more ends the command.
type answer struct {
	limit int
	b     []byte
}

func (a *answer) Write(p []byte) (int, error) {
	if len(p) > a.limit-len(a.b) {
		return 0, errTooLong
	}
	a.b = append(a.b, p...)
	return len(p), nil
}

// ask is exec for an answer on standard output, which is what. One of more than
// limit bytes is a result of the run.
func (r *running) ask(ctx context.Context, what string, limit int, c vm.Cmd) (string, int, error) {
	a := answer{limit: limit}
	c.Stdout = &a
	code, err := r.exec(ctx, c)
	if errors.Is(err, errTooLong) {
		err = failed{1, fmt.Sprintf("%s is over %d bytes", what, limit)}
	}
	return string(a.b), code, err
}

// exec runs a command in the repository with the run's environment and returns
// its status as sh(1) counts it. Output that c does not direct goes to the
// current step, without the values of secrets.
func (r *running) exec(ctx context.Context, c vm.Cmd) (int, error) {
	if c.Dir == "" {
		c.Dir = srcDir
	}
	c.Env = append(r.env(), c.Env...)
	if c.Stdout == nil {
		c.Stdout = r.stdout
	}
	if c.Stderr == nil {
		c.Stderr = r.stderr
	}
	exit, err := r.m.Run(ctx, c)
	if err != nil {
		return 0, err
	}
	return exit.Code, nil
}

// env is the environment of every step.
func (r *running) env() []string {
	env := []string{
		"PATH=" + guestPath,
		"HOME=/root",
		"LANG=C.UTF-8",
		"CI=true",
		"CONTAINERIMAGE=" + r.defaultImage(),
	}
	env = append(env, r.cfg.Env...)
	return append(env, r.cfg.Secrets...)
}
