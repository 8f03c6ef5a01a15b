package executor

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/vm"
)

// ancestors is how many commits green looks at.
const ancestors = 1000

// Head returns the commit that head and green are about (see SetRepo), its tree,
// and the commits it descends from, itself included, nearest first. All of them
// are of one clone.
func (e *Executor) Head(ctx context.Context) (commit, tree string, past []string, err error) {
	e.mu.Lock()
	head := e.head
	e.mu.Unlock()
	commit, tree, err = head.repo.Resolve(ctx, cmp.Or(head.commit, "HEAD"))
	if err != nil {
		return "", "", nil, err
	}
	past, err = head.repo.Ancestors(ctx, commit, ancestors)
	return commit, tree, past, err
}

// Status returns the attributes of /status, but for the counts, which the tree
// adds.
func (e *Executor) Status() ci.Attrs { return Status(e.Mode, e.Version, e.Config, e.Queue, nil) }

// Status returns the attributes of /status of an executor, or of a daemon whose
// executors share q, in the order of ci(4). counts are running, queued and kept.
func Status(mode, version string, c *config.Config, q *Queue, counts ci.Attrs) ci.Attrs {
	image := "-"
	if cache, err := home.Cache(); err == nil {
		if im, err := vm.LookupImage(cache); err == nil {
			image = im.Digest
		}
	}
	return slices.Concat(ci.Attrs{
		{Name: "mode", Value: mode},
		{Name: "version", Value: version},
		{Name: "arch", Value: runtime.GOARCH},
		{Name: "accel", Value: q.Accel()},
		{Name: "coreos", Value: image},
		{Name: "memory", Value: strconv.FormatInt(c.Memory, 10)},
		{Name: "cpus", Value: strconv.Itoa(cmp.Or(c.CPUs, runtime.NumCPU()))},
	}, counts, ci.Attrs{{Name: "orchestrator", Value: c.Address()}})
}

// othersWait is the reply to a cancel of one that has asked for a run with wait=1.
const othersWait = "others wait for it"

// Command executes what was written to /ctl: run, or cancel of a run by its id. A cancel
// that is written to the open ctl on which the run was asked for with wait=1 takes that
// back: the run ends if nobody else wants it.
func (e *Executor) Command(ctx context.Context, c ci.Command) (string, error) {
	switch c.Verb {
	case "run":
		return e.runCommand(ctx, c)
	case "cancel":
		others, ok := e.leave(c.Run, fs.CtlLife(ctx))
		switch {
		case others:
			return othersWait, nil
		case ok:
			return "", nil
		}
		return "", e.Cancel(c.Run)
	}
	return "", fmt.Errorf("unknown command %s: read ctl for its manual", c.Verb)
}

// runCommand starts a run. Its attributes are force, wait, repo and the CI_ variables in
// lower case, without CI_.
func (e *Executor) runCommand(ctx context.Context, cmd ci.Command) (string, error) {
	req, err := e.read(ctx, cmd.Attrs, e.clone)
	if err != nil {
		return "", err
	}
	if req.Commit, req.Tree, err = req.Repo.Resolve(ctx, cmd.Rev); err != nil {
		return "", err
	}
	if req.Targets = cmd.Targets; len(req.Targets) == 0 {
		req.Targets = []string{"test"}
	}
	return e.Submit(ctx, req)
}
