package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/sign"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/dial"
	"9ci/proto/ninep"
)

// A place is a tree that answers. The caller closes it.
type place struct {
	root  fs.Dir
	name  string // what was looked up there, clean and relative
	addr  string // of a socket, as ninep.Dial takes it; "" if it is no socket
	close func()
	done  <-chan struct{} // closed when the tree does not answer any more; nil if that cannot be
}

// A search says in which trees a path is looked up. With an addr these are, at that
// address, the namespace of the repository that the working directory is in, and
// then the root. Without, they are that namespace at each socket in $NAMESPACE that
// this user or root serves, or the roots if there is no repository.
type search struct {
	addr  string
	roots bool // the roots alone
	store bool // if none of these trees is there, look into the store of the namespace
	link  bool // a link at the end of a path is not followed
}

// find walks to a path in the first of the trees that has it, and follows links
// among the artifacts of a run within that run. The caller closes the place.
func (s search) find(ctx context.Context, name string) (fs.Node, place, error) {
	var ps []place
	if u, ok, err := sshURL(name); ok {
		if err != nil {
			return nil, place{}, err
		}
		p, rest, err := sshPlace(ctx, u)
		if err != nil {
			return nil, place{}, err
		}
		ps, name = []place{p}, rest
	} else if ps, err = s.places(ctx); err != nil {
		return nil, place{}, err
	}
	var first error
	for i, p := range ps {
		p.name = path.Clean("/" + name)[1:]
		n, err := s.walk(ctx, p.root, p.name)
		if err == nil {
			for _, q := range ps[i+1:] {
				q.close()
			}
			return n, p, nil
		}
		if first == nil {
			first = fmt.Errorf("%s: %w", name, err)
		}
		if missing := noRun(ctx, p.root, name); missing != nil {
			first = missing
		}
		p.close()
	}
	return nil, place{}, first
}

// places opens the trees of a search: one at least.
func (s search) places(ctx context.Context) ([]place, error) {
	var here *standing
	if !s.roots {
		var err error
		if here, err = stand(ctx); err != nil && s.addr == "" {
			return nil, err
		}
	}
	addrs, anames, open := []string{s.addr}, []string{""}, dialPlace
	if here != nil {
		anames = []string{here.namespace, ""}
	}
	if s.addr == "" {
		var err error
		if addrs, err = posted(); err != nil {
			return nil, err
		}
		anames, open = anames[:1], ownPlace
	}
	var found []place
	var errs []error
	for _, a := range addrs {
		for _, aname := range anames {
			p, err := open(ctx, a, aname)
			if _, unserved := errors.AsType[*told](err); s.addr == "" && aname != "" && errors.Is(err, iofs.ErrNotExist) && !unserved {
				err = fmt.Errorf("%s does not serve %s: 9ci in the repository has a daemon do so, and so does echo %s | 9ci write ctl", a, aname, repo.ShellQuote("repo "+ci.Quote(here.repo.Top)))
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			found = append(found, p)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	if s.store && s.addr == "" && here != nil {
		for _, err := range errs {
			if errors.Is(err, ninep.ErrForeign) || errors.Is(err, errSilent) {
				say("%v: it is not used", err)
			}
		}
		p, err := here.store(ctx)
		if err == nil {
			return []place{p}, nil
		}
		if len(errs) == 0 || !errors.Is(err, iofs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		dir, _ := ninep.Namespace()
		return nil, fmt.Errorf("nothing is posted in %s: 9ci serve, or 9ci in a repository, posts its tree there", dir)
	}
	return nil, errs[len(errs)-1]
}

// standing is the repository that the working directory is in.
type standing struct {
	repo      *repo.Repo
	config    *config.Config
	namespace string
}

// stand returns nil if the working directory is in no repository, or if there is no
// git to ask.
func stand(ctx context.Context) (*standing, error) {
	r, err := repo.Open(ctx, ".")
	if errors.Is(err, repo.ErrNone) || errors.Is(err, repo.ErrNoGit) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := config.Load(ctx, r, nil) // the key is a part of a local namespace
	if err != nil {
		return nil, err
	}
	ns, err := host.Namespace(r, c)
	if err != nil {
		return nil, err
	}
	return &standing{r, c, ns}, nil
}

// store opens the tree of what this user's store has of the repository. It reports
// iofs.ErrNotExist if that is nothing.
func (s *standing) store(ctx context.Context) (place, error) {
	dir, err := host.StoreDir(s.namespace)
	if err != nil {
		return place{}, err
	}
	none := explain(iofs.ErrNotExist, "there is no run of %s yet, and no executor serves it: 9ci runs HEAD", s.namespace)
	if _, err := os.Stat(dir); errors.Is(err, iofs.ErrNotExist) {
		return place{}, none
	}
	h, err := openStore(ctx, s.repo, s.config)
	if err != nil {
		return place{}, err
	}
	if _, err := h.Executor.Store.Lookup("last"); err != nil {
		h.Close()
		return place{}, none
	}
	return place{root: h.Executor.Tree(), close: h.Close}, nil
}

// openStore opens the store of a clone's namespace to look at what it has: nothing is
// run, evicted, or asked of the orchestrator.
func openStore(ctx context.Context, r *repo.Repo, c *config.Config) (*host.Host, error) {
	alone := *c
	alone.Orchestrator = ""
	return newHost(ctx, r, &alone, true)
}

// A told is an error in words for the user. It wraps what callers test for.
type told struct {
	words string
	err   error
}

func explain(err error, format string, args ...any) error {
	return &told{fmt.Sprintf(format, args...), err}
}

func (e *told) Error() string { return e.words }
func (e *told) Unwrap() error { return e.err }

// walk is fs.Walk, but follows the symbolic links among the artifacts of a run within
// that run.
func (s search) walk(ctx context.Context, root fs.Dir, name string) (fs.Node, error) {
	n, err := fs.Walk(ctx, root, name)
	run, file, ok := splitArtifact(name)
	if !ok || s.link && err == nil {
		return n, err
	}
	var st fs.Stat
	if err == nil {
		if _, ok := n.(fs.Dir); ok {
			return n, nil
		}
		var serr error
		if st, serr = n.Stat(ctx); serr != nil || st.Mode&iofs.ModeSymlink == 0 {
			return n, nil // the one that opens it gets the error
		}
	}
	d, derr := fs.WalkDir(ctx, root, run)
	if derr != nil {
		return n, err
	}
	if !s.link {
		n, err := fs.Follow(ctx, d, file)
		if st.Target != "" && errors.Is(err, iofs.ErrNotExist) {
			err = explain(err, "it is a link to %s, which is not in the run", st.Target)
		}
		return n, err
	}
	dir, file := path.Split(file)
	if n, err = fs.Follow(ctx, d, dir); err != nil {
		return nil, err
	}
	if d, ok = n.(fs.Dir); !ok {
		return nil, fs.ErrNotDir
	}
	return d.Walk(ctx, file)
}

// splitArtifact cuts the path of an artifact, which is RUN/artifacts/NAME or
// artifacts/REV/NAME, into that of its run and its own there.
func splitArtifact(name string) (run, file string, ok bool) {
	elems := strings.Split(name, "/")
	i := slices.Index(elems, "artifacts")
	if i < 0 || i+1 == len(elems) {
		return "", "", false
	}
	if i > 0 && (i == 1 || elems[i-2] == "ci") {
		return path.Join(elems[:i]...), path.Join(elems[i:]...), true
	}
	return path.Join(append(slices.Clone(elems[:i]), "ci", elems[i+1])...), path.Join(append([]string{"artifacts"}, elems[i+2:]...)...), true
}

// noRun returns what is to be said of a path through a name in ci or artifacts for
// which there is no run, or nil.
func noRun(ctx context.Context, root fs.Dir, name string) error {
	elems := strings.Split(path.Clean("/" + name)[1:], "/")
	for i, e := range elems[:len(elems)-1] {
		if e != "ci" && e != "artifacts" {
			continue
		}
		d, err := fs.WalkDir(ctx, root, path.Join(elems[:i+1]...))
		if err != nil {
			return nil
		}
		rev := strings.TrimSuffix(elems[i+1], ".tar")
		if _, err := d.Walk(ctx, rev); !errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		_, _, isID := ci.SplitID(rev)
		switch {
		case rev == "held":
			return explain(iofs.ErrNotExist, "no machine is held: CI_HOLD=10m 9ci run -f holds that of a run that fails")
		case slices.Contains([]string{"last", "head", "green"}, rev):
			return explain(iofs.ErrNotExist, "no run of %s: 9ci runs HEAD, and 9ci ls ci lists the runs that there are", rev)
		case isID || ci.IsPrefix(rev):
			return explain(iofs.ErrNotExist, "no run of %s: 9ci ls ci lists the runs that there are", rev)
		}
		return explain(iofs.ErrNotExist, "no run of %s: want an id, last, head, green, or 7 digits or more of a commit or a tree, which git rev-parse prints", rev)
	}
	return nil
}

// answerTime is how long the server of a socket in $NAMESPACE may take to answer: the
// kernel accepts connections for one that is stopped or stuck, and others may answer.
var answerTime = 20 * time.Second // a variable for tests

// ownPlace opens the tree at a socket that this user or root serves.
func ownPlace(ctx context.Context, addr, aname string) (place, error) {
	limited, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	p, err := importPlace(limited, ninep.DialOwn, addr, aname)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return place{}, silent(addr)
	}
	return p, err
}

// errSilent is that of a server that does not answer in time.
var errSilent = errors.New("no answer")

func silent(addr string) error {
	return fmt.Errorf("%s: %w in %v: its server is stopped or stuck; ss -xlp src %s names it", addr, errSilent, answerTime, strings.TrimPrefix(addr, "unix!"))
}

// dialPlace opens the tree at addr, which is ssh://HOST[:PORT]/NAMESPACE or what
// ninep.Dial takes.
func dialPlace(ctx context.Context, addr, aname string) (place, error) {
	if u, ok, err := sshURL(addr); ok {
		if err != nil {
			return place{}, err
		}
		p, rest, err := sshPlace(ctx, u)
		if err == nil && rest != "" {
			p.close()
			err = fmt.Errorf("-a: %s is no namespace: want ssh://HOST[:PORT]/NAMESPACE", u.Path)
		}
		return p, err
	}
	return importPlace(ctx, ninep.Dial, addr, aname)
}

func importPlace(ctx context.Context, connect func(context.Context, string) (net.Conn, error), addr, aname string) (place, error) {
	conn, err := connect(ctx, addr)
	if err != nil {
		return place{}, dialError(addr, err)
	}
	c, err := ninep.Import(ctx, conn, ninep.ImportOptions{
		Aname: aname,
		More:  func(ctx context.Context) (io.ReadWriteCloser, error) { return connect(ctx, addr) },
	})
	if err != nil {
		conn.Close()
		return place{}, fmt.Errorf("%s: %w", addr, err)
	}
	return place{root: c.Root(), addr: addr, close: func() { c.Close() }, done: c.Done()}, nil
}

// dialError says of an error of dialling what the user can do.
func dialError(addr string, err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	switch {
	case !ok:
		return err
	case errno == syscall.ECONNREFUSED && !strings.HasPrefix(addr, "tcp!"):
		return explain(err, "%s is a stale socket, whose server is gone: rm it, or start a server there with 9ci serve -a %s", addr, addr)
	case errno == syscall.ECONNREFUSED, errno == syscall.ENOENT:
		return explain(err, "%s: %v: nothing is served there; 9ci serve -a %s does so", addr, errno, addr)
	}
	return explain(err, "%s: %v", addr, errno)
}

// sshURL reads ssh://HOST[:PORT]/NAMESPACE[/PATH], or tls://; ok is false if s has another
// scheme. The error does not repeat s, in which there may be a password.
func sshURL(s string) (u *url.URL, ok bool, err error) {
	if !strings.HasPrefix(s, "ssh://") && !strings.HasPrefix(s, "tls://") {
		return nil, false, nil
	}
	if u, err = url.Parse(s); err != nil {
		err = errors.New("this is no URL of an orchestrator: want ssh://HOST[:PORT]/NAMESPACE[/PATH]")
	}
	return u, true, err
}

// sshPlace opens the tree of the namespace in u, or the orchestrator's root if
// there is none, and returns what follows in the URL's path.
func sshPlace(ctx context.Context, u *url.URL) (place, string, error) {
	c, err := config.Load(ctx, nil, nil)
	if err != nil {
		return place{}, "", err
	}
	key, err := sign.LoadKey(c.Key)
	if err != nil {
		return place{}, "", err
	}
	namespace, rest := splitNamespace(path.Clean("/" + u.Path)[1:])
	direct := *u
	direct.Path = ""
	opts, err := host.DialOptions(key, c, direct.String())
	if err != nil {
		return place{}, "", err
	}
	conn, err := dial.Open(direct.String(), opts)
	if err != nil {
		return place{}, "", err
	}
	client, err := host.ImportTree(ctx, conn, namespace)
	if err != nil {
		conn.Close()
		return place{}, "", err
	}
	return place{root: client.Root(), close: func() { conn.Close(); client.Close() }, done: client.Done()}, rest, nil
}

// splitNamespace cuts a path at the orchestrator behind its namespace, which it
// returns in the form of ci.CleanNamespace. That keeps the words of a tree out of
// namespaces, so the longest part that can be one is it: in local/NAME the first
// two elements, elsewhere all before such a word, from the fourth on. The
// namespace is "" if there is none: the path is then one of the orchestrator's
// root, where ci, n and artifacts are those of the key's own namespace.
func splitNamespace(path string) (namespace, rest string) {
	elems := strings.Split(path, "/")
	n := len(elems)
	if ci.LocalNamespace(path) {
		n = min(n, 2)
	} else if n > 3 {
		if i := slices.IndexFunc(elems[3:], ci.InNamespace); i >= 0 {
			n = 3 + i
		}
	}
	namespace, err := ci.CleanNamespace(strings.Join(elems[:n], "/"))
	if err != nil {
		return "", path
	}
	return namespace, strings.Join(elems[n:], "/")
}
