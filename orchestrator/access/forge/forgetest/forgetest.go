// Package forgetest is a forge for tests: it makes and vouches for id_tokens, and
// answers for CI_JOB_TOKENs, in the shapes that GitHub, GitLab and Forgejo document.
package forgetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Commit is what the jobs are for.
const Commit = "76cb2978acb72029ac23277a6192eea1707c6a2c"

// RequestToken is the ACTIONS_ID_TOKEN_REQUEST_TOKEN of a job.
const RequestToken = "request-token"

// A Forge is one. It is a handler of the requests to its instance.
type Forge struct {
	Kind   string // github, gitlab or forgejo
	URL    string // of the instance
	Issuer string // of its id_tokens

	mu    sync.Mutex // guards what follows
	keys  []Key
	made  int
	asked map[string]int
	jobs  map[string]any
	say   func(http.ResponseWriter, *http.Request) bool
}

// A Key is one that a forge signs with.
type Key struct {
	ID, Algorithm string
	Private       crypto.Signer
	certificate   *x509.Certificate // GitHub's keys have one
}

// New returns a forge of a kind at a URL, which signs with the first of keys: one for
// RS256 if there is none.
func New(kind, url string, keys ...Key) *Forge {
	f := &Forge{Kind: kind, URL: url, Issuer: url, asked: map[string]int{}, jobs: map[string]any{}}
	if kind == "forgejo" {
		f.Issuer = url + "/api/actions"
	}
	if len(keys) == 0 {
		keys = []Key{NewKey("key-1", string(jose.RS256))}
	}
	f.Rotate(keys...)
	return f
}

// NewKey returns a key for an algorithm.
func NewKey(id, algorithm string) Key {
	k := Key{ID: id, Algorithm: algorithm}
	var err error
	switch algorithm[:2] {
	case "RS":
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES":
		k.Private, err = ecdsa.GenerateKey(map[string]elliptic.Curve{"256": elliptic.P256(), "384": elliptic.P384(), "512": elliptic.P521()}[algorithm[2:]], rand.Reader)
	default:
		_, k.Private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		panic(err)
	}
	text := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, text, text, k.Private.Public(), k.Private)
	if err == nil {
		k.certificate, err = x509.ParseCertificate(der)
	}
	if err != nil {
		panic(err)
	}
	return k
}

// Rotate makes keys the forge's only ones, and signs with the first from now on.
func (f *Forge) Rotate(keys ...Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = keys
}

// Say makes say answer all requests for which it returns true; nil ends that.
func (f *Forge) Say(say func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say = say
}

// Asked returns how many requests there were whose path ends with one.
func (f *Forge) Asked(path string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, times := range f.asked {
		if strings.HasSuffix(p, path) {
			n += times
		}
	}
	return n
}

// AddJob makes answer what GET /job says of a CI_JOB_TOKEN.
func (f *Forge) AddJob(token string, answer any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[token] = answer
}

// Claims returns what the forge says of a job on its branch main, of the repository
// alice/hello with the id 74, in a token that is made out to aud.
func (f *Forge) Claims(aud string) map[string]any {
	f.mu.Lock()
	f.made++
	jti := fmt.Sprintf("235b3a54-b797-45c7-ae9a-%012d", f.made)
	f.mu.Unlock()
	now := time.Now().Unix()
	c := map[string]any{"iss": f.Issuer, "aud": aud, "iat": now, "nbf": now, "exp": now + 300}
	switch f.Kind {
	case "gitlab":
		maps.Copy(c, map[string]any{
			"jti": jti, "nbf": now - 5, "exp": now + 3600,
			"sub":          "project_path:alice/hello:ref_type:branch:ref:main",
			"namespace_id": "65", "namespace_path": "alice", "project_id": "74", "project_path": "alice/hello",
			"job_namespace_id": "65", "job_namespace_path": "alice", "job_project_id": "74", "job_project_path": "alice/hello",
			"user_id": "12", "user_login": "alice", "user_email": "alice@example.com", "user_access_level": "developer",
			"user_identities": []map[string]string{{"provider": "github", "extern_uid": "2435223452345"}},
			"pipeline_id":     "574", "pipeline_source": "push", "job_id": "302",
			"ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
			"runner_id": 1, "runner_environment": "self-hosted", "sha": Commit, "project_visibility": "public",
			"ci_config_ref_uri": "gitlab.example.com/alice/hello//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": Commit,
		})
		return c
	case "github":
		maps.Copy(c, map[string]any{
			"jti": jti, "nbf": now - 600, "environment": "prod", "repository_visibility": "private",
			"runner_environment": "github-hosted", "job_workflow_sha": Commit, "workflow_sha": Commit,
			"job_workflow_ref": "alice/hello/.github/workflows/ci.yml@refs/heads/main",
		})
	case "forgejo": // no jti
		maps.Copy(c, map[string]any{"exp": now + 3600, "ref_protected": "false"})
	}
	maps.Copy(c, map[string]any{
		"sub": "repo:alice/hello:ref:refs/heads/main", "event_name": "push",
		"repository": "alice/hello", "repository_owner": "alice", "repository_id": "74", "repository_owner_id": "65",
		"actor": "alice", "actor_id": "12", "base_ref": "", "head_ref": "",
		"ref": "refs/heads/main", "ref_type": "branch", "sha": Commit,
		"run_id": "43", "run_number": "10", "run_attempt": "2",
		"workflow": "ci", "workflow_ref": "alice/hello/.github/workflows/ci.yml@refs/heads/main",
	})
	return c
}

// Token returns an id_token with these claims, by the first of the forge's keys.
func (f *Forge) Token(claims map[string]any) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Sign(f.keys[0], claims)
}

// Sign returns an id_token with these claims, by a key.
func Sign(k Key, claims any) string {
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(k.Algorithm),
		Key:       jose.JSONWebKey{Key: k.Private, KeyID: k.ID},
	}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		panic(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return token
}

// Job returns what GET /job says of a job of the project alice/hello.
func (f *Forge) Job() map[string]any {
	return map[string]any{
		"id": 8, "name": "rubocop", "ref": "main", "stage": "test", "status": "running", "tag": false, "coverage": nil,
		"allow_failure": false, "created_at": "2026-12-24T15:51:21.880Z", "duration": 0.465, "queued_duration": 0.123,
		"commit":   map[string]any{"id": Commit, "short_id": Commit[:8], "title": "Test the CI integration."},
		"pipeline": map[string]any{"id": 6, "project_id": 74, "ref": "main", "sha": Commit, "status": "running"},
		"web_url":  f.URL + "/alice/hello/-/jobs/8",
		"project":  map[string]any{"ci_job_token_scope_enabled": false},
		"user":     map[string]any{"id": 12, "username": "alice", "state": "active"},
		"runner":   nil, "artifacts": []any{},
	}
}

// ServeHTTP answers for the discovery of the issuer, its keys, the requests of jobs for
// an id_token (to RequestURL), and GET /job of GitLab's API.
func (f *Forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked[r.URL.Path]++
	say, keys := f.say, f.keys
	job, ok := f.jobs[r.Header.Get("Job-Token")]
	f.mu.Unlock()
	if say != nil && say(w, r) {
		return
	}
	base := strings.TrimPrefix(f.Issuer, f.URL)
	keysPath := base + "/.well-known/jwks"
	switch f.Kind {
	case "gitlab":
		keysPath = "/oauth/discovery/keys"
	case "forgejo":
		keysPath = base + "/.well-known/keys"
	}
	switch r.URL.Path {
	case base + "/.well-known/openid-configuration":
		answer(w, map[string]any{
			"issuer": f.Issuer, "jwks_uri": f.URL + keysPath,
			"subject_types_supported":               []string{"public"},
			"response_types_supported":              []string{"id_token"},
			"claims_supported":                      []string{"sub", "aud", "exp", "iat", "iss", "nbf"},
			"id_token_signing_alg_values_supported": []string{keys[0].Algorithm},
			"scopes_supported":                      []string{"openid"},
		})
	case keysPath:
		set := []jose.JSONWebKey{}
		for _, k := range keys {
			jwk := jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
			if f.Kind == "github" {
				jwk.Certificates = []*x509.Certificate{k.certificate}
				sum := sha1.Sum(k.certificate.Raw)
				jwk.CertificateThumbprintSHA1 = sum[:]
			}
			set = append(set, jwk)
		}
		answer(w, map[string]any{"keys": set})
	case "/_apis/idtoken":
		if r.Header.Get("Authorization") != "Bearer "+RequestToken {
			http.Error(w, "Bad authorization header", http.StatusUnauthorized)
			return
		}
		aud := r.URL.Query().Get("audience")
		if aud == "" {
			aud = f.URL + "/alice"
		}
		answer(w, map[string]any{"value": f.Token(f.Claims(aud))})
	case "/api/v4/job":
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			answer(w, map[string]any{"message": "401 Unauthorized"})
			return
		}
		answer(w, job)
	default:
		http.NotFound(w, r)
	}
}

// RequestURL is the ACTIONS_ID_TOKEN_REQUEST_URL of a job.
func (f *Forge) RequestURL() string { return f.URL + "/_apis/idtoken?api-version=2.0" }

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
