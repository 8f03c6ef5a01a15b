package orchestrator

import (
	"context"
	iofs "io/fs"
	"slices"

	"9ci/fs"
	"9ci/fs/ci"
)

// A place is the root, a namespace, or a directory on the way to one, as one
// session sees it. Where one namespace lies below another, its first element
// stands among the other's files, which come first.
type place struct {
	v       *view
	path    string // "" for the root
	entered bool   // by an aname: it is there even if it is not exported
	home    string // of the root: the namespace of homeNames; "" for the key's own
}

func (p place) dir() fs.Dir { return newDir(p.path, p.list, p.find) }

// spaceNames are the listed files and directories of a namespace. It also has
// event, which blocks, and artifacts, which holds what n has: a client can walk
// to these.
var spaceNames = []string{"ci", "find", "n", "status"}

// homeNames are names of a namespace. At the root they mean those of the key's
// home namespace, and are not listed.
var homeNames = []string{"ci", "n", "artifacts", "find"}

func (p place) find(ctx context.Context, name string) (fs.Node, error) {
	if n := p.own(name); n != nil {
		return n, nil
	}
	if p.path == "" && slices.Contains(homeNames, name) {
		home, err := p.v.home(p.home)
		if err != nil {
			return nil, err
		}
		if home, err = ci.CleanNamespace(home); err != nil {
			return nil, iofs.ErrNotExist
		}
		return fs.Walk(ctx, p.v.root(), home+"/"+name)
	}
	sub := join(p.path, name)
	if p.v.leads(sub) {
		return place{v: p.v, path: sub}.dir(), nil
	}
	p.v.noteWalk(ctx, sub)
	return nil, iofs.ErrNotExist
}

func (p place) list(context.Context) ([]fs.Node, error) {
	var names []string
	switch {
	case p.path == "":
		names = []string{"status"}
	case p.isSpace():
		names = spaceNames
	}
	var all []fs.Node
	for _, name := range names {
		all = append(all, p.own(name))
	}
	for _, name := range p.v.next(p.path) {
		if !slices.Contains(names, name) {
			all = append(all, place{v: p.v, path: join(p.path, name)}.dir())
		}
	}
	return all, nil
}

// own returns the file or directory that the mux itself has here, or nil.
func (p place) own(name string) fs.Node {
	path := join(p.path, name)
	switch {
	case p.path == "" && name == "status":
		return textFile(path, p.v.status)
	case p.path == "" && name == "event":
		return p.event(path, func(line string) bool { return p.v.mayRead(namespaceOf(line)) })
	case p.path == "" || !p.isSpace():
		return nil
	}
	switch name {
	case "ci", "artifacts":
		return revisions{v: p.v, ns: p.path, name: name}.dir()
	case "n":
		return newDir(path, p.listMembers, p.findMember)
	case "status":
		return textFile(path, func() []byte { return spaceStatus(p.v.c.s.dir, p.path) })
	case "event":
		return p.event(path, nil)
	case "find":
		st := fs.FileStat(name, qidOf(path), int64(len(findManual)), started)
		st.Mode = 0o666
		return ownFile{st, func() fs.File { return &findFile{v: p.v, ns: p.path} }}
	}
	return nil
}

// event returns the event file of the root or of a namespace.
func (p place) event(path string, show func(line string) bool) fs.Node {
	st := fs.FileStat(base(path), qidOf(path), 0, started)
	return ownFile{st, func() fs.File { return newEventFile(p.v.c.s.dir.watch(p.path), show) }}
}

func (p place) isSpace() bool {
	return p.path != "" && (p.entered && p.v.mayRead(p.path) || p.v.has(p.path))
}

// findMember returns the executor of that name in the namespace.
func (p place) findMember(_ context.Context, name string) (fs.Node, error) {
	sh := p.v.c.s.dir.share(p.path, name)
	if sh == nil || !p.v.mayRead(p.path) {
		return nil, iofs.ErrNotExist
	}
	return &memberDir{v: p.v, sh: sh}, nil
}

func (p place) listMembers(context.Context) ([]fs.Node, error) {
	if !p.v.mayRead(p.path) {
		return nil, iofs.ErrNotExist
	}
	var all []fs.Node
	for _, sh := range byName(p.v.c.s.dir.shares(p.path)) {
		all = append(all, &memberDir{v: p.v, sh: sh})
	}
	return all, nil
}
