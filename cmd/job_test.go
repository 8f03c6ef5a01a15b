package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"9ci/orchestrator/access/forge/forgetest"
)

// startForge makes what follows in a story a job of a forge, of HEAD: forge KIND EVENT.
// KIND is github, forgejo, gitlab (with an id_token) or job-token (GitLab without). The
// forge is that of the namespaces example.org/..., and the orchestrator knows it.
func startForge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: forge KIND EVENT")
	}
	kind := strings.Replace(args[0], "job-token", "gitlab", 1)
	head, err := exec.Command("git", "-C", ts.MkAbs("."), "rev-parse", "HEAD").Output()
	ts.Check(err)
	commit := strings.TrimSpace(string(head))
	s := httptest.NewUnstartedServer(nil)
	f := forgetest.New(kind, "http://"+s.Listener.Addr().String())
	token := func(audience string) string {
		c := f.Claims(audience)
		if c["sha"] = commit; kind == "gitlab" {
			c["ref_protected"] = fmt.Sprint(args[1] == "push")
		} else {
			c["event_name"] = args[1]
		}
		return f.Token(c)
	}
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/_apis/idtoken":
			f.ServeHTTP(w, r)
		case r.Header.Get("Authorization") != "Bearer "+forgetest.RequestToken:
			http.Error(w, "no", http.StatusForbidden)
		default:
			json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": token(r.URL.Query().Get("audience"))})
		}
	})
	s.Start()
	ts.Defer(s.Close)
	for _, name := range []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_ACTIONS", "FORGEJO_ACTIONS", "CI_ID_TOKEN", "CI_JOB_TOKEN", "CI_SERVER_URL"} {
		ts.Setenv(name, "")
	}
	switch args[0] {
	case "gitlab":
		ts.Setenv("CI_ID_TOKEN", token("127.0.0.1"))
	case "job-token":
		job := f.Job()
		job["commit"] = map[string]any{"id": commit}
		job["pipeline"].(map[string]any)["sha"] = commit
		job["web_url"] = "https://example.org/alice/hello/-/jobs/8"
		f.AddJob("glcbt-64_hunter2hunter2hunter2", job)
		ts.Setenv("CI_JOB_TOKEN", "glcbt-64_hunter2hunter2hunter2")
		ts.Setenv("CI_SERVER_URL", "https://example.org")
	default:
		ts.Setenv("GITHUB_ACTIONS", "true")
		ts.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f.RequestURL())
		ts.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", forgetest.RequestToken)
	}
	ts.Setenv("CI", "true")
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "orchestrator", "forges"), fmt.Appendf(nil, "kind=%s\nhost=example.org\nissuer=%s\nurl=%s\n", kind, f.Issuer, f.URL), 0o600))
}
