package forge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"9ci/fs"
	"9ci/fs/ci"
)

// A said is a network where all that is asked gets one answer.
type said struct {
	status int
	header http.Header
	body   []byte
}

func (s said) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: s.status, Header: s.header, Body: io.NopCloser(bytes.NewReader(s.body)), Request: r}, nil
}

// hearing returns Forges of each kind by which people log in, with an account at each
// that has a token.
func hearing(f *testing.F) (*Forges, *keeper) {
	dir := f.TempDir()
	text := "kind=github\n%[1]s\napp=x\n\nkind=gitlab\n%[1]s\n\nkind=forgejo\nhost=forge.example\n%[1]s\n\nkind=oidc\nissuer=https://idp.example\n%[1]s\n"
	for name, text := range map[string]string{"secret": clientSecret, "forges": fmt.Sprintf(text, "client-id=a\nclient-secret-file=secret")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	forges, err := Open(filepath.Join(dir, "forges"), slog.New(slog.DiscardHandler))
	k := &keeper{tokens: map[string][]byte{}}
	if err == nil {
		err = forges.Keep(k)
	}
	if err != nil {
		f.Fatal(err)
	}
	for _, fg := range forges.forges() {
		p := fg.principal() + ":12"
		if k.tokens[p], err = forges.sealToken(p, &token{Forge: fg.url, Access: clientSecret, Refresh: clientSecret}); err != nil {
			f.Fatal(err)
		}
	}
	return forges, k
}

// Whatever a forge answers to the question what somebody may do: who may publish may
// read, only in the repository of the name that was asked for, and nothing of the token is
// in an error.
func FuzzRepositoryAnswer(f *testing.F) {
	forges, kept := hearing(f)
	tokens := kept.tokens
	for _, body := range []string{
		`{"id":74,"full_name":"alice/hello","private":true,"permissions":{"push":true,"pull":true}}`,
		`{"id":74,"path_with_namespace":"alice/hello","visibility":"private","default_branch":"main","permissions":{"project_access":{"access_level":30},"group_access":null}}`,
		`{"access_level":30,"state":"active"}`, `{"message":"rate limit"}`, `[]`, `null`, `{"id":-1}`, `{"id":1e99}`, ``, `{"id":7`,
	} {
		for _, status := range []int{200, 301, 401, 403, 404, 429, 500} {
			f.Add(status, "1", "0", "1", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, status int, after, remaining, reset string, body []byte) {
		forges.transport = said{status, http.Header{"Retry-After": {after}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset}}, body}
		for _, fg := range forges.forges() {
			if !fg.kind.jobs() {
				continue
			}
			p, ns := fg.principal()+":12", fg.host+"/alice/hello"
			forges.users, forges.rights = map[string]*user{}, map[rightsKey]known{}
			kept.tokens = map[string][]byte{p: tokens[p]}
			fg.site.down = time.Time{}
			os.Remove(forges.dir.Path("repositories"))
			a, err := forges.Access(t.Context(), p, ns, time.Time{})
			switch {
			case err == nil && (!a.Read || !isID(a.RepositoryID) || status != 200 || !bytes.Contains(bytes.ToLower(body), []byte("alice"))):
				t.Errorf("%s: Access = %+v of %d %q", fg.host, a, status, body)
			case err != nil && (a != Access{}):
				t.Errorf("Access = %+v, %v", a, err)
			case err != nil && !errors.Is(err, fs.ErrBusy) && !errors.Is(err, iofs.ErrNotExist) && !errors.Is(err, ErrLogin):
				t.Errorf("Access: %v", err)
			case err != nil && strings.Contains(err.Error(), clientSecret) && !bytes.Contains(body, []byte(clientSecret)):
				t.Errorf("a token is in the error: %v", err)
			}
			if u := forges.user(p); time.Until(u.paused) > maxPause {
				t.Errorf("it waits until %v", u.paused)
			}
		}
	})
}

// Whatever a forge answers to somebody who logs in, there is no account without a number
// or a name of its own, and no secret in an error.
func FuzzLogin(f *testing.F) {
	forges, _ := hearing(f)
	for _, answer := range []string{"code=x&state=y", "error=access_denied", "error=x&code=y", "code=x&code=y", "iss=https://github.com&code=x", "iss=https://gitlab.com&code=x", "iss=%zz"} {
		for _, body := range []string{
			`{"access_token":"a","token_type":"bearer","id":12,"login":"alice","name":"A","username":"alice"}`,
			`{"access_token":"a","expires_in":"7200","id":0}`, `access_token=a&scope=`, `{"error":"invalid_grant"}`, `{"access_token":5}`, `{"access_token":"a","id":12`, ``, `null`,
		} {
			f.Add(answer, 200, "application/json", []byte(body))
			f.Add(answer, 400, "text/plain", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, query string, status int, content string, body []byte) {
		answer, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		forges.transport = said{status, http.Header{"Content-Type": {content}}, body}
		for _, info := range forges.List() {
			fg, err := forges.byName(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			fg.site.down = time.Time{}
			if info.Kind == "oidc" { // its keys cannot be had
				forges.issuers = map[string]*issuer{}
			}
			p, sealed, err := forges.Finish(t.Context(), info.Name, callback, answer, nonce, verifier)
			if err != nil {
				if p != (Person{}) || sealed != nil {
					t.Errorf("Finish = %+v, %v", p, err)
				}
				for _, s := range []string{clientSecret, verifier} {
					if strings.Contains(err.Error(), s) && !strings.Contains(query+string(body), s) {
						t.Errorf("a secret is in the error: %v", err)
					}
				}
				continue
			}
			id, ok := strings.CutPrefix(p.Principal, fg.principal()+":")
			if !ok || !isID(id) || len(sealed) == 0 || len(answer["code"]) != 1 || info.Kind == "oidc" {
				t.Errorf("Finish(%q) = %+v of %q", query, p, body)
			}
		}
	})
}

// Whatever a provider has signed, its accounts are its own.
func FuzzSubject(f *testing.F) {
	for _, s := range []string{"1", "auth0|12", "repo:5", "../x", "a,b", "\x00", "é", strings.Repeat("x", 255)} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, err := safeSubject(a)
		if err != nil {
			return
		}
		y, err := safeSubject(b)
		if err == nil && (a == b) != (x == y) {
			t.Errorf("safeSubject(%q) = %q, safeSubject(%q) = %q", a, x, b, y)
		}
		if len(x) > maxSubject || strings.Trim(x, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~@+%") != "" {
			t.Errorf("safeSubject(%q) = %q", a, x)
		}
	})
}

// Whatever stands in the place of a sealed token opens nothing.
func FuzzSealed(f *testing.F) {
	forges, kept := hearing(f)
	f.Add(kept.tokens["gitlab:12"])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if tok, err := forges.openToken("github:12", sealed); err == nil && !bytes.Equal(sealed, kept.tokens["github:12"]) {
			t.Errorf("openToken(%x) = %v", sealed, tok)
		}
	})
}

// Whatever namespace and principal are asked about, what a forge is asked is about one
// repository of its own.
func FuzzQuestion(f *testing.F) {
	forges, _ := hearing(f)
	for _, ns := range []string{"github.com/alice/hello", "gitlab.com/a/b/c", "forge.example/a/b", "github.com/a/%2e%2e", "gitlab.com/a/%2F%2f/b", "local/x", "github.com/a/b?c"} {
		f.Add("github:12", ns)
		f.Add("gitlab:12", ns)
		f.Add("forge.example:12", ns)
	}
	f.Fuzz(func(t *testing.T, principal, ns string) {
		q := forges.question(principal, ns)
		if q == nil {
			return
		}
		clean, err := ci.CleanNamespace(ns)
		at := q.forge.kind.people.api(q.forge) + q.forge.kind.people.project(q.path)
		u, err2 := url.Parse(at)
		if err != nil || clean != ns || err2 != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("question(%q, %q) asks %s", principal, ns, at)
		}
		want := 2 // slashes below the root of the API
		if q.forge.kind.groups {
			want = 1
		}
		below := strings.TrimPrefix(u.EscapedPath(), strings.TrimPrefix(q.forge.kind.people.api(q.forge), u.Scheme+"://"+u.Host))
		if n := strings.Count(strings.TrimPrefix(below, "/"), "/"); n != want {
			t.Errorf("question(%q, %q) asks %s", principal, ns, at)
		}
	})
}
