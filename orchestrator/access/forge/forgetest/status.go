package forgetest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// A Status is one of a commit.
type Status struct {
	ID                               int64
	State, Context, URL, Description string
}

// statuses are what a Site knows of commits. The Site's mutex guards them.
type statuses struct {
	commits map[string][]Status // by the repository's number, a slash and the commit
	last    int64
	posts   int
	app     *rsa.PrivateKey
	bot     string
	tokens  map[string]int64 // of the App's installations: the repository that each is for
}

// AddCommit pushes a commit to a repository.
func (s *Site) AddCommit(repo int64, commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.statuses.commits == nil {
		s.statuses.commits = map[string][]Status{}
	}
	s.statuses.commits[commitKey(repo, commit)] = []Status{}
}

// Statuses returns the statuses of a commit, the oldest first.
func (s *Site) Statuses(repo int64, commit string) []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Status(nil), s.statuses.commits[commitKey(repo, commit)]...)
}

// Posts returns how many statuses were taken.
func (s *Site) Posts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses.posts
}

func commitKey(repo int64, commit string) string { return fmt.Sprintf("%d/%s", repo, commit) }

// StatusSecret returns what the operator gets to write statuses by: at GitHub the private
// key of the App, which may where Repo.App and Repo.Statuses are set; at the others the
// token of somebody called ci-bot, who may where it is a Developer.
func (s *Site) StatusSecret() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Kind == "github" {
		if s.statuses.app == nil {
			var err error
			if s.statuses.app, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
				panic(err)
			}
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(s.statuses.app)}))
	}
	if s.statuses.bot == "" {
		s.statuses.bot = random("bot-")
		s.people["ci-bot"] = Person{ID: 99, Login: "ci-bot"}
		s.tokens[s.statuses.bot] = &grant{login: "ci-bot", access: s.statuses.bot, until: time.Now().AddDate(1, 0, 0)}
	}
	return s.statuses.bot
}

// PersonalToken returns a token that somebody has made for programs of their own.
func (s *Site) PersonalToken(login string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &grant{login: login, access: random("pat-"), until: time.Now().AddDate(1, 0, 0)}
	s.tokens[g.access] = g
	return g.access
}

// RevokeInstallations ends the tokens of the App's installations.
func (s *Site) RevokeInstallations() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.statuses.tokens)
}

// answerStatus answers requests of the API for statuses. It reports false for others.
func (s *Site) answerStatus(w http.ResponseWriter, r *http.Request, path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	words := strings.Split(strings.TrimPrefix(path, "/"), "/")
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	n := len(words)
	switch {
	case s.Kind == "github" && n == 4 && words[0] == "repos" && words[3] == "installation":
		s.answerInstallation(w, bearer, words[1]+"/"+words[2])
	case s.Kind == "github" && n == 4 && words[0] == "app" && words[3] == "access_tokens" && r.Method == http.MethodPost:
		s.giveInstalled(w, r, bearer, words[2])
	case s.Kind == "gitlab" && n == 4 && words[0] == "projects" && words[2] == "statuses" && r.Method == http.MethodPost:
		s.takeStatus(w, r, bearer, s.project(words[1]), words[3])
	case s.Kind == "gitlab" && n == 6 && words[0] == "projects" && words[2] == "repository" && words[5] == "statuses":
		s.listStatuses(w, bearer, s.project(words[1]), words[4])
	case s.Kind != "gitlab" && n == 5 && words[0] == "repos" && words[3] == "statuses" && r.Method == http.MethodPost:
		s.takeStatus(w, r, bearer, s.named(words[1]+"/"+words[2]), words[4])
	case s.Kind != "gitlab" && n == 6 && words[0] == "repos" && words[3] == "commits" && words[5] == "statuses":
		s.listStatuses(w, bearer, s.named(words[1]+"/"+words[2]), words[4])
	case s.Kind == "forgejo" && n == 6 && words[0] == "repos" && words[3] == "git" && words[4] == "commits":
		repo := s.named(words[1] + "/" + words[2])
		if !s.mayRead(bearer, repo) {
			s.notFound(w)
		} else if s.statuses.commits[commitKey(repo.ID, words[5])] == nil {
			s.notFound(w)
		} else {
			s.sayJSON(w, http.StatusOK, map[string]any{"sha": words[5]})
		}
	default:
		return false
	}
	return true
}

// named returns the repository of a name, ignoring case.
func (s *Site) named(path string) *Repo {
	path, _ = url.PathUnescape(path)
	for _, r := range s.repos {
		if strings.EqualFold(r.Path, path) {
			return r
		}
	}
	return nil
}

func (s *Site) project(id string) *Repo {
	n, _ := strconv.ParseInt(id, 10, 64)
	return s.repos[n]
}

// isApp reports whether a JWT is the App's, as GitHub checks it.
func (s *Site) isApp(bearer string) bool {
	t, err := jwt.ParseSigned(bearer, []jose.SignatureAlgorithm{jose.RS256})
	var c jwt.Claims
	now := time.Now()
	return err == nil && s.statuses.app != nil && t.Claims(s.statuses.app.Public(), &c) == nil &&
		c.Issuer == s.ClientID && c.Expiry != nil && c.IssuedAt != nil && !c.IssuedAt.Time().After(now) &&
		now.Before(c.Expiry.Time()) && c.Expiry.Time().Sub(now) <= 10*time.Minute
}

func (s *Site) answerInstallation(w http.ResponseWriter, bearer, path string) {
	repo := s.named(path)
	switch {
	case !s.isApp(bearer):
		s.sayJSON(w, http.StatusUnauthorized, map[string]string{"message": "A JSON web token could not be decoded"})
	case repo == nil || !repo.App:
		s.notFound(w)
	default:
		s.sayJSON(w, http.StatusOK, map[string]any{"id": 1000 + repo.ID, "account": map[string]any{"login": "alice"}, "permissions": map[string]string{"metadata": "read"}})
	}
}

func (s *Site) giveInstalled(w http.ResponseWriter, r *http.Request, bearer, id string) {
	var ask struct {
		Repositories []string          `json:"repositories"`
		Permissions  map[string]string `json:"permissions"`
	}
	err := json.NewDecoder(r.Body).Decode(&ask)
	n, _ := strconv.ParseInt(id, 10, 64)
	repo := s.repos[n-1000]
	switch {
	case !s.isApp(bearer):
		s.sayJSON(w, http.StatusUnauthorized, map[string]string{"message": "Bad credentials"})
	case err != nil || repo == nil || !repo.App || len(ask.Repositories) != 1 || !strings.HasSuffix(strings.ToLower(repo.Path), "/"+strings.ToLower(ask.Repositories[0])):
		s.sayJSON(w, http.StatusUnprocessableEntity, map[string]string{"message": "There is at least one repository that does not exist or is not accessible to the parent installation."})
	case len(ask.Permissions) != 1 || ask.Permissions["statuses"] != "write" || !repo.Statuses:
		s.sayJSON(w, http.StatusUnprocessableEntity, map[string]string{"message": "The permissions requested are not granted to this installation."})
	default:
		token := random("ghs_")
		if s.statuses.tokens == nil {
			s.statuses.tokens = map[string]int64{}
		}
		s.statuses.tokens[token] = repo.ID
		s.sayJSON(w, http.StatusCreated, map[string]any{"token": token, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			"permissions": ask.Permissions, "repository_selection": "selected", "repositories": []any{map[string]any{"id": repo.ID, "full_name": repo.Path}}})
	}
}

func (s *Site) mayRead(bearer string, repo *Repo) bool {
	if s.statuses.tokens[bearer] != 0 {
		return repo != nil && s.statuses.tokens[bearer] == repo.ID && repo.App && repo.Statuses
	}
	g := s.tokens[bearer]
	return g != nil && !g.revoked && s.sees(repo, s.people[g.login])
}

func (s *Site) takeStatus(w http.ResponseWriter, r *http.Request, bearer string, repo *Repo, commit string) {
	var is struct {
		State       string `json:"state"`
		Context     string `json:"context"`
		Name        string `json:"name"`
		URL         string `json:"target_url"`
		Description string `json:"description"`
	}
	err := json.NewDecoder(r.Body).Decode(&is)
	failed := "failure"
	if s.Kind == "gitlab" {
		is.Context, failed = is.Name, "failed"
	}
	switch {
	case s.tokens[bearer] == nil && s.statuses.tokens[bearer] == 0:
		s.sayJSON(w, http.StatusUnauthorized, map[string]string{"message": "Bad credentials"})
		return
	case !s.mayRead(bearer, repo):
		s.sayJSON(w, http.StatusNotFound, map[string]string{"message": "404 Project Not Found"})
		return
	case s.statuses.tokens[bearer] == 0 && s.level(repo, s.people[s.tokens[bearer].login]) < Developer:
		s.sayJSON(w, http.StatusForbidden, map[string]string{"message": "403 Forbidden"})
		return
	case err != nil || is.State != "success" && is.State != failed || is.Context == "" || len(is.Description) > 140 || len(is.Context) > 255:
		s.sayJSON(w, http.StatusUnprocessableEntity, map[string]string{"message": "Validation Failed"})
		return
	}
	key := commitKey(repo.ID, commit)
	if s.statuses.commits[key] == nil {
		switch s.Kind {
		case "github":
			s.sayJSON(w, http.StatusUnprocessableEntity, map[string]string{"message": "No commit found for SHA: " + commit})
		case "gitlab":
			s.sayJSON(w, http.StatusNotFound, map[string]string{"message": "404 Commit Not Found"})
		default:
			s.sayJSON(w, http.StatusInternalServerError, map[string]string{"message": "GetCommit[" + commit + "]: object does not exist"})
		}
		return
	}
	s.statuses.last++
	s.statuses.posts++
	s.statuses.commits[key] = append(s.statuses.commits[key], Status{s.statuses.last, is.State, is.Context, is.URL, is.Description})
	s.sayJSON(w, http.StatusCreated, s.shows(s.statuses.commits[key][len(s.statuses.commits[key])-1]))
}

// shows returns a status in the documented shape.
func (s *Site) shows(is Status) map[string]any {
	m := map[string]any{"id": is.ID, "target_url": is.URL, "description": is.Description}
	switch s.Kind {
	case "github":
		m["state"], m["context"] = is.State, is.Context
	case "gitlab":
		m["status"], m["name"] = is.State, is.Context
	default:
		m["status"], m["context"] = is.State, is.Context
	}
	return m
}

func (s *Site) listStatuses(w http.ResponseWriter, bearer string, repo *Repo, commit string) {
	if !s.mayRead(bearer, repo) {
		s.notFound(w)
		return
	}
	list := s.statuses.commits[commitKey(repo.ID, commit)]
	all := []any{}
	for i := range list { // GitLab lists the oldest first, the others the newest
		if s.Kind != "gitlab" {
			i = len(list) - 1 - i
		}
		all = append(all, s.shows(list[i]))
	}
	s.sayJSON(w, http.StatusOK, all)
}
