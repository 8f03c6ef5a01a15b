package forge

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"9ci/fs"
	"9ci/orchestrator/access"
	"9ci/orchestrator/access/forge/forgetest"
)

const (
	me    = "ci.example.org" // the orchestrator
	mine  = "SHA256:mine"    // a key's fingerprint
	other = "SHA256:other"
	bound = me + ":" + mine
)

var allKinds = []string{"github", "gitlab", "forgejo"}

// hosts are the forges of the tests, each on this machine.
var hosts = map[string]string{"github": "github.com", "gitlab": "gitlab.com", "forgejo": "forge.example"}

// keys are made once: RSA takes its time.
var keys = sync.OnceValue(func() (all []forgetest.Key) {
	for i := range 3 {
		all = append(all, forgetest.NewKey(fmt.Sprintf("key-%d", i+1), "RS256"))
	}
	return all
})

// A world is Forges and a forge of a kind, whose network are pipes: in a bubble of
// synctest time passes as the test says.
type world struct {
	*testing.T
	*Forges
	forge *forgetest.Forge
	file  string
	log   *bytes.Buffer
}

// in runs f in a bubble for each kind.
func in(t *testing.T, kinds []string, f func(t *testing.T, w *world)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			keys()
			synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, kind)) })
		})
	}
}

func newWorld(t *testing.T, kind string, attrs ...string) *world {
	t.Helper()
	w := &world{T: t, forge: forgetest.New(kind, "http://127.0.0.1:8080", keys()[0]), file: filepath.Join(t.TempDir(), "forges"), log: &bytes.Buffer{}}
	w.write(append([]string{"kind=" + kind, "host=" + hosts[kind], "issuer=" + w.forge.Issuer, "url=" + w.forge.URL}, attrs...)...)
	var err error
	w.Forges, err = Open(w.file, slog.New(slog.NewTextHandler(w.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w.transport = pipes(t, w.forge)
	return w
}

func (w *world) write(lines ...string) {
	w.Helper()
	if err := os.WriteFile(w.file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		w.Fatal(err)
	}
}

// pipes returns a network whose only server is h, whatever the address.
func pipes(t *testing.T, h http.Handler) *http.Transport {
	l := pipeListener(make(chan net.Conn))
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	tr := newTransport().(*http.Transport)
	tr.Proxy = nil
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		client, remote := net.Pipe()
		select {
		case l <- remote:
			return client, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		server.Close()
		wg.Wait()
	})
	return tr
}

type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// claims returns the forge's claims in a token for the key, with some changed; nil takes
// one out.
func (w *world) with(change map[string]any) map[string]any {
	c := w.forge.Claims(bound)
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func (w *world) token(change map[string]any) string { return w.forge.Token(w.with(change)) }

// job returns the job of a token that the key shows.
func (w *world) job(token string) (access.Job, error) {
	return w.Job(w.Context(), token, me, mine)
}

// good returns the job of a token that has to be good.
func (w *world) good(what, token string) access.Job {
	w.Helper()
	job, err := w.job(token)
	if err != nil {
		w.Errorf("%s: %v", what, err)
	}
	return job
}

// bad holds that a token is refused for a reason.
func (w *world) bad(what, token, reason string) {
	w.Helper()
	w.refused(what, token, mine, reason)
}

func (w *world) refused(what, token, key, reason string) {
	w.Helper()
	job, err := w.Job(w.Context(), token, me, key)
	if err == nil || errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), reason) {
		w.Errorf("%s: Job = %+v, %v, want an error with %q that is final", what, job, err, reason)
	}
}

// busy holds that it is open whether a token is good.
func (w *world) busy(what, token, reason string) {
	w.Helper()
	job, err := w.job(token)
	if !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), reason) {
		w.Errorf("%s: Job = %+v, %v, want %v and %q", what, job, err, fs.ErrBusy, reason)
	}
}

// repository returns the name of the claim of a kind that has the repository's path.
func (w *world) claim(actions, gitlab string) string {
	if w.forge.Kind == "gitlab" {
		return gitlab
	}
	return actions
}

// The token of a job says whose it is, by numbers, whatever sub is.
func TestJob(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		host := hosts[w.forge.Kind]
		principal := map[string]string{"github": "github:repo:74", "gitlab": "gitlab:repo:74", "forgejo": "forge.example:repo:74"}[w.forge.Kind]
		for _, sub := range []any{
			"repo:alice/hello:ref:refs/heads/main",
			"repo:alice@65/hello@74:ref:refs/heads/main", // GitHub, since 2026-07-15
			"repo:alice-65/hello-74:ref:refs/heads/main", // Forgejo 16
			"repo:mallory@1/other@2:ref:refs/heads/main", // it is never read
			"project_path:alice/hello:ref_type:branch:ref:main",
			"repository_owner_id:65", // a form of the repository's own
			nil,
		} {
			got := w.good(fmt.Sprint(sub), w.token(map[string]any{"sub": sub}))
			want := access.Job{
				Principal: principal, Host: host, Namespace: host + "/alice/hello",
				RepositoryID: "74", OwnerID: "65", Commit: forgetest.Commit, Publish: true, Expires: got.Expires,
			}
			if got != want {
				t.Errorf("sub %v: Job = %+v, want %+v", sub, got, want)
			}
			if d := time.Until(got.Expires); d != 5*time.Minute && d != time.Hour {
				t.Errorf("the token ends in %v", d)
			}
		}
		w.good("with blanks around it", " "+w.token(nil)+"\r\n")
		w.good("several audiences", w.token(map[string]any{"aud": []string{"https://vault.example.com", bound}}))
		w.good("another's first", w.token(map[string]any{"aud": []string{me + ":" + other, bound}}))
		w.good("ids as numbers", w.token(map[string]any{w.claim("repository_id", "project_id"): 74, w.claim("repository_owner_id", "namespace_id"): 65, "job_project_id": 74}))
		if n := w.forge.Asked("/openid-configuration"); n != 1 {
			t.Errorf("%d requests for the keys, want 1", n)
		}
	})
}

// A token is for one key at one orchestrator, at its time, by its issuer.
func TestRefused(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		now := time.Now().Unix()
		for _, tt := range []struct {
			what   string
			change map[string]any
			reason string
		}{
			{"foreign audience", map[string]any{"aud": "https://github.com/alice"}, "made out"},
			{"another key's", map[string]any{"aud": me + ":" + other}, "made out"},
			{"another orchestrator's", map[string]any{"aud": "ci.example.com:" + mine}, "made out"},
			{"a part of the audience", map[string]any{"aud": bound[:len(bound)-1]}, "made out"},
			{"more than the audience", map[string]any{"aud": bound + "x"}, "made out"},
			{"another case", map[string]any{"aud": strings.ToUpper(bound)}, "made out"},
			{"no audience", map[string]any{"aud": nil}, "made out"},
			{"an empty list", map[string]any{"aud": []string{}}, "made out"},
			{"an audience that is no text", map[string]any{"aud": 7}, "Audience"},
			{"expired", map[string]any{"iat": now - 4000, "nbf": now - 4000, "exp": now - 61}, "expired"},
			{"not yet valid", map[string]any{"nbf": now + 61}, "not valid yet"},
			{"made in the future", map[string]any{"iat": now + 61}, "issued in the future"},
			{"no end", map[string]any{"exp": nil}, "no end"},
			{"an end that is no time", map[string]any{"exp": "tomorrow"}, "NumericDate"},
			{"an end in a year", map[string]any{"exp": now + 365*86400}, "more than a month"},
			{"an end in ten thousand years", map[string]any{"exp": 1 << 40}, "more than a month"},
			{"an end beyond time", map[string]any{"exp": 1e300}, "NumericDate"},
			{"wrong issuer", map[string]any{"iss": "https://issuer.example"}, "no forge with just this issuer"},
			{"trailing slash", map[string]any{"iss": w.forge.Issuer + "/"}, "no forge with just this issuer"},
			{"no issuer", map[string]any{"iss": nil}, "no forge with just this issuer"},
			{"no id", map[string]any{w.claim("repository_id", "project_id"): nil}, "it has no "},
			{"an empty id", map[string]any{w.claim("repository_id", "project_id"): ""}, "it has no "},
			{"an id that is null", map[string]any{w.claim("repository_id", "project_id"): json.RawMessage("null")}, "it has no "},
			{"an id that is a list", map[string]any{w.claim("repository_id", "project_id"): []int{74}}, "it has no "},
			{"an id with a comma", map[string]any{w.claim("repository_id", "project_id"): "74,1"}, "want numbers"},
			{"id 0", map[string]any{w.claim("repository_id", "project_id"): 0}, "want numbers"},
			{"id -1", map[string]any{w.claim("repository_id", "project_id"): -1}, "want numbers"},
			{"id 074", map[string]any{w.claim("repository_id", "project_id"): "074"}, "want numbers"},
			{"id 7e1", map[string]any{w.claim("repository_id", "project_id"): json.RawMessage("7e1")}, "want numbers"},
			{"an owner that is no number", map[string]any{w.claim("repository_owner_id", "namespace_id"): "alice"}, "want numbers"},
			{"no repository", map[string]any{w.claim("repository", "project_path"): nil}, "want owner/repo"},
			{"one element", map[string]any{w.claim("repository", "project_path"): "hello"}, "want owner/repo"},
			{"a way out", map[string]any{w.claim("repository", "project_path"): "alice/../mallory"}, "want"},
			{"an empty element", map[string]any{w.claim("repository", "project_path"): "alice/"}, "want"},
			{"a newline", map[string]any{w.claim("repository", "project_path"): "alice/hello\nx"}, "want"},
		} {
			w.bad(tt.what, w.token(tt.change), tt.reason)
		}
		if w.forge.Kind != "gitlab" {
			w.bad("the orchestrator alone", w.token(map[string]any{"aud": me}), "made out")
			w.bad("three elements", w.token(map[string]any{"repository": "alice/group/hello"}), "want owner/repo")
		}
		w.bad("nothing", "", "neither")
		w.bad("words", "let me in please", "neither")
		w.bad("two dots", "a.b.c", "id_token")
		w.bad("two dots alone", "..", "neither")
		w.bad("three dots", w.token(nil)+".x", "neither")
		w.bad("endless", strings.Repeat("x", maxToken+1), "bytes")
		w.bad("without its signature", strings.TrimRight(w.token(nil), "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), "signature")
		if _, err := w.Job(t.Context(), w.token(map[string]any{"aud": ":" + mine}), "", mine); err == nil || !strings.Contains(err.Error(), "-url") {
			t.Errorf("an orchestrator without a name: %v", err)
		}
	})
}

// An issuer that the file does not have is never asked.
func TestUnknownIssuer(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		w.write("kind=gitlab", "host=gitlab.example")
		w.bad("taken out", w.token(nil), "it has https://gitlab.example")
		w.write("# none")
		w.bad("none", w.token(nil), "nor any other")
		if n := w.forge.Asked(""); n != 0 {
			t.Errorf("%d requests", n)
		}
		line := []string{"kind=" + w.forge.Kind, "host=" + hosts[w.forge.Kind], "issuer=" + w.forge.Issuer}
		w.write(line...)
		w.good("here", w.token(nil))
		w.write("# none")
		w.bad("taken out again", w.token(nil), "nor any other")
		w.forge.Rotate(keys()[1])
		w.write(line...)
		w.bad("with the keys of before", forgetest.Sign(keys()[0], w.with(nil)), "of no key")
	})
}

// Forgery: what is not signed with a private key of the issuer is nothing.
func TestForged(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		w.good("at first", w.token(nil)) // so that its keys are known
		encode := base64.RawURLEncoding.EncodeToString
		payload, err := json.Marshal(w.with(nil))
		if err != nil {
			t.Fatal(err)
		}
		public := keys()[0].Private.Public().(*rsa.PublicKey)
		hmac := func(secret []byte) string {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: keys()[0].ID}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			s, err := jwt.Signed(signer).Claims(w.with(nil)).Serialize()
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		pkix, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		head := func(alg string) string { return encode([]byte(`{"alg":"` + alg + `","kid":"key-1","typ":"JWT"}`)) }
		for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
			w.bad("alg "+alg, head(alg)+"."+encode(payload)+".", "algorithm")
			w.bad("alg "+alg+" with a signature", head(alg)+"."+encode(payload)+".AAAA", "algorithm")
		}
		w.bad("HS256 with the public key", hmac(x509.MarshalPKCS1PublicKey(public)), "HS256")
		w.bad("HS256 with the public key as PEM", hmac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})), "HS256")
		w.bad("RS256 without signature", head("RS256")+"."+encode(payload)+".", "signature")
		w.bad("ES256 for an RSA key", head("ES256")+"."+encode(payload)+"."+encode(make([]byte, 64)), "signature")

		known := keys()[0]
		known.ID = "unknown"
		w.bad("a known key under another kid", forgetest.Sign(known, w.with(nil)), "of no key")
		known = keys()[0]
		known.Algorithm = "RS512"
		w.bad("a known key with an algorithm that is not its own", forgetest.Sign(known, w.with(nil)), "of no key")

		stranger := forgetest.NewKey(keys()[0].ID, "RS256")
		w.bad("a stranger's key of the same kid", forgetest.Sign(stranger, w.with(nil)), "signature")
		stranger.ID = ""
		w.bad("a stranger's key without a kid", forgetest.Sign(stranger, w.with(nil)), "signature")
		jwk, err := json.Marshal(jose.JSONWebKey{Key: stranger.Private.Public(), KeyID: "key-1"})
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: stranger.Private},
			(&jose.SignerOptions{}).WithHeader("jwk", json.RawMessage(jwk)).WithHeader("jku", "https://mallory.example/keys"))
		if err != nil {
			t.Fatal(err)
		}
		own, err := jwt.Signed(signer).Claims(w.with(nil)).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		w.bad("a key that it brings itself", own, "signature")

		good := strings.Split(w.token(nil), ".")
		changed := w.with(map[string]any{w.claim("repository_id", "project_id"): "1"})
		text, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		w.bad("other claims under its signature", good[0]+"."+encode(text)+"."+good[2], "signature")
		w.bad("two of one claim", forgetest.Sign(keys()[0], json.RawMessage(strings.Replace(string(payload), "{", `{"iss":"x",`, 1))), "duplicate")
	})
}

// Whatever is signed with a key that the issuer has is good, by each algorithm.
func TestAlgorithms(t *testing.T) {
	for _, alg := range algorithms {
		t.Run(string(alg), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "forgejo")
				w.forge.Rotate(forgetest.NewKey("a", string(alg)))
				w.good(string(alg), w.token(nil))
			})
		})
	}
}

// A key that comes counts at once, one that goes within the hour.
func TestRotation(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		k := keys()
		w.good("the first key", w.token(nil))
		time.Sleep(askPause)
		w.forge.Rotate(k[1], k[0])
		w.good("the second key", w.token(nil))
		w.good("the first key beside it", forgetest.Sign(k[0], w.with(nil)))
		if n := w.forge.Asked("/openid-configuration"); n != 2 {
			t.Errorf("%d requests for keys, want 2", n)
		}
		time.Sleep(askPause)
		w.forge.Rotate(k[2])
		w.good("the third", w.token(nil))
		w.bad("the first, withdrawn", forgetest.Sign(k[0], w.with(nil)), "of no key")

		w.forge.Rotate(k[1])
		w.good("the third", forgetest.Sign(k[2], w.with(nil)))
		time.Sleep(keysFresh)
		w.bad("the third, withdrawn an hour ago", forgetest.Sign(k[2], w.with(nil)), "of no key")

		time.Sleep(askPause)
		same, again := k[0], k[2]
		same.ID, again.ID = "same", "same"
		w.forge.Rotate(same, again)
		w.good("two keys of one kid, the first", forgetest.Sign(same, w.with(nil)))
		w.good("two keys of one kid, the second", forgetest.Sign(again, w.with(nil)))
		again.ID = ""
		w.good("a token without a kid", forgetest.Sign(again, w.with(nil)))

		time.Sleep(askPause)
		renewed := k[1]
		renewed.ID = "same"
		w.forge.Rotate(renewed)
		w.good("another key under the same kid", forgetest.Sign(renewed, w.with(nil)))
	})
}

// Keys of kinds that are not known here, or that are for something else, are skipped.
func TestForeignKeys(t *testing.T) {
	in(t, []string{"github"}, func(t *testing.T, w *world) {
		good, err := json.Marshal(jose.JSONWebKey{Key: keys()[0].Private.Public(), KeyID: "key-1"})
		if err != nil {
			t.Fatal(err)
		}
		sealing, err := json.Marshal(jose.JSONWebKey{Key: keys()[1].Private.Public(), KeyID: "key-2", Use: "enc"})
		if err != nil {
			t.Fatal(err)
		}
		w.answer("/jwks", `{"keys":[{"kty":"OKP","crv":"X448","x":"AA","kid":"key-1"},{"kty":"new","kid":"key-1"},7,
			{"kty":"oct","k":"c2VjcmV0","kid":"key-1"},`+string(sealing)+","+string(good)+`]}`)
		w.good("the one that is known", w.token(nil))
		w.bad("one to encrypt with", forgetest.Sign(keys()[1], w.with(nil)), "of no key")
	})
}

// answer makes the forge answer a path with text.
func (w *world) answer(path, text string) {
	w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, path) {
			fmt.Fprint(rw, text)
			return true
		}
		return false
	})
}

// The clocks of a forge and ours may differ by a minute.
func TestSkew(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		now := time.Now().Unix()
		w.good("ahead by a minute", w.token(map[string]any{"iat": now + 60, "nbf": now + 60, "exp": now + 360}))
		w.good("behind by a minute", w.token(map[string]any{"iat": now - 360, "nbf": now - 360, "exp": now - 60}))
		late := w.token(map[string]any{"exp": now + 300})
		time.Sleep(6 * time.Minute)
		w.good("at its last second", late)
		time.Sleep(time.Second)
		w.bad("after it", late, "expired")
	})
}

// An issuer that does not answer well leaves open whether a token is good, costs little,
// and is asked again after a pause.
func TestIssuerFails(t *testing.T) {
	long := strings.Repeat(" ", 1<<20)
	for _, tt := range []struct {
		what, reason string
		say          func(w *world, rw http.ResponseWriter, r *http.Request)
	}{
		{"500", "status 500", func(w *world, rw http.ResponseWriter, r *http.Request) { http.Error(rw, long, 500) }},
		{"404", "status 404", func(w *world, rw http.ResponseWriter, r *http.Request) { http.NotFound(rw, r) }},
		{"204", "status 204", func(w *world, rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(204) }},
		{"hangs up", "EOF", func(w *world, rw http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }},
		{"silent", "deadline", func(w *world, rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"slow", "deadline", func(w *world, rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				time.Sleep(time.Second)
				fmt.Fprint(rw, " ")
				rw.(http.Flusher).Flush()
			}
		}},
		{"endless", "more than 1048576 bytes", func(w *world, rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(rw, long); err != nil {
					return
				}
			}
		}},
		{"50 MB", "more than 1048576 bytes", func(w *world, rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Length", fmt.Sprint(50<<20))
			for range 50 {
				if _, err := fmt.Fprint(rw, long); err != nil {
					return
				}
			}
		}},
		{"a long header", "header", func(w *world, rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X", strings.Repeat("x", 65<<10))
		}},
		{"no JSON", "get http", func(w *world, rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "<html>") }},
		{"a list", "get http", func(w *world, rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "[]") }},
		{"nothing", "of the issuer", func(w *world, rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "{}") }},
		{"another's document", "correct issuer=", func(w *world, rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, `{"issuer":%q,"jwks_uri":%q}`, w.forge.Issuer+"/", w.forge.URL+"/keys")
		}},
		{"keys over http elsewhere", "want https", func(w *world, rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, `{"issuer":%q,"jwks_uri":"http://mallory.example/keys"}`, w.forge.Issuer)
		}},
		{"keys in a file", "https://HOST/PATH", func(w *world, rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, `{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, w.forge.Issuer)
		}},
		{"redirects elsewhere", "another server", func(w *world, rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "http://127.0.0.1:9999/", http.StatusFound)
		}},
		{"redirects from http to https", "another server", func(w *world, rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://127.0.0.1:8080/", http.StatusFound)
		}},
		{"redirects for ever", "three times", func(w *world, rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, r.URL.Path, http.StatusFound)
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			in(t, allKinds, func(t *testing.T, w *world) {
				w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool { tt.say(w, rw, r); return true })
				began := time.Now()
				w.busy("at first", w.token(nil), tt.reason)
				if took := time.Since(began); took > answerTime {
					t.Errorf("it took %v", took)
				}
				n := w.forge.Asked("")
				w.busy("at once again", w.token(nil), tt.reason)
				if more := w.forge.Asked("") - n; more != 0 {
					t.Errorf("%d more requests without a pause", more)
				}
				w.forge.Say(nil)
				time.Sleep(askPause)
				w.good("when it is well again", w.token(nil))
			})
		})
	}
}

// Answers of keys that are none.
func TestNoKeys(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		path := map[string]string{"github": "/jwks", "gitlab": "/discovery/keys", "forgejo": "/keys"}[w.forge.Kind]
		many := `{"keys":[` + strings.Repeat("{},", maxKeys) + "{}]}"
		for text, reason := range map[string]string{
			`{}`: "no key", `{"keys":[]}`: "no key", `{"keys":null}`: "no key", `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"key-1"}]}`: "no key",
			`{"keys":7}`: "get http", `x`: "get http", many: "more than 100",
		} {
			w.answer(path, text)
			w.busy(text[:min(len(text), 40)], w.token(nil), reason)
			time.Sleep(askPause)
		}
	})
}

// While an issuer is down, the keys that it had serve for a day.
func TestIssuerDown(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		w.good("at first", w.token(nil))
		w.forge.Say(func(rw http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) })
		time.Sleep(keysFresh)
		w.good("an hour later", w.token(nil))
		w.busy("a key that is not known", forgetest.Sign(keys()[1], w.with(nil)), "EOF")
		time.Sleep(keysStale - keysFresh)
		w.busy("a day later", w.token(nil), "EOF")
		w.forge.Say(nil)
		time.Sleep(askPause)
		w.good("when it is well again", w.token(nil))
	})
}

// A client that leaves while the issuer is silent does not stop others.
func TestLeaves(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		release := make(chan struct{})
		w.forge.Say(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
		ctx, cancel := context.WithCancel(t.Context())
		left, stayed := make(chan error, 1), make(chan error, 1)
		go func() { _, err := w.Job(ctx, w.token(nil), me, mine); left <- err }()
		synctest.Wait()
		go func() { _, err := w.Job(t.Context(), w.token(nil), me, mine); stayed <- err }()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, fs.ErrBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("the one that left: %v", err)
		}
		close(release)
		if err := <-stayed; err != nil {
			t.Errorf("the one that stayed: %v", err)
		}
	})
}

// Tokens of keys that do not exist make one request in a pause, however many there are,
// and a good token comes through all the same.
func TestFlood(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		w.good("at first", w.token(nil))
		time.Sleep(askPause)
		unknown := keys()[1]
		var flood []string
		for i := range 100 {
			unknown.ID = fmt.Sprint("unknown-", i)
			flood = append(flood, forgetest.Sign(unknown, w.with(nil)))
		}
		for range 3 {
			n := w.forge.Asked("/openid-configuration")
			var wg sync.WaitGroup
			for _, token := range flood {
				wg.Go(func() { w.bad("a key that does not exist", token, "of no key") })
			}
			wg.Go(func() { w.good("in between", w.token(nil)) })
			wg.Wait()
			if more := w.forge.Asked("/openid-configuration") - n; more != 1 {
				t.Errorf("%d requests, want 1", more)
			}
			time.Sleep(askPause)
		}
	})
}

// GitLab's token may name no key: then it is for the first that shows it.
func TestReplay(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		named := w.token(nil)
		w.good("with its key", named)
		w.good("with its key again", named)
		w.refused("with another", named, other, "made out")
		if len(w.replays.shown) != 0 {
			t.Errorf("%d tokens are remembered that name their key", len(w.replays.shown))
		}
		if w.forge.Kind != "gitlab" {
			return
		}
		for _, aud := range []any{me, []string{"https://vault.example.com", me}} {
			token := w.token(map[string]any{"aud": aud, "exp": time.Now().Unix() + 600})
			w.refused("at another orchestrator's name", w.token(map[string]any{"aud": "ci.example.com"}), mine, "made out")
			w.good("with the first key", token)
			w.good("with the first key again", token)
			w.refused("with another", token, other, "was used by the key SHA256:mine")
			// The last four bits of the signature's last letter mean nothing.
			const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
			end := len(token) - 1
			written := token[:end] + string(letters[strings.IndexByte(letters, token[end])^1])
			w.refused("written in another way, with another", written, other, "was used by")
			w.good("written in another way", written)
			w.good("another token", w.token(map[string]any{"aud": aud}))
			time.Sleep(11*time.Minute - time.Second)
			w.refused("with another, at its end", token, other, "was used by")
			time.Sleep(2 * time.Second)
			w.refused("with another, after it", token, other, "expired")
		}
	})
}

// Only what nobody but a writer of the repository can begin may publish.
func TestEvents(t *testing.T) {
	in(t, []string{"github", "forgejo"}, func(t *testing.T, w *world) {
		for event, want := range map[any]bool{
			"push": true, "merge_group": true, "schedule": true, "workflow_dispatch": true, "repository_dispatch": true,
			"pull_request": false, "pull_request_target": false, "workflow_run": false, "issue_comment": false,
			"pull_request_review": false, "release": false, "discussion": false, "fork": false, "watch": false,
			"Push": false, "push ": false, "a new one": false, "": false, true: false, 1: false, nil: false,
		} {
			if job := w.good(fmt.Sprint(event), w.token(map[string]any{"event_name": event})); job.Publish != want || job.Commit != forgetest.Commit {
				t.Errorf("event %v: %+v, want Publish %v", event, job, want)
			}
		}
		w.commits()
	})
}

// commits holds that a job publishes for its commit, or not at all.
func (w *world) commits() {
	for _, commit := range []any{nil, "", "main", forgetest.Commit[:12], strings.ToUpper(forgetest.Commit), strings.Repeat("0", 40), 7, forgetest.Commit + "0"} {
		if job := w.good(fmt.Sprint(commit), w.token(map[string]any{"sha": commit})); job.Publish || job.Commit != "" {
			w.Errorf("commit %v: %+v, want none, and only to read", commit, job)
		}
	}
	sha256 := strings.Repeat("a1", 32)
	if job := w.good(sha256, w.token(map[string]any{"sha": sha256})); !job.Publish || job.Commit != sha256 {
		w.Errorf("a commit of SHA-256: %+v", job)
	}
}

// At GitLab a pipeline publishes on a protected branch or tag.
func TestGitLabProtected(t *testing.T) {
	in(t, []string{"gitlab"}, func(t *testing.T, w *world) {
		for _, tt := range []struct {
			protected any
			want      bool
		}{{"true", true}, {true, true}, {"false", false}, {false, false}, {nil, false}, {"", false}, {"yes", false}, {"TRUE", false}, {1, false}, {[]bool{true}, false}} {
			if job := w.good(fmt.Sprint(tt.protected), w.token(map[string]any{"ref_protected": tt.protected})); job.Publish != tt.want {
				t.Errorf("ref_protected %v: %+v, want Publish %v", tt.protected, job, tt.want)
			}
		}
		for source, want := range map[any]bool{
			"push": true, "web": true, "webide": true, "schedule": true, "api": true, "trigger": true, "pipeline": true, "chat": true, "parent_pipeline": true,
			"merge_request_event": false, "external_pull_request_event": false, "external": false,
			"security_orchestration_policy": false, "a new one": false, "": false, nil: false,
		} {
			if job := w.good(fmt.Sprint(source), w.token(map[string]any{"pipeline_source": source})); job.Publish != want {
				t.Errorf("pipeline_source %v: %+v, want Publish %v", source, job, want)
			}
		}
		// Before GitLab 18.4 no claim tells where the pipeline runs.
		for source, want := range map[string]bool{"push": true, "parent_pipeline": false, "merge_request_event": false} {
			if job := w.good(source, w.token(map[string]any{"pipeline_source": source, "job_project_id": nil})); job.Publish != want {
				t.Errorf("pipeline_source %v without job_project_id: %+v, want Publish %v", source, job, want)
			}
		}
		if job := w.good("subgroups", w.token(map[string]any{"project_path": "alice/a/b/hello"})); job.Namespace != "gitlab.com/alice/a/b/hello" {
			t.Errorf("subgroups: %+v", job)
		}
		w.bad("a group whose name is a file's", w.token(map[string]any{"project_path": "alice/a/ci"}), "is a file of the tree")
		w.commits()
	})
}

// A fork is a repository of its own: its jobs enter its own namespace.
func TestFork(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		path, id := w.claim("repository", "project_path"), w.claim("repository_id", "project_id")
		job := w.good("a push to a fork", w.token(map[string]any{path: "mallory/hello", id: "75", "job_project_id": "75"}))
		if !strings.HasSuffix(job.Namespace, "/mallory/hello") || !strings.HasSuffix(job.Principal, ":repo:75") || !job.Publish {
			t.Errorf("a push to a fork: %+v", job)
		}
		if w.forge.Kind != "gitlab" {
			return
		}
		// The pipeline of a fork's merge request runs in the project, which is 74, and
		// its branch has the name of the protected one.
		for _, source := range []string{"merge_request_event", "parent_pipeline", "push"} {
			job := w.good(source, w.token(map[string]any{path: "mallory/hello", id: "75", "pipeline_source": source}))
			if job.Namespace != "gitlab.com/mallory/hello" || job.Publish {
				t.Errorf("%s of a fork: %+v, want only to read in the fork's", source, job)
			}
		}
	})
}

// A repository keeps its principal under another name and owner. Another one under its
// name has another, which is what the file repositories goes by.
func TestRenamed(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		path, id, owner := w.claim("repository", "project_path"), w.claim("repository_id", "project_id"), w.claim("repository_owner_id", "namespace_id")
		was := w.good("as it was", w.token(nil))
		renamed := w.good("renamed", w.token(map[string]any{path: "alice/goodbye"}))
		transferred := w.good("transferred", w.token(map[string]any{path: "bob/hello", owner: "66"}))
		for _, job := range []access.Job{renamed, transferred} {
			if job.Principal != was.Principal || job.RepositoryID != was.RepositoryID || job.Namespace == was.Namespace {
				t.Errorf("%+v, was %+v", job, was)
			}
		}
		if transferred.OwnerID != "66" {
			t.Errorf("transferred: %+v", transferred)
		}
		again := w.good("another under its name", w.token(map[string]any{id: "99", "job_project_id": "99"}))
		if again.Namespace != was.Namespace || again.Principal == was.Principal || again.RepositoryID == was.RepositoryID {
			t.Errorf("%+v, was %+v", again, was)
		}
		if w.forge.Kind != "forgejo" {
			if job := w.good("in another case", w.token(map[string]any{path: "Alice/Hello"})); job.Namespace != was.Namespace {
				t.Errorf("in another case: %+v", job)
			}
		}
	})
}

// The file may say whose jobs may log in. An edit counts at once, and the keys of an
// issuer that stays are not asked for again.
func TestNamespaces(t *testing.T) {
	in(t, allKinds, func(t *testing.T, w *world) {
		host := hosts[w.forge.Kind]
		lines := []string{"kind=" + w.forge.Kind, "host=" + host, "issuer=" + w.forge.Issuer, "url=" + w.forge.URL}
		token := w.token(nil)
		w.good("all", token)
		for patterns, want := range map[string]bool{
			host + "/alice/hello": true, host + "/alice/*": true, host + "/...": true, host + "/bob/..., " + host + "/alice/...": true,
			host + "/bob/...": false, host + "/alice/hell": false, "other.example/alice/hello": false,
		} {
			w.write(append(lines, "namespace='"+patterns+"'")...)
			if want {
				w.good(patterns, token)
			} else {
				w.bad(patterns, token, "leaves out")
			}
		}
		if n := w.forge.Asked("/openid-configuration"); n != 1 {
			t.Errorf("%d requests for the keys, want 1", n)
		}
		w.write(append(lines, "namespace="+host+"//x")...)
		w.bad("a pattern that is none", token, "no forge with just this issuer")
		if !strings.Contains(w.log.String(), w.file+":1: the paragraph is skipped: namespace pattern") {
			t.Errorf("the log: %s", w.log)
		}
		if err := os.Remove(w.file); err != nil {
			t.Fatal(err)
		}
		w.bad("the file is gone", token, "no forge with just this issuer") // what it said last stands
	})
}

// A whole login over a real network, with TLS.
func TestTLS(t *testing.T) {
	for _, kind := range allKinds {
		t.Run(kind, func(t *testing.T) {
			var f *forgetest.Forge
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.ServeHTTP(w, r) }))
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			server.StartTLS()
			defer server.Close()
			f = forgetest.New(kind, server.URL, keys()[0])
			file := filepath.Join(t.TempDir(), "forges")
			text := fmt.Sprintf("kind=%s\nhost=%s\nissuer=%s\n", kind, hosts[kind], f.Issuer)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			forges, err := Open(file, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			token := f.Token(f.Claims(bound))
			if job, err := forges.Job(t.Context(), token, me, mine); !errors.Is(err, fs.ErrBusy) || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("a server that no authority vouches for: %+v, %v", job, err)
			}
			forges, err = Open(file, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			forges.transport = server.Client().Transport
			if job, err := forges.Job(t.Context(), token, me, mine); err != nil || job.Namespace != hosts[kind]+"/alice/hello" {
				t.Errorf("Job = %+v, %v", job, err)
			}
		})
	}
}

// The kinds of the tests are those that there are.
func TestKinds(t *testing.T) {
	var names []string
	for _, k := range kinds {
		if k.jobs() {
			names = append(names, k.name)
		}
	}
	if !slices.Equal(names, allKinds) {
		t.Errorf("kinds %v, and the tests have %v", names, allKinds)
	}
}
