package main

import (
	"context"
	"log/slog"

	"9ci/orchestrator"
	"9ci/orchestrator/report"
)

// statuses are what tells forges how runs ended.
type statuses struct {
	*report.Reporter
	server *orchestrator.Server
}

// newStatuses returns what tells forges how the runs of s ended, with links to the page, and
// has s say what they were told. It is nil if there is no page.
func newStatuses(o options, s *orchestrator.Server, known forges, page *page, log *slog.Logger) *statuses {
	if page == nil {
		if known.TellsAny() {
			log.Warn("statuses", "err", "forges are told nothing: statuses-secret-file= in forges needs -web, the page that statuses link to")
		}
		return nil
	}
	r := report.New(report.Options{Dir: o.state, URL: page.URL(), Forge: known.Forges, Log: log})
	s.Tells(r)
	return &statuses{r, s}
}

// serve tells forges until ctx or drain is done.
func (s *statuses) serve(ctx, drain context.Context) error {
	until, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(drain, cancel)()
	root, release, err := s.server.OwnTree("statuses")
	if err != nil {
		return err
	}
	defer release()
	if err := s.Run(until, root); until.Err() == nil {
		return err
	}
	return ctx.Err() // nil at drain: all else goes on
}
