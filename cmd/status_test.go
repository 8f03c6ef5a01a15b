package cmd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"9ci/orchestrator/access/forge/forgetest"
)

// sites are the forges that stories have, by their work directories.
var sites sync.Map

// pushed pushes HEAD to the forge of the namespaces example.org/..., a GitLab, which is
// started first and which the orchestrator is to tell how runs end. What it is told is in
// $WORK/told, a line each: a number and the status, or refused and why. Its URL is in
// $WORK/site.url, and a token of Alice's in $WORK/alice.token.
func pushed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: pushed")
	}
	work := ts.Getenv("WORK")
	head, err := exec.Command("git", "-C", ts.MkAbs("."), "rev-parse", "HEAD").Output()
	ts.Check(err)
	site, ok := sites.Load(work)
	if !ok {
		site = startSite(ts, work)
		sites.Store(work, site)
		ts.Defer(func() { sites.Delete(work) })
	}
	site.(*forgetest.Site).AddCommit(74, strings.TrimSpace(string(head)))
}

func startSite(ts *testscript.TestScript, work string) *forgetest.Site {
	s := httptest.NewUnstartedServer(nil)
	site := forgetest.NewSite("gitlab", "http://"+s.Listener.Addr().String())
	site.AddRepo(forgetest.Repo{ID: 74, Path: "alice/hello", Visibility: "private", Members: map[string]int{"ci-bot": forgetest.Developer, "alice": forgetest.Developer}})
	site.AddPerson(forgetest.Person{ID: 1, Login: "alice"})
	ts.Check(os.WriteFile(filepath.Join(work, "site.url"), []byte(site.URL), 0o600))
	ts.Check(os.WriteFile(filepath.Join(work, "alice.token"), []byte(site.PersonalToken("alice")), 0o600))
	told, err := os.Create(filepath.Join(work, "told"))
	ts.Check(err)
	ts.Defer(func() { told.Close() })
	var mu sync.Mutex // held while told is written
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		rec := httptest.NewRecorder()
		site.ServeHTTP(rec, r)
		if r.Method == http.MethodPost {
			var is map[string]string
			json.Unmarshal(body, &is)
			mu.Lock()
			defer mu.Unlock()
			line := fmt.Sprintf("%d %s %s %s %s\n", site.Posts(), is["state"], is["name"], is["target_url"], is["description"])
			if rec.Code != http.StatusCreated {
				line = fmt.Sprintf("refused %d %s\n", rec.Code, bytes.TrimSpace(rec.Body.Bytes()))
			}
			told.WriteString(line)
		}
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	})
	s.Start()
	ts.Defer(s.Close)
	state := filepath.Join(work, "orchestrator")
	ts.Check(os.WriteFile(filepath.Join(state, "bot"), []byte(site.StatusSecret()), 0o600))
	ts.Check(os.WriteFile(filepath.Join(state, "forges"), fmt.Appendf(nil, "kind=gitlab\nhost=example.org\nurl=%s\nstatuses-secret-file=bot\n", site.URL), 0o600))
	return site
}
