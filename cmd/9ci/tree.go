package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/fs"
	"9ci/proto/ninep"
)

// A place is a tree that answers, and what to call when done with it.
type place struct {
	root  fs.Dir
	close func()
	done  <-chan struct{} // closed when it does not answer any more
}

// places dials the trees in which PATH may be, at addr or else at the daemon
// and the executors that this user or root posted in $NAMESPACE: first the
// namespace of the repository one stands in, and then, at addr, all there is.
func places(ctx context.Context, addr string) ([]place, error) {
	anames := []string{""}
	if r, err := repo.Open(ctx, "."); err == nil {
		ns, ok := r.Origin()
		if !ok { // then our key is part of it
			c, err := config.Load(ctx, r, nil)
			if err != nil {
				return nil, err
			}
			if ns, err = namespace(r, c); err != nil {
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
	dial := ninep.Dial
	if addr == "" {
		dial = ninep.DialOwn
	}
	for _, a := range addrs {
		for _, aname := range anames {
			p, err := dialPlace(ctx, dial, a, aname)
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

// posted returns the addresses of the trees in $NAMESPACE, the daemon's name first.
func posted() ([]string, error) {
	dir, err := ninep.Namespace()
	if err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir) // sorted: 9ci is the first
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, e := range names {
		if e.Name() != "9ci" && !strings.HasPrefix(e.Name(), "9ci.") {
			continue
		}
		n := filepath.Join(dir, e.Name())
		if st, err := os.Stat(n); err == nil && st.Mode()&iofs.ModeSocket != 0 {
			addrs = append(addrs, "unix!"+n)
		}
	}
	return addrs, nil
}

// dialPlace opens the tree at addr, a dial string for dial or
// ssh://HOST/NAMESPACE.
func dialPlace(ctx context.Context, dial func(context.Context, string) (net.Conn, error), addr, aname string) (place, error) {
	if u, ok, err := sshURL(addr); ok {
		if err != nil {
			return place{}, err
		}
		p, rest, err := sshPlace(ctx, u)
		if err == nil && rest != "" {
			p.close()
			err = fmt.Errorf("-a: %s is more than a namespace: want ssh://HOST[:PORT]/NAMESPACE", u.Path)
		}
		return p, err
	}
	conn, err := dial(ctx, addr)
	if err != nil {
		return place{}, err
	}
	c, err := ninep.Import(ctx, conn, ninep.ImportOptions{
		Aname: aname,
		More:  func(ctx context.Context) (io.ReadWriteCloser, error) { return dial(ctx, addr) },
	})
	if err != nil {
		conn.Close()
		return place{}, fmt.Errorf("%s: %w", addr, err)
	}
	return place{c.Root(), func() { c.Close() }, c.Done()}, nil
}

// find opens the tree that has PATH and walks to it. The caller closes it.
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

func lsCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("ls")
	addr := f.String("a", "", "")
	long := f.Bool("l", false, "")
	if err := parseFlags(f, args, 0, -1); err != nil {
		return exitError, err
	}
	names := f.Args()
	if len(names) == 0 {
		names = []string{"/"}
	}
	for _, name := range names {
		n, p, err := find(ctx, *addr, name)
		if err != nil {
			return 1, err
		}
		defer p.close()
		list := []fs.Stat{}
		if d, ok := n.(fs.Dir); ok {
			list, err = readDir(ctx, d)
		} else {
			var st fs.Stat
			st, err = n.Stat(ctx)
			st.Name = name
			list = append(list, st)
		}
		if err != nil {
			return 1, fmt.Errorf("%s: %w", name, err)
		}
		for _, st := range list {
			if !*long {
				show.Out.Printf("%s\n", show.Out.Name(st.Name))
				continue
			}
			target := ""
			if st.Target != "" {
				target = " -> " + show.Out.Name(st.Target)
			}
			show.Out.Printf("%v %10d %s %s%s\n", st.Mode, st.Size, st.ModTime.UTC().Format(time.RFC3339), show.Out.Name(st.Name), target)
		}
	}
	return 0, nil
}

func readDir(ctx context.Context, d fs.Dir) ([]fs.Stat, error) {
	var list []fs.Stat
	for st, err := range fs.Entries(ctx, d) {
		if err != nil {
			return list, err
		}
		list = append(list, st)
	}
	return list, nil
}

func catCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("cat")
	addr := f.String("a", "", "")
	raw := f.Bool("raw", false, "")
	if err := parseFlags(f, args, 1, -1); err != nil {
		return exitError, err
	}
	for _, name := range f.Args() {
		n, p, err := find(ctx, *addr, name)
		if err != nil {
			return 1, err
		}
		defer p.close()
		if err := copyFile(ctx, content(show.Out, *raw), n); err != nil {
			return 1, fmt.Errorf("%s: %w", name, err)
		}
	}
	return 0, nil
}

func cpCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("cp")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 2, 2); err != nil {
		return exitError, err
	}
	n, p, err := find(ctx, *addr, f.Arg(0))
	if err != nil {
		return 1, err
	}
	defer p.close()
	to, name := f.Arg(1), path.Base(path.Clean("/"+f.Arg(0)))
	if st, err := os.Stat(to); err == nil && st.IsDir() && name != "/" {
		to = filepath.Join(to, name)
	}
	if err := copyTree(ctx, n, to); err != nil {
		return 1, err
	}
	return 0, nil
}

func waitCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("wait")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	name := f.Arg(0)
	if !strings.Contains(name, "/") {
		name = "ci/" + name
	}
	if path.Base(name) != "wait" {
		name += "/wait"
	}
	n, p, err := find(ctx, *addr, name)
	if err != nil {
		return 1, err
	}
	defer p.close()
	text, err := fs.ReadAll(ctx, n)
	if err != nil {
		return 1, err
	}
	show.Out.Write(text)
	st, err := fs.ParseStatus(string(text))
	if err != nil {
		return 1, err
	}
	return exitStatus(st), nil
}

// exitStatus is the exit status that the status of a finished run stands for.
func exitStatus(st fs.Status) int {
	if st.State == "error" || st.Code < 0 {
		return exitError
	}
	return st.Code
}

// writeLimit is the most that 9ci write sends: one message, as a ctl wants it.
const writeLimit = 64 << 10

func writeCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("write")
	addr := f.String("a", "", "")
	if err := parseFlags(f, args, 1, 1); err != nil {
		return exitError, err
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, writeLimit+1))
	if err != nil {
		return exitError, err
	}
	if len(input) > writeLimit {
		return exitError, fmt.Errorf("the input is longer than %d bytes", writeLimit)
	}
	n, p, err := find(ctx, *addr, f.Arg(0))
	if err != nil {
		return 1, err
	}
	defer p.close()
	reply, err := ask.Ctl(ctx, n, input)
	show.Out.Write(reply)
	if err != nil {
		return 1, fmt.Errorf("%s: %w", f.Arg(0), err)
	}
	return 0, nil
}
