package repo

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxSubmodules is how many submodules a clone may have, those of submodules
// included.
const maxSubmodules = 1000

// A submodule is an entry of .gitmodules (gitmodules(5)).
type submodule struct {
	name   string
	path   string // in the work tree of the repository that has it
	url    string // as it is written
	update string
}

// cloneSubmodules makes the git directories of the submodules of dst, from the clones
// of them that src has. Commit is dst's head in src. Where .gitmodules says update =
// none, git submodule update leaves the submodule out, and so does this.
func (c *cloning) cloneSubmodules(ctx context.Context, src source, dst *target, commit string) error {
	heads := make(map[string]string) // by path
	var paths []string
	gitlink := func(e entry) error {
		if e.kind == "commit" {
			heads[e.path] = e.id
			paths = append(paths, e.path)
		}
		return nil
	}
	if err := dst.list(ctx, dst.tree, gitlink); err != nil || len(paths) == 0 {
		return err
	}
	modules, err := dst.submodules(ctx)
	if err != nil {
		return fmt.Errorf("%s at %s: %w", src.name(".gitmodules"), commit, err)
	}
	for _, path := range paths {
		full := src.name(path)
		m, ok := modules[path]
		switch {
		case !ok || m.url == "":
			return fmt.Errorf("%s is a submodule, and .gitmodules has no url for it: git submodule add gives it one, git rm --cached takes it out", printable(full))
		case !safeName(m.name):
			return fmt.Errorf("%s is a submodule with the name %q in .gitmodules, which git refuses: give it another", printable(full), m.name)
		case m.update == "none":
			continue
		}
		if c.submodules++; c.submodules > maxSubmodules {
			return fmt.Errorf("%s: more than %d submodules: 9ci takes no more", printable(full), maxSubmodules)
		}
		sub, err := src.submodule(ctx, m, heads[path], commit)
		if err != nil {
			return err
		}
		if _, err := c.clone(ctx, sub, heads[path], dst.at+"/modules/"+m.name); err != nil {
			return err
		}
		// The URL is set because git submodule init would resolve it against the
		// remote, which the machine's clone does not have.
		dst.settings = append(dst.settings,
			setting{"submodule", m.name, "active", "true", true},
			setting{"submodule", m.name, "url", m.url, true})
	}
	return nil
}

// submodules returns the submodules that .gitmodules of the head names, by path.
func (t *target) submodules(ctx context.Context) (map[string]submodule, error) {
	file := t.tree + ":.gitmodules"
	if !t.HasFile(ctx, t.tree, ".gitmodules") {
		return nil, nil
	}
	// With includes a commit would name files of the host.
	list, err := t.git(ctx, "", "config", "--no-includes", "--blob="+file, "--list", "-z")
	if err != nil {
		return nil, errors.New("git config -f .gitmodules --list cannot read it, and says why")
	}
	byName := make(map[string]*submodule)
	for _, s := range parseSettings(list) {
		if s.section != "submodule" || s.sub == "" {
			continue
		}
		m := byName[s.sub]
		if m == nil {
			m = &submodule{name: s.sub}
			byName[s.sub] = m
		}
		// Of several values git takes the first.
		for name, value := range map[string]*string{"path": &m.path, "url": &m.url, "update": &m.update} {
			if s.name == name && *value == "" {
				*value = s.value
			}
		}
	}
	byPath := make(map[string]submodule)
	for _, m := range byName {
		byPath[strings.TrimSuffix(m.path, "/")] = *m
	}
	return byPath, nil
}

// safeName reports whether a submodule may have that name, which becomes that of a
// directory below modules.
func safeName(name string) bool {
	for e := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '/' || r == '\\' }) {
		if e == ".." {
			return false
		}
	}
	return filepath.IsLocal(name)
}

// submodule finds a clone of m with the commit head: where git submodule keeps it,
// for this work tree, for all, or for another, or in the work tree itself. The commit
// of s is what has m. Of the clone only objects, tags and the URL of its origin are
// read.
func (s source) submodule(ctx context.Context, m submodule, head, commit string) (source, error) {
	sub := source{path: s.name(m.path), url: resolveURL(s.url, m.url)}
	dirs := []string{filepath.Join(s.dir, "modules", m.name), filepath.Join(s.GitDir, "modules", m.name)}
	trees, err := os.ReadDir(filepath.Join(s.GitDir, "worktrees"))
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return source{}, err
	}
	for _, t := range trees {
		dirs = append(dirs, filepath.Join(s.GitDir, "worktrees", t.Name(), "modules", m.name))
	}
	if s.work != "" {
		sub.work = filepath.Join(s.work, m.path)
		dirs = append(dirs, filepath.Join(sub.work, ".git"))
	}
	lacking := "" // the command about a clone without the commit
	for i, dir := range dirs {
		if fi, err := os.Stat(filepath.Join(dir, "objects")); err != nil || !fi.IsDir() {
			continue
		}
		if strings.Contains(dir, "\n") {
			continue // it would be two lines of objects/info/alternates
		}
		sub.Repo = &Repo{Top: dir, GitDir: dir, Bare: true, dir: dir, format: s.format}
		if err := sub.readConfig(ctx); err != nil {
			return source{}, fmt.Errorf("the clone of the submodule %s: %w", printable(sub.path), err)
		}
		sub.shellDir = s.shellDir
		if rel, err := filepath.Rel(s.GitDir, dir); err == nil {
			sub.shellDir += "/" + ShellQuote(rel)
		}
		sub.git = "git --git-dir=" + sub.shellDir
		if _, err := os.Lstat(filepath.Join(sub.work, ".git")); err == nil && sub.work != "" && (i == 0 || i == len(dirs)-1) {
			sub.git = "git -C " + ShellQuote(sub.path)
		}
		switch id, _, err := sub.commit(ctx, head); {
		case err == nil && id == head:
			return sub, nil
		case err != nil && !errors.Is(err, errNoCommit):
			return source{}, err
		}
		lacking = sub.git
	}
	if lacking != "" {
		return source{}, fmt.Errorf("%s is a submodule, and its clone on this host lacks the commit %s: %s fetch origin %s fetches it",
			printable(sub.path), head, lacking, head)
	}
	return source{}, fmt.Errorf("%s is a submodule, and this host has no clone of it: %s makes one", printable(sub.path), s.cloneCommand(ctx, m, commit))
}

// cloneCommand returns the command by which a user clones m, a submodule of the
// source's commit.
func (s source) cloneCommand(ctx context.Context, m submodule, commit string) string {
	if s.work == "" {
		url := resolveURL(s.url, m.url)
		if hidden, ok := withoutPassword(url); ok {
			url = hidden
		} else {
			url = m.url
		}
		return fmt.Sprintf("git clone --bare -- %s %s/%s", ShellQuote(url), s.shellDir, ShellQuote("modules/"+m.name))
	}
	update := s.git + " submodule update --init --recursive"
	// That asks the index for the submodules.
	list, err := s.Repo.git(ctx, "", "ls-files", "--stage", "-z", "--", ":(top,literal)"+m.path)
	if err != nil || !strings.HasPrefix(list, "160000 ") {
		return s.git + " checkout " + commit + " && " + update
	}
	return update
}

// resolveURL returns what a url of .gitmodules means in a repository whose remote is
// base, as git-submodule(1) says under add: one that begins with ./ or ../ is
// relative to base. Without a base it stays relative, to the repository.
func resolveURL(base, url string) string {
	base = strings.TrimRight(base, "/")
	if base == "" || !strings.HasPrefix(url, "./") && !strings.HasPrefix(url, "../") {
		return url
	}
	sep := "/"
	for {
		if rest, ok := strings.CutPrefix(url, "./"); ok {
			url = rest
			continue
		}
		rest, ok := strings.CutPrefix(url, "../")
		if !ok {
			return strings.TrimSuffix(base+sep+url, "/")
		}
		url = rest
		// Of host:path the colon stands before what is left.
		i := strings.LastIndexByte(base, '/')
		if i < 0 {
			if i = strings.LastIndexByte(base, ':'); i < 0 {
				return url
			}
			sep = ":"
		}
		base = base[:i]
	}
}

// withoutPassword returns a URL as it may be shown to others. ok is false if it may
// hold a password where it should hold none.
func withoutPassword(url string) (shown string, ok bool) {
	scheme, rest, found := strings.Cut(url, "://")
	if !found {
		return url, strings.Count(url, "@") < 2 && !strings.ContainsAny(url, "?#")
	}
	if strings.ContainsAny(url, "?#") || strings.Count(url, "@") > 1 {
		return "", false
	}
	user, host, found := strings.Cut(rest, "@")
	if !found {
		return url, true
	}
	// The user of ssh is needed. That of http may be a token.
	if user, _, _ = strings.Cut(user, ":"); strings.Contains(scheme, "ssh") {
		return scheme + "://" + user + "@" + host, true
	}
	return scheme + "://" + host, true
}
