package forge

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge/forgetest"
)

const statusCommit = "3f2a9c1d0b7e4a5f6a7b8c9d0e1f2a3b4c5d6e7f"

// tells makes the forge one that is told of alice/hello, and returns a status.
func (v *village) tells(attrs ...string) access.CommitStatus {
	v.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, "teller"), []byte(v.site.StatusSecret()), 0o600); err != nil {
		v.Fatal(err)
	}
	v.write(append(attrs, "statuses-secret-file=teller")...)
	v.site.Change(74, func(r *forgetest.Repo) {
		r.Statuses = true
		r.Members["ci-bot"] = forgetest.Developer
	})
	return access.CommitStatus{Namespace: v.ns("alice/hello"), Commit: statusCommit, Context: "9ci", Passed: true, Description: "passed in 1.0 s, run 0123456789ab", URL: "https://ci.example.org/rev/x"}
}

// kindOf returns the kind of an error of Tell.
func kindOf(err error) string {
	var forbidden *access.ForbiddenError
	var rejected *access.RejectedError
	switch {
	case err == nil:
		return "taken"
	case errors.Is(err, access.ErrNoCommit):
		return "no commit"
	case errors.As(err, &forbidden):
		return "forbidden"
	case errors.As(err, &rejected):
		return "rejected"
	case errors.Is(err, fs.ErrBusy):
		return "busy"
	}
	return err.Error()
}

// A status is given, as the forge has it; it is known to be told until another one of its
// context is; what keeps the forge from taking it is told apart.
func TestTell(t *testing.T) {
	inVillage(t, []string{"github", "gitlab", "forgejo"}, func(t *testing.T, v *village) {
		if v.Tells(v.ns("alice/hello")) {
			t.Error("it tells without statuses-secret-file=")
		}
		s := v.tells()
		tell := func(what, want string) {
			t.Helper()
			if err := v.say(v.Tell(t.Context(), s)); kindOf(err) != want {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		}
		told := func(what string, want bool) {
			t.Helper()
			if got, err := v.Told(t.Context(), s); err != nil || got != want {
				t.Errorf("%s: told %v, %v, want %v", what, got, err, want)
			}
		}
		if !v.Tells(s.Namespace) || v.Tells("elsewhere.example/alice/hello") || v.Tells(v.ns("x")) {
			t.Error("it tells of other namespaces than it should")
		}
		told("a commit that is not there", false)
		tell("a commit that is not there", "no commit")
		v.site.AddCommit(74, statusCommit)
		told("before", false)
		tell("passed", "taken")
		told("after", true)
		got := v.site.Statuses(74, statusCommit)
		if len(got) != 1 || got[0].State != "success" || got[0].Context != "9ci" || got[0].URL != s.URL || got[0].Description != s.Description {
			t.Errorf("the forge has %+v", got)
		}
		first := s
		s.Passed, s.Description = false, "failed"
		told("another run", false)
		tell("failed", "taken")
		if got := v.site.Statuses(74, statusCommit); len(got) != 2 || !strings.HasPrefix(got[1].State, "fail") {
			t.Errorf("the forge has %+v", got)
		}
		other := s
		other.Context = "9ci lint"
		if err := v.say(v.Tell(t.Context(), other)); err != nil {
			t.Error(err)
		}
		told("the same, behind one of another context", true)
		s = first
		told("the first", false)
		s.Description = strings.Repeat("x", 150)
		tell("too long a description", "rejected")
		s = first

		v.site.Say(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		})
		tell("a forge that is down", "busy")
		v.site.Say(nil)
		tell("at once after", "busy")
		if _, err := v.Access(t.Context(), v.login(), s.Namespace, time.Time{}); err != nil {
			t.Errorf("people wait for statuses: %v", err)
		}
		time.Sleep(downPause)
		tell("later", "taken")

		asked := 0
		v.site.Say(func(w http.ResponseWriter, _ *http.Request) bool {
			asked++
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		tell("a forge that has enough", "busy")
		tell("at once after", "busy")
		time.Sleep(10*time.Minute - time.Second)
		tell("a second before", "busy")
		if asked != 1 {
			t.Errorf("the forge was asked %d times, and had asked to wait", asked)
		}
		v.site.Say(nil)
		time.Sleep(time.Second)
		tell("then", "taken")
	})
}

// A repository that takes no statuses, has moved, or has another's name gets none.
func TestTellForbidden(t *testing.T) {
	inVillage(t, []string{"github", "gitlab", "forgejo"}, func(t *testing.T, v *village) {
		s := v.tells()
		v.site.AddCommit(74, statusCommit)
		tell := func(what, want string) error {
			t.Helper()
			err := v.say(v.Tell(t.Context(), s))
			if kindOf(err) != want {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
			return err
		}
		change := func(may bool) {
			v.site.Change(74, func(r *forgetest.Repo) {
				r.Statuses = may
				r.Members["ci-bot"] = forgetest.Reporter
				if may {
					r.Members["ci-bot"] = forgetest.Developer
				}
			})
		}
		change(false)
		if err := tell("no permission", "forbidden"); err != nil && !strings.Contains(err.Error(), v.ns("")[:len(v.host)]) {
			t.Errorf("the words: %v", err)
		}
		change(true)
		tell("with it", "taken")
		if v.site.Kind == "github" {
			v.site.RevokeInstallations() // GitHub ends them when the permissions change
			tell("a token that was got just now and is bad", "forbidden")
			tell("another token", "taken")
			time.Sleep(2 * time.Minute)
			v.site.RevokeInstallations()
			tell("an old token that is bad", "busy")
			tell("the next token", "taken")
			n := v.site.Asked("/access_tokens")
			tell("once more", "taken")
			if v.site.Asked("/access_tokens") != n {
				t.Error("each status takes a token of its own")
			}
			time.Sleep(time.Hour)
			tell("an hour later", "taken")
			time.Sleep(2 * time.Hour)
		}
		before := v.site.Posts()
		v.site.Change(74, func(r *forgetest.Repo) { r.Path = "alice/renamed" })
		tell("the repository has another name", "forbidden")
		v.site.AddRepo(forgetest.Repo{ID: 75, Path: "alice/hello", Visibility: "public", Members: map[string]int{"ci-bot": forgetest.Developer}, App: true, Statuses: true})
		v.site.AddCommit(75, statusCommit)
		if err := tell("another has taken the name", "forbidden"); err != nil && !strings.Contains(err.Error(), "delete line") {
			t.Errorf("the words: %v", err)
		}
		if got := v.site.Posts(); got != before {
			t.Errorf("%d statuses were taken", got-before)
		}
		if err := os.WriteFile(filepath.Join(v.dir, "teller"), []byte("\n\nnonsense\n\n\nx"), 0o600); err != nil {
			t.Fatal(err)
		}
		tell("a file without a secret", "forbidden")
		found, err := Check(filepath.Join(v.dir, "forges"))
		if err != nil || len(found) != 1 || found[0].Err == nil || !strings.Contains(found[0].Err.Error(), "statuses-secret-file=") || !strings.Contains(found[0].Words, "is told how the runs of") {
			t.Errorf("check: %+v, %v", found, err)
		}
		if all := Secrets(v.dir); len(all) != 3 || filepath.Base(all[2]) != "teller" {
			t.Errorf("the secrets are %v", all)
		}
	})
}

// A forge that never answers costs a turn of no person's.
func TestTellHangs(t *testing.T) {
	inVillage(t, []string{"gitlab"}, func(t *testing.T, v *village) {
		s := v.tells()
		release := make(chan struct{})
		v.site.Say(func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return true
		})
		began := time.Now()
		if err := v.say(v.Tell(t.Context(), s)); kindOf(err) != "busy" {
			t.Errorf("Tell = %v", err)
		}
		if took := time.Since(began); took != answerTime {
			t.Errorf("it took %v", took)
		}
		close(release)
	})
}

// What a forge may not be told by is found at once.
func TestStatusAttributes(t *testing.T) {
	for text, want := range map[string]string{
		"kind=github\nstatuses-secret-file=x\n":                                      "without client-id=",
		"kind=oidc\nissuer=https://a.example\nclient-id=x\nstatuses-secret-file=x\n": "means nothing with kind=oidc",
		"kind=gitlab\nstatuses-secret-file=x\n":                                      "",
		"kind=forgejo\nhost=a.example\nstatuses-secret-file=/x/y\n":                  "",
	} {
		fg, err := parseForge([]byte(text))
		if want == "" && (err != nil || fg.statusFile == "") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
