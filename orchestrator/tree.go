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
// event, which blocks, and artifacts and index, which hold what n has: a client can
// walk to these.
var spaceNames = []string{"ci", "find", "n", "status"}

// homeNames are names of a namespace. At the root they mean those of the key's
// home namespace, and are not listed.
var homeNames = []string{"ci", "n", "artifacts", "find"}

func (p place) find(ctx context.Context, name string) (fs.Node, error) {
	_, unknown := p.v.enter(ctx, p.path)
	if n := p.own(name); n != nil {
		return n, nil
	}
	if p.path == "" && slices.Contains(homeNames, name) {
		home, err := p.v.homeAfter(ctx, p.home)
		if err != nil {
			return nil, err
		}
		if home, err = ci.CleanNamespace(home); err != nil {
			return nil, iofs.ErrNotExist
		}
		return fs.Walk(ctx, p.v.root(), home+"/"+name)
	}
	sub := join(p.path, name)
	ok, err := p.v.leadsAfter(ctx, sub)
	switch {
	case ok:
		return place{v: p.v, path: sub}.dir(), nil
	case err != nil:
		return nil, err
	case unknown != nil:
		return nil, unknown
	}
	p.v.noteWalk(ctx, sub)
	return nil, p.v.absent(sub)
}

func (p place) list(ctx context.Context) ([]fs.Node, error) {
	_, unknown := p.v.enter(ctx, p.path)
	if err := p.v.learnBelow(ctx, p.path); unknown == nil {
		unknown = err
	}
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
	if len(all) == 0 && unknown != nil { // that there is nothing would not be true
		return nil, unknown
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
		return p.event(path, newShown(p.v))
	case p.path == "" || !p.isSpace():
		return nil
	}
	switch name {
	case "ci", "artifacts":
		return revisions{v: p.v, ns: p.path, name: name}.dir()
	case "n":
		return newDir(path, p.listMembers, p.findMember)
	case "status":
		return textFile(path, func(context.Context) []byte { return spaceStatus(p.v.c.s.dir, p.path) })
	case "index":
		return indexNode{p.v.c.s.dir, p.path, path}
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
func (p place) event(path string, show *shown) fs.Node {
	st := fs.FileStat(base(path), qidOf(path), 0, started)
	return ownFile{st, func() fs.File { return newEventFile(p.v.c.s.dir.watch(p.path), show) }}
}

func (p place) isSpace() bool {
	return p.path != "" && (p.entered && p.v.mayRead(p.path) || p.v.has(p.path))
}

// findMember returns the executor of that name in the namespace.
func (p place) findMember(ctx context.Context, name string) (fs.Node, error) {
	ok, err := p.v.enter(ctx, p.path)
	sh := p.v.c.s.dir.share(p.path, name)
	if err != nil {
		return nil, err
	}
	if sh == nil || !ok {
		return nil, iofs.ErrNotExist
	}
	return &memberDir{v: p.v, sh: sh}, nil
}

func (p place) listMembers(ctx context.Context) ([]fs.Node, error) {
	if ok, err := p.v.enter(ctx, p.path); err != nil {
		return nil, err
	} else if !ok {
		return nil, iofs.ErrNotExist
	}
	var all []fs.Node
	for _, sh := range byName(p.v.c.s.dir.shares(p.path)) {
		all = append(all, &memberDir{v: p.v, sh: sh})
	}
	return all, nil
}
