package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
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
		{Name: "cpus", Value: strconv.Itoa(c.CPUs)},
	}, counts, ci.Attrs{{Name: "orchestrator", Value: c.Address()}})
}

// Command executes a line that was written to /ctl: run or cancel.
func (e *Executor) Command(ctx context.Context, line string) (string, error) {
	words, err := ci.SplitWords(line)
	if err != nil {
		return "", err
	}
	switch verb, args := words[0], words[1:]; {
	case verb == "run":
		return e.runLine(ctx, args)
	case verb == "cancel" && len(args) == 1:
		return "", e.Cancel(args[0])
	}
	return "", fmt.Errorf("unknown command %s: read ctl for its manual", words[0])
}

// runLine executes the line run. args are [ATTR=VALUE...] REV [TARGET...].
func (e *Executor) runLine(ctx context.Context, args []string) (string, error) {
	set := make(map[string]string)
	force := false
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			break
		}
		if name == "force" {
			force = value == "1"
		} else {
			set[config.Name(name)] = value
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return "", errors.New("want run [ATTR=VALUE...] REV [TARGET...]")
	}
	r := e.Repo()
	c, err := e.load(ctx, r, set)
	if err != nil {
		return "", err
	}
	commit, tree, err := r.Resolve(ctx, args[0])
	if err != nil {
		return "", err
	}
	targets := args[1:]
	if len(targets) == 0 {
		targets = []string{"test"}
	}
	return e.Submit(ctx, Request{Repo: r, Commit: commit, Tree: tree, Targets: targets, Force: force, Config: c})
}

// RunCommand executes a line that was written to the ctl of a run: cancel or
// hold.
func (e *Executor) RunCommand(ctx context.Context, id, line string) (string, error) {
	if line == "cancel" {
		return "", e.Cancel(id)
	}
	return "", errors.New("this version of 9ci cannot hold a machine")
}
