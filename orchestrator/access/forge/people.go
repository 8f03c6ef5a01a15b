package forge

import (
	"net/url"
	"strings"
)

// people are how people log in by a forge of a kind, and what it says of them.
type people struct {
	scopes           []string
	authorize, token string   // below the forge's URL; "": its discovery says
	secret           bool     // the client has to have one
	spent            []string // errors besides invalid_grant of a code or a refresh token that is good no more

	api     func(fg *forge) string                // the URL of its API
	project func(path []string) string            // its path of a repository
	rights  func(repository) (read, publish bool) // of the person that has asked
	members bool                                  // rights may not tell the whole: see memberLevel
	revoke  func(fg *forge, client string, password secret, t *token) *call
	install func(fg *forge) string // where the forge's App is installed; "" if that is not known
}

// A repository is what a forge answers to somebody who may see one.
type repository struct {
	ID          int64   `json:"id"`
	FullName    string  `json:"full_name"`           // GitHub, Forgejo
	Path        string  `json:"path_with_namespace"` // GitLab
	Private     bool    `json:"private"`             // GitHub, Forgejo
	Visibility  string  `json:"visibility"`          // GitLab: public, internal, private
	Branch      *string `json:"default_branch"`      // GitLab: only to those who may read the code
	Permissions struct {
		Pull    bool   `json:"pull"`
		Push    bool   `json:"push"`
		Project *level `json:"project_access"` // GitLab
		Group   *level `json:"group_access"`
	} `json:"permissions"`
}

// A level is what a member of a project or a group at GitLab is.
type level struct {
	Access int    `json:"access_level"`
	State  string `json:"state"`
}

// developer is the level from which on a member may push.
const developer = 30

// public reports whether everybody who is known to the forge may see the repository.
func (r repository) public() bool {
	return !r.Private && (r.Visibility == "" || r.Visibility == "public" || r.Visibility == "internal")
}

// githubPeople is a GitHub App with Metadata: read, the least that shows what a person may
// do in a repository. It sees private repositories where it is installed.
// docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app
var githubPeople = &people{
	authorize: "/login/oauth/authorize", token: "/login/oauth/access_token",
	secret:  true,
	spent:   []string{"bad_verification_code", "bad_refresh_token"},
	api:     githubAPI,
	project: ownerRepo,
	rights:  pullPush,
	revoke: func(fg *forge, client string, password secret, t *token) *call {
		return &call{method: "DELETE", url: githubAPI(fg) + "/applications/" + url.PathEscape(client) + "/token", client: client, Password: password,
			body: map[string]string{"access_token": string(t.Access)}}
	},
	install: func(fg *forge) string {
		switch {
		case fg.app == "":
			return ""
		case fg.host == "github.com" || strings.HasSuffix(fg.host, ".ghe.com"):
			return fg.url + "/apps/" + fg.app + "/installations/new"
		}
		return fg.url + "/github-apps/" + fg.app + "/installations/new"
	},
}

// gitlabPeople: docs.gitlab.com/api/oauth2 and docs.gitlab.com/api/projects. read_api is
// the least scope that GET /projects/:id needs.
var gitlabPeople = &people{
	scopes:    []string{"read_api"},
	authorize: "/oauth/authorize", token: "/oauth/token",
	api: func(fg *forge) string { return fg.url + "/api/v4" },
	project: func(path []string) string {
		return "/projects/" + url.PathEscape(strings.Join(path, "/"))
	},
	// A guest may see a private project, and not its code. Who may read the code depends
	// on more than the level; the default branch is only in the answer to those.
	rights: func(r repository) (read, publish bool) {
		most := 0
		for _, l := range []*level{r.Permissions.Project, r.Permissions.Group} {
			if l != nil {
				most = max(most, l.Access)
			}
		}
		return r.Branch != nil, r.Branch != nil && most >= developer
	},
	members: true,
	revoke: func(fg *forge, client string, password secret, t *token) *call {
		most := t.Refresh
		if most == "" {
			most = t.Access
		}
		return &call{method: "POST", url: fg.url + "/oauth/revoke",
			form: url.Values{"client_id": {client}, "client_secret": {string(password)}, "token": {string(most)}}}
	},
}

// forgejoPeople are Forgejo's and Gitea's: forgejo.org/docs/latest/user/oauth2-provider,
// docs.gitea.com/development/oauth2-provider. Forgejo has no scopes and ignores these.
// Neither can take a token back.
var forgejoPeople = &people{
	scopes:    []string{"read:repository", "read:user"},
	authorize: "/login/oauth/authorize", token: "/login/oauth/access_token",
	spent:   []string{"unauthorized_client"},
	api:     func(fg *forge) string { return fg.url + "/api/v1" },
	project: ownerRepo,
	rights:  pullPush,
}

// oidcPeople are of a provider that knows no repositories.
var oidcPeople = &people{scopes: []string{"openid", "profile"}}

func githubAPI(fg *forge) string {
	u, err := url.Parse(fg.url)
	if err == nil && u.Scheme == "https" && (u.Host == "github.com" || strings.HasSuffix(u.Host, ".ghe.com")) {
		return "https://api." + u.Host
	}
	return fg.url + "/api/v3" // GitHub Enterprise Server
}

func ownerRepo(path []string) string {
	s := "/repos"
	for _, e := range path {
		s += "/" + url.PathEscape(e)
	}
	return s
}

func pullPush(r repository) (read, publish bool) {
	return r.Permissions.Pull, r.Permissions.Pull && r.Permissions.Push
}
