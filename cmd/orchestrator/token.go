package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/account"
	"9ci/orchestrator/access/forge"
)

// A newToken is what the flags of the command token say.
type newToken struct {
	name    string
	read    bool
	expires time.Time // zero: never
}

func (t *newToken) flags(f *flag.FlagSet) {
	f.StringVar(&t.name, "name", "", "people know it by `N`")
	f.BoolVar(&t.read, "read", false, "it may only read")
	f.Func("expires", "it ends after `D`, or then", func(s string) (err error) {
		t.expires, err = expiry(s, time.Now())
		return err
	})
}

// expiry returns when something ends that is said to end then, or so long after now.
func expiry(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	d, err := ci.ParseDuration(s)
	if err != nil || d <= 0 {
		return time.Time{}, errors.New("want a duration such as 12h or 90d, or a date such as 2027-01-31")
	}
	return now.Add(d), nil
}

// makeToken makes a token and prints it.
func makeToken(o options, args []string, stdout, stderr io.Writer) (int, error) {
	if _, err := os.Stat(o.state); errors.Is(err, iofs.ErrNotExist) {
		if err := os.MkdirAll(o.state, 0o700); err != nil {
			return 1, err
		}
		fmt.Fprintf(stderr, "orchestrator: there was no state in %s: the token counts for an orchestrator that is started with -state %s\n", o.state, o.state)
	}
	t := o.token
	secret, err := access.NewToken(o.state, args[0], t.name, t.read, t.expires)
	if err != nil {
		return 1, err
	}
	_, err = fmt.Fprintln(stdout, secret)
	return 0, err
}

// listTokens prints a line for each token.
func listTokens(o options, _ []string, stdout, _ io.Writer) (int, error) {
	all, err := access.Tokens(o.state)
	for _, t := range all {
		fmt.Fprintln(stdout, t)
	}
	return 0, o.noState(err)
}

// revoke revokes what args name, and prints what that was.
func revoke(o options, args []string, stdout, stderr io.Writer) (int, error) {
	done, err := access.Revoke(o.state, args)
	if err == nil {
		for _, principal := range args {
			if !strings.Contains(principal, ":") { // it is no account
				continue
			}
			var was bool
			var token []byte
			if was, token, err = account.End(o.state, principal); err != nil {
				break
			} else if was {
				done = append(done, "account "+principal+" is logged out of the page")
			}
			if err := o.tellForge(principal, token, stderr); err != nil {
				fmt.Fprintf(stderr, "orchestrator: %v: what the forge gave for %s ends by itself\n", err, principal)
			}
		}
	}
	for _, line := range done {
		fmt.Fprintln(stdout, line)
	}
	return 0, o.noState(err)
}

// tellForge gives back what a forge gave for an account, sealed; nil for nothing.
func (o options) tellForge(principal string, token []byte, stderr io.Writer) error {
	if len(token) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	log := slog.New(slog.NewTextHandler(stderr, nil))
	return forge.Forget(ctx, filepath.Join(o.state, forge.File), principal, token, log)
}

// noState says of a state directory that is not there how to name another.
func (o options) noState(err error) error {
	if _, gone := os.Stat(o.state); err != nil && errors.Is(gone, iofs.ErrNotExist) {
		return fmt.Errorf("there is no state in %s: say -state DIR", o.state)
	}
	return err
}
