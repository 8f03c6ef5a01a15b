package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// A UserToken is what somebody gives statuses by, as the orchestrator does by the secret of
// statuses-secret-file=: a token of a forge.
type UserToken struct {
	Kind  string // of the forge: github, gitlab or forgejo (Gitea too)
	URL   string // of the forge, to which alone the token is shown: https, or http on this machine
	Token string
}

// Host returns the host of the forge, as its namespaces begin, or why the token is shown to
// nobody at the URL.
func (t UserToken) Host() (string, error) {
	if err := checkURL(t.URL, true); err != nil {
		return "", fmt.Errorf("%s: %w", t.URL, err)
	}
	u, err := url.Parse(t.URL)
	if err != nil {
		return "", err
	}
	return strings.ToLower(u.Hostname()), nil
}

// Tell gives a commit a status at the forge, unless it has that already. The status has to
// be of a namespace of that host. The error is access.ErrNoCommit, an
// *access.ForbiddenError, an *access.RejectedError, or fs.ErrBusy; it has nothing of the
// token.
func (t UserToken) Tell(ctx context.Context, s access.CommitStatus) error {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == t.Kind && k.statuses != nil })
	if i < 0 {
		return fmt.Errorf("no kind of forges that takes statuses is called %q", t.Kind)
	}
	host, err := t.Host()
	if err != nil {
		return err
	}
	ns, err := ci.CleanNamespace(s.Namespace)
	of, rest, _ := strings.Cut(ns, "/")
	path := strings.Split(rest, "/")
	switch {
	case err != nil || of != host:
		return fmt.Errorf("the token is of %s, and not shown for %s", host, s.Namespace)
	case len(path) > 2 && !kinds[i].groups:
		return &access.ForbiddenError{Words: fmt.Sprintf("%s has no repository %s", host, rest)}
	case strings.ContainsFunc(t.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(t.Token) > maxToken:
		return errors.New("the token is not printable ASCII characters: it may have a newline in it")
	}
	fg := &forge{kind: kinds[i], host: host, url: strings.TrimSuffix(t.URL, "/"), site: newSite(), counted: host}
	f := &Forges{transport: newTransport(), log: slog.New(slog.DiscardHandler)}
	repo, err := f.enterAs(ctx, fg, secret(t.Token), path)
	if err != nil {
		return err
	}
	if has, err := f.hasStatus(ctx, fg, repo, s); has || err != nil {
		return err
	}
	return f.tell(ctx, fg, repo, s)
}
