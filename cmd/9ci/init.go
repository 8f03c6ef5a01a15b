package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"

	"9ci/cmd/internal/repo"
)

// initFiles are what init writes where there is nothing yet.
var initFiles = []struct {
	name string
	mode iofs.FileMode
	text string
}{
	{"mkfile", 0o644, `# 9ci runs these at a commit, in a machine of its own: go doc 9ci/cmd/9ci

test:V:
	echo no tests yet
`},
	{".env", 0o600, `# 9ci's configuration here: go doc 9ci/cmd/9ci
#CI_ORCHESTRATOR=ssh://ci.example.org:2222
#CI_KEEP='20 7d'
`},
	{".git/hooks/post-commit", 0o755, `#!/bin/sh
# Hands each commit to the daemon, if one answers.
9ci run -b >/dev/null 2>&1 || :
`},
	{".github/workflows/9ci.yml", 0o644, `on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: 9ci
`},
	{".gitlab-ci.yml", 0o644, `test:
  script:
    - 9ci
`},
}

// initCommand writes what a repository needs to be run. It changes nothing
// that is there.
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
	for _, f := range initFiles {
		name := filepath.Join(rp.Top, f.name)
		if rest, ok := strings.CutPrefix(f.name, ".git/"); ok {
			name = filepath.Join(rp.GitDir, rest)
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			return exitError, err
		}
		w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if errors.Is(err, iofs.ErrExist) {
			fmt.Printf("%s is there already\n", f.name)
			continue
		}
		if err != nil {
			return exitError, err
		}
		_, err = w.WriteString(f.text)
		if err = errors.Join(err, w.Close()); err != nil {
			return exitError, err
		}
		fmt.Printf("%s\n", f.name)
	}
	return 0, nil
}
