package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
)

// initFiles are the files that init writes.
var initFiles = []struct {
	name string
	mode iofs.FileMode
	text string
}{
	{"mkfile", 0o644, `# 9ci runs these at a commit, in a machine of its own: go doc 9ci/cmd/9ci

test:V:
	echo no tests yet
`},
	{".env", 0o600, config.Example()},
	{".git/hooks/post-commit", 0o755, `#!/bin/sh
# Hands each commit to the daemon, if one answers.
9ci run -b >/dev/null 2>&1 || :
`},
	{".github/workflows/9ci.yml", 0o644, `on: push
#permissions: # the job logs in at CI_ORCHESTRATOR
#  contents: read
#  id-token: write
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: 9ci
`},
	{".gitlab-ci.yml", 0o644, `test:
#  id_tokens: # the job logs in at CI_ORCHESTRATOR
#    CI_ID_TOKEN:
#      aud: ci.example.org # its host
  script:
    - 9ci
`},
}

// initCommand writes the files that a repository needs to be run. It leaves those
// that exist.
func initCommand(ctx context.Context, args []string) (int, error) {
	if err := parseFlags(newFlags("init"), args, 0, 0); err != nil {
		return exitError, err
	}
	rp, err := repo.Open(ctx, ".")
	if err != nil {
		return exitError, err
	}
	if rp.Bare {
		return exitError, fmt.Errorf("%s is a bare repository: init wants a work tree to write to", rp.Top)
	}
	// A symbolic link in the repository must not lead a write out of it.
	top, err := os.OpenRoot(rp.Top)
	if err != nil {
		return exitError, err
	}
	defer top.Close()
	gitDir, err := os.OpenRoot(rp.GitDir)
	if err != nil {
		return exitError, err
	}
	defer gitDir.Close()
	for _, f := range initFiles {
		root, name := top, f.name
		if rest, ok := strings.CutPrefix(name, ".git/"); ok {
			root, name = gitDir, rest
		}
		switch err := writeNew(root, name, f.mode, f.text); {
		case errors.Is(err, iofs.ErrExist):
			show.Out.Printf("%s is there already\n", f.name)
		case err != nil:
			return exitError, err
		default:
			show.Out.Printf("%s\n", f.name)
		}
	}
	return 0, nil
}

// writeNew makes a file and the directories on the way to it. If the name is taken,
// the error is iofs.ErrExist.
func writeNew(root *os.Root, name string, mode iofs.FileMode, text string) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	w, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = w.WriteString(text)
	return errors.Join(err, w.Close())
}
