package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"9ci/cmd/internal/artifacts"
	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/proto/ninep"
)

// runFlags are the flags of 9ci run.
type runFlags struct {
	force, dry, quiet, verbose, exit, replayOnly, background, raw, trace bool
}

func (o *runFlags) flags() *flag.FlagSet {
	f := newFlags("run")
	f.BoolVar(&o.force, "f", false, "")
	f.BoolVar(&o.dry, "n", false, "")
	f.BoolVar(&o.quiet, "q", false, "")
	f.BoolVar(&o.verbose, "v", false, "")
	f.BoolVar(&o.exit, "x", false, "")
	f.BoolVar(&o.replayOnly, "r", false, "")
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
	if o.force && o.replayOnly {
		return exitError, errors.New("-f runs and -r replays: give one of them")
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
			err = to.Check() // rather than after the run
		}
		if err != nil {
			return exitError, fmt.Errorf("CI_ARTIFACTS: %w", err)
		}
	}
	rev := "HEAD"
	if f.NArg() > 0 {
		rev = f.Arg(0)
	}
	commit, tree, err := rp.Resolve(ctx, rev)
	if err != nil {
		return exitError, err
	}
	if rev == "HEAD" && !o.quiet {
		tellDirty(ctx, rp)
	}
	req := executor.Request{Repo: rp, Commit: commit, Tree: tree, Targets: []string{"test"}, Force: o.force, Config: c}
	if f.NArg() > 1 {
		req.Targets = f.Args()[1:]
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

// tellWarnings says what of the configuration is ignored, and why.
func tellWarnings(c *config.Config) {
	for _, w := range c.Warnings {
		say("%s", w)
	}
}

// tellDirty says how much of the work tree a run of HEAD does not see.
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

// runHere replays or runs req in this process, and serves the tree as long as
// CI_CONNECTED says.
func runHere(ctx context.Context, rp *repo.Repo, req executor.Request, o runFlags) (int, error) {
	c := req.Config
	runs, cancelRuns := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelRuns(nil)
	h, err := newHost(runs, rp, c, runOptions())
	if err != nil {
		return exitError, err
	}
	defer h.Close()
	defer cancelRuns(nil) // before Close waits for them
	h.start(ctx)
	if o.dry {
		return tell(ctx, h, req)
	}
	if o.replayOnly {
		if c.Runs {
			return exitNoReplay, errors.New("a run with CI_RUNS=1 is never replayed")
		}
		id, err := h.Replay(ctx, rp, replay.Key(c, req.Commit, req.Tree, req.Targets), c)
		if err != nil {
			return exitError, err
		}
		if id == "" {
			return exitNoReplay, fmt.Errorf("no run of %.12s that can be trusted was found", req.Commit)
		}
		return finish(ctx, h.Tree(), id, o, c, rp)
	}
	door, err := post(runs, h.Tree(), h.Namespace, o.trace)
	if err != nil {
		return exitError, err
	}
	defer door.close()
	h.mux.export(runs)

	stop := context.AfterFunc(ctx, func() { cancelRuns(context.Cause(ctx)) })
	id, err := h.Submit(ctx, req)
	if err != nil {
		return exitError, err
	}
	code, err := finish(context.WithoutCancel(ctx), h.Tree(), id, o, c, rp)
	if werr := h.Wait(id); werr != nil {
		return exitError, werr
	}
	if err != nil || !stop() {
		return code, err
	}
	stayConnected(ctx, door, o, c)
	return code, nil
}

// finish prints a run, tells of a replay, copies the artifacts where
// CI_ARTIFACTS says and returns the exit status. What came of post-test, which
// is no part of the run, counts where it was not a replay.
func finish(ctx context.Context, root fs.Dir, id string, o runFlags, c *config.Config, rp *repo.Repo) (int, error) {
	dir, err := ask.Dir(ctx, root, "ci/"+id)
	if err != nil {
		return exitError, err
	}
	before, err := ask.Status(ctx, dir, "status")
	if err != nil {
		return exitError, err
	}
	p := show.Run{
		Out:     content(show.Out, o.raw),
		Err:     content(show.Err, o.raw),
		Verbose: o.verbose,
		Quiet:   o.quiet,
	}
	if show.Err.Terminal() {
		p.Progress = show.Err.Words()
	}
	st, err := p.Follow(ctx, dir)
	if err != nil {
		return exitError, err
	}
	if c.Artifacts != "" && st.State == "passed" {
		to, err := artifactsDir(c, rp)
		if err == nil {
			err = to.Replace(func(to *os.Root) error { return copyArtifacts(ctx, dir, to) })
		}
		if err != nil {
			return exitError, fmt.Errorf("CI_ARTIFACTS: %w", err)
		}
	}
	if before.Finished() && !o.quiet {
		text, err := replayed(ctx, root, dir, id)
		if err != nil {
			return exitError, err
		}
		show.Err.Printf("%s\n", text)
	} else if !before.Finished() && !o.quiet {
		show.Err.Printf("run %s %s in %.1fs\n", id, st.State, st.Took.Seconds())
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

// content is where content goes: all of it where raw is asked for.
func content(w *show.Writer, raw bool) io.Writer {
	if raw {
		return w.Raw()
	}
	return w
}

// replayed is the line that ends a replay.
func replayed(ctx context.Context, root, run fs.Dir, id string) (string, error) {
	info, err := ask.Attrs(ctx, run, "info")
	if err != nil {
		return "", err
	}
	end, err := time.Parse(time.RFC3339, info.Get("end"))
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

// age is a duration as people say it: 41s, 7m, 3h, 2d.
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

// artifactsDir is what CI_ARTIFACTS names. What this user's 9ci has put there is
// known whatever repository it was of.
func artifactsDir(c *config.Config, rp *repo.Repo) (artifacts.Dir, error) {
	state, err := home.State()
	return artifacts.Dir{Name: c.Artifacts, Top: rp.Top, Records: filepath.Join(state, ".artifacts")}, err
}

// copyArtifacts copies what a run left.
func copyArtifacts(ctx context.Context, run fs.Dir, to *os.Root) error {
	n, err := run.Walk(ctx, "artifacts")
	if err != nil {
		return err
	}
	dir, ok := n.(fs.Dir)
	if !ok {
		return errors.New("the run's artifacts are not a directory")
	}
	return copyEntries(ctx, dir, to)
}

// stayConnected serves the tree until a signal, or as long as CI_CONNECTED says.
func stayConnected(ctx context.Context, d *door, o runFlags, c *config.Config) {
	wait := c.Connected
	if o.exit {
		wait = 0
	}
	if wait == 0 {
		return
	}
	if !o.quiet {
		say("connected: the run is served at %s until ^C", d.name)
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

// tell says what a run of req would do, and why.
func tell(ctx context.Context, h *host, req executor.Request) (int, error) {
	switch {
	case req.Force:
		show.Out.Printf("would run %s: -f was given\n", req.Commit)
	case req.Config.Runs:
		show.Out.Printf("would run %s: a run with CI_RUNS=1 is never replayed\n", req.Commit)
	default:
		key := replay.Key(req.Config, req.Commit, req.Tree, req.Targets)
		r, err := h.replayer(ctx, req.Repo, req.Config)
		if err != nil {
			return exitError, err
		}
		if where := r.Look(ctx, key, req.Config); where != "" {
			show.Out.Printf("would replay %s\n", where)
		} else {
			show.Out.Printf("would run %s: no run with its key was found\n", req.Commit)
		}
	}
	return 0, nil
}

// A door is a socket in $NAMESPACE behind which the tree is served.
type door struct {
	name  string
	close func()
}

// post serves root at $NAMESPACE/9ci, or at 9ci.PID where another process
// holds that.
func post(ctx context.Context, root fs.Dir, namespace string, trace bool) (*door, error) {
	dir, err := ninep.Namespace()
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "9ci")
	l, err := ninep.Listen("unix!" + name)
	if errors.Is(err, syscall.EADDRINUSE) {
		name = fmt.Sprintf("%s.%d", name, os.Getpid())
		l, err = ninep.Listen("unix!" + name)
	}
	if err != nil {
		return nil, err
	}
	close := serveTree(ctx, []net.Listener{l}, &ninep.Server{Root: root, Attach: attachTo(root, namespace)}, trace,
		func(err error) { say("%v: the run is not served any more", err) })
	return &door{name, close}, nil
}

// serveTree answers at listeners until ctx is done or the function that it
// returns is called. lost is called with the error of each that accepts no more
// connections before.
func serveTree(ctx context.Context, listeners []net.Listener, srv *ninep.Server, trace bool, lost func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	if trace {
		srv.Trace = show.Err.Words()
	}
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := srv.ServeListener(ctx, l); err != nil && ctx.Err() == nil {
				lost(fmt.Errorf("%s: %w", dialString(l.Addr()), err))
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// serveUntil is serveTree until ctx is done, or a listener is lost, which is an
// error: a daemon without one of its doors would look like one that has it.
func serveUntil(ctx context.Context, listeners []net.Listener, srv *ninep.Server, trace bool) (int, error) {
	lost := make(chan error, len(listeners))
	defer serveTree(ctx, listeners, srv, trace, func(err error) { lost <- err })()
	select {
	case err := <-lost:
		return exitError, err
	case <-ctx.Done():
		return 0, nil
	}
}

// dialString is a listener's address as ninep.Dial takes it.
func dialString(a net.Addr) string {
	if host, port, err := net.SplitHostPort(a.String()); err == nil && a.Network() == "tcp" {
		return "tcp!" + host + "!" + port
	}
	return a.Network() + "!" + a.String()
}
