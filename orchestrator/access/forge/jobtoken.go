package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"9ci/orchestrator/access"
)

// Limits on requests that a CI_JOB_TOKEN makes at one GitLab, which only the GitLab can
// judge.
const (
	jobTokenRate  = 5 // a second
	jobTokenBurst = 20
)

// jobToken returns the job of a CI_JOB_TOKEN of the GitLab of a host, "" for the only
// one. It may only read: the answer does not tell whether the ref is protected.
//
// The token is a secret of that GitLab. It is shown to no other.
func (f *Forges) jobToken(ctx context.Context, host, token string) (access.Job, error) {
	fg, err := f.gitlab(host)
	if err != nil {
		return access.Job{}, fmt.Errorf("CI_JOB_TOKEN: %w", err)
	}
	facts, err := fg.askJob(ctx, newClient(f.transport), token)
	if err == nil {
		var job access.Job
		if job, err = fg.job(facts); err == nil {
			return job, nil
		}
	}
	return access.Job{}, fmt.Errorf("CI_JOB_TOKEN of %s: %w", fg.host, err)
}

// gitlab returns the GitLab of a host, or the only one.
func (f *Forges) gitlab(host string) (*forge, error) {
	var found []*forge
	for _, fg := range f.forges() {
		if fg.kind.jobToken && (host == "" || host == fg.host) {
			found = append(found, fg)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case host != "":
		return nil, fmt.Errorf("%s has no forge of kind=gitlab host=%.200q", f.file, host)
	case len(found) == 0:
		return nil, fmt.Errorf("%s has no forge of kind=gitlab", f.file)
	}
	return nil, fmt.Errorf("%s has %d forges of kind=gitlab, and a token of one is a secret of it: https://gitlab-ci-token:TOKEN@HOST says which", f.file, len(found))
}

// askJob asks GET /job of docs.gitlab.com/api/jobs which job a token is of.
func (fg *forge) askJob(ctx context.Context, client *http.Client, token string) (facts, error) {
	if !fg.jobTokens.Allow() {
		return facts{}, busy(errors.New("too many at once"))
	}
	var job struct {
		ID       int64  `json:"id"`
		URL      string `json:"web_url"` // INSTANCE/PROJECT/-/jobs/ID
		Pipeline struct {
			Project int64  `json:"project_id"`
			Commit  string `json:"sha"`
		} `json:"pipeline"`
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	status, err := get(ctx, client, fg.url+"/api/v4/job", http.Header{"Job-Token": {token}}, &job)
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		return facts{}, errors.New("it knows no running job that has this token")
	case err != nil:
		return facts{}, busy(err)
	}
	path, err := fg.project(job.URL, job.ID)
	return facts{repository: path, id: strconv.FormatInt(job.Pipeline.Project, 10), commit: job.Pipeline.Commit}, err
}

// project returns the path of the project that a job's page is in. No project has an
// element "-": GitLab keeps it for its pages.
func (fg *forge) project(page string, id int64) (string, error) {
	bad := fmt.Errorf("its job has the page %.200q: want https://%s/PROJECT/-/jobs/%d", page, fg.host, id)
	u, err := url.Parse(page)
	if err != nil || strings.ToLower(u.Hostname()) != fg.host {
		return "", bad
	}
	root := "" // of an instance that is not at the root of its host
	if at, err := url.Parse(fg.url); err == nil {
		root = at.EscapedPath()
	}
	path, ok := strings.CutPrefix(u.EscapedPath(), root+"/")
	path, job, found := strings.Cut(path, "/-/jobs/")
	if !ok || !found || job != strconv.FormatInt(id, 10) {
		return "", bad
	}
	return path, nil
}
