package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"9ci/cmd/internal/attest"
	"9ci/cmd/internal/config"
	"9ci/cmd/internal/host"
	"9ci/fs"
	"9ci/fs/ci"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge"
	"9ci/orchestrator/report"
)

const (
	statusTime = time.Minute            // for the forge to be told
	statusPoll = 500 * time.Millisecond // between questions whether it is
	pageTime   = 5 * time.Second        // to ask an orchestrator for its page alone
)

// A commitStatus is the status by which the forge of a commit shows that its run has passed.
// The forge is told by a token of the user's, or else by the orchestrator.
type commitStatus struct {
	host         *host.Host
	orchestrator bool // there is one
	commit       string
	context      string
	run          ci.Status
	token        *forge.UserToken // nil: none for the forge
	page         string           // of the orchestrator, for the commit; "": not known
}

func newCommitStatus(h *host.Host, c *config.Config, commit string, run ci.Status, key ci.Attrs) *commitStatus {
	return &commitStatus{
		host: h, orchestrator: c.Orchestrator != "", commit: commit, run: run, context: access.StatusContext(key),
		token: userToken(h.Executor.Namespace),
	}
}

// userToken returns the token in the environment for the forge of a namespace, nil if there
// is none. Each variable's token is of the host that another variable names, or of the
// software's best known one: what a clone has as its origin chooses among these, and can
// add none.
func userToken(namespace string) *forge.UserToken {
	actions := "github"
	if config.Getenv("FORGEJO_ACTIONS") == "true" || config.Getenv("GITEA_ACTIONS") == "true" {
		actions = "forgejo" // whose jobs have GitHub's variables
	}
	of, _, _ := strings.Cut(namespace, "/")
	for _, v := range []struct{ kind, token, url, known string }{
		{actions, "GITHUB_TOKEN", "GITHUB_SERVER_URL", "https://github.com"},
		{actions, "GH_TOKEN", "GITHUB_SERVER_URL", "https://github.com"},
		{"gitlab", "GITLAB_TOKEN", "GITLAB_HOST", "https://gitlab.com"},
		{"forgejo", "FORGEJO_TOKEN", "FORGEJO_URL", "https://codeberg.org"},
		{"forgejo", "GITEA_TOKEN", "GITEA_URL", "https://codeberg.org"},
	} {
		t := forge.UserToken{Kind: v.kind, URL: cmp.Or(config.Getenv(v.url), v.known), Token: config.Getenv(v.token)}
		if t.Token == "" {
			continue
		}
		if !strings.Contains(t.URL, "://") {
			t.URL = "https://" + t.URL
		}
		switch at, err := t.Host(); {
		case err != nil:
			say("%s is shown to nobody: %s is %v", v.token, v.url, err)
		case at == of:
			return &t
		}
	}
	return nil
}

// findPage returns the orchestrator's page of the commit, "" if there is none that answers.
func (s *commitStatus) findPage(ctx context.Context) string {
	if !s.orchestrator {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	a, err := s.host.Told(ctx, s.commit)
	switch {
	case err != nil && s.token != nil: // else tell has it
		say("the status leads to no page: %v", err)
	case err == nil && attest.CheckURL(a.Page) == nil:
		s.page = a.Page
	}
	return s.page
}

// tell tells the forge, if there is a way to, and the user what has happened.
func (s *commitStatus) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTime, fmt.Errorf("the forge was not told within %v", statusTime))
	defer cancel()
	namespace := s.host.Executor.Namespace
	switch {
	case s.token != nil:
		is := access.NewCommitStatus(namespace, s.commit, s.context, s.run, "")
		is.URL = s.page
		err := s.token.Tell(ctx, is)
		if errors.Is(err, access.ErrNoCommit) {
			err = fmt.Errorf("%w %.12s: git push it, and vouch again", err, s.commit)
		}
		if err != nil {
			return err
		}
	case s.orchestrator:
		if ok, err := s.through(ctx); !ok || err != nil {
			return err
		}
	default:
		say("the commit gets no status: that takes CI_ORCHESTRATOR, or a token of the forge in GITHUB_TOKEN, GITLAB_TOKEN or FORGEJO_TOKEN")
		return nil
	}
	say("the commit has the status %s: passed%s", s.context, at(s.page))
	return nil
}

// through has the orchestrator tell the forge: it shows the run there, if no executor does,
// until the forge has been told. Ok is false if the orchestrator tells no forge.
func (s *commitStatus) through(ctx context.Context) (ok bool, err error) {
	if age := time.Since(s.run.Time); age >= access.StatusTime {
		return false, fmt.Errorf("the run ended %.0f days ago, and the orchestrator tells forges of %.0f days: 9ci run -f makes another", age.Hours()/24, access.StatusTime.Hours()/24)
	}
	shown, end := context.WithCancel(ctx)
	defer end()                 // before the host is closed
	var refused <-chan struct{} // nil before the run is shown
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	var why error // it is not told yet
	for {
		a, err := s.host.Told(ctx, s.commit)
		switch {
		case ctx.Err() != nil:
			return false, errors.Join(context.Cause(ctx), why)
		case errors.Is(err, fs.ErrBusy):
			why = err
		case err != nil:
			return false, err
		case a.Forge == "":
			say("the commit gets no status: the orchestrator tells no forge of %s", s.host.Executor.Namespace)
			return false, nil
		default:
			over, err := s.over(a, &why)
			if over {
				return true, err
			}
			if _, noted := s.find(a); !noted && refused == nil {
				s.host.Export(shown)
				refused = s.host.Refused()
			}
		}
		select {
		case <-tick.C:
		case <-refused:
			return false, errors.New("the orchestrator does not take this executor's tree, so the run is not shown there")
		case <-ctx.Done():
			return false, errors.Join(context.Cause(ctx), why)
		}
	}
}

// find returns what an answer has of the context of the run.
func (s *commitStatus) find(a report.Answer) (report.Told, bool) {
	i := slices.IndexFunc(a.Statuses, func(t report.Told) bool { return t.Context == s.context })
	if i < 0 || a.Statuses[i].Status.Time.Before(s.run.Time) {
		return report.Told{}, false
	}
	return a.Statuses[i], true
}

// over reports whether the orchestrator is done with the run, and why the forge has not got
// it. Why is set to that while the orchestrator tries.
func (s *commitStatus) over(a report.Answer, why *error) (bool, error) {
	t, ok := s.find(a)
	switch {
	case !ok:
		return false, nil
	case t.Status.State != "passed":
		return true, fmt.Errorf("a newer run of it %s, at %s: that is what the forge shows", t.Status.State, ci.FormatTime(t.Status.Time))
	case t.Done():
		return true, nil
	case t.Why != "":
		*why = errors.New(t.Why)
	}
	return t.Over(), *why
}
