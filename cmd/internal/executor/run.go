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
	"sync/atomic"
	"syscall"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/fs/ci"
	"9ci/fs/store"
	"9ci/vm"
	"9ci/vm/lend"
)

// The life of a run, from top to bottom: what each of ci.Steps does.
var steps = map[string]func(*activeRun, context.Context) error{
	"boot":            (*activeRun).boot,           // start a machine for this run alone
	"clone":           (*activeRun).clone,          // the revision, never the dirty tree
	"prepare-runtime": (*activeRun).prepareRuntime, // mk prepare-runtime, as root in the machine
	"base-image":      (*activeRun).baseImage,      // mk base-image makes or pulls $CONTAINERIMAGE
	"test":            (*activeRun).test,           // mk service/NAME; mk test in a container of that image
	"artifacts":       (*activeRun).artifacts,      // mk /var/run/ci/artifacts/%
	"post-test":       (*activeRun).postTest,       // mk post-test, once, never on replay
}

// An activeRun is a run while its machine lives.
type activeRun struct {
	e      *Executor
	req    Request
	cfg    *config.Config // the request's
	run    *store.Run
	m      Machine           // nil before the step boot
	dir    string            // scratch of this run on the host: the source; empty before the step boot
	loan   *lend.Loan        // what the host lends the machine; nil if that has no network
	online bool              // the machine reaches the network
	show   *store.Show       // what the machine sees of kept runs
	kept   []string          // ids of the runs that were kept when this one began
	alias  map[string]string // their ids by alias: last, head, green
	mask   *mask
	stdout *maskWriter // of the current step
	stderr *maskWriter
	mkfile *mkfile   // nil before the step prepare-runtime
	base   container // the repository's own image; its name is empty if there is none
	tested bool      // the test has begun
	failed bool      // the test has failed

	end   context.CancelCauseFunc // of the context of live
	spare func() bool             // has the end of that context not kill m
	time  *clock                  // of CI_TIMEOUT
	idle  *clock                  // of CI_IDLE; what a step writes resets it
	said  [2]int64                // bytes of stdout and stderr that the machine wrote
	oom   string                  // what OutOfMemory of m was as the current step began

	inLine atomic.Bool // the machine has not ended its line on stderr in this step
}

// A Machine is what a run asks of its vm.Machine.
type Machine interface {
	Run(ctx context.Context, cmd vm.Cmd) (vm.Exit, error)
	SetNet(ctx context.Context, up bool) error
	Outbox() *io.SectionReader
	OutboxDevice() string
	Accel() string
	OutOfMemory() string
	Done() <-chan struct{}
	Kill()
}

// errSkipped is the error of a step that had nothing to do.
var errSkipped = errors.New("skipped")

// An mkAnswer is the error of a step that failed because of the revision: mk
// answered other than 0, or what it made cannot be used. It is a result of the
// run and no error of the executor.
type mkAnswer struct {
	code int
	why  string // one line for the step's log, or empty if mk said it
}

func (a mkAnswer) Error() string { return a.why }

// live runs the steps and seals the run. If ctx ends before, or the run passes a
// bound, its machine is killed at once: nothing in the machine can delay that. The
// run's state is cancelled then, or error for a bound. A machine that is to be held
// lives on. The error of live is that of keeping the run, never of running it.
func (r *activeRun) live(ctx context.Context) error {
	ctx, r.end = context.WithCancelCause(ctx)
	defer r.end(nil)
	r.time = newClock(r.cfg.Timeout, func() {
		r.end(bound{fmt.Sprintf("the run took longer than %v: CI_TIMEOUT raises that", r.cfg.Timeout)})
	})
	r.idle = newClock(r.cfg.Idle, func() {
		r.end(bound{fmt.Sprintf("the run said nothing for %v: CI_IDLE raises that", r.cfg.Idle)})
	})
	r.time.start()
	defer r.time.stop()
	defer r.idle.stop()

	state, code := "passed", 0
	for i, name := range ci.Steps {
		if state != "passed" && !(name == "artifacts" && r.failed) {
			r.run.Leave(name, "skipped", 0)
			continue
		}
		r.run.Enter(name) // Seal reports what could not be kept of the run
		r.inLine.Store(false)
		if r.m != nil {
			r.oom = r.m.OutOfMemory()
		}
		if i >= ci.FirstLogged {
			r.idle.reset()
			r.idle.start()
		}
		st, c := r.outcome(ctx, steps[name](r, ctx))
		r.stdout.Flush()
		r.stderr.Flush()
		r.run.Leave(name, st, c)
		switch {
		case st == "passed" || st == "skipped":
		case r.failed: // the test's state and code are the run's
		case name == "post-test": // the run has passed all the same, and may be shared
		default:
			state, code = st, c
			r.failed = name == "test" && st == "failed"
		}
	}
	r.time.stop()
	r.idle.stop()
	if !r.hold(ctx, state) { // before others see that the run has ended
		r.close() // first: on a full disk there is room for the seal then
	}
	return r.run.Seal(context.WithoutCancel(ctx), state, code, r.e.Sign)
}

// outcome turns a step's error into the step's state and code, and writes it to
// the step's log unless mk has done so.
func (r *activeRun) outcome(ctx context.Context, err error) (state string, code int) {
	var a mkAnswer
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
		} else if _, ok := err.(bound); ok {
			state, code = "error", 125
		}
	case errors.As(err, &a):
		state, code = "failed", a.code
	default:
		state, code = "error", 125
	}
	if err.Error() != "" {
		r.say("%v", err)
	}
	if state != "cancelled" {
		r.sayMemory(err)
	}
	return state, code
}

// sayMemory names CI_MEMORY if memory was short as a step failed with err: on the
// host, or in the machine during the step.
func (r *activeRun) sayMemory(err error) {
	if errors.Is(err, syscall.ENOMEM) {
		r.say("the memory of the host was full, with a machine of CI_MEMORY=%dM", r.cfg.Memory>>20)
	}
	if r.m == nil {
		return
	}
	if line := r.m.OutOfMemory(); line != "" && line != r.oom {
		r.say("the memory of the machine was full, CI_MEMORY=%dM: %s", r.cfg.Memory>>20, line)
	}
}

// say writes a line of ours to the current step's log, apart from a line of the
// machine's that has not ended. Secrets are masked in it too: it may quote the machine.
func (r *activeRun) say(format string, args ...any) {
	start := "9ci: "
	if r.inLine.Swap(false) {
		start = "\n9ci: "
	}
	fmt.Fprintf(r.stderr, start+format+"\n", args...)
}

// close ends the machine and removes the run's scratch from the host.
func (r *activeRun) close() {
	if r.m != nil {
		r.spare()
		r.m.Kill()
	}
	if r.show != nil {
		r.show.Close()
	}
	os.RemoveAll(r.dir)
}

// diskSize is the size in bytes of a machine's disk. The disk is sparse: on the
// host it takes the room of what was written, until the run ends.
const diskSize = 64 << 30

// outboxSize is the size in bytes of the disk by which the artifacts leave a
// machine: all that a run may keep, and 1 GiB for the tar's headers.
const outboxSize = ci.MaxArtifacts + 1<<30

// Names in the machine.
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

func (r *activeRun) boot(ctx context.Context) error {
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
	if r.dir, err = scratch(); err != nil {
		return err
	}
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
	if err := r.lend(ctx, &config); err != nil {
		return err
	}
	start := r.e.Start
	if start == nil {
		start = r.start
	}
	if r.m, err = start(ctx, config); err != nil {
		return err
	}
	r.spare = context.AfterFunc(ctx, r.m.Kill)
	r.e.Queue.setAccel(r.m.Accel())
	// /var/run is memory, so the artifacts are on the machine's disk. A test writes
	// there as whatever user its image has.
	script := `
set -e
mkdir -p "${1%/*}" "$3" /var/lib/ci/artifacts
chmod 777 /var/lib/ci/artifacts
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

// lend lends the machine of c the host's own ways to the outside, where it may use
// the network.
func (r *activeRun) lend(ctx context.Context, c *vm.Config) error {
	if !c.Net {
		return nil
	}
	o := lend.Options{AuthFile: r.cfg.AuthFile}
	for _, reg := range r.cfg.Registries {
		o.Registries = append(o.Registries, lend.Registry{Name: reg.Name, URL: reg.Mirror})
	}
	var err error
	if r.loan, err = lend.Host(ctx, o); err != nil {
		return err
	}
	for _, w := range r.loan.Warnings {
		r.say("%s", w)
	}
	c.Files, c.Forwards = r.loan.Files, r.loan.Forwards
	r.online = true
	return nil
}

// setNet says whether the machine reaches the network, and with it what the host
// lends.
func (r *activeRun) setNet(ctx context.Context, up bool) error {
	r.online = up
	return r.m.SetNet(ctx, up)
}

// start starts a machine of the core OS with the rest of c.
func (r *activeRun) start(ctx context.Context, c vm.Config) (Machine, error) {
	r.time.stop() // a run pays for no core OS
	image, err := vm.EnsureImage(ctx, vm.ImageOptions{Cache: c.Cache, Progress: r.stderr})
	r.time.start()
	if err != nil {
		return nil, err
	}
	r.run.SetInfo(ci.Attrs{{Name: "coreos", Value: image.Digest}})
	c.Image = image
	var why string
	if c.Accel, why = vm.Probe(ctx, c); why != "" {
		r.say("no %s, so the machine is slow: %s", vm.Accelerator(), why)
	}
	m, err := vm.Start(ctx, c)
	if err != nil {
		return nil, err // and no Machine that is a nil *vm.Machine
	}
	return m, nil
}

func (r *activeRun) clone(ctx context.Context) error {
	head, err := r.req.Repo.Clone(ctx, r.req.Commit, r.cfg.MatchTree, filepath.Join(r.dir, "source"))
	if err != nil {
		return err
	}
	if !r.req.Repo.HasFile(ctx, r.req.Commit, "mkfile") {
		r.say("no mkfile at this revision: write one with a target test")
	}
	return r.shell(ctx, repo.Checkout, sourceShare, head)
}

func (r *activeRun) prepareRuntime(ctx context.Context) error {
	var err error
	if r.mkfile, err = r.askMkfile(ctx); err != nil {
		return err
	}
	if !r.mkfile.hasTarget("prepare-runtime") {
		return errSkipped
	}
	return r.mk(ctx, "prepare-runtime")
}

func (r *activeRun) baseImage(ctx context.Context) error {
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
	return r.run.SetInfo(ci.Attrs{{Name: "image", Value: r.mask.text(r.base.name) + " " + r.base.digest}})
}

func (r *activeRun) test(ctx context.Context) error {
	// The key that the run is signed with says net=build: a test that ran with
	// a network all the same must not pass for one that had none.
	if r.cfg.Net == "build" {
		if err := r.setNet(ctx, false); err != nil {
			return err
		}
	}
	r.tested = true
	services, err := r.startServices(ctx)
	if err != nil {
		return err
	}
	defer r.endServices(ctx, services)
	targets := r.req.Targets
	if r.base.name == "" {
		return r.mkStatus(ctx, r.besideTest(append([]string{plan9Bin + "/mk"}, targets...)...))
	}
	keep := r.toHold()
	code, err := r.exec(ctx, r.podmanRun(targets, keep))
	if err != nil {
		return err
	}
	switch code {
	case 0:
		if keep { // for nobody: what follows finds what it finds without CI_HOLD
			return r.shell(ctx, `podman rm "$1" >/dev/null`, testContainer)
		}
		return nil
	case 125, 126, 127: // podman-run(1): podman itself failed, or could not start mk
		return fmt.Errorf("podman could not run mk in %s (status %d)", r.base.name, code)
	}
	return mkAnswer{code: code}
}

// artifacts keeps what is in the artifacts' directory: what the test put there
// itself, and, if it passed, what mk then makes.
func (r *activeRun) artifacts(ctx context.Context) error {
	var targets []string
	if !r.failed {
		var literal bool
		targets, literal = r.mkfile.artifactTargets()
		if err := r.makeArtifacts(ctx, targets, literal); err != nil {
			return err
		}
	}
	if err := r.collect(ctx); err != errSkipped || len(targets) == 0 {
		return err
	}
	return nil
}

func (r *activeRun) makeArtifacts(ctx context.Context, targets []string, literal bool) error {
	if len(targets) == 0 {
		return nil
	}
	err := r.mk(ctx, targets...)
	var a mkAnswer
	if literal && errors.As(err, &a) {
		a.why = "the rule for " + artifactsDir + "/% was made for a stem of % as the mkfile names no artifact: set ARTIFACTS to their names"
		return a
	}
	if errors.Is(err, syscall.E2BIG) {
		return mkAnswer{1, "the names of the artifacts in the mkfile are more than a command takes: make a tar of them"}
	}
	return err
}

// collect has the machine write the artifacts to its outbox as a tar that keeps
// holes, and reads them from there. The tar is not trusted: the machine's root
// may have written anything. If there are no artifacts, the error is errSkipped.
func (r *activeRun) collect(ctx context.Context) error {
	r.idle.stop() // the revision is done
	script := `
cd "$1" || exit
test "$(find . -mindepth 1 -print -quit)" || exit 4
said=/run/9ci/tar
tar --format=pax --pax-option=delete=atime,delete=ctime --sparse --hard-dereference --one-file-system -b 2048 -cf "$2" . 2>$said
code=$?
grep -v ': socket ignored$' $said >&2
[ $code -le 1 ] || exit 2 # 1: a file has changed meanwhile
grep -m1 ': socket ignored$' $said && exit 3
sync "$2"
`
	name, code, err := r.ask(ctx, "the name of a socket", 8<<10, vm.Cmd{Args: []string{"/bin/sh", "-c", script, "9ci", artifactsDir, r.m.OutboxDevice()}})
	switch {
	case err != nil:
		return err
	case code == 4:
		return errSkipped
	case code == 3:
		name = strings.TrimSuffix(strings.TrimPrefix(name, "tar: ./"), ": socket ignored\n")
		return mkAnswer{1, fmt.Sprintf("%q is a socket: only files, directories and symbolic links can be kept", name)}
	case code != 0:
		return mkAnswer{1, fmt.Sprintf("tar could not pack %s, of which %d bytes can be kept", artifactsDir, int64(ci.MaxArtifacts))}
	}
	err = r.run.AddArtifacts(ctx, r.m.Outbox())
	if errors.Is(err, store.ErrRefused) {
		return mkAnswer{1, err.Error()}
	}
	return err
}

func (r *activeRun) postTest(ctx context.Context) error {
	if !r.mkfile.hasTarget("post-test") {
		return errSkipped
	}
	if r.cfg.Net == "build" {
		if err := r.setNet(ctx, true); err != nil {
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

// keptRuns notes the runs of this repository that are kept now, and their
// aliases: first the runs that have one, then all from the newest on.
func (r *activeRun) keptRuns(ctx context.Context) {
	r.alias = make(map[string]string)
	for _, alias := range []string{"green", "head"} {
		if id, ok := r.e.sealed(ctx, alias); ok {
			r.alias[alias] = id
			r.kept = append(r.kept, id)
		}
	}
	for run := range r.e.Store.Runs() {
		if run.Run != nil {
			continue // it has not ended
		}
		if r.alias["last"] == "" {
			r.alias["last"] = run.ID
		}
		r.kept = append(r.kept, run.ID)
	}
}

// showRuns fills /n/ci in the machine, which is empty until then, with the kept
// runs.
func (r *activeRun) showRuns(ctx context.Context) error {
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
func (r *activeRun) mk(ctx context.Context, args ...string) error {
	return r.mkStatus(ctx, append([]string{plan9Bin + "/mk"}, args...))
}

// mkStatus runs a command whose exit status is mk's.
func (r *activeRun) mkStatus(ctx context.Context, args []string) error {
	code, err := r.exec(ctx, vm.Cmd{Args: args})
	if err != nil {
		return err
	}
	if code != 0 {
		return mkAnswer{code: code}
	}
	return nil
}

// shell runs a script of ours with arguments. If the script fails, that is an
// error of the executor.
func (r *activeRun) shell(ctx context.Context, script string, args ...string) error {
	var stderr tail
	w := r.mask.writer(&stderr)
	code, err := r.exec(ctx, vm.Cmd{Args: append([]string{"/bin/sh", "-c", script, "9ci"}, args...), Stderr: w})
	w.Flush()
	if err == nil && code != 0 {
		err = fmt.Errorf("status %d: %s", code, strings.TrimSpace(stderr.String()))
	}
	return err
}

// errTooLong is the error of a Write to an output that is full.
var errTooLong = errors.New("more than that is taken")

// An output keeps what a command in the machine writes, limit bytes at most. If
// the command writes more, it is ended.
type output struct {
	limit int
	b     []byte
}

func (a *output) Write(p []byte) (int, error) {
	if len(p) > a.limit-len(a.b) {
		return 0, errTooLong
	}
	a.b = append(a.b, p...)
	return len(p), nil
}

// ask runs a command as exec does, and returns its standard output. If that has
// more than limit bytes, the error is an mkAnswer that calls it by the name what.
func (r *activeRun) ask(ctx context.Context, what string, limit int, c vm.Cmd) (string, int, error) {
	a := output{limit: limit}
	c.Stdout = &a
	code, err := r.exec(ctx, c)
	if errors.Is(err, errTooLong) {
		err = mkAnswer{1, fmt.Sprintf("%s is over %d bytes", what, limit)}
	}
	return string(a.b), code, err
}

// exec runs a command in the repository with the run's environment, and returns
// its exit status as sh(1) counts it. Output that c does not direct goes to the
// current step's log, with secrets masked.
func (r *activeRun) exec(ctx context.Context, c vm.Cmd) (int, error) {
	if c.Dir == "" {
		c.Dir = srcDir
	}
	c.Env = append(r.env(), c.Env...)
	if c.Stdout == nil {
		c.Stdout = stream{r, "stdout", r.stdout, &r.said[0], r.idle}
	}
	if c.Stderr == nil {
		c.Stderr = stream{r, "stderr", r.stderr, &r.said[1], r.idle}
	}
	exit, err := r.m.Run(ctx, c)
	if err != nil {
		return 0, err
	}
	return exit.Code, nil
}

// env is the environment of every step.
func (r *activeRun) env() []string {
	return slices.Concat([]string{"CONTAINERIMAGE=" + r.defaultImage()}, common, r.lent(), r.cfg.Env, r.cfg.Secrets, r.fixed(guestPath))
}

// lent is the environment that the host lends a step while the machine has its network.
func (r *activeRun) lent() []string {
	if !r.online {
		return nil
	}
	return r.loan.Env
}

// fixed returns the variables that CI_ENV does not replace, for a system that has its
// programs in path: CI, and a PATH that ends in that of CI_ENV.
func (r *activeRun) fixed(path string) []string {
	for _, v := range r.cfg.Env {
		if more, ok := strings.CutPrefix(v, "PATH="); ok && more != "" {
			path += ":" + more
		}
	}
	return []string{"CI=true", "PATH=" + path}
}
