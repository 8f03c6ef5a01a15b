package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/proto/ninep"
)

// runFlags are the flags of 9ci run.
type runFlags struct {
	force, dry, quiet, verbose, exit, replayOnly, result, background, raw, trace bool
}

func (o *runFlags) flags() *flag.FlagSet {
	f := newFlags("run")
	f.BoolVar(&o.force, "f", false, "")
	f.BoolVar(&o.dry, "n", false, "")
	f.BoolVar(&o.quiet, "q", false, "")
	f.BoolVar(&o.verbose, "v", false, "")
	f.BoolVar(&o.exit, "x", false, "")
	f.BoolVar(&o.replayOnly, "r", false, "")
	f.BoolVar(&o.result, "R", false, "")
	f.BoolVar(&o.background, "b", false, "")
	f.BoolVar(&o.raw, "raw", false, "")
	f.BoolVar(&o.trace, "D", false, "")
	return f
}

func runCommand(ctx context.Context, args []string) (int, error) {
	var o runFlags
	f := o.flags()
	if err := parseFlags(f, args, 0, -1); err != nil {
		return exitError, err
	}
	show.Outlive()
	o.replayOnly = o.replayOnly || o.result
	if o.force && o.replayOnly {
		return exitError, errors.New("-f runs, and -r and -R replay: give one of them")
	}
	rp, err := repo.Open(ctx, ".")
	if err != nil {
		return exitError, err
	}
	c, err := config.Load(ctx, rp, nil)
	if err != nil {
		return exitError, err
	}
	if !o.quiet {
		tellWarnings(c)
	}
	if c.Artifacts != "" && !o.background {
		to, err := artifactsDir(c, rp)
		if err == nil {
			err = to.Check() // tell the user now, not after the run
		}
		if err != nil {
			return exitError, fmt.Errorf("CI_ARTIFACTS: %w", err)
		}
	}
	rev := "HEAD"
	req := executor.Request{Repo: rp, Targets: []string{"test"}, Force: o.force, Config: c}
	if f.NArg() > 0 {
		rev = f.Arg(0)
	}
	if f.NArg() > 1 {
		req.Targets = f.Args()[1:]
	}
	if err := req.Check(); err != nil {
		return exitError, err
	}
	if req.Commit, req.Tree, err = rp.Resolve(ctx, rev); err != nil {
		return exitError, err
	}
	if rev == "HEAD" && !o.quiet {
		tellDirty(ctx, rp)
	}
	key := replay.Key(c, req.Commit, req.Tree, req.Targets)
	if err := key.Check(); err != nil {
		return exitError, fmt.Errorf("the key of the run: %w", err)
	}
	if !o.dry && !o.replayOnly {
		d, err := findDaemon(ctx)
		if err != nil {
			return exitError, err
		}
		if d != nil {
			return d.hand(ctx, rp, req, o)
		}
		if o.background {
			return exitError, errors.New("-b hands the run to a daemon, and none answers: start one with 9ci serve")
		}
	}
	return runHere(ctx, rp, req, o)
}

// tellDirty says how many files have changes that a run of HEAD does not see.
func tellDirty(ctx context.Context, rp *repo.Repo) {
	switch n, err := rp.Dirty(ctx); {
	case err != nil:
		say("%v", err)
	case n == 1:
		say("1 dirty file ignored")
	case n > 1:
		say("%d dirty files ignored", n)
	}
}

// runHere replays or runs req in this process. After a run it serves the tree as
// long as CI_CONNECTED says.
func runHere(ctx context.Context, rp *repo.Repo, req executor.Request, o runFlags) (int, error) {
	c := req.Config
	runs, cancelRuns := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelRuns(nil)
	h, err := newHost(runs, rp, c, o.dry)
	if err != nil {
		return exitError, err
	}
	defer h.Close()
	defer cancelRuns(nil) // Close waits for the runs
	if o.dry {
		return tell(ctx, h, req, o)
	}
	h.Start(ctx)
	tree := h.Executor.Tree()
	if o.replayOnly {
		if c.Runs {
			return exitNoReplay, errors.New("a run with CI_RUNS=1 is never replayed")
		}
		r := h.Replayer(rp, c)
		r.Explain, r.Failed = true, o.result
		run, ok := r.Find(ctx, replay.Key(c, req.Commit, req.Tree, req.Targets), c)
		if ctx.Err() != nil {
			return exitError, ctx.Err()
		}
		if !ok {
			return exitNoReplay, fmt.Errorf("no run of %.12s that can be trusted was found: 9ci run -n says why", req.Commit)
		}
		return finish(ctx, tree, run.ID, o, c, rp, h.Rung)
	}
	served := "" // where
	if c.Orchestrator != "" {
		served = c.Address()
	}
	if l, err := post(nil); err != nil {
		say("%v: the run goes on, and is not served here", err)
	} else {
		served = l.Addr().String()
		srv := &ninep.Server{Root: tree, Attach: host.AttachTo(tree, h.Executor.Namespace), SSH: host.LocalSSH(tree, h.At)}
		defer serveTree(runs, []net.Listener{l}, srv, o.trace, func(err error) { say("%v: the run is not served any more", err) })()
	}
	h.Export(runs)

	stop := context.AfterFunc(ctx, func() { cancelRuns(context.Cause(ctx)) })
	id, err := h.Executor.Submit(ctx, req)
	if err != nil {
		return exitError, err
	}
	run, gerr := h.Executor.Store.Get(id)
	made := gerr == nil && run.Run != nil // and not replayed
	code, err := finish(context.WithoutCancel(ctx), tree, id, o, c, rp, h.Rung)
	if werr := h.Executor.Wait(id); werr != nil {
		return exitError, werr
	}
	if err != nil || !stop() {
		return code, err
	}
	if made && (o.exit || c.Connected == 0) && !c.Runs {
		letAdopt(ctx, h, id, o, c, rp)
	}
	if served != "" {
		stayConnected(ctx, served, o, c)
	}
	h.Executor.AwaitHold(ctx, id)
	return code, nil
}

// finish prints a run, copies what it left to CI_ARTIFACTS, and returns the exit
// status. If the run had ended before, it is a replay, and a line says so, and by
// which rung of CI_LADDER it came if rung knows that. If not, a failure of post-test
// makes the exit status 1, though the run has passed.
func finish(ctx context.Context, root fs.Dir, id string, o runFlags, c *config.Config, rp *repo.Repo, rung func(id string) string) (int, error) {
	dir, err := ask.Dir(ctx, root, "ci/"+id)
	if err != nil {
		return exitError, err
	}
	before, err := ask.Status(ctx, dir, "status")
	if err != nil {
		return exitError, err
	}
	p := show.Run{
		Out:     show.Lasting(content(show.Out, o.raw)), // the run goes on without its reader
		Err:     show.Lasting(content(show.Err, o.raw)),
		Verbose: o.verbose,
		Quiet:   o.quiet,
		Piped:   show.Piped(),
	}
	if show.Err.Terminal() {
		p.Progress = show.Err
	}
	st, err := p.Follow(ctx, dir)
	if err != nil {
		return exitError, err
	}
	left := st.State == "passed"
	if st.State == "failed" { // its artifacts are those of the test itself, if it left any
		step, err := ask.Status(ctx, dir, "step/artifacts/status")
		if err != nil {
			return exitError, err
		}
		left = step.State == "passed"
	}
	if c.Artifacts != "" && left {
		to, err := artifactsDir(c, rp)
		if err == nil {
			err = to.Replace(func(to *os.Root) error { return copyArtifacts(ctx, dir, to) })
		}
		if err != nil {
			return exitError, fmt.Errorf("CI_ARTIFACTS: %w", err)
		}
	}
	if before.Finished() && !o.quiet {
		text, err := replayed(ctx, dir)
		if err != nil {
			return exitError, err
		}
		show.Err.Printf("%s%s\n", text, byRung[rung(id)])
	} else if !before.Finished() && !o.quiet {
		show.Err.Printf("run %s %s in %.1fs\n", id, st.State, st.Took.Seconds())
	}
	if held, err := ask.Attrs(ctx, dir, "hold"); err == nil && !before.Finished() && !o.quiet {
		say("the machine of %s is held until %s: 9ci sh %[1]s has a shell there", id, held.Get("until"))
	}
	code := exitStatus(st)
	if code == 0 && !before.Finished() {
		post, err := ask.Status(ctx, dir, "step/post-test/status")
		if err != nil {
			return exitError, err
		}
		if post.State != "passed" && post.State != "skipped" {
			say("post-test %s %d: the run has passed all the same", post.State, post.Code)
			code = 1
		}
	}
	return code, nil
}

// replayed returns the line that ends a replay.
func replayed(ctx context.Context, run fs.Dir) (string, error) {
	info, err := ask.Attrs(ctx, run, "info")
	if err != nil {
		return "", err
	}
	end, err := ci.End(info)
	if err != nil {
		return "", err
	}
	signer := "nobody"
	if sig, err := ask.File(ctx, run, "manifest.sig"); err == nil {
		if s, err := sign.Signer(sig); err == nil {
			signer = s
		}
	}
	return fmt.Sprintf("replayed from %s, signed by %s, ran %s ago", info.Get("host"), signer, age(time.Since(end))), nil
}

// byRung ends the line of a replay: by which rung of CI_LADDER the run came.
var byRung = map[string]string{"direct": ", direct", "e2e": ", end to end", "relay": ", by relay"}

// age returns a duration in its largest unit: 41s, 7m, 3h, 2d.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// stayConnected waits, while the tree is served at addr, until a signal comes
// or CI_CONNECTED has passed.
func stayConnected(ctx context.Context, addr string, o runFlags, c *config.Config) {
	wait := c.Connected
	if o.exit {
		wait = 0
	}
	if wait == 0 {
		return
	}
	if !o.quiet {
		say("connected: the run is served at %s until ^C", addr)
	}
	if wait < 0 {
		<-ctx.Done()
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// letAdopt waits until a daemon that adopts runs has this one, if it passed and there
// is such a daemon: nobody else has the run when this process has left.
func letAdopt(ctx context.Context, h *host.Host, id string, o runFlags, c *config.Config, rp *repo.Repo) {
	run, err := h.Executor.Store.Get(id)
	if err != nil || run.State != "passed" {
		return
	}
	r := h.Replayer(rp, c)
	if o.quiet {
		r.Say = func(string, ...any) {}
	}
	r.AwaitAdopter(ctx, run)
}

// tell prints what a run of req would do, and why.
func tell(ctx context.Context, h *host.Host, req executor.Request, o runFlags) (int, error) {
	switch {
	case req.Force:
		show.Out.Printf("would run %s: -f was given\n", req.Commit)
	case req.Config.Runs:
		show.Out.Printf("would run %s: a run with CI_RUNS=1 is never replayed\n", req.Commit)
	default:
		key := replay.Key(req.Config, req.Commit, req.Tree, req.Targets)
		r := h.Replayer(req.Repo, req.Config)
		r.Failed = o.result
		if where := r.Look(ctx, key, req.Config); where != "" {
			show.Out.Printf("would replay %s\n", where)
			break
		}
		if o.replayOnly {
			show.Out.Printf("would exit with %d: no run of %s with its key was found\n", exitNoReplay, req.Commit)
		} else {
			show.Out.Printf("would run %s: no run with its key was found\n", req.Commit)
		}
		for _, line := range r.Nearest(ctx, key, req.Commit, req.Tree, req.Config) {
			show.Out.Printf("%s\n", line)
		}
	}
	return 0, nil
}
