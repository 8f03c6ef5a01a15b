package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/executor"
	"9ci/cmd/internal/repo"
	"9ci/cmd/internal/show"
	"9ci/fs"
)

// Exit statuses besides mk's own, 0 and 1.
const (
	exitBusy     = 75  // a server had no room for the moment: EX_TEMPFAIL of sysexits.h
	exitError    = 125 // the executor failed or was misused
	exitNoReplay = 126 // a replay was demanded and none could be trusted
)

// A command is a word that may follow 9ci. do gets the arguments behind it and
// returns the exit status. If it returns an error with status 0, the status is
// exitError.
type command struct {
	name, args string
	do         func(ctx context.Context, args []string) (int, error)
}

func (c command) synopsis() string { return strings.TrimSpace("9ci " + c.name + " " + c.args) }

func commands() []command {
	return []command{
		{"run", "[-f] [-n] [-q] [-v] [-x] [-r] [-R] [-b] [--raw] [-D] [rev [target...]]", runCommand},
		{"serve", "[-a ADDR]... [-adopt] [-direct ADDR] [-j N] [-root DIR] [-D]", serveCommand},
		{"ls", "[-l] [-a ADDR] [PATH...]", lsCommand},
		{"cat", "[-a ADDR] [--raw] PATH...", catCommand},
		{"cp", "[-a ADDR] PATH DIR", cpCommand},
		{"wait", "[-a ADDR] REV", waitCommand},
		{"write", "[-a ADDR] PATH", writeCommand},
		{"sh", "[-root] [REV]", shCommand},
		{"mount", "[-a ADDR] DIR", mountCommand},
		{"vouch", "[-push] [REV]", vouchCommand},
		{"verify", "[-attest] REV|DIR", verifyCommand},
		{"login", "[-code] [-f] [HOST]", loginCommand},
		{"logout", "[HOST]", logoutCommand},
		{"whoami", "[HOST]", whoamiCommand},
		{"image", "build|ls|gc", imageCommand},
		{"doctor", "[-fix]", doctorCommand},
		{"init", "[-hooks]", initCommand},
		{"help", "[-man DIR] [-completion bash|zsh|fish] [-complete] [TOPIC...]", helpCommand},
		{"version", "", versionCommand},
	}
}

func main() {
	config.Withhold()
	if !filepath.IsAbs(os.Getenv("TMPDIR")) {
		os.Unsetenv("TMPDIR") // no temporary files in the working directory
	}
	ctx, stop := context.WithCancelCause(context.Background())
	log.SetFlags(0)
	log.SetOutput(show.Err.Words()) // packages that are not ours may use it
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as it is by nohup(1)
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		sig := (<-signals).(syscall.Signal)
		stop(executor.Signalled{Signal: sig})
		sig = (<-signals).(syscall.Signal)
		exit(128 + int(sig)) // the kernel ends machines with their parent
	}()
	code, err := dispatch(ctx, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		code, err = 0, nil
	}
	if err != nil {
		var sig executor.Signalled
		if errors.As(context.Cause(ctx), &sig) && (errors.Is(err, context.Canceled) || errors.Is(err, sig)) {
			exit(128 + int(sig.Signal))
		}
		say("%v", err)
		if code == 0 {
			code = exitError
		}
	}
	if werr := show.Close(); werr != nil {
		if !errors.Is(err, werr) {
			say("%v", werr)
		}
		code = exitError
	}
	exit(code)
}

// failed is what a command that asks a tree for a file returns for an error: code,
// unless the server was busy.
func failed(code int, err error) (int, error) {
	if errors.Is(err, fs.ErrBusy) {
		return exitBusy, err
	}
	return code, err
}

func exit(code int) {
	show.Close()
	os.Exit(code)
}

// say prints a message on standard error.
func say(format string, args ...any) { show.Message("9ci", fmt.Sprintf(format, args...)) }

func dispatch(ctx context.Context, args []string) (int, error) {
	switch {
	case len(args) == 0:
		return runCommand(ctx, args)
	case args[0] == "-version" || args[0] == "--version":
		return versionCommand(ctx, args[1:])
	case strings.HasPrefix(args[0], "-") && !slices.Contains([]string{"-h", "-help", "--help"}, args[0]):
		return runCommand(ctx, args)
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.do(ctx, args[1:])
		}
	}
	if strings.HasPrefix(args[0], "-") {
		io.WriteString(show.Out.Words(), usage())
		return 0, nil
	}
	return exitError, fmt.Errorf("unknown command %s\n%s", args[0], strings.TrimSuffix(usage(), "\n"))
}

func usage() string {
	var b strings.Builder
	b.WriteString("usage: 9ci\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "       %s\n", c.synopsis())
	}
	return b.String()
}

// parseFlags parses the arguments of a command. It is an error if less than min or
// more than max arguments follow the flags. A negative max is no limit.
func parseFlags(f *flag.FlagSet, args []string, min, max int) error {
	synopsis := ""
	for _, c := range commands() {
		if c.name == f.Name() {
			synopsis = "usage: " + c.synopsis()
		}
	}
	f.Usage = func() {}
	f.SetOutput(io.Discard)
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		show.Out.Printf("%s\n9ci help %s says more\n", synopsis, f.Name())
		return err
	case err != nil:
		return fmt.Errorf("%w\n%s", err, synopsis)
	}
	if n := f.NArg(); n < min || max >= 0 && n > max {
		return errors.New(synopsis)
	}
	return nil
}

// newFlags returns an empty set of flags for a command.
func newFlags(name string) *flag.FlagSet {
	return flag.NewFlagSet(name, flag.ContinueOnError)
}

// loadConfig reads the configuration for a repository, or for none if rp is nil,
// and prints its warnings.
func loadConfig(ctx context.Context, rp *repo.Repo) (*config.Config, error) {
	c, err := config.Load(ctx, rp, nil)
	if err == nil {
		tellWarnings(c)
	}
	return c, err
}

// tellWarnings prints the warnings of a configuration.
func tellWarnings(c *config.Config) {
	for _, w := range c.Warnings {
		say("%s", w)
	}
}
