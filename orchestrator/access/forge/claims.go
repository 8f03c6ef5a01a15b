package forge

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4/json"

	"9ci/fs/ci"
	"9ci/orchestrator/access"
)

// claims are what a forge says of a job, by name.
type claims map[string]json.RawMessage

// text returns a claim that is a string, a number or a boolean as text, and "" for
// another or none. GitLab writes "true" and "20" where others write true and 20.
func (c claims) text(name string) string {
	raw := c[name]
	if len(raw) > 0 && raw[0] == '"' {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	}
	if s := string(raw); s != "null" && !strings.ContainsAny(s, "[{") {
		return s
	}
	return ""
}

// facts are what a forge says of a job, whatever its kind.
type facts struct {
	repository, id, owner string // the path below the host, and the ids
	commit                string
	publish               bool // nothing that a fork can do began the job
}

// actionsEvents are the events that take the right to write to the repository.
// With pull_request_target, workflow_run and issue_comment a fork's code may run, and
// all the same the token is of the repository.
var actionsEvents = []string{"push", "merge_group", "schedule", "workflow_dispatch", "repository_dispatch"}

// actionsFacts reads the claims of GitHub, which Forgejo has too.
func actionsFacts(c claims) facts {
	return facts{
		repository: c.text("repository"), id: c.text("repository_id"), owner: c.text("repository_owner_id"),
		commit:  c.text("sha"),
		publish: slices.Contains(actionsEvents, c.text("event_name")),
	}
}

// gitlabSources are the pipelines of a branch or a tag. One of a merge request may be
// of a fork, whose branch main counted as the protected one until GitLab 18.2 (issue
// 548165 there).
var gitlabSources = []string{"push", "web", "webide", "schedule", "api", "trigger", "pipeline", "chat"}

// gitlabFacts reads the claims of GitLab.
//
// For a merge request from a fork project_id is the fork, and job_project_id is where
// the pipeline runs (since GitLab 18.4; until 18.2 project_id was that one). The child
// of a pipeline does not say what began its parent: it may publish only if the two
// claims tell that this was no fork.
func gitlabFacts(c claims) facts {
	f := facts{repository: c.text("project_path"), id: c.text("project_id"), owner: c.text("namespace_id"), commit: c.text("sha")}
	source, runs := c.text("pipeline_source"), c.text("job_project_id")
	ours := runs == f.id || runs == "" && source != "parent_pipeline"
	f.publish = c.text("ref_protected") == "true" && ours && (source == "parent_pipeline" || slices.Contains(gitlabSources, source))
	return f
}

// job returns the job that has these facts.
func (fg *forge) job(f facts) (access.Job, error) {
	n := strings.Count(f.repository, "/") + 1
	switch {
	case f.id == "":
		return access.Job{}, errors.New(fg.kind.noID)
	case !isID(f.id) || f.owner != "" && !isID(f.owner):
		return access.Job{}, fmt.Errorf("its repository has the id %.40q and its owner %.40q: want numbers", f.id, f.owner)
	case n < 2 || n > 2 && !fg.kind.groups:
		return access.Job{}, fmt.Errorf("its repository is %.200q: want owner/repo", f.repository)
	}
	ns, err := ci.CleanNamespace(fg.host + "/" + f.repository)
	if err != nil {
		return access.Job{}, err
	}
	if !fg.has(ns) {
		return access.Job{}, fmt.Errorf("it is of %s, which the namespace= of its forge leaves out", ns)
	}
	job := access.Job{
		Principal: fg.principal() + ":repo:" + f.id,
		Host:      fg.host, Namespace: ns, RepositoryID: f.id, OwnerID: f.owner,
	}
	if isCommit(f.commit) {
		job.Commit, job.Publish = f.commit, f.publish
	}
	return job, nil
}

// has reports whether the file lets jobs and people of the forge into a namespace.
func (fg *forge) has(ns string) bool {
	return len(fg.namespaces) == 0 || slices.ContainsFunc(fg.namespaces, func(p access.Pattern) bool { return p.Match(ns) })
}

// isID reports whether s is an id: a number from 1, of 19 digits at most.
func isID(s string) bool {
	return s != "" && s[0] != '0' && len(s) <= 19 && strings.Trim(s, "0123456789") == ""
}

// isCommit reports whether s is a commit, of SHA-1 or SHA-256.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == "" && strings.Trim(s, "0") != ""
}
