package orchestrator

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"9ci/fs"
)

// A spaceDir is the root, a namespace, or a directory on the way to one. Where
// one namespace lies below another, its first element stands among the other's
// files, which come first.
type spaceDir struct {
	v       *view
	path    string // "" for the root
	entered bool   // by an aname: it is there, whoever exports it
	home    string // of the root: where ci, n, artifacts and find are; "" for the key's
	list    listing
}

// spaceNames are a namespace's own files and directories that are listed. Event
// blocks and artifacts holds what n has: both can be walked to.
var spaceNames = []string{"ci", "find", "n", "status"}

func (s *spaceDir) Stat(context.Context) (fs.Stat, error) {
	name := s.path[strings.LastIndexByte(s.path, '/')+1:]
	if name == "" {
		name = "/"
	}
	return dirStat(name, s.path), nil
}

func (s *spaceDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (s *spaceDir) Walk(ctx context.Context, name string) (fs.Node, error) {
	if n := s.own(name); n != nil {
		return n, nil
	}
	if s.path == "" && slices.Contains(homeNames, name) {
		home, err := s.v.home(s.home)
		if err != nil {
			return nil, err
		}
		return s.v.root().walkHome(ctx, home, name)
	}
	sub := join(s.path, name)
	for _, ns := range s.v.namespaces() {
		if ns == sub || strings.HasPrefix(ns, sub+"/") {
			return &spaceDir{v: s.v, path: sub}, nil
		}
	}
	return nil, iofs.ErrNotExist
}

func (s *spaceDir) ReadDir(ctx context.Context, after uint64, n int) ([]fs.Stat, error) {
	return s.list.read(after, n, func() ([]fs.Stat, error) {
		var all []fs.Stat
		names := []string{"status"}
		if s.isSpace() {
			names = spaceNames
		} else if s.path != "" {
			names = nil
		}
		for _, name := range names {
			st, err := s.own(name).Stat(ctx)
			if err != nil {
				return nil, err
			}
			all = append(all, st)
		}
		for _, name := range below(s.v.namespaces(), s.path) {
			if !slices.Contains(names, name) {
				all = append(all, dirStat(name, join(s.path, name)))
			}
		}
		return all, nil
	})
}

// homeNames are names that the root has none of: there they are those of one
// namespace, and are not listed.
var homeNames = []string{"ci", "n", "artifacts", "find"}

// walkHome walks to a name in the namespace home.
func (s *spaceDir) walkHome(ctx context.Context, home, name string) (fs.Node, error) {
	home, err := fs.CleanNamespace(home)
	if err != nil {
		return nil, iofs.ErrNotExist
	}
	return fs.Walk(ctx, s, home+"/"+name)
}

// own returns the file or directory that the mux itself has here, or nil.
func (s *spaceDir) own(name string) fs.Node {
	path := join(s.path, name)
	d := &s.v.c.s.dir
	switch {
	case s.path == "" && name == "status":
		return &fileNode{name: name, path: path, mode: 0o444, text: s.v.status}
	case s.path == "" && name == "event":
		return &fileNode{name: name, path: path, mode: 0o444, open: s.openRootEvent}
	case !s.isSpace():
		return nil
	}
	switch name {
	case "ci", "artifacts":
		return &revDir{v: s.v, ns: s.path, name: name}
	case "n":
		return &membersDir{v: s.v, ns: s.path}
	case "find":
		manual := func() []byte { return []byte(findManual) }
		return &fileNode{name: name, path: path, mode: 0o666, text: manual, open: func(context.Context, fs.OpenMode) (fs.File, error) {
			return &findFile{find: func(ctx context.Context, q question) ([]byte, func(), error) {
				return d.find(ctx, s.path, q, s.v.c)
			}}, nil
		}}
	case "status":
		return &fileNode{name: name, path: path, mode: 0o444, text: func() []byte { return d.status(s.path) }}
	case "event":
		return &fileNode{name: name, path: path, mode: 0o444, open: s.openEvent}
	}
	return nil
}

func (s *spaceDir) isSpace() bool {
	return s.path != "" && (s.entered && s.v.mayRead(s.path) || s.v.has(s.path))
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// A revDir is ci or artifacts of a namespace. Its entries are aliases, which a
// directory read does not list.
type revDir struct {
	v    *view
	ns   string
	name string
}

func (r *revDir) Stat(context.Context) (fs.Stat, error) {
	return dirStat(r.name, join(r.ns, r.name)), nil
}

func (r *revDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (r *revDir) ReadDir(context.Context, uint64, int) ([]fs.Stat, error) { return nil, nil }

// Walk returns the best run of a revision, of the first executor that answers.
func (r *revDir) Walk(ctx context.Context, rev string) (fs.Node, error) {
	if !r.v.mayRead(r.ns) {
		return nil, iofs.ErrNotExist
	}
	d := &r.v.c.s.dir
	rev, tar := strings.CutSuffix(rev, ".tar")
	if tar && r.name != "ci" {
		return nil, iofs.ErrNotExist
	}
	var silent error
	for _, b := range d.lookup(ctx, r.ns, rev) {
		sub := "ci/" + b.id
		switch {
		case tar:
			sub += ".tar"
		case r.name == "artifacts":
			sub += "/artifacts"
		}
		root := &memberDir{v: r.v, sh: b.share}
		n, err := fs.Walk(ctx, root, sub)
		if errors.Is(err, iofs.ErrNotExist) {
			d.forget(b)
			continue
		}
		if err != nil {
			silent = err
			continue
		}
		dir, ok := n.(fs.Dir)
		if !ok {
			return n, nil
		}
		return &alias{Dir: dir, name: rev, path: join(join(r.ns, r.name), rev), target: "../n/" + b.share.m.name + "/" + sub}, nil
	}
	if silent != nil {
		return nil, silent
	}
	return nil, iofs.ErrNotExist
}

// An alias is another name of a directory.
type alias struct {
	fs.Dir
	name, path, target string
}

func (a *alias) Stat(context.Context) (fs.Stat, error) {
	st := dirStat(a.name, a.path)
	st.Mode |= iofs.ModeSymlink
	st.Target = a.target
	return st, nil
}

// lookup returns the finished runs that rev names, the best first. An ambiguous
// rev names none.
func (d *directory) lookup(ctx context.Context, ns, rev string) []*run {
	matches := func() []*run {
		d.mu.Lock()
		defer d.mu.Unlock()
		var all []*run
		sp := d.spaces[ns]
		if sp == nil {
			return nil
		}
		for _, sh := range sp.shares {
			for _, r := range sh.runs {
				if r.status.Finished() && (rev == "last" || r.named(rev)) {
					all = append(all, r)
				}
			}
		}
		return all
	}
	all := matches()
	if len(all) == 0 || d.ambiguous(all, rev) {
		return nil
	}
	if rev != "last" {
		d.readMissing(ctx, slices.Values(all)) // the default targets come first
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if rev == "last" {
		slices.SortFunc(all, func(a, b *run) int { return b.status.Time.Compare(a.status.Time) })
	} else {
		slices.SortFunc(all, best)
	}
	// Whoever has not answered of late is asked last.
	now := time.Now()
	slices.SortStableFunc(all, func(a, b *run) int {
		return compareBool(a.share.mute(now), b.share.mute(now))
	})
	return all[:min(len(all), maxTried)]
}

// mute reports whether the executor did not answer of late.
func (sh *share) mute(now time.Time) bool { return now.Sub(sh.silent) < muteFor }

// muteFor is for how long an executor that did not answer is asked last. By
// then it has been probed, and is gone or well.
const muteFor = 30 * time.Second

// maxTried is how many executors are asked for a run, one after the other.
const maxTried = 4

// ambiguous reports whether rev begins more than one hash.
func (d *directory) ambiguous(runs []*run, rev string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	full := map[string]bool{}
	for _, r := range runs {
		for _, h := range []string{r.commit, r.tree} {
			if strings.HasPrefix(h, rev) {
				full[h] = true
			}
		}
	}
	return len(full) > 1 && rev != "last"
}

// A membersDir is n: the executors of a namespace.
type membersDir struct {
	v    *view
	ns   string
	list listing
}

func (m *membersDir) Stat(context.Context) (fs.Stat, error) {
	return dirStat("n", join(m.ns, "n")), nil
}

func (m *membersDir) Open(context.Context, fs.OpenMode) (fs.File, error) { return nil, fs.ErrIsDir }

func (m *membersDir) Walk(_ context.Context, name string) (fs.Node, error) {
	sh := m.v.c.s.dir.share(m.ns, name)
	if sh == nil || !m.v.mayRead(m.ns) {
		return nil, iofs.ErrNotExist
	}
	return &memberDir{v: m.v, sh: sh}, nil
}

func (m *membersDir) ReadDir(_ context.Context, after uint64, n int) ([]fs.Stat, error) {
	return m.list.read(after, n, func() ([]fs.Stat, error) {
		if !m.v.mayRead(m.ns) {
			return nil, iofs.ErrNotExist
		}
		var all []fs.Stat
		for _, sh := range m.v.c.s.dir.shares(m.ns) {
			all = append(all, sh.stat())
		}
		return all, nil
	})
}

// openEvent opens the namespace's event file.
func (s *spaceDir) openEvent(context.Context, fs.OpenMode) (fs.File, error) {
	d := &s.v.c.s.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[s.path]
	if sp == nil {
		sp = d.add(s.path)
	}
	return newEventFile(d, &sp.events, func() []byte { return sp.state() },
		func(l feedLine) string { return l.text }, func() { d.tidy(sp) }), nil
}

// openRootEvent opens the root's event file: joins and leaves in every namespace
// that the session may read.
func (s *spaceDir) openRootEvent(context.Context, fs.OpenMode) (fs.File, error) {
	d := &s.v.c.s.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	text := func(l feedLine) string {
		if !s.v.mayRead(l.ns) {
			return ""
		}
		return "/" + l.ns + l.text
	}
	state := func() []byte {
		var b []byte
		for _, ns := range slices.Sorted(maps.Keys(d.spaces)) {
			for _, sh := range d.spaces[ns].sorted() {
				b = append(b, text(feedLine{ns, sh.line("join", sh.since)})...)
			}
		}
		return b
	}
	return newEventFile(d, &d.events, state, text, func() {}), nil
}

// state returns what an event file of the namespace begins with: who is
// connected, and the runs that have not ended.
func (sp *space) state() []byte {
	var b []byte
	for _, sh := range sp.sorted() {
		b = append(b, sh.line("join", sh.since)...)
		for _, r := range sh.byOrder() {
			if !r.status.Finished() {
				b = fmt.Appendf(b, "%s %s\n", r.path(), r.status)
			}
		}
	}
	return b
}
