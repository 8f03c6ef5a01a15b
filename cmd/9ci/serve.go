package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"strings"
	"sync"

	"9ci/cmd/internal/daemon"
	"9ci/cmd/internal/host"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/version"
	"9ci/fs"
	"9ci/proto/ninep"
)

// A list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// serveCommand is the daemon, or with -root serves a directory.
func serveCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("serve")
	var addrs list
	f.Var(&addrs, "a", "")
	adopt := f.Bool("adopt", false, "")
	direct := f.String("direct", "", "")
	jobs := f.Int("j", 0, "")
	rootDir := f.String("root", "", "")
	trace := f.Bool("D", false, "")
	if err := parseFlags(f, args, 0, 0); err != nil {
		return exitError, err
	}
	show.Outlive()
	switch {
	case *rootDir != "" && *direct != "":
		return exitError, errors.New("-direct lets in those for whom an orchestrator vouches, and -root serves a directory to none: give one of them")
	case given(f, "j") && (*jobs < 1 || *rootDir != ""):
		return exitError, errors.New("-j is how many runs of the daemon go at once, 1 or more")
	case *rootDir != "" && *adopt:
		return exitError, errors.New("-adopt adds runs, and -root serves a directory as it is: give one of them")
	}
	listeners, err := listen(ctx, addrs)
	if err != nil {
		return exitError, err
	}
	defer closeAll(listeners) // and remove their sockets
	log := slog.New(slog.NewTextHandler(show.Err.Words(), nil))
	if *rootDir != "" {
		dir, err := os.OpenRoot(*rootDir)
		if err != nil {
			return exitError, err
		}
		defer dir.Close()
		return serveUntil(ctx, listeners, &ninep.Server{Root: fs.DiskDir(dir, "/"), Log: log}, *trace, nil)
	}
	o := daemon.Options{Version: version.String(), Tool: tool, Adopt: *adopt, Jobs: *jobs, Log: log}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if *direct != "" {
		door, err := openDirect(ctx, *direct)
		if err != nil {
			return exitError, err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel(nil)
		wg.Go(func() { door.serve(ctx, func(err error) { cancel(&lostError{err}) }) })
		o.Direct = door.Direct
		log.Info("serve", "direct", door.Address())
	}
	d, err := daemon.New(ctx, o)
	if err != nil {
		return exitError, err
	}
	defer d.Close()
	for _, l := range listeners {
		log.Info("serve", "addr", dialString(l.Addr()))
	}
	code, err := serveUntil(ctx, listeners, &ninep.Server{Root: d.Root(), Log: log, SSH: host.LocalSSH(d.Root(), d.Executor)}, *trace, d.Drain)
	if lost, ok := errors.AsType[*lostError](context.Cause(ctx)); ok {
		return exitError, lost
	}
	return code, err
}

// given reports whether a flag was given.
func given(f *flag.FlagSet, name string) (was bool) {
	f.Visit(func(x *flag.Flag) { was = was || x.Name == name })
	return was
}

// A lostError ends a daemon that has lost one of its addresses.
type lostError struct{ error }
