package host

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/cmd/internal/config"
	"9ci/cmd/internal/sign"
	"9ci/orchestrator/dial"
)

const (
	aJWT     = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvIn0.c2lnbmF0dXJl"
	aRequest = "hunter2-may-ask"
)

// jobVariables are all that jobToken looks at.
var jobVariables = []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "CI_ID_TOKEN", "CI_JOB_TOKEN", "CI_SERVER_URL", "FORGEJO_ACTIONS", "GITHUB_ACTIONS", "CI_TOKEN"}

// setJob sets these variables and no others of a job's.
func setJob(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, name := range jobVariables {
		t.Setenv(name, vars[name]) // restores it
		if _, ok := vars[name]; !ok {
			os.Unsetenv(name)
		}
	}
}

// clean reports a secret in text.
func clean(t *testing.T, text string) {
	t.Helper()
	for _, s := range []string{aJWT, aRequest, "hunter2"} {
		if strings.Contains(text, s) {
			t.Errorf("it has %q: %s", s, text)
		}
	}
}

// GitHub's and Forgejo's token services are asked for an audience, and their answers
// are not trusted to be what they should.
func TestActions(t *testing.T) {
	const audience = "ci.example.org:SHA256:a+b/c"
	const permissions = "permissions: id-token: write"
	for _, tt := range []struct {
		name   string
		status []int // of each try, the last one for all that follow
		body   string
		err    string // "": the token
		tries  int
	}{
		{"a token", []int{200}, `{"count":857,"value":"` + aJWT + `"}`, "", 1},
		{"a fault that passes", []int{500, 200}, `{"value":"` + aJWT + `"}`, "", 2},
		{"no permission", []int{403}, `{"message":"hunter2"}`, permissions, 1},
		{"no authority", []int{401}, `hunter2`, permissions, 1},
		{"a fault", []int{500}, `hunter2`, "it answered 500, not 200 with a token", actionsTries},
		{"too many", []int{429}, ``, "it answered 429", actionsTries},
		{"nothing there", []int{404}, ``, "it answered 404", 1},
		{"no JSON", []int{200}, `hunter2`, `its answer is not {"value": TOKEN}`, 1},
		{"another JSON", []int{200}, `["hunter2"]`, `its answer is not {"value": TOKEN}`, 1},
		{"no value", []int{200}, `{"token":"hunter2"}`, `its answer is not {"value": TOKEN}`, 1},
		{"another value", []int{200}, `{"value":7}`, `its answer is not {"value": TOKEN}`, 1},
		{"no JWT", []int{200}, `{"value":"hunter2"}`, "its value is no JWT", 1},
		{"a JWT with more", []int{200}, `{"value":"` + aJWT + `\nhunter2"}`, "its value is no JWT", 1},
		{"a flood", []int{200}, `{"value":"` + strings.Repeat("x", 1<<20) + `"}`, `its answer is not {"value": TOKEN}`, 1},
		{"nothing", []int{200}, ``, `its answer is not {"value": TOKEN}`, 1},
		{"another place", []int{302}, ``, "it answered 302", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				t.Errorf("another server is asked, with %q", r.Header)
			}))
			defer elsewhere.Close()
			var mu sync.Mutex
			tries := 0
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				q := r.URL.Query()
				if r.Method != "GET" || r.URL.Path != "/idtoken" || q.Get("api-version") != "2.0" || q.Get("audience") != audience || r.Header.Get("Authorization") != "Bearer "+aRequest {
					t.Errorf("%s %s, %q", r.Method, r.URL, r.Header)
				}
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(tt.status[min(tries, len(tt.status)-1)])
				io.WriteString(w, tt.body)
				tries++
			}))
			defer service.Close()
			setJob(t, map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": service.URL + "/idtoken?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": aRequest, "GITHUB_ACTIONS": "true"})
			token, err := jobToken().Get(t.Context(), audience)
			switch {
			case tt.err == "" && (err != nil || token != aJWT):
				t.Errorf("%q, %v, want the token", token, err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.HasPrefix(err.Error(), "the token service at 127.0.0.1:")):
				t.Errorf("%v, want %q", err, tt.err)
			case err != nil:
				clean(t, err.Error())
			}
			service.Close() // and its handlers
			if tries != tt.tries {
				t.Errorf("%d tries, want %d", tries, tt.tries)
			}
		})
	}
}

// A token service that is silent, or slow, is given up after a while, and one that is
// not there at once; the login's own end counts too.
func TestActionsSilent(t *testing.T) {
	ask := func(ctx context.Context, url string) error {
		setJob(t, map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": aRequest})
		_, err := jobToken().Get(ctx, "a")
		if err == nil {
			t.Fatalf("Get of %s: no error", url)
		}
		clean(t, err.Error())
		return err
	}
	for _, url := range []string{"hunter2", "ftp://hunter2", "https://", "http://a b/", ":"} {
		if err := ask(t.Context(), url); !strings.Contains(err.Error(), "ACTIONS_ID_TOKEN_REQUEST_URL is no URL") {
			t.Errorf("%s: %v", url, err)
		}
	}
	asked := make(chan struct{}, 1)
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush() // the head, and then nothing
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	ask(ctx, silent.URL+"/hunter2?hunter2")
	silent.Close()
	if err := ask(t.Context(), silent.URL+"/hunter2"); !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a service that is gone: %v", err)
	}
}

// Where a job's token is found, and what its errors say.
func TestJobToken(t *testing.T) {
	for _, tt := range []struct {
		name string
		vars map[string]string
		is   string // the Name; "": no token
		get  string // what Get returns
		err  string // or its error
	}{
		{"no job", nil, "", "", ""},
		{"other CI", map[string]string{"CI_JOB_TOKEN": "hunter2"}, "", "", ""},
		{"GitLab", map[string]string{"CI_ID_TOKEN": aJWT, "CI_JOB_TOKEN": "hunter2", "CI_SERVER_URL": "https://gitlab.example"}, "CI_ID_TOKEN", aJWT, ""},
		{"GitLab, mistyped", map[string]string{"CI_ID_TOKEN": "hunter2 " + aJWT}, "CI_ID_TOKEN", "", "CI_ID_TOKEN is no JWT"},
		{"GitLab without", map[string]string{"CI_JOB_TOKEN": "glcbt-64_abc", "CI_SERVER_URL": "https://GitLab.example:8443/sub"}, "CI_JOB_TOKEN", "https://gitlab-ci-token:glcbt-64_abc@gitlab.example", ""},
		{"GitLab of no URL", map[string]string{"CI_JOB_TOKEN": "hunter2", "CI_SERVER_URL": "hunter2"}, "CI_JOB_TOKEN", "", "CI_SERVER_URL, which says"},
		{"GitHub without", map[string]string{"GITHUB_ACTIONS": "true"}, "the id token of this job", "", "permissions: id-token: write in the workflow lets it"},
		{"Forgejo without", map[string]string{"GITHUB_ACTIONS": "true", "FORGEJO_ACTIONS": "true"}, "the id token of this job", "", "enable-openid-connect: true in the workflow lets it"},
	} {
		setJob(t, tt.vars)
		token := jobToken()
		if token == nil {
			if tt.is != "" {
				t.Errorf("%s: no token, want %s", tt.name, tt.is)
			}
			continue
		}
		got, err := token.Get(t.Context(), "a")
		if token.Name != tt.is || tt.err == "" && (err != nil || got != tt.get) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %s, %q, %v", tt.name, token.Name, got, err)
		}
	}
}

// CI_TOKEN logs in alone, a job's token where the key may not, and neither is shown to
// another orchestrator than that of CI_ORCHESTRATOR.
func TestDialOptions(t *testing.T) {
	key, err := sign.LoadKey(t.TempDir() + "/id")
	if err != nil {
		t.Fatal(err)
	}
	setJob(t, nil)
	c := &config.Config{Key: t.TempDir() + "/id", Orchestrator: "ssh://CI.example.org/github.com/alice/hello"}
	options := func(url string) dial.Options {
		t.Helper()
		o, err := DialOptions(key, c, url)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	if o := options(c.Orchestrator); o.Pass != nil || o.Login == nil {
		t.Errorf("neither: %+v", o)
	}
	setJob(t, map[string]string{"CI_ID_TOKEN": aJWT})
	job := options(c.Orchestrator)
	if job.Pass == nil || job.Login == nil {
		t.Errorf("a job: %+v", job)
	}
	c.Token = "9ci_hunter2"
	token := options(c.Orchestrator)
	if token.Pass == nil || token.Login != nil || token.Pass == job.Pass {
		t.Errorf("CI_TOKEN: %+v", token)
	}
	if options("ssh://u@ci.example.org:22/other").Pass != token.Pass {
		t.Error("the hosts of a process do not share a Pass")
	}
	for _, other := range []string{"ssh://ci.example.org:2222", "ssh://example.org", "tls://ci.example.org:22", ""} {
		o := options(other)
		if o.Pass != nil || o.Login == nil {
			t.Errorf("%s is shown a token", other)
			continue
		}
		if signers, err := o.Login(); len(signers) != 1 || err == nil || err.Error() != "a token logs in at CI_ORCHESTRATOR alone" {
			t.Errorf("%s: %v, %v", other, signers, err)
		}
	}
	c.Token = "9ci_hunter3"
	if options(c.Orchestrator).Pass == token.Pass {
		t.Error("two tokens share a Pass")
	}
}

// A silence is a server that never answers.
type silence struct{ answered int }

func (s *silence) RoundTrip(r *http.Request) (*http.Response, error) {
	s.answered++
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A service that never answers holds a login up for as long as three tries may take.
func TestActionsTimeout(t *testing.T) {
	setJob(t, map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": "https://token.example/idtoken", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": aRequest})
	synctest.Test(t, func(t *testing.T) {
		var never silence
		began := time.Now()
		_, err := actions{&never}.ask(t.Context(), "a")
		if err == nil || err.Error() != "the token service at token.example: it did not answer within 10s" {
			t.Errorf("ask: %v", err)
		}
		if d := time.Since(began); never.answered != actionsTries || d < actionsTries*actionsTimeout || d > actionsTries*(actionsTimeout+2*actionsAgain) {
			t.Errorf("%d tries took %v", never.answered, d)
		}
	})
}
