package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

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
	close func()
	done  <-chan struct{} // closed when the tree does not answer any more
}

// places opens the trees in which a path is looked up. With an addr these are,
// at that address, the namespace of the repository that the working directory is
// in, and then the root. Without, they are that namespace at each socket in
// $NAMESPACE that this user or root serves, or the roots if there is no
// repository.
func places(ctx context.Context, addr string) ([]place, error) {
	anames := []string{""}
	if r, err := repo.Open(ctx, "."); err == nil {
		ns, ok := r.Origin()
		if !ok { // the key is part of the namespace, and the configuration names it
			c, err := config.Load(ctx, r, nil)
			if err != nil {
				return nil, err
			}
			if ns, err = host.Namespace(r, c); err != nil {
				return nil, err
			}
		}
		anames = []string{ns, ""}
	}
	addrs := []string{addr}
	if addr == "" {
		var err error
		if addrs, err = posted(); err != nil {
			return nil, err
		}
		anames = anames[:1]
	}
	var found []place
	var errs []error
	connect := ninep.Dial
	if addr == "" {
		connect = ninep.DialOwn
	}
	for _, a := range addrs {
		for _, aname := range anames {
			p, err := dialPlace(ctx, connect, a, aname)
			if addr == "" && aname != "" && errors.Is(err, iofs.ErrNotExist) {
				err = fmt.Errorf("%s does not serve %s: 9ci in the repository has a daemon do so", a, aname)
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
	if len(errs) == 0 {
		dir, _ := ninep.Namespace()
		return nil, fmt.Errorf("nothing is posted in %s: 9ci serve, or 9ci in a repository, posts its tree there", dir)
	}
	return nil, errs[len(errs)-1]
}

// dialPlace opens the tree at addr, which is ssh://HOST[:PORT]/NAMESPACE or
// what connect takes.
func dialPlace(ctx context.Context, connect func(context.Context, string) (net.Conn, error), addr, aname string) (place, error) {
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
	conn, err := connect(ctx, addr)
	if err != nil {
		return place{}, err
	}
	c, err := ninep.Import(ctx, conn, ninep.ImportOptions{
		Aname: aname,
		More:  func(ctx context.Context) (io.ReadWriteCloser, error) { return connect(ctx, addr) },
	})
	if err != nil {
		conn.Close()
		return place{}, fmt.Errorf("%s: %w", addr, err)
	}
	return place{c.Root(), func() { c.Close() }, c.Done()}, nil
}

// find walks to a path in the first of the places that has it. The caller closes
// that place.
func find(ctx context.Context, addr, name string) (fs.Node, place, error) {
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
	} else if ps, err = places(ctx, addr); err != nil {
		return nil, place{}, err
	}
	var first error
	for i, p := range ps {
		n, err := fs.Walk(ctx, p.root, path.Clean("/" + name)[1:])
		if err == nil {
			for _, q := range ps[i+1:] {
				q.close()
			}
			return n, p, nil
		}
		if first == nil {
			first = fmt.Errorf("%s: %w", name, err)
		}
		p.close()
	}
	return nil, place{}, first
}

// sshURL reads ssh://HOST[:PORT]/NAMESPACE[/PATH]; ok is false if s has another
// scheme. The error does not repeat s, in which there may be a password.
func sshURL(s string) (u *url.URL, ok bool, err error) {
	if !strings.HasPrefix(s, "ssh://") {
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
	opts, err := host.DialOptions(key)
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
	return place{client.Root(), func() { client.Close(); conn.Close() }, client.Done()}, rest, nil
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
