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
	"9ci/fs"
	"9ci/vm"
)

// ancestors is how far back green looks.
const ancestors = 1000

// Head returns the commit for which a run was last asked, or the HEAD of the
// clone last named if that was later, its tree, and the commits it descends
// from, nearest first. All of it is of one clone.
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

// Status is the file of that name at the root of the tree, less what the tree
// counts.
func (e *Executor) Status() fs.Attrs { return Status(e.Mode, e.Version, e.Config, e.Queue, nil) }

// Status is what an executor, or a daemon of several that share a queue, says of
// itself. The counts, if any, stand where ci(4) has them.
func Status(mode, version string, c *config.Config, q *Queue, counts fs.Attrs) fs.Attrs {
	image := "-"
	if cache, err := home.Cache(); err == nil {
		if im, err := vm.LookupImage(cache); err == nil {
			image = im.Digest
		}
	}
	return slices.Concat(fs.Attrs{
		{Name: "mode", Value: mode},
		{Name: "version", Value: version},
		{Name: "arch", Value: runtime.GOARCH},
		{Name: "accel", Value: q.Accel()},
		{Name: "coreos", Value: image},
		{Name: "memory", Value: strconv.FormatInt(c.Memory, 10)},
		{Name: "cpus", Value: strconv.Itoa(c.CPUs)},
	}, counts, fs.Attrs{{Name: "orchestrator", Value: c.Address()}})
}

// Command does what a line written to /ctl says: run or cancel.
func (e *Executor) Command(ctx context.Context, line string) (string, error) {
	words, err := fs.SplitWords(line)
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

// runLine starts a run: [ATTR=VALUE...] REV [TARGET...].
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

// RunCommand does what a line written to a run's ctl says: cancel or hold.
func (e *Executor) RunCommand(ctx context.Context, id, line string) (string, error) {
	if line == "cancel" {
		return "", e.Cancel(id)
	}
	return "", errors.New("this version of 9ci cannot hold a machine")
}
