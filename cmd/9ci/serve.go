package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"9ci/cmd/internal/ask"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/home"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/fs"
	"9ci/proto/ninep"
)

// A list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func serveCommand(ctx context.Context, args []string) (int, error) {
	f := newFlags("serve")
	var addrs list
	f.Var(&addrs, "a", "")
	rootDir := f.String("root", "", "")
	trace := f.Bool("D", false, "")
	if err := parseFlags(f, args, 0, 0); err != nil {
		return exitError, err
	}
	listeners, err := listen(addrs)
	if err != nil {
		return exitError, err
	}
	if *rootDir != "" {
		dir, err := os.OpenRoot(*rootDir)
		if err != nil {
			return exitError, err
		}
		defer dir.Close()
		return serveUntil(ctx, listeners, &ninep.Server{Root: fs.DiskDir(dir, "/")}, *trace)
	}
	s, err := newServer(ctx, tool)
	if err != nil {
		return exitError, err
	}
	defer s.close()
	for _, l := range listeners {
		s.log.Info("serve", "addr", dialString(l.Addr()))
	}
	return serveUntil(ctx, listeners, &ninep.Server{Root: s.root}, *trace)
}

// listen announces the addresses, or the socket of $NAMESPACE where there are
// none. A live daemon's socket is left to it.
func listen(addrs []string) ([]net.Listener, error) {
	if len(addrs) == 0 {
		dir, err := ninep.Namespace()
		if err != nil {
			return nil, err
		}
		name := "unix!" + filepath.Join(dir, "9ci")
		d, err := findDaemon(context.Background())
		if err != nil {
			return nil, err
		}
		if d != nil {
			d.close()
			return nil, fmt.Errorf("a daemon answers at %s already", d.addr)
		}
		l, err := ninep.Listen(name)
		if errors.Is(err, syscall.EADDRINUSE) {
			l, err = ninep.Listen(fmt.Sprintf("%s.%d", name, os.Getpid()))
		}
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	var listeners []net.Listener
	for _, a := range addrs {
		if err := loopback(a); err != nil {
			return nil, err
		}
		l, err := ninep.Listen(a)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// loopback refuses an address at which other machines would find a tree that
// authenticates nobody.
func loopback(addr string) error {
	rest, ok := strings.CutPrefix(addr, "tcp!")
	if !ok {
		return nil
	}
	host, _, _ := strings.Cut(rest, "!")
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s: 9P over TCP authenticates nobody, so it is for the loopback alone (tcp!127.0.0.1!PORT): others come over SSH, through an orchestrator", addr)
}

// A server is the daemon: executors for many repositories, and one queue.
type server struct {
	ctx    context.Context // ends every run
	cancel context.CancelCauseFunc
	config *config.Config
	tool   func(name string) (string, error)
	queue  executor.Queue
	trees  fs.Namespaces
	root   fs.Dir
	repos  repoList
	log    *slog.Logger

	mu    sync.Mutex // guards hosts
	hosts map[string]*host
}

// newServer makes the daemon, with every repository that it served before.
func newServer(ctx context.Context, tool func(name string) (string, error)) (*server, error) {
	c, err := config.Load(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	s := &server{config: c, tool: tool, hosts: make(map[string]*host), log: slog.New(slog.NewTextHandler(show.Err.Words(), nil))}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	s.root = s.trees.Root([]fs.Node{
		fs.CtlFile("ctl", "repo PATH\n", s.command),
		fs.TextFile("status", s.status),
		s.trees.Event(),
	}, "event")
	state, err := home.State()
	if err != nil {
		return nil, err
	}
	s.repos = repoList{filepath.Join(state, ".repos")}
	tops, err := s.repos.read()
	if err != nil {
		return nil, err
	}
	for _, top := range tops {
		if _, err := s.add(ctx, top); err != nil {
			s.log.Error("repository", "path", top, "err", fmt.Errorf("%w: it is tried again when the daemon next starts, unless its line is taken out of %s", err, s.repos.name))
		}
	}
	return s, nil
}

func (s *server) close() {
	s.cancel(errors.New("the daemon ends"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		h.Close()
	}
	clear(s.hosts)
}

// add serves the repository at path, if it does not do so already, and returns
// its namespace.
func (s *server) add(ctx context.Context, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("repo %s: want an absolute path", path)
	}
	if strings.ContainsRune(path, '\n') { // the list of them has one a line
		return "", fmt.Errorf("repo %q: a path with a newline cannot be kept: rename the directory", path)
	}
	rp, err := repo.Open(ctx, path)
	if err != nil {
		return "", err
	}
	c, err := config.Load(ctx, rp, nil)
	if err != nil {
		return "", err
	}
	ns, err := namespace(rp, c)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.hosts[ns]; ok {
		// Perhaps another clone of the same repository: the one last named
		// has the revisions that are asked for.
		old := h.Repo().Top
		h.SetRepo(rp)
		return ns, s.repos.replace(old, rp.Top)
	}
	log := s.log.With("repo", ns)
	say := func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) }
	h, err := newHost(s.ctx, rp, c, hostOptions{mode: "daemon", tool: s.tool, queue: &s.queue, log: log, say: say})
	if err != nil {
		return "", err
	}
	h.Warn(c)
	s.trees.Add(ns, h.Tree())
	s.hosts[ns] = h
	h.mux.export(s.ctx)
	h.start(s.ctx)
	return ns, s.repos.replace(rp.Top, rp.Top)
}

// command does what a line written to the daemon's own ctl says.
func (s *server) command(ctx context.Context, line string) (string, error) {
	words, err := fs.SplitWords(line)
	if err != nil {
		return "", err
	}
	if len(words) != 2 || words[0] != "repo" {
		return "", errors.New("want repo PATH")
	}
	return s.add(ctx, words[1])
}

// status is the daemon's own: the runs of all its repositories are counted.
func (s *server) status(ctx context.Context) ([]byte, error) {
	counts := []string{"running", "queued", "kept"}
	sums := make(map[string]int)
	for _, ns := range s.trees.Names() {
		st, err := ask.Attrs(ctx, s.root, ns+"/status")
		if err != nil {
			return nil, err
		}
		for _, name := range counts {
			n, err := strconv.Atoi(st.Get(name))
			if err != nil {
				return nil, fmt.Errorf("%s/status: %s: %w", ns, name, err)
			}
			sums[name] += n
		}
	}
	var sum fs.Attrs
	for _, name := range counts {
		sum = append(sum, fs.Attr{Name: name, Value: strconv.Itoa(sums[name])})
	}
	return executor.Status("daemon", version(), s.config, &s.queue, sum).Text(), nil
}
