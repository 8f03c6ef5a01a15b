package forge

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge/forgetest"
)

// The forms of a CI_JOB_TOKEN: of old, with a partition, with a prefix, as a JWT with a
// prefix, and with an instance's own one.
var jobTokens = []string{
	"xyzXYZ_-0123456789ab",
	"64_xyzXYZ_-0123456789ab",
	"glcbt-64_xyzXYZ_-0123456789ab",
	"glcbt-" + jobTokenJWT,
	"acme-glcbt-" + jobTokenJWT,
}

const jobTokenJWT = "eyJraWQiOiJ4IiwidHlwIjoiSldUIiwiYWxnIjoiUlMyNTYifQ.eyJ2ZXJzaW9uIjoiMC4xLjAiLCJpc3MiOiJnaXRsYWIuY29tIn0.c2lnbmF0dXJl"

// at says of which GitLab a token is.
func at(host, token string) string { return "https://gitlab-ci-token:" + token + "@" + host }

// A CI_JOB_TOKEN lets a job read in its project's namespace.
func TestJobToken(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		want := access.Job{
			Principal: "gitlab:repo:74", Host: "gitlab.com", Namespace: "gitlab.com/alice/hello",
			RepositoryID: "74", Commit: forgetest.Commit,
		}
		w.forge.URL = "https://gitlab.com" // where its pages are
		for _, token := range jobTokens {
			w.bad("a token that is not known", token, "no running job")
			w.forge.AddJob(token, w.forge.Job())
			for _, shown := range []string{token, token + "\n", at("gitlab.com", token), at("GitLab.com:443/", token) + "\n", at("gitlab.com/alice/hello.git", token)} {
				if job := w.good(shown, shown); job != want {
					t.Errorf("Job(%q) = %+v, want %+v", shown, job, want)
				}
			}
			time.Sleep(2 * time.Second)
		}
		if n := w.forge.Asked("/openid-configuration"); n != 0 {
			t.Errorf("%d requests for keys", n)
		}
	})
}

// The answer has to tell which project the job is of.
func TestJobTokenAnswers(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		w.forge.URL = "https://gitlab.com"
		for what, tt := range map[string]struct {
			change map[string]any
			reason string
		}{
			"no page":             {map[string]any{"web_url": nil}, "has the page"},
			"another host":        {map[string]any{"web_url": "https://mallory.example/alice/hello/-/jobs/8"}, "has the page"},
			"another job":         {map[string]any{"web_url": "https://gitlab.com/alice/hello/-/jobs/9"}, "has the page"},
			"another page":        {map[string]any{"web_url": "https://gitlab.com/alice/hello/-/pipelines/8"}, "has the page"},
			"no project":          {map[string]any{"web_url": "https://gitlab.com/-/jobs/8"}, "has the page"},
			"one element":         {map[string]any{"web_url": "https://gitlab.com/hello/-/jobs/8"}, "want owner/repo"},
			"a way out":           {map[string]any{"web_url": "https://gitlab.com/a/../b/-/jobs/8"}, "want"},
			"no pipeline":         {map[string]any{"pipeline": nil}, "want numbers"},
			"no project id":       {map[string]any{"pipeline": map[string]any{"id": 6}}, "want numbers"},
			"a negative id":       {map[string]any{"pipeline": map[string]any{"project_id": -1}}, "want numbers"},
			"nothing":             {map[string]any{"web_url": nil, "pipeline": nil, "id": nil}, "has the page"},
			"a page that is none": {map[string]any{"web_url": "%zz"}, "has the page"},
		} {
			job := w.forge.Job()
			for k, v := range tt.change {
				job[k] = v
			}
			w.forge.AddJob(jobTokens[0], job)
			w.bad(what, jobTokens[0], tt.reason)
			time.Sleep(time.Second)
		}
		noCommit := w.forge.Job()
		noCommit["pipeline"] = map[string]any{"project_id": 74}
		w.forge.AddJob(jobTokens[0], noCommit)
		if job := w.good("no commit", jobTokens[0]); job.Commit != "" || job.Publish {
			t.Errorf("no commit: %+v", job)
		}
		w.write("kind=gitlab", "url="+w.forge.Issuer, "namespace=gitlab.com/bob/...")
		w.bad("of a namespace that is left out", jobTokens[0], "leaves out")
	})
}

// A GitLab that is not at the root of its host has pages below that.
func TestJobTokenRoot(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool {
			r.URL.Path = strings.TrimPrefix(r.URL.Path, "/git lab")
			return false
		})
		w.write("kind=gitlab", "host=git.example", "url=http://127.0.0.1:8080/git%20lab/")
		w.forge.URL = "https://git.example:8443/git%20lab"
		w.forge.AddJob(jobTokens[0], w.forge.Job())
		if job := w.good("below its root", jobTokens[0]); job.Namespace != "git.example/alice/hello" || job.Principal != "git.example:repo:74" {
			t.Errorf("below its root: %+v", job)
		}
		w.forge.URL = "https://git.example"
		w.forge.AddJob(jobTokens[0], w.forge.Job())
		w.bad("elsewhere", jobTokens[0], "has the page")
	})
}

// A CI_JOB_TOKEN is a secret of its GitLab: no other server sees it.
func TestJobTokenSecret(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		token := jobTokens[2]
		if w.forge.Kind != "gitlab" {
			w.bad("a forge of another kind", token, "no forge of kind=gitlab")
			w.bad("a forge of another kind by its name", at(hosts[w.forge.Kind], token), "no forge of kind=gitlab host=")
			if n := w.forge.Asked(""); n != 0 {
				t.Errorf("%d requests", n)
			}
			return
		}
		w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool {
			http.Redirect(rw, r, "http://mallory.example/", http.StatusTemporaryRedirect)
			return true
		})
		w.busy("redirected", token, "another server")
		if n := w.forge.Asked(""); n != 1 {
			t.Errorf("%d requests, and the network has one server for all names", n)
		}
		w.write("kind=gitlab", "url="+w.forge.Issuer, "", "kind=gitlab", "host=git.example", "url="+w.forge.Issuer)
		w.bad("two of them", token, "TOKEN@HOST says which")
		w.bad("none of them", at("other.example", token), "no forge of kind=gitlab host=\"other.example")
		w.bad("no host", at("", token), "TOKEN@HOST says which")
		w.bad("another user", strings.Replace(at("git.example", token), "gitlab-ci-token", "root", 1), "neither")
		if n := w.forge.Asked(""); n != 1 {
			t.Errorf("%d requests, want no other", n)
		}
		w.forge.Say(nil)
		w.forge.URL = "https://git.example"
		w.forge.AddJob(token, w.forge.Job())
		if job := w.good("the second", at("git.example", token)); job.Host != "git.example" {
			t.Errorf("the second: %+v", job)
		}
		for _, text := range []string{token + "\r\nX: y", "a b c", "https://git.example " + token, at("git.example", "short"), at("git.example", "%00"+token), "https://gitlab-ci-token@git.example", strings.Repeat("x", 19), "\x00" + token, token + "é"} {
			n := w.forge.Asked("")
			w.bad(fmt.Sprintf("%q", text), text, "neither")
			if w.forge.Asked("") != n {
				t.Errorf("a request for %q", text)
			}
		}
	})
}

// A GitLab that does not answer well leaves open whether a token is good.
func TestJobTokenFails(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		for what, say := range map[string]func(http.ResponseWriter, *http.Request){
			"500":           func(rw http.ResponseWriter, r *http.Request) { http.Error(rw, "no", 500) },
			"429":           func(rw http.ResponseWriter, r *http.Request) { http.Error(rw, "slow down", http.StatusTooManyRequests) },
			"hangs up":      func(rw http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
			"silent":        func(rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			"no JSON":       func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "<html>") },
			"an odd answer": func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, `{"id":"8"}`) },
			"50 MB": func(rw http.ResponseWriter, r *http.Request) {
				for range 50 {
					if _, err := fmt.Fprint(rw, strings.Repeat(" ", 1<<20)); err != nil {
						return
					}
				}
			},
		} {
			w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool { say(rw, r); return true })
			began := time.Now()
			w.busy(what, jobTokens[0], "CI_JOB_TOKEN of gitlab.com")
			if took := time.Since(began); took > answerTime {
				t.Errorf("%s: it took %v", what, took)
			}
			time.Sleep(time.Second)
		}
		for status, reason := range map[int]string{401: "no running job", 403: "no running job", 404: "no running job"} {
			w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool { http.Error(rw, "{}", status); return true })
			w.bad(fmt.Sprint(status), jobTokens[0], reason)
		}
	})
}

// Guessed tokens make no flood of requests.
func TestJobTokenFlood(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() { w.job(fmt.Sprintf("%s%d", jobTokens[0], i)) })
		}
		wg.Wait()
		if n := w.forge.Asked("/job"); n != jobTokenBurst {
			t.Errorf("%d requests at once, want %d", n, jobTokenBurst)
		}
		w.busy("beyond them", jobTokens[0], "too many at once")
		time.Sleep(time.Second)
		synctest.Wait()
		w.bad("a second later", jobTokens[0], "no running job")
	})
}
