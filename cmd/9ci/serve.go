package main

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"9ci/cmd/internal/daemon"
	"9ci/cmd/internal/show"
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
	rootDir := f.String("root", "", "")
	trace := f.Bool("D", false, "")
	if err := parseFlags(f, args, 0, 0); err != nil {
		return exitError, err
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
		return serveUntil(ctx, listeners, &ninep.Server{Root: fs.DiskDir(dir, "/"), Log: log}, *trace)
	}
	d, err := daemon.New(ctx, daemon.Options{Version: version(), Tool: tool, Log: log})
	if err != nil {
		return exitError, err
	}
	defer d.Close()
	for _, l := range listeners {
		log.Info("serve", "addr", dialString(l.Addr()))
	}
	return serveUntil(ctx, listeners, &ninep.Server{Root: d.Root(), Log: log}, *trace)
}
