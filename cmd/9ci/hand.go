package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/proto/ninep"
)

// A daemonPlace is the tree of a daemon that answers at a socket of $NAMESPACE.
type daemonPlace struct {
	place
	addr string
}

// findDaemon looks for a daemon at the sockets of $NAMESPACE, and returns nil if
// there is none. A socket that neither this user nor root serves is not asked: a
// run is handed over with the secrets of its environment.
func findDaemon(ctx context.Context) (*daemonPlace, error) {
	addrs, err := posted()
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		p, err := ownPlace(ctx, addr, "")
		if errors.Is(err, ninep.ErrForeign) || errors.Is(err, errSilent) {
			say("%v: it is not used", err)
		}
		if err != nil {
			continue
		}
		is, err := isDaemon(ctx, p)
		if is {
			return &daemonPlace{p, addr}, nil
		}
		if err != nil {
			say("%v: it is not used", err)
		}
		p.close()
	}
	return nil, nil
}

// isDaemon reports whether a place is a daemon's root: its status has mode=daemon, and
// its ctl can be written, which that of a copy of such a tree (9ci serve -root) cannot.
// The error is that of a server that does not answer in answerTime.
func isDaemon(ctx context.Context, p place) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	st, err := ask.Attrs(limited, p.root, "status")
	var ctl fs.File
	if err == nil && st.Get("mode") == "daemon" {
		var n fs.Node
		if n, err = p.root.Walk(limited, "ctl"); err == nil {
			ctl, err = n.Open(limited, fs.OpenRead|fs.OpenWrite)
		}
	}
	switch {
	case err != nil && limited.Err() != nil && ctx.Err() == nil:
		return false, silent(p.addr)
	case err != nil || ctl == nil:
		return false, nil
	}
	ctl.Close()
	return true, nil
}

// write writes a line to a ctl of the daemon and returns the reply.
func (d *daemonPlace) write(ctx context.Context, path, line string) (string, error) {
	n, err := fs.Walk(ctx, d.root, path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	reply, err := ask.Ctl(ctx, n, []byte(line+"\n"))
	return strings.TrimSpace(string(reply)), err
}

// hand has the daemon find or run req, and prints the run. The first signal cancels it,
// unless others wait for it too. The exit status is the run's.
func (d *daemonPlace) hand(ctx context.Context, rp *repo.Repo, req executor.Request, o runFlags) (int, error) {
	defer d.close()
	ns, err := d.write(ctx, "ctl", "repo "+ci.Quote(rp.Top))
	if err != nil {
		return exitError, fmt.Errorf("daemon: %w", err)
	}
	root, err := ask.Dir(ctx, d.root, ns)
	if err != nil {
		return exitError, fmt.Errorf("daemon: %w", err)
	}
	n, err := root.Walk(ctx, "ctl")
	if err != nil {
		return exitError, fmt.Errorf("daemon: %w", err)
	}
	ctl, err := n.Open(ctx, fs.OpenRead|fs.OpenWrite)
	if err != nil {
		return exitError, fmt.Errorf("daemon: %w", err)
	}
	defer ctl.Close() // with wait=1 the run is wanted until then
	line := []string{"run", "repo=" + ci.Quote(rp.Top)}
	if req.Force {
		line = append(line, "force=1")
	}
	if !o.background {
		line = append(line, "wait=1")
	}
	for _, a := range req.Config.Attrs() {
		line = append(line, a.Name+"="+ci.Quote(a.Value))
	}
	line = append(line, req.Commit)
	for _, t := range req.Targets {
		line = append(line, ci.Quote(t))
	}
	reply, err := ask.Reply(ctx, ctl, []byte(strings.Join(line, " ")+"\n"))
	if err != nil {
		return exitError, fmt.Errorf("daemon: %w", err)
	}
	id := strings.TrimSpace(string(reply))
	if o.background {
		show.Out.Printf("%s\n", id)
		return 0, nil
	}
	follow, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	stop := context.AfterFunc(ctx, func() {
		reply, err := ask.Reply(follow, ctl, []byte("cancel "+id+"\n"))
		if err != nil {
			say("daemon: cancel %s: %v", id, err)
		} else if others := strings.TrimSpace(string(reply)); others != "" {
			say("run %s goes on: %s", id, others)
			leave()
		}
	})
	defer stop()
	code, err := finish(follow, root, id, o, req.Config, rp, func(string) string { return "" })
	if errors.Is(err, fs.ErrIO) && follow.Err() == nil {
		return code, fmt.Errorf("the daemon has ended, or the connection to it is lost: 9ci cat ci/%s/status says what has become of the run: %w", id, err)
	}
	if err != nil && follow.Err() == nil {
		return code, fmt.Errorf("daemon: %w", err)
	}
	var sig executor.Signalled
	if errors.As(context.Cause(ctx), &sig) {
		return 128 + int(sig.Signal), nil
	}
	return code, nil
}
