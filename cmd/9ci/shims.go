package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/orchestrator/dial"
)

// shimValues are what the files for other CI have of this user: the shell's variables
// NINECI_URL and NINECI_SHA256, and the orchestrator.
type shimValues struct {
	URL, Sum     string // of a release
	Orchestrator string // a URL
	Host, Hosts  string // of the orchestrator: its name, and its lines of known_hosts
}

// shimFiles returns the files by which the CI of the repository's forge calls 9ci: a job
// that all share, and the workflow of each that may be meant. No file of theirs keeps the
// forge from reading one that is there.
func shimFiles(ctx context.Context, rp *repo.Repo) ([]initFile, error) {
	c, err := loadConfig(ctx, rp)
	if err != nil {
		return nil, err
	}
	v := shimValues{URL: os.Getenv("NINECI_URL"), Sum: os.Getenv("NINECI_SHA256")}
	if c.Orchestrator != "" {
		v.Orchestrator = c.Address()
		v.Host, v.Hosts = hostLines(ctx, c)
	}
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(rp.Top, name))
		return err == nil
	}
	files := []initFile{{name: ".9ci/job", mode: 0o777, text: fill("job.sh", v)}}
	forges := forgesOf(rp, has)
	for _, forge := range forges {
		switch forge {
		case "github":
			files = append(files, initFile{name: ".github/workflows/9ci.yml", mode: 0o666, text: initText("github.yml")})
		case "gitlab":
			text := initText("gitlab-ci.yml")
			files = append(files,
				initFile{name: ".gitlab/9ci.yml", mode: 0o666, text: fill("gitlab.yml", v)},
				initFile{name: ".gitlab-ci.yml", mode: 0o666, text: text, instead: "add to it\n" + text})
		case "forgejo":
			// It reads the first of these that there is, and no other.
			name := ".forgejo/workflows"
			for _, dir := range []string{".github/workflows", ".gitea/workflows", ".forgejo/workflows"} {
				if has(dir) {
					name = dir
				}
			}
			if name == ".github/workflows" && len(forges) > 1 {
				continue // that is GitHub's then
			}
			files = append(files, initFile{name: name + "/9ci.yml", mode: 0o666, text: initText("forgejo.yml")})
		case "woodpecker":
			// With the directory, Woodpecker does not read the file.
			if !has(".woodpecker") && (has(".woodpecker.yml") || has(".woodpecker.yaml")) {
				say(".woodpecker.yml is there: move it into .woodpecker, and 9ci init writes .woodpecker/9ci.yml beside it")
				continue
			}
			files = append(files, initFile{name: ".woodpecker/9ci.yml", mode: 0o666, text: initText("woodpecker.yml")})
		}
	}
	return files, nil
}

// forgesOf returns the forges whose CI a repository may mean: the one that the host of
// its origin names, or those whose files there are, or else all. Woodpecker goes with
// any forge.
func forgesOf(rp *repo.Repo, has func(name string) bool) []string {
	ns, _ := rp.Origin()
	host, _, _ := strings.Cut(ns, "/")
	var named, filed []string
	for _, f := range []struct {
		forge string
		hosts []string // words in the name
		files []string
	}{
		{"github", []string{"github"}, []string{".github/workflows"}},
		{"gitlab", []string{"gitlab"}, []string{".gitlab-ci.yml"}},
		{"forgejo", []string{"forgejo", "gitea", "codeberg"}, []string{".forgejo/workflows", ".gitea/workflows"}},
		{"woodpecker", nil, []string{".woodpecker", ".woodpecker.yml", ".woodpecker.yaml"}},
	} {
		if slices.ContainsFunc(f.hosts, func(word string) bool { return strings.Contains(host, word) }) {
			named = append(named, f.forge)
		}
		if slices.ContainsFunc(f.files, has) {
			filed = append(filed, f.forge)
		}
	}
	switch {
	case slices.Contains(filed, "woodpecker"):
		return append(named, "woodpecker")
	case len(named) > 0:
		return named
	case len(filed) > 0:
		return filed
	}
	return []string{"github", "gitlab", "forgejo", "woodpecker"}
}

// hostLines returns the host of the orchestrator at ssh:// and its lines in this user's
// known_hosts, which ssh-keygen finds.
func hostLines(ctx context.Context, c *config.Config) (host, lines string) {
	u, err := dial.ParseURL(c.Orchestrator)
	if err != nil || u.Scheme != "ssh" {
		return "", ""
	}
	host = u.Hostname()
	name := host
	if port := u.Port(); port != "" && port != "22" {
		name = "[" + host + "]:" + port
	}
	dir, err := home.Dir()
	if err != nil {
		return host, ""
	}
	out, err := exec.CommandContext(ctx, "ssh-keygen", "-F", name, "-f", filepath.Join(dir, ".ssh", "known_hosts")).Output()
	if err != nil {
		return host, "" // it is in none, or there is no ssh-keygen: the job says so
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			found = append(found, line)
		}
	}
	return host, strings.Join(found, "\n")
}
