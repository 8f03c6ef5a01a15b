package forge

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/oauth2"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge/forgetest"
)

// A provider is one of zitadel/oidc.
type provider struct {
	issuer  string
	people  *storage.Storage
	handler http.Handler

	mu    sync.Mutex // guards what follows
	asked map[string]int
	user  string // who is at the browser
}

const (
	clientID     = "nine-ci"
	clientSecret = "hunter2-hunter2"
)

func newProvider(t *testing.T, issuer string, redirects ...string) *provider {
	t.Helper()
	p := &provider{issuer: issuer, asked: map[string]int{}, user: "test-user@127.0.0.1"}
	p.people = storage.NewStorageWithClients(storage.NewUserStore(issuer), map[string]*storage.Client{
		clientID: storage.WebClient(clientID, clientSecret, redirects...),
	})
	// It tells the default logger of each mistake.
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
	config := &op.Config{CryptoKey: sha256.Sum256([]byte(issuer)), CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true}
	o, err := op.NewProvider(config, p.people, op.StaticIssuer(issuer), op.WithAllowInsecure(),
		op.WithCustomAuthEndpoint(op.NewEndpoint("oauth/authorize")), op.WithCustomRevocationEndpoint(op.NewEndpoint("oauth/revoke")))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", o)
	mux.HandleFunc("/login/username", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		user := p.user
		p.mu.Unlock()
		id := r.FormValue("authRequestID")
		if err := p.people.CheckUsernamePassword(user, "verysecure", id); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Redirect(w, r, op.AuthCallbackURL(o)(op.ContextWithIssuer(r.Context(), issuer), id), http.StatusFound)
	})
	p.handler = mux
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.URL.Path]++
	p.mu.Unlock()
	p.handler.ServeHTTP(w, r)
}

func (p *provider) askedFor(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

// servers are handlers by address.
type servers map[string]http.Handler

func (s servers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s["http://"+r.Host]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// browse goes from a page to where it is sent back to redirectURI, and returns what it
// brings there.
func browse(t *testing.T, network http.RoundTripper, page, redirectURI string) (url.Values, error) {
	t.Helper()
	client := &http.Client{Transport: network, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range 10 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		next, err := resp.Location()
		if err != nil {
			return nil, fmt.Errorf("%s: status %d: %.200s", page, resp.StatusCode, text)
		}
		if page = next.String(); strings.HasPrefix(page, redirectURI+"?") {
			return next.Query(), nil
		}
	}
	return nil, errors.New("too many redirects")
}

// oidcForges returns Forges with the paragraphs, on a network of servers.
func oidcForges(t *testing.T, all servers, paragraphs ...string) (*Forges, *http.Transport, *keeper) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": clientSecret, "forges": strings.Join(paragraphs, "\n\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Open(filepath.Join(dir, "forges"), slog.New(slog.NewTextHandler(t.Output(), nil)))
	k := &keeper{tokens: map[string][]byte{}}
	if err == nil {
		err = f.Keep(k)
	}
	if err != nil {
		t.Fatal(err)
	}
	network := pipes(t, all)
	f.transport = network
	return f, network, k
}

func oidcParagraph(host, issuer string) string {
	return "kind=oidc\nhost=" + host + "\nissuer=" + issuer + "\nclient-id=" + clientID + "\nclient-secret-file=secret"
}

func callbackOf(name string) string { return "http://localhost/callback/" + name }

// notLetIn holds that an answer is refused with words for the person.
func notLetIn(t *testing.T, f *Forges, what, name string, answer url.Values, nonce, verifier string) {
	t.Helper()
	p, sealed, err := f.Finish(t.Context(), name, callbackOf(name), answer, nonce, verifier)
	var r *access.RefusedError
	if !errors.As(err, &r) || r.Words == "" || p != (Person{}) || sealed != nil {
		t.Errorf("%s: Finish = %+v, %v", what, p, err)
	}
}

// Somebody logs in by a provider: a real one.
func TestOIDC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const issuer, name = "http://127.0.0.1:9001", "idp.example"
		p := newProvider(t, issuer, callbackOf(name))
		f, network, _ := oidcForges(t, servers{issuer: p}, oidcParagraph(name, issuer)+"\nlabel='Our people'")
		if list := f.List(); len(list) != 1 || list[0] != (Info{name, "oidc", "Our people"}) {
			t.Errorf("List = %+v", list)
		}
		visit := func() url.Values {
			t.Helper()
			page, err := f.Begin(name, callbackOf(name), state, nonce, verifier)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := browse(t, network, page, callbackOf(name))
			if err != nil || answer.Get("state") != state {
				t.Fatalf("the answer is %v, %v", answer, err)
			}
			return answer
		}
		answer := visit()
		person, sealed, err := f.Finish(t.Context(), name, callbackOf(name), answer, nonce, verifier)
		if want := (Person{"idp.example:id1", "test-user@127.0.0.1", "Test User"}); person != want || err != nil || sealed != nil {
			t.Errorf("Finish = %+v, %d bytes, %v, want %+v", person, len(sealed), err, want)
		}
		if a, err := f.Access(t.Context(), person.Principal, "idp.example/o/r", time.Time{}); err == nil {
			t.Errorf("Access = %+v", a)
		}
		notLetIn(t, f, "the same answer", name, answer, nonce, verifier)
		notLetIn(t, f, "another nonce", name, visit(), nonce+"x", verifier)
		notLetIn(t, f, "no nonce", name, visit(), "", verifier)
		notLetIn(t, f, "another verifier", name, visit(), nonce, verifier+"x")
		notLetIn(t, f, "another code", name, url.Values{"code": {"guess"}, "state": {state}}, nonce, verifier)
		other := visit()
		p.mu.Lock()
		p.user = "test-user2"
		p.mu.Unlock()
		if person, _, err := f.Finish(t.Context(), name, callbackOf(name), visit(), nonce, verifier); person.Principal != "idp.example:id2" || err != nil {
			t.Errorf("the second person: %+v, %v", person, err)
		}
		if person, _, err := f.Finish(t.Context(), name, callbackOf(name), other, nonce, verifier); person.Principal != "idp.example:id1" || err != nil {
			t.Errorf("the first person: %+v, %v", person, err)
		}
	})
}

// Of two providers, one of which is bad, neither answers for the other.
func TestMixUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const honest, bad = "http://127.0.0.1:9001", "http://127.0.0.1:9002"
		p := newProvider(t, honest, callbackOf("honest.example"))
		var stolen []string // what the bad one gets to see
		key := forgetest.NewKey("key-1", "RS256")
		var idToken string // what it gives
		mallory := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/.well-known/openid-configuration": // people log in at the honest one
				json.NewEncoder(w).Encode(map[string]any{"issuer": bad, "jwks_uri": bad + "/keys", "authorization_endpoint": honest + "/oauth/authorize", "token_endpoint": bad + "/token", "userinfo_endpoint": bad + "/userinfo"})
			case "/keys":
				json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Private.Public(), KeyID: "key-1", Algorithm: "RS256", Use: "sig"}}})
			case "/userinfo":
				io.WriteString(w, `{"sub":"id1","name":"Alice"}`)
			default:
				stolen = append(stolen, r.FormValue("code"))
				w.Header().Set("Content-Type", "application/json")
				json.NewEncoder(w).Encode(map[string]any{"access_token": "a", "token_type": "bearer", "id_token": idToken})
			}
		})
		f, network, _ := oidcForges(t, servers{honest: p, bad: mallory}, oidcParagraph("honest.example", honest), oidcParagraph("bad.example", bad))
		begin := func(name, redirectURI string) string {
			t.Helper()
			page, err := f.Begin(name, redirectURI, state, nonce, verifier)
			if err != nil {
				t.Fatal(err)
			}
			return page
		}
		// A login by the bad one goes to the honest one, which does not know the redirect
		// URI of the bad one.
		if answer, err := browse(t, network, begin("bad.example", callbackOf("bad.example")), callbackOf("bad.example")); err == nil {
			t.Errorf("the honest one has answered with %v", answer)
		}
		// The answer of the honest one, taken to the callback of the bad one, is refused
		// before the bad one sees the code, if the honest one says that it is its.
		answer, err := browse(t, network, begin("honest.example", callbackOf("honest.example")), callbackOf("honest.example"))
		if err != nil {
			t.Fatal(err)
		}
		named := maps.Clone(answer)
		named["iss"] = []string{honest}
		notLetIn(t, f, "the honest one's answer", "bad.example", named, nonce, verifier)
		if len(stolen) > 0 {
			t.Errorf("the bad one has seen %q", stolen)
		}
		named["iss"] = []string{bad}
		notLetIn(t, f, "the bad one's answer", "honest.example", named, nonce, verifier)
		if n := p.askedFor("/oauth/token"); n != 0 {
			t.Errorf("%d tokens were asked for", n)
		}
		// The bad one gives an id_token of the honest one.
		c := oauth2.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURL: callbackOf("honest.example"), Endpoint: oauth2.Endpoint{TokenURL: honest + "/oauth/token", AuthStyle: oauth2.AuthStyleInHeader}}
		got, err := c.Exchange(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: network}), answer.Get("code"), oauth2.VerifierOption(verifier))
		if err != nil {
			t.Fatal(err)
		}
		idToken = got.Extra("id_token").(string)
		notLetIn(t, f, "the honest one's id_token", "bad.example", url.Values{"code": {"x"}}, nonce, verifier)
		// It signs one in the honest one's name, or for another client.
		now := time.Now().Unix()
		claims := map[string]any{"iss": bad, "sub": "id1", "aud": clientID, "nonce": nonce, "iat": now, "exp": now + 300}
		for what, change := range map[string]map[string]any{
			"in another's name":             {"iss": honest},
			"for another client":            {"aud": "other"},
			"for two, of one of them":       {"aud": []string{clientID, "other"}, "azp": "other"},
			"for two, of nobody":            {"aud": []string{clientID, "other"}},
			"of another party":              {"azp": "other"},
			"for nobody":                    {"aud": nil},
			"of the past":                   {"exp": now - 120},
			"without an end":                {"exp": nil},
			"of the future":                 {"nbf": now + 120},
			"made in the future":            {"iat": now + 120},
			"of another request":            {"nonce": "x"},
			"of no request":                 {"nonce": nil},
			"of nobody":                     {"sub": ""},
			"without a subject":             {"sub": nil},
			"of somebody with a long name":  {"sub": strings.Repeat("x", 256)},
			"of somebody who is a number":   {"sub": 5},
			"that is no object of a person": {"name": []int{1}},
		} {
			with := maps.Clone(claims)
			maps.Copy(with, change)
			maps.DeleteFunc(with, func(_ string, v any) bool { return v == nil })
			idToken = forgetest.Sign(key, with)
			notLetIn(t, f, "an id_token "+what, "bad.example", url.Values{"code": {"x"}}, nonce, verifier)
		}
		good := forgetest.Sign(key, claims)
		for _, s := range []string{"", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", good + "x", good[:len(good)-4], strings.Repeat("x", maxToken+1)} {
			idToken = s
			notLetIn(t, f, fmt.Sprintf("the id_token %.40q", s), "bad.example", url.Values{"code": {"x"}}, nonce, verifier)
		}
		// What it says of another is not taken for what it says of somebody.
		for sub, name := range map[string]string{"id1": "Alice", "id2": ""} {
			claims["sub"] = sub
			idToken = forgetest.Sign(key, claims)
			person, _, err := f.Finish(t.Context(), "bad.example", callbackOf("bad.example"), url.Values{"code": {"x"}}, nonce, verifier)
			if err != nil || person != (Person{"bad.example:" + sub, "", name}) {
				t.Errorf("Finish = %+v, %v", person, err)
			}
		}
		// In its own name it may say what it likes.
		claims["sub"], claims["preferred_username"] = "github:12", "alice"
		idToken = forgetest.Sign(key, claims)
		person, _, err := f.Finish(t.Context(), "bad.example", callbackOf("bad.example"), url.Values{"code": {"x"}}, nonce, verifier)
		if err != nil || person != (Person{"bad.example:github%3A12", "alice", ""}) {
			t.Errorf("Finish = %+v, %v", person, err)
		}
	})
}

// What a provider says of itself has to make sense, and one that names its issuer in
// answers has to do so always.
func TestOIDCDiscovery(t *testing.T) {
	const issuer, name = "http://127.0.0.1:9001", "idp.example"
	for what, tt := range map[string]struct {
		change map[string]any
		begin  string // the error of Begin
		finish bool   // whether an answer without iss is taken as far as the code
	}{
		"as it should be":            {nil, "", true},
		"with a query":               {map[string]any{"authorization_endpoint": issuer + "/authorize?p=q"}, "", true},
		"no page":                    {map[string]any{"authorization_endpoint": nil}, "nobody logs in by it", false},
		"no tokens":                  {map[string]any{"token_endpoint": nil}, "nobody logs in by it", false},
		"a page without encryption":  {map[string]any{"authorization_endpoint": "http://idp.example/authorize"}, "want https", false},
		"tokens without encryption":  {map[string]any{"token_endpoint": "http://idp.example/token"}, "want https", false},
		"a page that is a script":    {map[string]any{"authorization_endpoint": "javascript:alert(1)"}, "want https", false},
		"people without encryption":  {map[string]any{"userinfo_endpoint": "http://idp.example/userinfo"}, "want https", false},
		"another issuer":             {map[string]any{"issuer": "https://mallory.example"}, "is of the issuer", false},
		"answers that say whose":     {map[string]any{"authorization_response_iss_parameter_supported": true}, "", false},
		"tokens by another redirect": {map[string]any{"token_endpoint": issuer + "/elsewhere"}, "", true},
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				key := forgetest.NewKey("key-1", "EdDSA")
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/.well-known/openid-configuration":
						doc := map[string]any{"issuer": issuer, "jwks_uri": issuer + "/keys", "authorization_endpoint": issuer + "/authorize", "token_endpoint": issuer + "/token"}
						maps.Copy(doc, tt.change)
						json.NewEncoder(w).Encode(doc)
					case "/keys":
						json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Private.Public(), KeyID: "key-1"}}})
					case "/elsewhere":
						http.Redirect(w, r, "http://mallory.example/token", http.StatusTemporaryRedirect)
					case "/token":
						if id, secret, ok := r.BasicAuth(); !ok || id != clientID || secret != clientSecret {
							t.Errorf("the client is %q, %v", id, ok)
						}
						http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
					default:
						t.Errorf("%s was asked for", r.URL)
					}
				})
				f, _, _ := oidcForges(t, servers{issuer: h}, oidcParagraph(name, issuer))
				page, err := f.Begin(name, callbackOf(name), state, nonce, verifier)
				if tt.begin != "" {
					if !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), tt.begin) {
						t.Errorf("Begin = %q, %v, want %q", page, err, tt.begin)
					}
					return
				}
				u, err2 := url.Parse(page)
				if err != nil || err2 != nil || u.Query().Get("nonce") != nonce || u.Query().Get("scope") != "openid profile" || u.Query().Get("code_challenge_method") != "S256" {
					t.Fatalf("Begin = %q, %v", page, err)
				}
				_, _, err = f.Finish(t.Context(), name, callbackOf(name), url.Values{"code": {"x"}, "state": {state}}, nonce, verifier)
				if asked := strings.Contains(fmt.Sprint(err), "gives no token") || errors.Is(err, fs.ErrBusy); err == nil || asked != tt.finish {
					t.Errorf("Finish: %v", err)
				}
			})
		})
	}
}

// The tokens of a real OAuth2 server, behind which a GitLab's API is, are renewed, each
// once, and taken back.
func TestRealTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const base, name = "http://127.0.0.1:9001", "gitlab.com"
		p := newProvider(t, base, callbackOf(name))
		site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/oauth/authorize": // a GitLab gives refresh tokens without being asked
				q := r.URL.Query()
				q.Set("scope", q.Get("scope")+" openid profile offline_access")
				r.URL.RawQuery = q.Encode()
			case strings.HasPrefix(r.URL.Path, "/api/v4/"):
				// The token is one that the provider knows.
				ask := httptest.NewRequest(http.MethodGet, base+"/userinfo", nil)
				ask.Header.Set("Authorization", r.Header.Get("Authorization"))
				who := httptest.NewRecorder()
				p.ServeHTTP(who, ask)
				if who.Code != http.StatusOK {
					http.Error(w, `{"message":"401 Unauthorized"}`, http.StatusUnauthorized)
					return
				}
				switch r.URL.EscapedPath() {
				case "/api/v4/user":
					io.WriteString(w, `{"id":12,"username":"alice","name":"Alice"}`)
				case "/api/v4/projects/alice%2Fhello":
					io.WriteString(w, `{"id":74,"path_with_namespace":"alice/hello","visibility":"private","default_branch":"main","permissions":{"project_access":{"access_level":40},"group_access":null}}`)
				default:
					http.NotFound(w, r)
				}
				return
			}
			p.ServeHTTP(w, r)
		})
		f, network, kept := oidcForges(t, servers{base: site}, "kind=gitlab\nurl="+base+"\nclient-id="+clientID+"\nclient-secret-file=secret")
		page, err := f.Begin(name, callbackOf(name), state, nonce, verifier)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := browse(t, network, page, callbackOf(name))
		if err != nil {
			t.Fatal(err)
		}
		person, sealed, err := f.Finish(t.Context(), name, callbackOf(name), answer, nonce, verifier)
		if err != nil || person.Principal != "gitlab:12" {
			t.Fatalf("Finish = %+v, %v", person, err)
		}
		kept.set(person.Principal, sealed)
		before := p.askedFor("/oauth/token")
		for range 10 { // the access tokens live 5 minutes
			time.Sleep(5 * time.Minute)
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					if a, err := f.Access(t.Context(), "gitlab:12", "gitlab.com/alice/hello", time.Time{}); err != nil || !a.Read || !a.Publish || a.RepositoryID != "74" {
						t.Errorf("Access = %+v, %v", a, err)
					}
				})
			}
			wg.Wait()
		}
		if n := p.askedFor("/oauth/token") - before; n != 10 {
			t.Errorf("%d tokens in ten lives", n)
		}
		// An old token in the place of the new one was spent.
		kept.set(person.Principal, sealed)
		time.Sleep(5 * time.Minute)
		if _, err := f.Access(t.Context(), "gitlab:12", "gitlab.com/alice/hello", time.Time{}); !errors.Is(err, ErrLogin) {
			t.Errorf("Access with a spent token: %v", err)
		}

		answer, err = browse(t, network, page, callbackOf(name))
		if err != nil {
			t.Fatal(err)
		}
		person, sealed, err = f.Finish(t.Context(), name, callbackOf(name), answer, nonce, verifier)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Forget(t.Context(), person.Principal, sealed); err != nil {
			t.Error(err)
		}
		kept.set(person.Principal, sealed) // as one who has a copy of the account
		time.Sleep(5 * time.Minute)
		if _, err := f.Access(t.Context(), "gitlab:12", "gitlab.com/alice/hello", time.Time{}); !errors.Is(err, ErrLogin) {
			t.Errorf("Access with a token that was taken back: %v", err)
		}
	})
}
