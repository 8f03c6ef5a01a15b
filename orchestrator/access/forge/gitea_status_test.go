//go:build gitea

package forge

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"9ci/orchestrator/access"
)

// A real forge takes statuses, shows them, and keeps them out where it should.
func TestGiteaStatuses(t *testing.T) {
	g := startGitea(t)
	g.api("alice", "POST", "/user/repos", map[string]any{"name": "hello", "private": true, "auto_init": true}, nil)
	var commits []struct {
		SHA string `json:"sha"`
	}
	g.api("alice", "GET", "/repos/alice/hello/commits", nil, &commits)
	var token struct {
		SHA1 string `json:"sha1"`
	}
	g.api("bob", "POST", "/users/bob/tokens", map[string]any{"name": "9ci", "scopes": []string{"write:repository"}}, &token)
	dir := t.TempDir()
	for name, text := range map[string]string{"bot": token.SHA1, "forges": "kind=forgejo\nhost=forge.example\nurl=" + g.url + "\nstatuses-secret-file=bot\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Open(filepath.Join(dir, "forges"), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err == nil {
		err = f.Keep(&keeper{tokens: map[string][]byte{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := access.CommitStatus{Namespace: "forge.example/alice/hello", Commit: commits[0].SHA, Context: "9ci/amd64", Passed: true, Description: "passed in 41.250 s, 2026-11-24T21:00:00Z", URL: "https://ci.example.org/rev/" + commits[0].SHA + "/forge.example/alice/hello"}
	tell := func(what, want string) {
		t.Helper()
		if err := f.Tell(t.Context(), s); kindOf(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	told := func(what string, want bool) {
		t.Helper()
		if got, err := f.Told(t.Context(), s); err != nil || got != want {
			t.Errorf("%s: told %v, %v, want %v", what, got, err, want)
		}
	}
	tell("a repository that bob does not see", "forbidden")
	g.api("alice", "PUT", "/repos/alice/hello/collaborators/bob", map[string]any{"permission": "read"}, nil)
	told("before", false)
	tell("one that bob may read", "forbidden")
	g.api("alice", "PUT", "/repos/alice/hello/collaborators/bob", map[string]any{"permission": "write"}, nil)
	tell("one that bob may write to", "taken")
	told("after", true)
	passed := s
	s.Passed, s.Description = false, "failed with status 1 in 1.000 s, 2026-11-24T21:01:00Z"
	told("another run", false)
	tell("another run", "taken")
	told("after that", true)
	var combined struct {
		State    string `json:"state"`
		Statuses []struct {
			Status, Context, Description string
			URL                          string `json:"target_url"`
		}
	}
	g.api("alice", "GET", "/repos/alice/hello/commits/"+s.Commit+"/status", nil, &combined)
	if len(combined.Statuses) != 1 || combined.State != "failure" || combined.Statuses[0].Context != s.Context || combined.Statuses[0].URL != s.URL {
		t.Errorf("it shows %+v", combined)
	}
	s = passed
	told("the first run", false)
	s.Context += " lint"
	tell("another context", "taken")
	s.Commit = strings.Repeat("1", 40)
	told("a commit that is not there", false)
	tell("a commit that is not there", "no commit")
	s = passed
	g.api("alice", "PATCH", "/repos/alice/hello", map[string]any{"name": "bye"}, nil)
	tell("renamed", "forbidden")
	g.api("alice", "POST", "/user/repos", map[string]any{"name": "hello", "auto_init": true}, nil)
	g.api("alice", "PUT", "/repos/alice/hello/collaborators/bob", map[string]any{"permission": "write"}, nil)
	tell("another has taken its name", "forbidden")
}
