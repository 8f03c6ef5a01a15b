package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/crypto/ssh"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/replay"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs"
)

// A host is an executor of this process with all that it has to do with: its
// store, those it trusts, and its way to the orchestrator.
type host struct {
	*executor.Executor
	mux    *mux
	key    ssh.PublicKey
	replay replay.Replayer // but for the signers: see replayer
	say    func(format string, args ...any)
}

// hostOptions are what executors of a process have in common, and how each
// tells what happens.
type hostOptions struct {
	mode  string                            // run or daemon
	tool  func(name string) (string, error) // see executor.Executor
	queue *executor.Queue
	log   *slog.Logger
	say   func(format string, args ...any) // what is not the result of a run
}

// runOptions are those of a process that runs for one repository.
func runOptions() hostOptions {
	return hostOptions{mode: "run", tool: tool, queue: new(executor.Queue), log: slog.New(slog.DiscardHandler), say: say}
}

// newHost makes the executor of a repository. ctx ends its runs. It runs
// nothing, and is not known at the orchestrator, until start.
func newHost(ctx context.Context, r *repo.Repo, c *config.Config, o hostOptions) (*host, error) {
	key, err := sign.LoadKey(c.Key)
	if err != nil {
		return nil, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	ns := r.Namespace(sign.Fingerprint(key.PublicKey()))
	state, err := home.State()
	if err != nil {
		return nil, err
	}
	store, err := fs.OpenStore(filepath.Join(state, filepath.FromSlash(ns)))
	if err != nil {
		return nil, err
	}
	h := &host{
		Executor: &executor.Executor{
			Context:   ctx,
			Namespace: ns,
			Store:     store,
			Config:    c,
			Mode:      o.mode,
			Host:      hostname,
			Version:   version(),
			Tool:      o.tool,
			Sign:      func(manifest []byte) ([]byte, error) { return sign.Manifest(key, manifest) },
			Queue:     o.queue,
			Log:       o.log,
		},
		key:    key.PublicKey(),
		replay: replay.Replayer{Store: store, Say: o.say},
		say:    o.say,
	}
	h.SetRepo(r)
	if h.mux, err = newMux(c, h.Executor, key, o.say); err != nil {
		store.Close()
		return nil, err
	}
	if h.mux != nil {
		h.replay.Mux, h.replay.Name = h.mux.root, h.mux.myName
	}
	h.Replay = func(ctx context.Context, r *repo.Repo, key fs.Attrs, c *config.Config) (string, error) {
		rr, err := h.replayer(ctx, r, c)
		if err != nil {
			return "", err
		}
		run, _ := rr.Find(ctx, key, c)
		return run.ID, nil
	}
	h.Await = func(ctx context.Context, r *repo.Repo, key fs.Attrs, c *config.Config, own string) (string, func(), error) {
		rr, err := h.replayer(ctx, r, c)
		if err != nil {
			return "", nil, err
		}
		run, _, release := rr.Await(ctx, key, c, own)
		return run.ID, release, context.Cause(ctx)
	}
	return h, nil
}

// start takes up the runs of processes that were killed: a daemon lets those go
// that were queued, and all others are sealed as they were left.
func (h *host) start(ctx context.Context) {
	if h.Mode == "daemon" {
		if err := h.Resume(ctx); err != nil {
			h.say("%v", err)
		}
	}
	if _, err := h.Store.Recover(ctx, h.Sign); err != nil {
		h.say("%v", err)
	}
	h.Store.SetKeep(h.Config.Keep)
}

// replayer finds runs for a clone of the repository. A daemon may have several
// clones, and one does not decide whom another trusts.
func (h *host) replayer(ctx context.Context, r *repo.Repo, c *config.Config) (*replay.Replayer, error) {
	s, err := signers(ctx, r, c, h.key)
	if err != nil {
		return nil, err
	}
	rr := h.replay
	rr.Signers = s
	return &rr, nil
}

// Close waits for the runs, whose context is to end first, and lets go of the
// store and the orchestrator.
func (h *host) Close() {
	h.Executor.Close()
	h.mux.Close()
	if err := h.Executor.Store.Close(); err != nil {
		h.say("%v", err)
	}
}

// namespace returns the namespace of a repository at an executor so configured.
func namespace(r *repo.Repo, c *config.Config) (string, error) {
	if ns, ok := r.Origin(); ok {
		return ns, nil
	}
	key, err := sign.LoadKey(c.Key)
	if err != nil {
		return "", err
	}
	return r.Namespace(sign.Fingerprint(key.PublicKey())), nil
}

// signers are those whose runs are replayed. r may be nil: there is no
// repository.
func signers(ctx context.Context, r *repo.Repo, c *config.Config, own ssh.PublicKey) (*sign.Signers, error) {
	dir, err := home.Config()
	if err != nil {
		return nil, err
	}
	s := new(sign.Signers)
	s.Add("this executor", own)
	for _, name := range []string{c.Signers, filepath.Join(dir, "allowed_signers")} {
		if name == "" {
			continue
		}
		if err := s.AddFile(name); err != nil {
			return nil, err
		}
	}
	if r == nil {
		return s, nil
	}
	const upstream = "refs/remotes/origin/HEAD"
	if text, err := r.File(ctx, upstream, ".9ci/allowed_signers"); err == nil {
		if err := s.AddText(upstream+":.9ci/allowed_signers", text); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// revision is set by the mkfile: git describe of the sources.
var revision string

// version is that of this program.
func version() string {
	if revision != "" {
		return revision
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// tool finds a static binary that goes into the machine: beside this program,
// or in ../lib/9ci.
func tool(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, d := range []string{dir, filepath.Join(dir, "../lib/9ci")} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not beside %s: mk install puts it there", name, self)
}
