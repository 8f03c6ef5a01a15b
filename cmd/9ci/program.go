package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/version"
)

// tool finds a static binary that goes into the machine: in ../lib/9ci, or beside this
// program, where an installed mk may be another's.
func tool(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, d := range []string{filepath.Join(dir, "../lib/9ci"), dir} {
		p, err := exec.LookPath(filepath.Join(d, name))
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, iofs.ErrNotExist) {
			return "", fmt.Errorf("%w: mk install puts one there that runs", err)
		}
	}
	return "", fmt.Errorf("%s is not beside %s, nor in ../lib/9ci: mk install puts it there", name, self)
}

// newHost makes the executor of this process for one repository. With looks it only
// looks: see host.Options.
func newHost(ctx context.Context, r *repo.Repo, c *config.Config, looks bool) (*host.Host, error) {
	return host.New(ctx, r, c, host.Options{
		Mode:    "run",
		Version: version.String(),
		Tool:    tool,
		Queue:   new(executor.Queue),
		Looks:   looks,
		Log:     slog.New(slog.DiscardHandler),
		Say:     say,
	})
}
