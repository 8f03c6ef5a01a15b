package forgetest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Site is a GitHub, a GitLab or a Forgejo with people and repositories. It is a handler
// of the requests to its instance: people log in by OAuth2, and GET /user and GET
// /repos/OWNER/REPO or /projects/PATH answer in the documented shapes. Its methods may be
// called while it answers.
type Site struct {
	Kind             string // github, gitlab or forgejo
	URL              string // of the instance
	ClientID, Secret string // of its one application

	mu       sync.Mutex // guards what follows
	user     string     // who is logged in with the browser
	people   map[string]Person
	repos    map[int64]*Repo
	old      map[string]int64 // names that repositories had
	codes    map[string]code
	tokens   map[string]*grant // by access token
	refresh  map[string]*grant // by refresh token
	asked    map[string]int
	atOnce   int
	mostOnce int
	say      func(http.ResponseWriter, *http.Request) bool
	statuses statuses
}

// A Person is somebody who is known to a Site.
type Person struct {
	ID          int64
	Login, Name string
}

// What a member of a repository is: GitLab's levels. At the others, those from Reporter
// on may pull, and those from Developer on push.
const (
	Guest     = 10
	Reporter  = 20
	Developer = 30
)

// A Repo is a repository.
type Repo struct {
	ID         int64
	Path       string         // below the host
	Visibility string         // public, internal (GitLab) or private
	Members    map[string]int // by login
	Invited    map[string]int // GitLab: members of a group that the project is shared with
	App        bool           // GitHub: whether the App is installed
	Statuses   bool           // GitHub: and may write statuses
}

type code struct {
	login, redirect, challenge string
	until                      time.Time
}

type grant struct {
	login, access, refresh string
	until                  time.Time // of access
	spent                  bool      // refresh has been used
	revoked                bool
}

// NewSite returns a Site of a kind at a URL, where nobody is.
func NewSite(kind, url string) *Site {
	return &Site{Kind: kind, URL: url, ClientID: "Iv1.8a61f9b3a7aba766", Secret: "client-secret-of-" + kind,
		people: map[string]Person{}, repos: map[int64]*Repo{}, old: map[string]int64{}, codes: map[string]code{},
		tokens: map[string]*grant{}, refresh: map[string]*grant{}, asked: map[string]int{}}
}

// AddPerson adds somebody, who is then logged in with the browser.
func (s *Site) AddPerson(p Person) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.people[p.Login] = p
	s.user = p.Login
}

// LogIn makes somebody be logged in with the browser; "": nobody.
func (s *Site) LogIn(login string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user = login
}

// AddRepo adds a repository.
func (s *Site) AddRepo(r Repo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Members, r.Invited = maps.Clone(r.Members), maps.Clone(r.Invited)
	s.repos[r.ID] = &r
	delete(s.old, r.Path)
}

// Change changes a repository. One that gets another path is found by its old one until
// another repository has that.
func (s *Site) Change(id int64, change func(*Repo)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[id]
	before := r.Path
	change(r)
	if r.Path != before {
		s.old[before] = id
		delete(s.old, r.Path)
	}
}

// DeleteRepo deletes a repository.
func (s *Site) DeleteRepo(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.repos, id)
	maps.DeleteFunc(s.old, func(_ string, at int64) bool { return at == id })
}

// RevokeGrants takes back what somebody has granted to the application.
func (s *Site) RevokeGrants(login string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, all := range []map[string]*grant{s.tokens, s.refresh} {
		for _, g := range all {
			g.revoked = g.revoked || g.login == login
		}
	}
}

// Tokens returns the access and refresh tokens that are good.
func (s *Site) Tokens() (access, refresh int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, g := range s.tokens {
		if !g.revoked && now.Before(g.until) {
			access++
		}
	}
	for _, g := range s.refresh {
		if !g.revoked && !g.spent {
			refresh++
		}
	}
	return access, refresh
}

// Secrets returns all codes, tokens and secrets that there ever were.
func (s *Site) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []string{s.Secret}
	if s.statuses.bot != "" {
		all = append(all, s.statuses.bot)
	}
	all = slices.AppendSeq(all, maps.Keys(s.statuses.tokens))
	all = slices.AppendSeq(all, maps.Keys(s.codes))
	all = slices.AppendSeq(all, maps.Keys(s.tokens))
	return slices.AppendSeq(all, maps.Keys(s.refresh))
}

// Say makes say answer all requests for which it returns true; nil ends that.
func (s *Site) Say(say func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say = say
}

// Asked returns how many requests there were whose path ends with one.
func (s *Site) Asked(path string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, times := range s.asked {
		if strings.HasSuffix(p, path) {
			n += times
		}
	}
	return n
}

// MostAtOnce returns how many requests of the API there were at once at most.
func (s *Site) MostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mostOnce
}

// Visit is what a browser does with the page where people log in: it returns the answer
// that it takes to the redirect URI.
func (s *Site) Visit(page string) (url.Values, error) {
	u, err := url.Parse(page)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	bad := func(format string, args ...any) (url.Values, error) {
		return nil, fmt.Errorf("%s shows an error: "+format, append([]any{s.URL}, args...)...)
	}
	scopes := map[string]string{"github": "", "gitlab": "read_api", "forgejo": "read:repository read:user"}
	switch {
	case !strings.HasPrefix(page, s.URL+s.authorizePath()+"?"):
		return bad("no page %s", page)
	case q.Get("client_id") != s.ClientID:
		return bad("client_id %q", q.Get("client_id"))
	case q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		return bad("%q", u.RawQuery)
	case q.Get("scope") != scopes[s.Kind]:
		return bad("scope %q", q.Get("scope"))
	case q.Get("state") == "" || q.Get("redirect_uri") == "":
		return bad("no state or redirect_uri")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := url.Values{"state": {q.Get("state")}}
	if _, ok := s.people[s.user]; !ok {
		answer.Set("error", "access_denied")
		return answer, nil
	}
	c := random("")
	s.codes[c] = code{s.user, q.Get("redirect_uri"), q.Get("code_challenge"), time.Now().Add(10 * time.Minute)}
	answer.Set("code", c)
	return answer, nil
}

func random(prefix string) string {
	b := make([]byte, 24)
	rand.Read(b)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

func (s *Site) authorizePath() string {
	if s.Kind == "gitlab" {
		return "/oauth/authorize"
	}
	return "/login/oauth/authorize"
}

func (s *Site) tokenPath() string {
	if s.Kind == "gitlab" {
		return "/oauth/token"
	}
	return "/login/oauth/access_token"
}

func (s *Site) api() string {
	return map[string]string{"github": "/api/v3", "gitlab": "/api/v4", "forgejo": "/api/v1"}[s.Kind]
}

func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.URL.Path]++
	s.atOnce++
	s.mostOnce = max(s.mostOnce, s.atOnce)
	say := s.say
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.atOnce--
	}()
	if say != nil && say(w, r) {
		return
	}
	s.Answer(w, r)
}

// Answer is ServeHTTP without what Say has said.
func (s *Site) Answer(w http.ResponseWriter, r *http.Request) {
	switch path, inAPI := strings.CutPrefix(r.URL.EscapedPath(), s.api()); {
	case r.URL.Path == s.authorizePath():
		answer, err := s.Visit(s.URL + r.URL.RequestURI())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, r.URL.Query().Get("redirect_uri")+"?"+answer.Encode(), http.StatusFound)
	case r.URL.Path == s.tokenPath() && r.Method == http.MethodPost:
		s.giveToken(w, r)
	case s.Kind == "gitlab" && r.URL.Path == "/oauth/revoke" && r.Method == http.MethodPost:
		s.takeBack(w, r.FormValue("client_id"), r.FormValue("client_secret"), r.FormValue("token"), http.StatusOK)
	case s.Kind == "github" && path == "/applications/"+s.ClientID+"/token" && r.Method == http.MethodDelete:
		var body struct {
			Token string `json:"access_token"`
		}
		json.NewDecoder(r.Body).Decode(&body)
		id, secret, _ := r.BasicAuth()
		s.takeBack(w, id, secret, body.Token, http.StatusNoContent)
	case inAPI && s.answerStatus(w, r, path):
	case inAPI && r.Method == http.MethodGet:
		s.answerAPI(w, r, path)
	default:
		http.NotFound(w, r)
	}
}

func (s *Site) takeBack(w http.ResponseWriter, id, secret, token string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.ClientID || secret != s.Secret {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusForbidden)
		return
	}
	for _, g := range []*grant{s.tokens[token], s.refresh[token]} {
		if g != nil {
			g.revoked = true
			w.WriteHeader(status)
			return
		}
	}
	http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
}

// giveToken is the token endpoint.
func (s *Site) giveToken(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The errors of GitHub, GitLab (RFC 6749) and Forgejo.
	refuse := func(github, gitlab, forgejo string) {
		code, status := map[string]string{"github": github, "gitlab": gitlab, "forgejo": forgejo}[s.Kind], http.StatusBadRequest
		switch {
		case s.Kind == "github":
			status = http.StatusOK
		case code == "invalid_client":
			status = http.StatusUnauthorized
		}
		s.sayToken(w, r, status, map[string]any{"error": code, "error_description": "It is incorrect or expired: " + r.FormValue("refresh_token")})
	}
	if r.FormValue("client_id") != s.ClientID || r.FormValue("client_secret") != s.Secret {
		refuse("incorrect_client_credentials", "invalid_client", "invalid_client")
		return
	}
	var login string
	switch r.FormValue("grant_type") {
	case "authorization_code":
		c, ok := s.codes[r.FormValue("code")]
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if !ok || c.login == "" || !time.Now().Before(c.until) || c.redirect != r.FormValue("redirect_uri") ||
			c.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
			refuse("bad_verification_code", "invalid_grant", "unauthorized_client")
			return
		}
		login = c.login
		s.codes[r.FormValue("code")] = code{}
	case "refresh_token":
		g := s.refresh[r.FormValue("refresh_token")]
		if g == nil || g.revoked || g.spent && s.Kind != "forgejo" {
			refuse("bad_refresh_token", "invalid_grant", "unauthorized_client")
			return
		}
		login = g.login
		g.spent = true
		if s.Kind != "forgejo" { // the access token ends with it
			g.revoked = true
		}
	default:
		refuse("unsupported_grant_type", "unsupported_grant_type", "unsupported_grant_type")
		return
	}
	life := map[string]int{"github": 28800, "gitlab": 7200, "forgejo": 3600}[s.Kind]
	g := &grant{login: login, access: random("ghu_"), refresh: random("ghr_"), until: time.Now().Add(time.Duration(life) * time.Second)}
	s.tokens[g.access], s.refresh[g.refresh] = g, g
	answer := map[string]any{"access_token": g.access, "refresh_token": g.refresh, "expires_in": life, "token_type": "bearer"}
	switch s.Kind {
	case "github":
		answer["refresh_token_expires_in"], answer["scope"] = 15897600, ""
	case "gitlab":
		answer["token_type"], answer["scope"], answer["created_at"] = "Bearer", "read_api", time.Now().Unix()
	}
	s.sayToken(w, r, http.StatusOK, answer)
}

// sayToken answers as GitHub does to those that do not ask for JSON, or with JSON.
func (s *Site) sayToken(w http.ResponseWriter, r *http.Request, status int, all map[string]any) {
	if s.Kind == "github" && !strings.Contains(r.Header.Get("Accept"), "json") {
		v := url.Values{}
		for name, value := range all {
			v.Set(name, fmt.Sprint(value))
		}
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		io.WriteString(w, v.Encode())
		return
	}
	s.sayJSON(w, status, all)
}

func (s *Site) sayJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (s *Site) answerAPI(w http.ResponseWriter, r *http.Request, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	g := s.tokens[token]
	if g == nil || g.revoked || !time.Now().Before(g.until) {
		s.sayJSON(w, http.StatusUnauthorized, map[string]string{"message": "Bad credentials"})
		return
	}
	p := s.people[g.login]
	kind, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case path == "/user":
		s.sayJSON(w, http.StatusOK, s.person(p))
	case kind == "repositories" && s.Kind == "github":
		id, _ := strconv.ParseInt(rest, 10, 64)
		s.answerRepo(w, s.repos[id], p)
	case kind == "projects" && s.Kind == "gitlab" && strings.Contains(rest, "/members/all/"):
		before, after, _ := strings.Cut(rest, "/members/all/")
		id, _ := strconv.ParseInt(before, 10, 64)
		repo := s.repos[id]
		if repo == nil || after != strconv.FormatInt(p.ID, 10) || max(repo.Members[p.Login], repo.Invited[p.Login]) == 0 {
			s.notFound(w)
			return
		}
		s.sayJSON(w, http.StatusOK, map[string]any{"id": p.ID, "username": p.Login, "name": p.Name, "state": "active",
			"access_level": max(repo.Members[p.Login], repo.Invited[p.Login]), "expires_at": nil, "membership_state": "active"})
	case kind == "projects" && s.Kind == "gitlab", kind == "repos" && s.Kind != "gitlab":
		name, _ := url.PathUnescape(rest)
		if id, err := strconv.ParseInt(name, 10, 64); err == nil && s.Kind == "gitlab" {
			s.answerRepo(w, s.repos[id], p)
			return
		}
		for _, repo := range s.repos {
			if strings.EqualFold(repo.Path, name) {
				s.answerRepo(w, repo, p)
				return
			}
		}
		if repo := s.repos[s.old[name]]; repo != nil && s.sees(repo, p) {
			to := map[string]string{"github": fmt.Sprintf("/repositories/%d", repo.ID), "gitlab": fmt.Sprintf("/projects/%d", repo.ID), "forgejo": "/repos/" + repo.Path}[s.Kind]
			w.Header().Set("Location", s.URL+s.api()+to)
			status := http.StatusMovedPermanently
			if s.Kind == "gitlab" {
				status = http.StatusFound
			}
			s.sayJSON(w, status, map[string]string{"message": "Moved Permanently", "url": s.URL + s.api() + to})
			return
		}
		s.notFound(w)
	default:
		s.notFound(w)
	}
}

func (s *Site) person(p Person) map[string]any {
	switch s.Kind {
	case "gitlab":
		return map[string]any{"id": p.ID, "username": p.Login, "name": p.Name, "state": "active", "locked": false, "email": p.Login + "@example.com"}
	case "forgejo":
		return map[string]any{"id": p.ID, "login": p.Login, "login_name": "", "source_id": 0, "full_name": p.Name, "email": p.Login + "@example.com", "username": p.Login}
	}
	return map[string]any{"login": p.Login, "id": p.ID, "node_id": "MDQ6VXNlcjE=", "type": "User", "site_admin": false, "name": p.Name, "email": nil}
}

func (s *Site) notFound(w http.ResponseWriter) {
	s.sayJSON(w, http.StatusNotFound, map[string]string{"message": "Not Found"})
}

// sees reports whether somebody sees that there is a repository.
func (s *Site) sees(repo *Repo, p Person) bool {
	return repo != nil && (repo.Visibility != "private" || s.level(repo, p) >= Guest && (s.Kind != "github" || repo.App))
}

func (s *Site) level(repo *Repo, p Person) int {
	return max(repo.Members[p.Login], repo.Invited[p.Login])
}

func (s *Site) answerRepo(w http.ResponseWriter, repo *Repo, p Person) {
	if !s.sees(repo, p) {
		s.notFound(w)
		return
	}
	owner, name, _ := strings.Cut(repo.Path, "/")
	level, private := s.level(repo, p), repo.Visibility == "private"
	if s.Kind == "gitlab" {
		v := map[string]any{
			"id": repo.ID, "name": name, "path_with_namespace": repo.Path, "visibility": repo.Visibility,
			"web_url": s.URL + "/" + repo.Path, "repository_access_level": "enabled", "archived": false, "empty_repo": false,
			"namespace": map[string]any{"id": 65, "kind": "group", "full_path": owner},
		}
		access := func(level int) any {
			if level == 0 {
				return nil
			}
			return map[string]any{"access_level": level, "notification_level": 3}
		}
		v["permissions"] = map[string]any{"project_access": access(repo.Members[p.Login]), "group_access": nil}
		if level >= Reporter || !private {
			v["default_branch"], v["forks_count"] = "main", 0
		}
		s.sayJSON(w, http.StatusOK, v)
		return
	}
	s.sayJSON(w, http.StatusOK, map[string]any{
		"id": repo.ID, "name": name, "full_name": repo.Path, "owner": map[string]any{"login": owner, "id": 65},
		"private": private, "fork": false, "default_branch": "main", "html_url": s.URL + "/" + repo.Path,
		"permissions": map[string]bool{"admin": level > Developer, "maintain": level > Developer, "push": level >= Developer, "triage": level >= Developer, "pull": level >= Reporter || !private},
	})
}
