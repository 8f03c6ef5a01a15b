package forge

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge/forgetest"
)

// A user's token gives a commit a status, once, as the orchestrator gives it; and it is
// shown to its own forge only, and in no error.
func TestUserToken(t *testing.T) {
	for _, kind := range []string{"github", "gitlab", "forgejo"} {
		t.Run(kind, func(t *testing.T) {
			server := httptest.NewUnstartedServer(nil)
			site := forgetest.NewSite(kind, "http://"+server.Listener.Addr().String())
			server.Config.Handler = site
			server.Start()
			defer server.Close()
			site.AddPerson(forgetest.Person{ID: 1, Login: "alice"})
			site.AddPerson(forgetest.Person{ID: 2, Login: "bob"})
			site.AddRepo(forgetest.Repo{ID: 74, Path: "Alice/hello", Visibility: "private", App: true, Members: map[string]int{"alice": forgetest.Developer, "bob": forgetest.Reporter}})
			s := access.CommitStatus{Namespace: "127.0.0.1/alice/hello", Commit: statusCommit, Context: "9ci/amd64", Passed: true, Description: "passed in 1.0 s, x"}
			alice := UserToken{kind, site.URL + "/", site.PersonalToken("alice")}
			tell := func(what string, u UserToken, s access.CommitStatus, want string) {
				t.Helper()
				err := u.Tell(t.Context(), s)
				if got := kindOf(err); !strings.Contains(got, want) {
					t.Errorf("%s: Tell = %q, want %q", what, got, want)
				}
				if err != nil && strings.Contains(err.Error(), u.Token) {
					t.Errorf("%s: %v has the token", what, err)
				}
			}
			tell("not pushed", alice, s, "no commit")
			site.AddCommit(74, statusCommit)
			for range 2 {
				tell("pushed", alice, s, "taken")
			}
			if got := site.Statuses(74, statusCommit); len(got) != 1 || got[0].State != "success" || got[0].Context != s.Context || got[0].URL != "" || got[0].Description != s.Description {
				t.Errorf("the commit has %+v", got)
			}
			other := s
			other.Description = "passed in 2.0 s, y"
			tell("one who may only read", UserToken{kind, site.URL, site.PersonalToken("bob")}, other, "forbidden")
			tell("no token", UserToken{kind, site.URL, "pat-none"}, other, "forbidden")
			tell("a newline", UserToken{kind, site.URL, alice.Token + "\n"}, other, "newline")
			other.Namespace = "127.0.0.1/alice/none"
			tell("no repository", alice, other, "forbidden")
			other.Namespace = "127.0.0.1/alice/hello/more"
			tell("a group", alice, other, "forbidden")

			// What another host's repository says shows the token to nobody.
			asked := site.Asked("")
			other.Namespace = "evil.example/alice/hello"
			tell("another host", alice, other, "not shown for evil.example/alice/hello")
			tell("in the clear", UserToken{kind, "http://evil.example", alice.Token}, other, "want https")
			if got := site.Asked(""); got != asked {
				t.Errorf("the forge was asked %d times more", got-asked)
			}
			shown := false
			elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				shown = shown || r.Header.Get("Authorization") != ""
			}))
			defer elsewhere.Close()
			site.Say(func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			})
			tell("moved", alice, s, "forbidden")
			if shown {
				t.Error("the token followed a redirect")
			}
			site.Say(func(w http.ResponseWriter, r *http.Request) bool {
				http.Error(w, "down", http.StatusBadGateway)
				return true
			})
			tell("down", alice, s, "busy")
		})
	}
}
