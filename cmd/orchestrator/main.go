package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"9ci/cmd/internal/home"
	"9ci/cmd/internal/manual"
	"9ci/cmd/internal/service"
	"9ci/cmd/internal/show"
	"9ci/cmd/internal/version"
	"9ci/orchestrator"
	"9ci/orchestrator/access/account"
	"9ci/proto/ninep"
)

func main() {
	drain, end := signals()
	os.Exit(run(drain, end, os.Args[1:], show.Out.Words(), show.Err.Words()))
}

// signals returns a context that is done at the first SIGINT, SIGTERM or SIGHUP, and one
// that is done at the second. A SIGHUP that the parent ignores is none.
func signals() (first, second context.Context) {
	first, cancelFirst := context.WithCancel(context.Background())
	second, cancelSecond := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(c, syscall.SIGHUP)
	}
	go func() {
		<-c
		cancelFirst()
		<-c
		cancelSecond()
	}()
	return first, second
}

// options are what the flags say.
type options struct {
	acme        string
	addrs       []string
	state       string
	authorities string
	metrics     string
	level       slog.Level
	tls         string
	url         string
	web         string
	trace       bool
	token       newToken
	invite      newInvite
}

func flags(o *options) *flag.FlagSet {
	f := flag.NewFlagSet("orchestrator", flag.ContinueOnError)
	stateFlags(f, o)
	f.Func("a", "listen on `ADDR`", func(s string) error {
		o.addrs = append(o.addrs, s)
		return nil
	})
	f.StringVar(&o.tls, "tls", "", "serve mutual TLS on `ADDR`")
	urlFlag(f, o)
	f.StringVar(&o.acme, "acme", "", "have the page's certificate from the CA whose ACME directory is at `URL`")
	f.StringVar(&o.web, "web", "", "serve the page for people on `ADDR`")
	f.StringVar(&o.metrics, "metrics", "", "serve /metrics and /healthz on `ADDR`, of this machine alone")
	f.Func("log", "log what is of `LEVEL` or above", func(s string) error {
		switch s {
		case "debug", "info", "warn", "error":
			return o.level.UnmarshalText([]byte(s))
		}
		return errors.New("want debug, info, warn or error")
	})
	f.BoolVar(&o.trace, "D", false, "print 9P messages")
	return f
}

// stateFlags are the flags that say where the state is.
func stateFlags(f *flag.FlagSet, o *options) {
	dirFlag(f, o)
	f.StringVar(&o.authorities, "ca", "", "trust certificates of the keys in `FILE`")
}

func urlFlag(f *flag.FlagSet, o *options) {
	f.StringVar(&o.url, "url", "", "the orchestrator is `URL` to others")
}

func dirFlag(f *flag.FlagSet, o *options) {
	f.StringVar(&o.state, "state", "", "keep state in `DIR`")
}

// A command is something that an operator does with the state.
type command struct {
	usage string // behind "orchestrator"
	flags func(f *flag.FlagSet, o *options)
	args  func(n int) bool // whether it takes so many
	do    func(o options, args []string, stdout, stderr io.Writer) (status int, err error)
}

func noFlags(*flag.FlagSet, *options) {}

func noArgs(n int) bool { return n == 0 }

var commands = map[string]command{
	"token": {"token [-state DIR] [-read] [-expires D] [-name N] NAMESPACE", func(f *flag.FlagSet, o *options) {
		dirFlag(f, o)
		o.token.flags(f)
	}, func(n int) bool { return n == 1 }, makeToken},
	"tokens": {"tokens [-state DIR]", dirFlag, noArgs, listTokens},
	"revoke": {"revoke [-state DIR] TOKEN|ACCOUNT|SERIAL|NAME...", dirFlag, func(n int) bool { return n > 0 }, revoke},
	"invite": {"invite [-state DIR] [-url URL] [-expires D] [-name N] [-account ACCOUNT] [NAMESPACE...]", func(f *flag.FlagSet, o *options) {
		dirFlag(f, o)
		urlFlag(f, o)
		o.invite.flags(f)
	}, func(int) bool { return true }, invite},
	"check":   {"check [-state DIR] [-ca FILE]", stateFlags, noArgs, check},
	"help":    {"help [TOPIC...]", noFlags, func(int) bool { return true }, help},
	"version": {"version", noFlags, noArgs, printVersion},
}

// usage says how a command is called, or else the program.
func usage(w io.Writer, command string) {
	if c, ok := commands[command]; ok {
		fmt.Fprintf(w, "usage: orchestrator %s\norchestrator help %s says more\n", c.usage, command)
		return
	}
	fmt.Fprintln(w, "usage: orchestrator [-a ADDR]... [-state DIR] [-ca FILE] [-url URL] [-web ADDR] [-acme URL] [-tls ADDR] [-metrics ADDR] [-log LEVEL] [-D]")
	for _, name := range []string{"token", "tokens", "revoke", "invite", "check", "help", "version"} {
		fmt.Fprintln(w, "       orchestrator", commands[name].usage)
	}
}

// check prints what the state grants, and returns the exit status.
func check(o options, _ []string, stdout, _ io.Writer) (int, error) {
	if !orchestrator.Check(stdout, o.state, orchestrator.Options{Authorities: o.authorities}) {
		return 1, nil
	}
	return 0, nil
}

// help prints what the manual says of a topic.
func help(_ options, args []string, stdout, _ io.Writer) (int, error) {
	text, err := manual.Help("orchestrator", strings.Join(args, " "))
	if err != nil {
		return 2, err
	}
	_, err = io.WriteString(stdout, text)
	return 0, err
}

// printVersion prints the revision of the sources.
func printVersion(_ options, _ []string, stdout, _ io.Writer) (int, error) {
	_, err := fmt.Fprintf(stdout, "orchestrator %s\n", version.String())
	return 0, err
}

// run serves until drain is done and then what is under way has ended, or until end
// is done. It returns the exit status.
func run(drain, end context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	f := flags(&o)
	var c command
	name := ""
	if len(args) > 0 && (args[0] == "-version" || args[0] == "--version") {
		args = append([]string{"version"}, args[1:]...)
	}
	if len(args) > 0 {
		c = commands[args[0]]
	}
	if c.do != nil {
		name = args[0]
		f = flag.NewFlagSet("orchestrator "+name, flag.ContinueOnError)
		c.flags(f, &o)
		args = args[1:]
	} else {
		c.args = noArgs
	}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout, name)
		return 0
	case err == nil && name == "" && f.NArg() > 0:
		err = fmt.Errorf("unknown command %s", f.Arg(0))
	case err == nil && !c.args(f.NArg()):
		usage(stderr, name)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "orchestrator:", err)
		usage(stderr, name)
		return 2
	}
	status, err := 0, o.defaults()
	switch {
	case err != nil:
	case c.do != nil:
		status, err = c.do(o, f.Args(), stdout, stderr)
	default:
		show.Outlive()
		err = serve(drain, end, o, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "orchestrator:", strings.TrimPrefix(err.Error(), "orchestrator: "))
		return max(1, status)
	}
	return status
}

// drainFor is how long transfers that are under way at a signal may take.
const drainFor = 30 * time.Second

func serve(drain, end context.Context, o options, stderr io.Writer) error {
	sockets, err := passedSockets()
	if err != nil {
		return err
	}
	if len(o.addrs) == 0 && len(sockets.ssh) == 0 {
		o.addrs = []string{"tcp!*!2222"}
	}
	if o.authorities != "" {
		if _, err := os.Stat(o.authorities); err != nil {
			return fmt.Errorf("-ca: %w", err)
		}
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	var trace io.Writer
	if o.trace {
		trace = stderr
	}
	known, err := openForges(o.state, log)
	if err != nil {
		return err
	}
	defer known.Close()
	if err := os.MkdirAll(o.state, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	accounts, err := account.Open(o.state)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	options := orchestrator.Options{
		Authorities: o.authorities, URL: o.url, Jobs: known, People: people{accounts, known.Forges, log},
		TLS: o.tls != "" || len(sockets.tls) > 0, Log: log, Trace: trace,
	}
	pages, err := openApprovals(o, sockets.web)
	if err != nil {
		return err
	}
	if pages != nil {
		options.Approvals = approvals{pages}
	}
	s, err := orchestrator.New(o.state, options)
	if err != nil {
		return err
	}
	if err := known.Keep(accounts); err != nil {
		return err
	}
	listeners, overTLS, metrics := sockets.ssh, sockets.tls, sockets.metrics
	defer func() {
		for _, l := range slices.Concat(listeners, overTLS, metrics, sockets.web) {
			l.Close()
		}
	}()
	for _, addr := range o.addrs {
		l, err := ninep.Listen(addr)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	if o.tls != "" {
		l, err := ninep.Listen(o.tls)
		if err != nil {
			return fmt.Errorf("-tls: %w", err)
		}
		overTLS = append(overTLS, l)
	}
	if o.metrics != "" {
		l, err := listenLocal(o.metrics)
		if err != nil {
			return err
		}
		metrics = append(metrics, l)
	}
	page, err := openPage(o, s, accounts, known, pages, listeners, sockets.web, log)
	if err != nil {
		return err
	}
	defer page.close()
	told := newStatuses(o, s, known, page, log)
	end, cancel := context.WithCancel(end)
	defer cancel()
	g, ctx := errgroup.WithContext(end)
	for _, l := range listeners {
		log.Info("listen", "addr", l.Addr().String(), "key", ssh.FingerprintSHA256(s.HostKey()), "state", o.state)
		g.Go(func() error { return s.Serve(ctx, l) })
	}
	for _, l := range overTLS {
		log.Info("listen", "tls", l.Addr().String(), "state", o.state)
		g.Go(func() error { return s.ServeTLS(ctx, l) })
	}
	if page != nil {
		for _, l := range page.listeners {
			log.Info("listen", "web", l.Addr().String(), "url", page.URL(), "state", o.state)
			g.Go(func() error { return page.serve(ctx, drain, l) })
		}
		if page.acme != nil {
			g.Go(func() error { return page.acme.Run(ctx) })
		}
	}
	if told != nil {
		g.Go(func() error { return told.serve(ctx, drain) })
	}
	for _, l := range metrics {
		log.Info("metrics", "addr", l.Addr().String())
		g.Go(func() error { return serveHTTP(ctx, l, s.Handler()) })
	}
	g.Go(func() error { return watchdog(ctx, s) })
	g.Go(func() error {
		select {
		case <-drain.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		service.Tell(service.Stopping)
		ctx, stop := context.WithTimeout(ctx, drainFor)
		defer stop()
		log.Info("drained", "left", s.Drain(ctx))
		cancel()
		return nil
	})
	service.Tell(service.Ready)
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// defaults sets what the flags leave open.
func (o *options) defaults() (err error) {
	if o.state == "" {
		o.state, err = defaultState()
	}
	return err
}

// defaultState returns systemd's directory for the service, or one of the user's.
func defaultState() (string, error) {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return dir, nil
	}
	dir, err := home.Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, ".local", "state", "9ci-orchestrator"), nil
}
